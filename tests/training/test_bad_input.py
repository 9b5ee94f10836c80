"""Bad data through a whole run: the right kind of error, in one line, with a hint."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from stratatune.errors import ConfigError, DataError, ModelError, PlanError, ResourceError, StratatuneError
from stratatune.model import saving

GOOD = "text,label\na great film,positive\na bad film,negative\na good story,positive\na worst story,negative\n"
LONG = "text,label\n" + ("a " * 300 + "great film,positive\n") + "a bad film,negative\n"


def refused(run, kind, match, **changes):
    with pytest.raises(kind, match=match) as error:
        run(**changes)
    assert isinstance(error.value, StratatuneError) and "\n" not in error.value.message + error.value.hint
    return error.value


CASES = {
    "one class only": ("text,label\na,same\nb,same\n", {}, DataError, "every label is 'same'"),
    "label missing": (
        "text,label\na great film,x\nbad,\nfine,y\n",
        {},
        DataError,
        r"label.* empty in 1 of 3 rows \(row 2",
    ),
    "no rows": ("text,label\n", {}, DataError, "no rows|has no|empty"),
    "empty file": ("", {}, DataError, "empty|no rows|no columns"),
    "wrong column": (GOOD, {"text": "txet"}, DataError, "no column 'txet'"),
    "label word of several tokens": (
        GOOD,
        {"label_words": {"positive": "great", "negative": "zyzzyva"}},
        DataError,
        "'zyzzyva' of label 'negative' is not one token",
    ),
    "label word for no label": (GOOD, {"label_words": {"positive": "great", "bad": "bad"}}, ConfigError, "label_words"),
    "words as numbers": (GOOD, {"objective": "regression", "plan": "lora"}, DataError, "'positive' is not a number"),
    "labels all one number": (
        "text,label\na,1\nb,1\n",
        {"objective": "regression", "plan": "lora"},
        DataError,
        "every label is 1",
    ),
    "labels that are one number in single precision": (
        "text,label\na,1700000001\nb,1700000002\n",
        {"objective": "regression", "plan": "lora"},
        DataError,
        "labels near 1.7e.09 differ by less than a run can compute with",
    ),
    "metric of another kind": (GOOD, {"metric": "pearson"}, ConfigError, "metric: 'pearson'"),
    "classes for numbers": (
        "sentence1,sentence2,score\na film,a story,1.5\na film,a film,5\n",
        {"task": "stsb", "text": (), "label": None, "objective": "classification"},
        ConfigError,
        "numbers, not classes",
    ),
    "no mask in the template": (GOOD, {"template": "no mask {a}"}, ConfigError, "template"),
    **{
        f"{name} that is not read": (
            GOOD,
            {name: value, "objective": "classification", "plan": "lora"},
            ConfigError,
            f"{name}: the objective classification does not read it; leave it out, or use one of: mlm",
        )
        for name, value in {"template": "bft", "label_words": {"positive": "great"}, "loss": "words"}.items()
    },
    "range outside the model": (GOOD, {"plan": "3:9 bitfit"}, PlanError, "9"),
    "tied decoder": (GOOD, {"plan": "adapter(depth=2) | head(mlm=decoder)"}, PlanError, "tied"),
    "longer than the batch": (GOOD, {"batch_size": None, "token_budget": 4}, DataError, "token budget"),
    "template longer than the model": (GOOD, {"max_length": 4}, DataError, "leaves room"),
}


@pytest.mark.parametrize("case", CASES)
def test_refused_in_one_line(case, run, tmp_path):
    content, changes, kind, match = CASES[case]
    (tmp_path / "train.csv").write_text(content)
    refused(run, kind, match, **{"train": str(tmp_path / "train.csv"), "eval": None, **changes})
    assert not (tmp_path / "run" / "adapter").exists()


def test_a_label_of_the_evaluation_that_training_never_saw(run, tmp_path):
    (tmp_path / "dev.csv").write_text("text,label\na great film,positive\na fine film,neutral\n")
    error = refused(run, DataError, "row 2: label 'neutral' was not seen in training", eval=str(tmp_path / "dev.csv"))
    assert "positive" in error.hint


@pytest.mark.parametrize(
    ("content", "changes", "match"),
    [
        ("text,label\na great film,positive\na fine film,neutral\n", {}, "row 2: label 'neutral' was not seen"),
        ("text,score\na great film,1.5\na fine film,many\n", {"label": "score", "plan": "lora"}, "'many' is not a"),
    ],
)
def test_test_data_are_checked_before_anything_is_trained(run, files, tmp_path, content, changes, match):
    (tmp_path / "test.csv").write_text(content)
    changes = {"objective": "regression", **changes} if "label" in changes else changes
    refused(run, DataError, match, test=str(tmp_path / "test.csv"), **changes)
    assert not (tmp_path / "run" / "metrics.jsonl").exists() and not list((tmp_path / "run").glob("*.safetensors"))


def test_a_token_without_an_embedding_in_the_test_data(run, tiny_folder, tmp_path):
    model = tmp_path / "grown"
    shutil.copytree(tiny_folder("bert", "mlm"), model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens([f"zzznew{number}" for number in range(64)])
    tokenizer.save_pretrained(model)
    (tmp_path / "test.csv").write_text("text,label\na great zzznew63 film,positive\n")
    refused(run, DataError, "test.csv: a text holds .zzznew63", model=str(model), test=str(tmp_path / "test.csv"))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_settings_that_the_objective_of_auto_does_not_read_are_told(run):
    """A notice: among the plans that `--plan auto` tries, some read them."""
    result = run(plan="lora", label_words={"positive": "great", "negative": "bad"}, loss="words", epochs=1)
    assert result.objective == "classification"
    said = [line.partition(":")[0] for line in result.notices if "does not read it" in line]
    assert said == ["label_words", "loss"]


@pytest.mark.parametrize(
    ("objective", "prices", "far"),
    [("regression", True, True), ("regression", False, False), ("multitask", True, False)],
)
def test_numbers_that_are_far_from_the_output_of_a_new_layer_are_told(run, tmp_path, objective, prices, far):
    """A head of several is standardised, and near numbers are learned as they are."""
    rows = [f"a film {at},{100_000 + at if prices else at / 10}\n" for at in range(12)]
    (tmp_path / "train.csv").write_text("text,value\n" + "".join(rows))
    given = {"objective": objective, "plan": "lora", "label": "value", "epochs": 1, "eval": None}
    notices = run(train=str(tmp_path / "train.csv"), **given).notices
    assert any("learns their deviations from the mean" in line for line in notices) == far


def test_cut_texts_and_unknown_words_of_the_test_data_are_told(run, tmp_path):
    (tmp_path / "test.csv").write_text(LONG + "".join(f"ж{'ш' * n} film,positive\n" for n in range(1, 40)))
    notices = run(test=str(tmp_path / "test.csv"), epochs=1, max_length=32).notices
    said = [line for line in notices if "test.csv" in line]
    assert any("were cut to 32 tokens" in line for line in said), notices
    assert any("unknown" in line for line in said), notices


def test_text_longer_than_the_model_is_cut_with_a_notice(family, run, tmp_path):
    (tmp_path / "long.csv").write_text(LONG)
    result = run(family=family, train=str(tmp_path / "long.csv"), epochs=1)
    assert any("1 of 2 texts" in notice and "cut to 64 tokens" in notice for notice in result.notices)


def test_a_base_that_is_not_there(settings, run, tmp_path):
    refused(run, (ModelError, ConfigError), "nowhere", model=str(tmp_path / "nowhere"))


def test_an_unwritable_folder(run, tmp_path, monkeypatch):
    plain = Path.mkdir

    def shut(self, *arguments, **words):
        if self == tmp_path / "run":
            raise PermissionError(13, "Permission denied")
        return plain(self, *arguments, **words)

    monkeypatch.setattr(Path, "mkdir", shut)
    refused(run, ResourceError, "cannot write .*Permission denied")


def test_a_disk_that_is_full_at_the_end(run, tmp_path, monkeypatch):
    """Every small file is written with the same care: the result's own can find the disk full, too."""
    plain = Path.write_bytes

    def fills(self, data):
        if self.name.startswith(".result.json."):
            raise OSError(28, os.strerror(28))
        return plain(self, data)

    monkeypatch.setattr(Path, "write_bytes", fills)
    refused(run, ResourceError, "No space left")
    monkeypatch.undo()
    assert run(resume=True).best  # the checkpoint is still there
    assert saving.read_record(tmp_path / "run" / "adapter")


def test_a_failed_start_leaves_the_caches_free(run, tmp_path, monkeypatch):
    """An evaluation cache that cannot be opened must not keep the training cache locked."""
    from stratatune.training import caching

    plain, count = caching.TrunkCache.open, [0]

    def second_fails(*arguments, **words):
        count[0] += 1
        if count[0] == 2:
            raise ModelError("no such thing")
        return plain(*arguments, **words)

    monkeypatch.setattr(caching.TrunkCache, "open", second_fails)
    refused(run, ModelError, "no such thing", cache=str(tmp_path / "cache"))
    monkeypatch.undo()
    result = run(cache=str(tmp_path / "cache"))
    assert not any("another process" in notice for notice in result.notices)


def test_a_revision_of_a_local_folder_is_refused(run, tiny_folder):
    error = refused(run, ConfigError, "revision: 'main'; .* is a local folder, which has no revisions", revision="main")
    assert "leave out revision" in error.hint


@pytest.mark.parametrize(
    "asked",
    [
        {"objective": "classification", "plan": "2: lora"},
        {"objective": "multilabel", "plan": "2: lora"},
        {"plan": "bft-adapter"},
    ],
    ids=["classes", "sets", "words"],
)
def test_a_label_that_is_too_long_is_refused_before_it_is_learnt(run, tmp_path, asked):
    (tmp_path / "train.csv").write_text(f"text,label\na good film,{'x' * 140_000}\na bad film,b\n")
    changes = {"train": str(tmp_path / "train.csv"), "eval": None, **asked}
    error = refused(run, DataError, "a label has 140,000 characters, 100,000 at most", **changes)
    assert len(str(error)) < 600


def test_a_long_label_is_learnt_and_shown_cut(run, tmp_path, capsys):
    text = f"text,label\na good film,{'x' * 90_000}\na bad film,b\n" + f"a film,{'x' * 90_000}\nno film,b\n"
    (tmp_path / "train.csv").write_text(text)
    same = str(tmp_path / "train.csv")
    run(train=same, eval=same, objective="classification", plan="2: lora")
    assert (tmp_path / "run" / "result.json").exists()
    assert len(capsys.readouterr().err) < 5_000
