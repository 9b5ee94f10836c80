"""An objective comes back from what it was saved as; also from what version 0.1.0 wrote."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForSequenceClassification

import stratatune as st
import tiny
from runs import rows, write_csv
from stratatune.app.cli import run
from stratatune.errors import ModelError
from stratatune.objectives.chat import Chat
from stratatune.objectives.multilabel import Multilabel
from stratatune.objectives.rank import Rank
from stratatune.objectives.registry import OBJECTIVES, objective_from
from stratatune.objectives.span import QuestionAnswering
from stratatune.objectives.tags import Tags
from stratatune.objectives.vectors import Vectors
from stratatune.progress import Reporter
from stratatune.training.config import validate
from stratatune.training.predict import Predictor
from stratatune.training.run import train

TEXTS = ["the film was good", "a terrible movie", "she loves this book", "the worst food"] * 3
KINDS = {
    "mlm": ("bert", {"label": "class"}),
    "mlm of numbers": ("bert", {"label": "score", "task": "stsb", "text": "text,other"}),
    "mlm over words": ("bert", {"label": "class", "loss": "words"}),
    "classification": ("bert", {"label": "class"}),
    "regression": ("bert", {"label": "score"}),
    "causal": ("llama", {"label": "class", "template": "{a} . It was <mask> ."}),
    "completion": ("llama", {"label": "answer"}),
    "seq2seq": ("t5", {"label": "answer"}),
    "classification by two stacks": ("t5", {"label": "class"}),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    rows = [
        {
            "text": text,
            "other": text[::-1],
            "class": ("bad", "good")[n % 2],
            "score": n % 5 + 0.5,
            "answer": "yes it is",
        }
        for n, text in enumerate(TEXTS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def bases(tmp_path_factory, tiny_folder):
    folder = tmp_path_factory.mktemp("t5")
    tiny.tiny_encoder_decoder("t5", more=0).save_pretrained(folder)
    tiny.roberta_tokenizer().save_pretrained(folder)
    llama = tiny.save_tiny_decoder(tmp_path_factory.mktemp("llama"), "llama", blocks=3, initializer_range=0.2)
    return {"bert": tiny_folder("bert", "mlm"), "llama": llama, "t5": folder}


class Said(Reporter):
    """Keeps the lines of a run."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def as_it_was(reading: dict[str, Any], family: str) -> dict[str, Any]:
    """What version 0.1.0 wrote: every key for every objective, and two flags in place of the family."""
    return {
        "objective": reading["objective"],
        "text": reading["text"],
        "label": reading["label"],
        "labels": reading.get("labels", []),
        "value_range": reading.get("value_range"),
        "template": reading.get("template"),
        "label_words": reading.get("label_words", []),
        "loss": reading.get("loss", "vocab"),
        "max_length": reading["max_length"],
        "metric": reading["metric"],
        "task": reading["task"],
        "suffixes": reading.get("suffixes", []),
        "decoder": family == "llama",
        "two_stacks": family == "t5",
        "dtype": "fp32",
        "precision": "fp32",
        "score": "",
    }


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_saved_by_0_1_0_predicts_the_same(kind, source, bases, tmp_path):
    family, settings = KINDS[kind]
    plan = {"bert": "2: bitfit", "llama": "2: lora(rank=2)", "t5": "dec 1: lora(rank=2)"}[family]
    given = {"model": str(bases[family]), "train": str(source), "text": "text", "plan": plan, "device": "cpu"}
    given |= {"objective": kind.split()[0], "epochs": 1, "batch_size": 4, "out": str(tmp_path / "run"), "cache": "off"}
    given["precision"] = "fp32"  # that of version 0.1.0, which did not write it down
    said = Said()
    result = train(validate({**given, **settings}), reporter=said)
    assert any(f" {result.trainable:,} of {result.total:,} parameters train" in line for line in said.lines)
    record = tmp_path / "run" / "adapter" / "adapter.json"
    predictor = Predictor(tmp_path / "run", device="cpu")
    now = answers(predictor, source)
    assert objective_from(predictor.objective.to_data(), predictor.tokenizer) == predictor.objective
    saved = json.loads(record.read_text())
    del saved["checksums"]  # 0.1.0 wrote none
    record.write_text(json.dumps({**saved, "reading": as_it_was(saved["reading"], family)}))
    before = Predictor(tmp_path / "run", device="cpu")
    assert before.objective == predictor.objective
    for one, other in zip(now, answers(before, source), strict=True):
        assert np.array_equal(one, other)


def answers(predictor: Predictor, source: Any) -> list[Any]:
    """What a predictor says: columns and scores, but no text that it writes, where rounding may decide for a word."""
    scores = predictor.score(str(source))["metrics"]
    told = [[value for name, value in sorted(scores.items()) if not name.startswith("rouge")]]
    if "perplexity" in scores:
        return told
    return [*predictor.predict(str(source)).columns.values(), *told]


def test_an_objective_that_is_not_here():
    with pytest.raises(ModelError, match="'dance', which is not registered"):
        objective_from({"objective": "dance"}, None)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("verb", ["predict", "eval", "serve"])
def test_an_adapter_without_an_objective_is_told_what_reads_it(verb, tiny_folder, tmp_path, capsys):
    model = AutoModelForSequenceClassification.from_pretrained(tiny_folder("bert", "classification"))
    st.apply(model, "2: lora").save_pretrained(tmp_path)
    more = {"predict": ["--text", "a good film"], "eval": ["--data", str(write_csv(tmp_path / "a.csv", rows(4, 0)))]}
    assert run([verb, str(tmp_path), *more.get(verb, [])]) == 2
    said = capsys.readouterr().err
    assert "saved by st.apply" in said and "has no objective" in said and "st.load(FOLDER)" in said


COMMON: dict[str, Any] = {"text": ("text",), "label": "label"}
MADE = {
    "chat": Chat(
        **COMMON, metric="loss", family="decoder", chat_template="{{ messages }}", stop_tokens=(2,), turns="last"
    ),
    "tags": Tags(**COMMON, metric="f1", tags=("O", "B-x", "I-x"), align="all", stride=7),
    "span": QuestionAnswering(**COMMON, metric="f1", stride=7, unanswerable=True, tuning=True, threshold=-1.5),
    "multilabel": Multilabel(**COMMON, metric="map", names=("a", "b"), thresholds=(0.5, 0.25)),
    "vectors": Vectors(**COMMON, metric="mrr@10", widths=(8, 4), pooling="first", scale=2.0, mini_batch=3),
    "rank": Rank(**COMMON, metric="mrr@10", by="listnet", high=5.0, paired=False),
}
"""Objectives whose fields alone say how they are saved."""


@pytest.mark.parametrize("name", MADE)
def test_fields_come_back(name):
    saved = json.loads(json.dumps(MADE[name].to_data()))
    assert objective_from(saved, None) == MADE[name]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("chat", "turns", "some"),
        ("chat", "stop_tokens", [-1]),
        ("chat", "chat_template", None),
        ("tags", "labels", ["O", "O"]),
        ("tags", "stride", "64"),
        ("span", "max_answer", 0),
        ("span", "threshold", "tuned"),
        ("vectors", "pooling", "max"),
        ("vectors", "scale", float("nan")),
        ("vectors", "widths", 8),
        ("rank", "by", "chance"),
        ("rank", "paired", 1),
        ("rank", "task", "no-such-task"),
        ("rank", "family", "t5"),
        ("multilabel", "thresholds", [0.5]),
        ("multilabel", "max_length", 0),
        ("multilabel", "text", []),
    ],
)
def test_a_field_of_another_type_is_named(name, key, value):
    with pytest.raises(ModelError) as caught:
        objective_from({**MADE[name].to_data(), key: value}, None)  # pyright: ignore[reportArgumentType]
    assert "the adapter's record is damaged: reading" in caught.value.message and key in caught.value.message


def test_a_field_that_earlier_versions_did_not_have_has_its_default():
    saved = MADE["rank"].to_data()
    del saved["mini_batch"]
    assert objective_from(saved, None) == MADE["rank"]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_says_what_it_is(name):
    kind = OBJECTIVES[name]
    assert kind.name == name and kind.summary and kind.metrics and kind.families
    assert set(kind.smaller_is_better) <= set(kind.metrics) and kind.reads in ("one", "few", "all")
