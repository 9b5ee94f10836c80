"""Answers as spans of a context: from files to predictions, the same by every door, and equal to transformers' own."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from stratatune.app.cli import run as command
from stratatune.cache.feed import Feed
from stratatune.data.context_windows import Windowing
from stratatune.data.questions import read_questions
from stratatune.errors import ConfigError, DataError
from stratatune.model.saving import read_tensors
from stratatune.objectives.span import QuestionAnswering
from stratatune.training.predict import Predictor

OTHERS = ("the", "film", "a", "night", "she", "was")


def _rows(count: int, seed: int, without: float = 0.0) -> list[dict]:
    """The answer is what she ``saw``: one or two words behind it."""
    chance, found = random.Random(seed), []
    for number in range(count):
        words = chance.choices(OTHERS, k=chance.randint(4, 14))
        if chance.random() < without:
            found.append({"id": f"{number}", "question": "what was it", "context": " ".join(words), "answers": []})
            continue
        answer = chance.choice(("great", "good best", "bad", "worst"))
        before = words[: chance.randint(1, 3)]
        context = " ".join([*before, "saw", answer, *words[len(before) :]])
        start = context.index("saw") + 4
        row = {"question": "what was it", "context": context, "answers": [{"text": answer, "answer_start": start}]}
        found.append({"id": f"{number}", **row})
    return found


def _squad(path: Path, rows: list[dict]) -> Path:
    asked = [{key: row[key] for key in ("id", "question", "answers")} for row in rows]
    paragraphs = [{"context": row["context"], "qas": [one]} for row, one in zip(rows, asked, strict=True)]
    path.write_text(json.dumps({"version": "1.1", "data": [{"title": "films", "paragraphs": paragraphs}]}))
    return path


@pytest.fixture(scope="module")
def squad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("squad")
    for name, count, seed, without in (("train", 40, 0, 0.0), ("dev", 15, 1, 0.0), ("train2", 40, 2, 0.4)):
        _squad(folder / f"{name}.json", _rows(count, seed, without))
    _squad(folder / "dev2.json", _rows(20, 3, 0.4))
    return folder


@pytest.fixture
def answered(run, squad, tmp_path):
    """Gives ``answered(**changes)``: a run on SQuAD's files."""

    def make(**changes):
        own = {"train": str(squad / "train.json"), "eval": str(squad / "dev.json"), "text": (), "label": None}
        own |= {"objective": "span", "plan": "1: full", "out": str(tmp_path / "run"), "max_length": 64, "lr": 0.01}
        return run(**{**own, **changes})

    return make


def test_it_trains_is_scored_saved_and_used(answered, squad, tmp_path):
    first = answered(epochs=12, cache=str(tmp_path / "cache"))
    assert first.objective == "span" and first.best.keys() == {"f1", "exact_match"} and first.best["f1"] > 0.7
    again = answered(epochs=12, cache=str(tmp_path / "cache"), out=str(tmp_path / "again"))
    assert again.cache_hit and again.best == first.best
    uncached = answered(epochs=12, cache="off", out=str(tmp_path / "off"))
    assert uncached.best == pytest.approx(first.best, abs=1e-6)
    predictor = Predictor(tmp_path / "run", device="cpu")
    assert predictor.score(str(squad / "dev.json"))["metrics"]["f1"] == pytest.approx(first.best["f1"], abs=1e-6)
    found = predictor.predict(str(squad / "dev.json"))
    contexts, columns = found.table.texts[1], found.columns
    for context, text, start, end, score, candidates in zip(contexts, *columns.values(), strict=True):
        assert context[start:end] == text != "" and 0 < score <= 1
        assert candidates[0] == {"text": text, "start": start, "end": end, "score": score} and len(candidates) == 3
        assert sum(one["score"] for one in candidates) <= 1 + 1e-5
    single = predictor.predict([("what was it", contexts[4])]).columns
    assert single["answer"] == columns["answer"][4:5] and single["score"] == pytest.approx(columns["score"][4:5])


@pytest.mark.parametrize("family", ["bert", "roberta", "llama", "gpt2"])
def test_what_leaves_has_equal_logits_in_transformers_own_class(answered, tmp_path, squad, family):
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    if family in ("llama", "gpt2"):  # Llama's class has another name for the base than its checkpoints
        answered(model=str(tiny.save_tiny_decoder(tmp_path / "base", family, blocks=3)), epochs=1, plan="1: lora")
    else:
        answered(family=family, epochs=1, plan="1: lora")
    out = tmp_path / "merged"
    assert command(["export", str(tmp_path / "run"), "--to", "merged", "--out", str(out)]) == 0
    assert "question-answering" in (out / "README.md").read_text()
    model, tokenizer = AutoModelForQuestionAnswering.from_pretrained(out).eval(), AutoTokenizer.from_pretrained(out)
    predictor = Predictor(tmp_path / "run", device="cpu")
    table = replace(predictor.read(str(squad / "dev.json")), labels=None)
    ours, data = predictor.output(table), predictor.encode(table)
    at = 0
    for question, context, places in zip(*table.texts, range(len(data)), strict=True):
        with torch.no_grad():
            ids = torch.tensor(data.ids[slice(*data.offsets[places : places + 2])][None].astype(np.int64))
            asked = (
                tokenizer(question, context, return_tensors="pt")
                if family in ("bert", "roberta")
                else {"input_ids": ids}
            )
            theirs = model(**asked)
        here = data.places.subset(np.array([places])).values
        both = torch.stack([theirs.start_logits[0, here], theirs.end_logits[0, here]], dim=1)
        np.testing.assert_allclose(ours[at : at + len(here)], both.numpy(), atol=1e-4)
        at += len(here)


def test_questions_without_an_answer_and_a_tuned_threshold(answered, squad, tmp_path):
    parts = {"train": str(squad / "train2.json"), "eval": str(squad / "dev2.json")}
    names = {"f1", "exact_match", "has_answer_f1", "has_answer_exact_match", "no_answer_accuracy"}
    plain = answered(**parts, epochs=8)
    assert plain.best.keys() == names and any("questions of" in notice for notice in plain.notices)
    tuned = answered(**parts, epochs=8, objective="span(threshold=tuned)", out=str(tmp_path / "tuned"))
    assert tuned.best["f1"] >= plain.best["f1"] - 1e-9
    predictor = Predictor(tmp_path / "tuned", device="cpu")
    assert predictor.objective.tuning and predictor.objective.threshold is not None
    scored = predictor.score(parts["eval"])["metrics"]
    assert {name: scored[name] for name in names} == pytest.approx({name: tuned.best[name] for name in names}, abs=1e-6)
    found = predictor.predict(parts["eval"]).columns
    none = [text == "" for text in found["answer"]]
    assert [start is None for start in found["start"]] == none and [end is None for end in found["end"]] == none
    assert np.mean(none) == pytest.approx(
        np.mean([not row["answers"] for row in _rows(20, 3, 0.4)]), abs=0.5
    )  # some of both, once it has learnt
    forced = replace(predictor.objective, threshold=-1e9)
    predictor.objective = forced
    assert set(predictor.predict(parts["eval"]).columns["answer"]) == {""}


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("null", ["first", "last"])
def test_windows_hold_every_token_of_a_context_once(tiny_folder, null, side):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_folder("bert", "mlm"), truncation_side=side)
    rows = [*(row for row in _rows(9, 4)), {"question": "what", "context": "\u200d"}]
    questions, contexts = [row["question"] for row in rows], [row["context"] for row in rows]
    found = Windowing(tokenizer, 15, 2, null).encode(questions, contexts, "here")
    assert any("windows that overlap by 2" in notice for notice in found.encoded.notices)
    assert (found.encoded.lengths <= 15).all()
    for row, context in enumerate(contexts):
        real = np.repeat(found.rows == row, found.encoded.places.sizes) & (found.characters[:, 0] >= 0)
        own = found.characters[real & found.counts]
        assert "".join(context[start:end] for start, end in own) == context.replace(" ", "").replace("\u200d", "")
    offsets = np.concatenate([[0], np.cumsum(found.encoded.places.sizes)])
    at = 0 if null == "first" else -1
    for start, end in zip(offsets[:-1], offsets[1:], strict=True):
        assert (found.characters[start:end][:, 0] < 0).sum() == 1 and found.characters[start:end][at, 0] < 0


def test_long_questions_are_cut_and_counted(tiny_folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_folder("bert", "mlm"))
    found = Windowing(tokenizer, 21, 3, "first").encode(["what " * 30, "what"], ["the film " * 20] * 2, "here")
    assert "1 of 2 questions of here have more than 9 tokens" in found.encoded.notices[0]
    assert (found.encoded.lengths <= 21).all()
    with pytest.raises(ConfigError, match="max_length: 5 leaves no room"):
        Windowing(tokenizer, 5, 0, "first").encode(["what"], ["film"], "here")


@pytest.mark.parametrize("null", ["first", "last"])
def test_the_largest_stride_leaves_room_for_the_longest_question(tiny_folder, null):
    from transformers import AutoTokenizer

    import tiny

    tokenizers = [AutoTokenizer.from_pretrained(tiny_folder("bert", "mlm")), tiny.decoder_tokenizer()]
    for tokenizer in tokenizers if null == "last" else tokenizers[:1]:
        most = Windowing(tokenizer, 20, 0, null).most_stride
        found = Windowing(tokenizer, 20, most, null).encode(["what " * 30], ["the film " * 20], "here")
        assert (found.encoded.lengths <= 20).all() and len(found.rows) > 1


def test_windows_train_and_give_one_prediction_a_row(answered, squad, tmp_path):
    result = answered(objective="span(stride=4, max_answer=5)", max_length=16, epochs=2)
    assert any("windows that overlap by 4" in notice for notice in result.notices)
    predictor = Predictor(tmp_path / "run", device="cpu")
    dev = str(squad / "dev.json")
    assert predictor.score(dev)["metrics"]["f1"] == pytest.approx(result.best["f1"], abs=1e-6)
    found = predictor.predict(dev)
    assert len(found.columns["answer"]) == 15 == len(found.table)
    assert not any("cut" in notice for notice in found.table.notices)  # windows leave nothing out
    data = predictor.encode(predictor.read(dev, need_labels=True))
    whole = data.targets["answer"].values
    assert len(data) > 15 and (whole[:, 0] == 0).any() and (whole[:, 0] > 0).any()  # windows without the answer


def test_answers_inside_tokens_are_widened_and_counted(answered, tmp_path):
    answered(epochs=1)
    predictor = Predictor(tmp_path / "run", device="cpu")
    rows = [{"question": "what", "context": "the film was great", "answer": "fil", "answer_start": 4}]
    path = tmp_path / "inside.jsonl"
    path.write_text(json.dumps(rows[0]) + "\n")
    data = predictor.encode(predictor.read(str(path), need_labels=True))
    assert "1 of 1 answers" in data.notices[0] and "widened" in data.notices[0] and "row 1 'fil'" in data.notices[0]
    start, end = data.targets["answer"].values[0]
    characters = data.for_scores["characters"].values
    assert (characters[start, 0], characters[end, 1]) == (4, 8)


def test_a_decoder_reads_no_answer_where_it_has_read_everything(answered, squad, tmp_path, tiny_folder):
    model = str(tiny.save_tiny_decoder(tmp_path / "llama", "llama", blocks=3))
    result = answered(model=model, epochs=1, plan="1: lora", train=str(squad / "train2.json"))
    predictor = Predictor(tmp_path / "run", device="cpu")
    data = predictor.encode(predictor.read(str(squad / "dev2.json")))
    last = data.places.values[np.cumsum(data.places.sizes) - 1]
    assert (last == data.lengths - 1).all() and set(data.ids[np.cumsum(data.lengths) - 1]) == {
        predictor.tokenizer.eos_token_id
    }
    assert predictor.score(str(squad / "dev.json"))["metrics"]["f1"] == pytest.approx(result.best["f1"], abs=1e-6)


def test_the_head_may_start_fitted(answered):
    assert answered(epochs=1, head_start="fitted").best.keys() == {"f1", "exact_match"}


def test_the_command_line(answered, squad, tmp_path, tiny_folder, capsys):
    answered(epochs=1)
    capsys.readouterr()
    where = ["predict", str(tmp_path / "run"), "--device", "cpu"]
    for suffix in ("csv", "jsonl", "parquet"):
        assert command([*where, "--data", str(squad / "dev.json"), "--out", str(tmp_path / f"said.{suffix}")]) == 0
    row = json.loads((tmp_path / "said.jsonl").read_text().splitlines()[0])
    assert row["context"][row["start"] : row["end"]] == row["answer"] and row["id"] == "0" and row["answers"]
    assert command([*where, "--text", "what was it", "--text", "she saw great"]) == 0
    assert "  (" in capsys.readouterr().out
    model = str(tiny_folder("bert", "mlm"))
    assert command(["plan", "1: full", "--model", model, "--objective", "span", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["objective"] == "span"
    asked = ["--train", str(squad / "train.json"), "--model", model, "--objective", "span", "--device", "cpu"]
    assert command(["suggest", *asked, "--family", "bft", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["views"]
    assert command(["train", "--model", model, "--train", str(squad / "train.json"), "--objective", "qa"]) == 2
    assert "span predicts the answer to a question" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("objective", "data", "message"),
    [
        ("span(threshold=tuned)", "train", "every question has an answer"),
        ("span(threshold=much)", "train2", "threshold 'much'"),
        ("span(stride=60)", "train", "stride 60"),
        ("span(max_answer=0)", "train", "max_answer 0"),
    ],
)
def test_options_that_cannot_serve(answered, squad, objective, data, message):
    with pytest.raises(ConfigError) as caught:
        answered(objective=objective, train=str(squad / f"{data}.json"))
    assert message in caught.value.message and caught.value.hint


def test_data_without_any_answer_are_refused(answered, tmp_path):
    path = _squad(tmp_path / "none.json", _rows(5, 0, 1.0))
    with pytest.raises(DataError, match="no question has an answer"):
        answered(train=str(path))


def test_probes_read_beginnings_and_other_tokens(answered, squad, tmp_path):
    answered(epochs=1)
    predictor = Predictor(tmp_path / "run", device="cpu")
    assert isinstance(predictor.objective, QuestionAnswering)
    data = predictor.objective.encode(read_questions(str(squad / "train.json")), predictor.tokenizer)
    sample = predictor.objective.for_probes(data, 0)
    assert sample.labels is not None and set(sample.labels) == {0, 1} and len(sample) == 40
    for row in range(len(sample)):
        start = data.places.subset(np.array([row])).values[data.targets["answer"].values[row, 0]]
        assert (sample.read[row] == start) == bool(sample.labels[row]) and sample.read[row] > 0


@pytest.mark.parametrize("cache", ["off", "ram"])
def test_interrupted_and_resumed_is_uninterrupted(answered, tmp_path, monkeypatch, cache):
    changes = {"epochs": 3, "cache": cache, "checkpoint_every": 2, "max_length": 16}
    whole = answered(**changes, out=str(tmp_path / "whole"))
    seen, plain = [0], Feed.hidden

    def hidden(self, batch):
        seen[0] += 1
        if seen[0] == 17:
            raise InterruptedError
        return plain(self, batch)

    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(Feed, "hidden", hidden)
        answered(**changes)
    again = answered(**changes, resume=True)
    one, other = (read_tensors(Path(run.out) / "adapter") for run in (whole, again))
    assert again.best == whole.best and one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft calls what transformers is going to remove
def test_peft_reads_what_leaves(answered, tmp_path):
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForQuestionAnswering

    answered(epochs=1, plan="1: lora")
    for form in ("peft", "merged"):
        assert command(["export", str(tmp_path / "run"), "--to", form, "--out", str(tmp_path / form)]) == 0
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert config["task_type"] == "QUESTION_ANS"
    base = AutoModelForQuestionAnswering.from_pretrained(config["base_model_name_or_path"], num_labels=2)
    one = peft.PeftModel.from_pretrained(base, tmp_path / "peft").eval()
    other, ids = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "merged").eval(), torch.arange(5, 20)[None]
    with torch.no_grad():
        for name in ("start_logits", "end_logits"):
            torch.testing.assert_close(one(input_ids=ids)[name], other(input_ids=ids)[name], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("train", "threshold", "said"),
    [("train2", 1.5, "no answer where its logit is more than 1.500 above"), ("train2", 0, ""), ("train", None, "")],
)
def test_an_export_says_what_stock_tools_do_not_do(answered, squad, tmp_path, capsys, train, threshold, said):
    """Its threshold is a distance of logits: no probability, of which tools take 0.5."""
    given = {"train": str(squad / f"{train}.json"), "eval": None}
    given |= {"objective": "span" if threshold is None else f"span(threshold={threshold})"}
    answered(epochs=1, plan="1: lora", **given)
    capsys.readouterr()
    assert command(["export", str(tmp_path / "run"), "--to", "merged", "--out", str(tmp_path / "merged")]) == 0
    notes = "".join(capsys.readouterr())
    assert said in notes and ("other tools" in notes) == bool(said)


def test_onnx_answers_as_the_run(answered, squad, tiny_folder, tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    answered(epochs=1, model=str(tiny_folder("bert", blocks=2)))
    assert command(["export", str(tmp_path / "run"), "--to", "onnx", "--out", str(tmp_path / "onnx")]) == 0
    ours, theirs = Predictor(tmp_path / "run", device="cpu"), Predictor(tmp_path / "onnx")
    dev = str(squad / "dev.json")
    assert ours.predict(dev).columns["answer"] == theirs.predict(dev).columns["answer"]
    assert ours.score(dev)["metrics"] == pytest.approx(theirs.score(dev)["metrics"], abs=1e-4)


@pytest.mark.parametrize("name", ["train", "train2"])
def test_a_part_is_held_out_by_whether_there_is_an_answer(answered, squad, name):
    result = answered(train=str(squad / f"{name}.json"), eval=None, eval_split=0.25, epochs=1)
    assert result.best.keys() >= {"f1", "exact_match"}
