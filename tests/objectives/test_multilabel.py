"""Label sets: every way to write them, the same by every door, and equal under transformers' own pipeline."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

import stratatune as st
import tiny
from stratatune.app.cli import run as command
from stratatune.data.label_sets import read_sets
from stratatune.errors import ConfigError, DataError, StratatuneError
from stratatune.model.saving import read_tensors
from stratatune.objectives.multilabel import Multilabel
from stratatune.training.predict import Predictor

WORDS = {"joy": ("great", "best"), "anger": ("bad", "worst"), "calm": ("fine", "same")}
LABELS = ["anger", "calm", "joy"]


def _rows(count: int, seed: int) -> list[tuple[str, list[str]]]:
    """Texts that hold a word of each of their labels; some have none."""
    chance, found = random.Random(seed), []
    for _ in range(count):
        labels = [label for label in WORDS if chance.random() < 0.4]
        words = [chance.choice(WORDS[label]) for label in labels]
        words += chance.choices(("the film", "a story", "this book", "that day"), k=chance.randint(1, 4))
        chance.shuffle(words)
        found.append((" ".join(words), labels))
    return found


def _lists(path: Path, rows: list[tuple[str, list[str]]]) -> Path:
    path.write_text("".join(json.dumps({"text": text, "labels": labels}) + "\n" for text, labels in rows))
    return path


def _cells(path: Path, rows: list[tuple[str, list[str]]], mark: str) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "labels"), *((text, mark.join(labels)) for text, labels in rows)])
    return path


def _flags(path: Path, rows: list[tuple[str, list[str]]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", *LABELS))
        writer.writerows((text, *(int(label in labels) for label in LABELS)) for text, labels in rows)
    return path


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    for name, count, seed in (("train", 64, 0), ("dev", 30, 1)):
        rows = _rows(count, seed)
        _lists(folder / f"{name}.jsonl", rows)
        _cells(folder / f"{name}.csv", rows, ";")
        _flags(folder / f"{name}-flags.csv", rows)
    return folder


@pytest.fixture
def labelled(run, sets, tmp_path):
    """Gives ``labelled(**changes)``: a run on label sets."""

    def make(**changes):
        own = {"train": str(sets / "train.jsonl"), "eval": str(sets / "dev.jsonl"), "text": (), "label": None}
        own |= {"objective": "multilabel", "plan": "1: full", "out": str(tmp_path / "sets")}
        return run(**{**own, **changes})

    return make


def _tensors(result):
    return read_tensors(Path(result.out) / "adapter")


# --- the same by every door ------------------------------------------------------------------------------------------


def test_it_trains_is_scored_saved_and_used(labelled, sets, tmp_path):
    first = labelled(epochs=3, lr=0.01, cache=str(tmp_path / "cache"))
    assert first.objective == "multilabel" and first.labels == LABELS
    assert any("have no label" in notice for notice in first.notices)
    predictor = Predictor(tmp_path / "sets", device="cpu")
    scored = predictor.score(str(sets / "dev.jsonl"))
    assert {name: scored["metrics"][name] for name in first.best} == pytest.approx(first.best, abs=1e-6)
    found = predictor.predict(str(sets / "dev.jsonl"))
    assert list(found.columns) == ["labels", *(f"p_{label}" for label in LABELS)]
    for labels, chances in zip(found.columns["labels"], found.probabilities, strict=True):
        order = [LABELS.index(label) for label in labels]
        assert set(order) == set(np.flatnonzero(chances >= 0.5)) and (np.diff(chances[order]) <= 0).all()
    again = labelled(epochs=3, lr=0.01, cache=str(tmp_path / "cache"), out=str(tmp_path / "again"))
    assert again.cache_hit and again.best == first.best


def test_it_learns(labelled, tmp_path):
    many = _lists(tmp_path / "many.jsonl", _rows(160, 2))
    result = labelled(train=str(many), plan="full", epochs=25, lr=0.003)
    assert result.best["micro_f1"] > 0.85 and result.best["map"] > 0.85


@pytest.mark.parametrize("end", [".csv", "-flags.csv"])
def test_every_way_to_write_sets_trains_the_same(labelled, sets, tmp_path, end):
    lists = labelled()
    other = labelled(train=str(sets / f"train{end}"), eval=str(sets / f"dev{end}"), out=str(tmp_path / "other"))
    assert other.labels == lists.labels and other.best == lists.best
    wanted, found = _tensors(lists), _tensors(other)
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    predictor = Predictor(tmp_path / "other", device="cpu")
    assert predictor.score(str(sets / f"dev{end}"))["metrics"]["map"] == pytest.approx(lists.best["map"], abs=1e-6)


@pytest.fixture(scope="module")
def bases(tmp_path_factory, tiny_folder):
    two_stacks = tmp_path_factory.mktemp("t5")
    tiny.tiny_encoder_decoder("t5", more=0).save_pretrained(two_stacks)
    tiny.roberta_tokenizer().save_pretrained(two_stacks)
    llama = tiny.save_tiny_decoder(tmp_path_factory.mktemp("llama"), "llama", blocks=3, initializer_range=0.2)
    return {"bert": tiny_folder("bert"), "roberta": tiny_folder("roberta"), "llama": llama, "t5": two_stacks}


PLANS = {"bert": "2: lora(rank=2)", "roberta": "2: full", "llama": "2: lora(rank=2)", "t5": "dec 1: lora(rank=2)"}


@pytest.mark.parametrize("family", PLANS)
def test_cached_resumed_saved_and_merged_runs_are_one(family, bases, labelled, sets, tmp_path):
    from transformers import AutoModelForSequenceClassification

    given = {"model": str(bases[family]), "plan": PLANS[family], "adam_eps": 1e-3}  # no step divides by next to nothing
    cached = labelled(**given)
    uncached = labelled(**given, cache="off", out=str(tmp_path / "off"))
    wanted = _tensors(cached)
    for name, tensor in _tensors(uncached).items():
        torch.testing.assert_close(tensor, wanted[name], atol=2e-5, rtol=1e-4)
    predictor = Predictor(tmp_path / "sets", device="cpu")
    texts = [text for text, _ in _rows(6, 9)]
    found = predictor.predict(texts).probabilities
    assert command(["export", str(tmp_path / "sets"), "--to", "merged", "--out", str(tmp_path / "merged")]) == 0
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged", attn_implementation="eager").eval()
    assert plain.config.problem_type == "multi_label_classification"
    with torch.no_grad():
        for text, chances in zip(texts, found, strict=True):
            ids = predictor.tokenizer(text, return_tensors="pt")["input_ids"]
            np.testing.assert_allclose(plain(input_ids=ids).logits.sigmoid()[0], chances, atol=2e-4)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_what_leaves_is_equal_under_the_pipeline(family, bases, labelled, tmp_path):
    from transformers import pipeline

    labelled(model=str(bases[family]), plan=PLANS[family])
    assert command(["export", str(tmp_path / "sets"), "--to", "merged", "--out", str(tmp_path / "merged")]) == 0
    texts = [text for text, _ in _rows(6, 9)]
    ours = Predictor(tmp_path / "sets", device="cpu").predict(texts).probabilities
    theirs = pipeline("text-classification", model=str(tmp_path / "merged"), top_k=None, device="cpu")(texts)
    for mine, other in zip(ours, theirs, strict=True):
        chances = {one["label"]: one["score"] for one in other}
        assert [chances[label] for label in LABELS] == pytest.approx(mine.tolist(), abs=1e-4)


def test_a_loaded_model_has_the_problem_type(labelled, tmp_path):
    labelled(epochs=1)
    assert st.load(tmp_path / "sets").config.problem_type == "multi_label_classification"


def test_labels_that_are_rare_may_count_more(labelled, sets, tmp_path):
    labelled(objective="multilabel(weights=balanced, focal=1.5)", epochs=1)
    record = json.loads((tmp_path / "sets" / "adapter" / "adapter.json").read_text())["reading"]
    assert not {"weights", "focal", "learnt_by"} & record.keys()  # predictions need none of them
    plain = Predictor(tmp_path / "sets", device="cpu")
    result = json.loads((tmp_path / "sets" / "result.json").read_text())
    found = plain.score(str(sets / "dev.jsonl"))["metrics"]
    assert found["micro_f1"] == pytest.approx(result["best"]["micro_f1"], abs=1e-4)
    chances = plain.predict([text for text, _ in _rows(30, 1)]).probabilities
    truth = np.array([[label in labels for label in LABELS] for _, labels in _rows(30, 1)])
    # The loss of an evaluation is the plain cross-entropy, so that runs can be compared.
    assert found["loss"] == pytest.approx(-np.log(np.where(truth, chances, 1 - chances)).mean(), rel=1e-3)
    with pytest.raises(ConfigError, match="multilabel: focal 11"):
        labelled(objective="multilabel(focal=11)", out=str(tmp_path / "odd"))


def test_the_loss_is_transformers_own(tiny_folder):
    from transformers import AutoModelForSequenceClassification

    from stratatune.data.batching import Batch

    settings = {"problem_type": "multi_label_classification", "num_labels": 5, "ignore_mismatched_sizes": True}
    model = AutoModelForSequenceClassification.from_pretrained(tiny_folder("bert"), **settings).double().eval()
    ids, truth = torch.randint(6, 50, (7, 11)), torch.rand(7, 5) < 0.4
    theirs = model(input_ids=ids, labels=truth.double())
    batch = Batch(torch.arange(7), ids, torch.ones(7, 11).bool(), None, torch.zeros(7).long(), {"label": truth})
    made = Multilabel(text=("text",), label="l", metric="micro_f1", names=tuple("abcde"), thresholds=(0.5,) * 5)
    ours = made.loss(theirs.logits, batch)
    assert ours.dtype is torch.float64
    torch.testing.assert_close(ours, theirs.loss, atol=1e-15, rtol=1e-15)


# --- thresholds ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["tuned", "tuned_by_label", "0.2"])
def test_thresholds_are_tuned_saved_and_used(labelled, sets, tmp_path, word):
    result = labelled(objective=f"multilabel(threshold={word})", epochs=1, lr=0.005)
    predictor = Predictor(tmp_path / "sets", device="cpu")
    thresholds = np.array(predictor.objective.thresholds)
    if word == "0.2":
        assert (thresholds == 0.2).all()
    scored = predictor.score(str(sets / "dev.jsonl"))["metrics"]
    assert {name: scored[name] for name in result.best} == pytest.approx(result.best, abs=1e-6)
    at_half = labelled(epochs=1, lr=0.005, out=str(tmp_path / "half"))
    assert result.best["map"] == pytest.approx(at_half.best["map"])
    if word == "tuned":
        assert len(set(thresholds)) == 1 and result.best["micro_f1"] >= at_half.best["micro_f1"]
    if word == "tuned_by_label":
        assert result.best["macro_f1"] >= at_half.best["macro_f1"]
    found = predictor.predict(str(sets / "dev.jsonl"))
    sizes = (found.probabilities >= thresholds).sum(axis=1)
    assert [len(labels) for labels in found.columns["labels"]] == sizes.tolist()
    if word == "tuned_by_label":  # a finished run with another one
        with pytest.raises(ConfigError, match="threshold: 1.5"):
            Predictor(tmp_path / "sets", device="cpu", threshold=1.5)
        same = Predictor(tmp_path / "sets", device="cpu", threshold=0.5)
        scored = same.score(str(sets / "dev.jsonl"))["metrics"]
        assert {name: scored[name] for name in at_half.best} == pytest.approx(at_half.best, abs=1e-6)
        own = Predictor(tmp_path / "sets", device="cpu", threshold=0.3).predict(str(sets / "dev.jsonl"))
        assert [len(one) for one in own.columns["labels"]] == (own.probabilities >= 0.3).sum(axis=1).tolist()


def test_tuned_thresholds_need_evaluation_data(labelled):
    with pytest.raises(ConfigError, match="tuned on evaluation data.*give eval="):
        labelled(objective="multilabel(threshold=tuned)", eval=None)


def test_a_resumed_run_is_an_uninterrupted_one(settings, sets, tmp_path):
    from stratatune.progress import Reporter
    from stratatune.training.run import train, trial

    def given(out: str, **changes):
        own = {"train": str(sets / "train.jsonl"), "eval": str(sets / "dev.jsonl"), "text": (), "label": None}
        own |= {"objective": "multilabel(threshold=tuned_by_label)", "plan": "1: full", "epochs": 3}
        return settings(**own, out=str(tmp_path / out), **changes)

    quiet = Reporter(quiet=True)
    whole = train(given("whole"), reporter=quiet)
    running = trial(given("cut", checkpoint_every=1), {}, quiet)
    for _ in range(19):
        next(running)
    running.close()
    resumed = train(given("cut", checkpoint_every=1, resume=True), reporter=quiet)
    assert resumed.best == whole.best and resumed.by_class == whole.by_class
    wanted, found = _tensors(whole), _tensors(resumed)
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    saved = [json.loads((tmp_path / out / "adapter" / "adapter.json").read_text()) for out in ("whole", "cut")]
    assert saved[0]["reading"]["thresholds"] == saved[1]["reading"]["thresholds"]


# --- the command line ------------------------------------------------------------------------------------------------


def test_the_command_line(sets, tmp_path, tiny_folder, capsys):
    model, out = str(tiny_folder("bert", "mlm")), str(tmp_path / "run")
    given = ["--model", model, "--train", str(sets / "train.csv"), "--objective", "multilabel", "--device", "cpu"]
    assert command(["train", *given, "--eval", str(sets / "dev.csv"), "--plan", "1: full", "--out", out]) == 0
    report = (tmp_path / "run" / "report.html").read_text()
    assert "by one threshold for all labels" in report
    capsys.readouterr()
    assert command(["eval", out, "--data", str(sets / "dev.csv"), "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "micro_f1" in said and "threshold 0.5" in said and "anger" in said
    for suffix in ("csv", "jsonl", "parquet"):
        where = str(tmp_path / f"said.{suffix}")
        assert command(["predict", out, "--data", str(sets / "dev.csv"), "--out", where, "--device", "cpu"]) == 0
    row = json.loads((tmp_path / "said.jsonl").read_text().splitlines()[0])
    assert set(row) == {"text", "given_labels", "labels", *(f"p_{label}" for label in LABELS)}
    with (tmp_path / "said.csv").open(newline="") as file:
        assert json.loads(next(csv.DictReader(file))["labels"]) == row["labels"]
    capsys.readouterr()
    assert command(["predict", out, "--text", "the best and worst film", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.count(" 0.") == 3
    assert command(["plan", "1: full", "--model", model, "--objective", "multilabel", "--labels", "28", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["objective"] == "multilabel"
    assert command(["suggest", *given, "--family", "bft", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["views"]


# --- what is wrong with the data -------------------------------------------------------------------------------------

WRONG = {
    "a column of 0 and 1 with a gap": ("text,a,b\nx,1,\ny,0,1\n", "a,b", "row 1: label column 'b' is empty"),
    "a column of 0 and 1 with a two": ("text,a,b\nx,1,2\ny,0,1\n", "a,b", "row 1: label column 'b' holds '2'"),
    "a column that is not there": ("text,a,b\nx,1,0\n", "a,c", "no column 'c'"),
    "a column named twice": ("text,a,b\nx,1,0\n", "a,a", "'a' is named twice"),
    "no column of labels": ("text,a,b\nx,u,v\n", None, "which column holds the labels"),
    "two separators": ('text,labels\nx,"a,b;c"\ny,b\n', None, "hold both ',' and ';'"),
    "no label at all": ("text,labels\nx,\ny,\n", None, "no text has a label"),
    "broken JSON": ('text,labels\nx,"[""a"", b]"\n', None, "row 1: column 'labels' is not a JSON list"),
    "sentences": (
        "text,labels\n" + "".join(f"x,say {n} now\n" for n in range(12)),
        None,
        "12 different labels in 12 rows are too many",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_one_line(case, labelled, tmp_path):
    content, label, problem = WRONG[case]
    path = tmp_path / "bad.csv"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        labelled(train=str(path), eval=None, label=label)
    assert problem in str(caught.value) and "\n" not in str(caught.value) and caught.value.hint


@pytest.mark.parametrize("value", ['[["a"]]', '[{"name": "a"}]', '["a", null]', '["a", ""]'])
def test_lists_hold_names(value, labelled, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text(f'{{"text": "x", "labels": ["a"]}}\n{{"text": "y", "labels": {value}}}\n')
    with pytest.raises(DataError, match="row 2: column 'labels'"):
        labelled(train=str(path), eval=None)


@pytest.mark.parametrize(
    ("objective", "problem"),
    [
        ("multilabel(threshold=1.5)", "threshold '1.5'"),
        ("multilabel(threshold=best)", "threshold 'best'"),
        ("multilabel(separator=and)", "separator: 'and'"),
        ("multilabels", "did you mean 'multilabel'"),
        ("multi-label", "multilabel predicts any number of labels"),
    ],
)
def test_options_are_checked(objective, problem, labelled):
    with pytest.raises(StratatuneError, match=problem):
        labelled(objective=objective)


def test_a_label_unseen_in_training(labelled, tmp_path):
    labelled(epochs=1)
    path = _lists(tmp_path / "odd.jsonl", [("the film", ["joys"])])
    with pytest.raises(DataError, match="row 1: label 'joys' was not seen in training.*did you mean 'joy'"):
        Predictor(tmp_path / "sets", device="cpu").score(str(path))


# --- data that are laid out in another way than those of training ----------------------------------------------------


@pytest.mark.parametrize("learnt", ["train.jsonl", "train.csv", "train-flags.csv"])
def test_a_run_reads_every_way_to_write_sets(labelled, sets, tmp_path, learnt):
    end = learnt.removeprefix("train")
    result = labelled(train=str(sets / learnt), eval=str(sets / f"dev{end}"), epochs=1)
    predictor, rows = Predictor(tmp_path / "sets", device="cpu"), _rows(30, 1)
    files = [sets / f"dev{other}" for other in (".jsonl", ".csv", "-flags.csv")]
    files += [_cells(tmp_path / f"{number}.csv", rows, mark) for number, mark in enumerate((",", "|", "\t", " "))]
    for file in files:
        scored = predictor.score(str(file))
        assert scored["metrics"]["map"] == pytest.approx(result.best["map"], abs=1e-6), file
        assert scored["metrics"]["micro_f1"] == pytest.approx(result.best["micro_f1"], abs=1e-6), file
        assert len(predictor.predict(str(file)).columns["labels"]) == len(rows)
    said = "\n".join(predictor.score(str(tmp_path / "1.csv"))["notices"])
    assert "are separated by '|'" in said
    said = "\n".join(predictor.score(str(sets / "dev-flags.csv"))["notices"])
    assert ("columns of 0 and 1: anger, calm, joy" in said) == (end != "-flags.csv")


def test_one_label_is_read_from_its_column(labelled, tmp_path):
    rows = [(text, ["joy"] if "joy" in labels else []) for text, labels in _rows(30, 0)]
    labelled(train=str(_lists(tmp_path / "a.jsonl", rows)), eval=None, epochs=1)
    predictor = Predictor(tmp_path / "sets", device="cpu")
    path = tmp_path / "flags.csv"
    path.write_text("text,joy\n" + "".join(f"{text},{int(bool(labels))}\n" for text, labels in rows))
    wanted, found = (predictor.score(str(one)) for one in (tmp_path / "a.jsonl", path))
    assert found["metrics"] == wanted["metrics"] and found["by_class"] == wanted["by_class"]


OTHERWISE = {
    "part of the columns": (
        "text,anger,joy\nx,1,0\n",
        "no column 'labels', but columns.*some.*: anger, joy",
        "add calm",
    ),
    "no column": ("text,other\nx,1\n", "no column 'labels'", "columns: text, other; one of 0 and 1 for each label"),
    "a two": ("text,anger,calm,joy\nx,1,0,2\n", "row 1: label column 'joy' holds '2'", "0 or 1"),
    "a part that is unknown": (
        "text,labels\nx,joy|angr\n",
        "label 'joy.angr' was not",
        "'angr' is left: did you mean 'anger'",
    ),
    "two separators": ("text,labels\nx,joy|calm\ny,joy;calm\n", "row 1: label 'joy.calm'", "one separator everywhere"),
}


@pytest.mark.parametrize("case", OTHERWISE)
def test_what_is_in_doubt_is_one_line(labelled, tmp_path, case):
    content, problem, hint = OTHERWISE[case]
    labelled(epochs=1, eval=None)
    path = tmp_path / "odd.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=problem) as caught:
        Predictor(tmp_path / "sets", device="cpu").score(str(path))
    assert hint in (caught.value.hint or "") and "\n" not in str(caught.value)


def test_a_column_that_is_missing_is_named(labelled, sets, tmp_path):
    labelled(train=str(sets / "train-flags.csv"), eval=None, epochs=1)
    for content in ("text,anger,joy\nx,1,0\n", "text,labels,tags\nx,joy,calm\n"):
        path = tmp_path / "odd.csv"
        path.write_text(content)
        with pytest.raises(DataError, match="no column '(calm|anger)'"):
            Predictor(tmp_path / "sets", device="cpu").score(str(path))


def test_labels_come_from_every_part_and_numbers_in_their_order(labelled, tmp_path):
    train = _lists(tmp_path / "a.jsonl", [("the film", [10, 2]), ("a story", []), ("this book", [2])])  # pyright: ignore
    dev = _lists(tmp_path / "b.jsonl", [("that day", [7]), ("the film", [2])])  # pyright: ignore[reportArgumentType]
    assert labelled(train=str(train), eval=str(dev), epochs=1).labels == ["2", "7", "10"]


def test_a_blank_and_a_comma_in_a_label(labelled, tmp_path):
    rows = [("the film", "new york, ny"), ("a story", "rome"), ("this book", "rome")]
    path = tmp_path / "places.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "labels"), *rows])
    given = {"train": str(path), "eval": None, "epochs": 1}
    assert labelled(**given, out=str(tmp_path / "1")).labels == ["new york", "ny", "rome"]
    spaced = labelled(**given, objective="multilabel(separator=space)", out=str(tmp_path / "2"))
    assert spaced.labels == ["new", "ny", "rome", "york,"]
    piped = labelled(**given, objective="multilabel(separator=pipe)", out=str(tmp_path / "3"))
    assert piped.labels == ["new york, ny", "rome"]


def test_other_objectives_give_the_hint(run, sets, tmp_path):
    given = {"objective": "classification", "label": "labels", "text": "text", "epochs": 1}
    with pytest.raises(DataError, match="holds lists.*several labels in a cell: objective=.multilabel"):
        run(**given, train=str(sets / "train.jsonl"), eval=None)
    with pytest.raises(DataError, match="is empty in .* rows.*several labels in a cell: objective=.multilabel"):
        run(**given, train=str(sets / "train.csv"), eval=None)
    result = run(**given, train=str(sets / "train.csv"), eval=None, bad_rows="skip")
    assert any("several labels in a cell: --objective multilabel" in notice for notice in result.notices)
    sets_of_six = [[label for at, label in enumerate("abcdef") if n >> at & 1] for n in range(1, 41)]
    many = _cells(tmp_path / "many.csv", [("the film", labels) for labels in sets_of_six], ",")
    with pytest.raises(DataError, match="too many to be classes.*several labels in a cell"):
        run(**given, train=str(many), eval=None, out=str(tmp_path / "many"))


@pytest.mark.parametrize("one", [1, 1.0, True])
def test_vectors_of_0_and_1_are_no_names(one):
    """Transformers' own form says nothing about the labels' names."""
    zero = type(one)(0)
    rows = [{"text": f"film {n}", "labels": [zero, one, one if n % 2 else zero]} for n in range(6)]
    with pytest.raises(DataError, match="'labels' holds vectors of 0 and 1, which name no label"):
        read_sets(rows)
    assert read_sets([{"text": "a", "labels": ["0", "1"]}, {"text": "b", "labels": ["1"]}]).labels == [
        ["0", "1"],
        ["1"],
    ]
