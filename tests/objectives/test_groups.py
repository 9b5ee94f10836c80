"""An objective with several texts an example: each text runs through the trunk once, the loss sees them together."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid

from stratatune.data.encode import encode_plain
from stratatune.data.encoded import Encoded
from stratatune.data.read_options import ReadOptions
from stratatune.data.readers import Table, read
from stratatune.model.question import Question
from stratatune.objectives.answers import Answers, Using
from stratatune.objectives.asked import Asked, common_of
from stratatune.objectives.objective import Objective
from stratatune.objectives.registry import OBJECTIVES, register
from stratatune.training.predict import Predictor

WORDS = ("great", "good", "fine", "bad")


@dataclass(frozen=True, kw_only=True)
class Preferred(Objective):
    """The first of two texts is better than the second: Bradley and Terry's model over one logit a text."""

    name: ClassVar[str] = "preferred"
    summary: ClassVar[str] = "the better of two texts, for a test"
    head: ClassVar[str] = "classification"
    families: ClassVar[frozenset[str]] = frozenset({"encoder"})
    reads: ClassVar[Literal["one", "few", "all"]] = "one"
    metrics: ClassVar[tuple[str, ...]] = ("right",)

    @classmethod
    def settle(cls, asked: Asked):
        return cls(**common_of(asked, "right")), []

    @classmethod
    def read(cls, source: Any, options: ReadOptions) -> Table:
        return read(source, replace(options, label=None, need_labels=False))

    def encode(self, table: Table, tokenizer: Any) -> Encoded:
        every = list(dict.fromkeys(text for column in table.texts for text in column))  # each text once
        number = {text: place for place, text in enumerate(every)}
        data = encode_plain(Table((every,)), tokenizer, self.max_length)
        pairs = [[number[text] for text in row] for row in zip(*table.texts, strict=True)]
        return data.with_groups(pairs).with_targets(np.zeros(len(pairs), np.int64))

    def question(self, batch: Any, *, training: bool) -> Question:
        return Question(targets=batch.input_ids)

    def margins(self, logits: torch.Tensor, batch: Any) -> torch.Tensor:
        scores = logits[:, 0].float()[batch.groups]
        return scores[:, 0] - scores[:, 1]

    def loss(self, logits: torch.Tensor, batch: Any, *, training: bool = True) -> torch.Tensor:
        return -logsigmoid(self.margins(logits, batch)).mean()

    def predict(self, logits: torch.Tensor, batch: Any) -> np.ndarray:
        return self.margins(logits, batch).cpu().numpy()

    def score(self, output: np.ndarray, data: Encoded, unit: float):
        return {"right": float((output > 0).mean())}, []

    def answer(self, table: Table, using: Using) -> Answers:
        return Answers({"margin": using.output(table).tolist()})


@pytest.fixture
def preferences(tmp_path):
    pairs = [(f"the film was {a}", f"the film was {b}") for n, a in enumerate(WORDS) for b in WORDS[n + 1 :]]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({"better": a, "worse": b}) + "\n" for a, b in pairs))
    return path


@pytest.fixture
def preferred():
    register(Preferred)
    yield
    del OBJECTIVES["preferred"]


def test_preferences_are_learnt_cached_as_uncached(preferred, preferences, run, tmp_path):
    given = {"objective": "preferred", "text": "better,worse", "label": None, "plan": "2: lora(rank=8)", "epochs": 12}
    given |= {"train": str(preferences), "eval": str(preferences), "batch_size": 3, "lr": 0.02, "warmup": 0.0}
    cache = tmp_path / "cache"
    results = {name: run(**given, out=str(tmp_path / name), cache=where) for name, where in _places(cache).items()}
    assert results["cached"].best == results["uncached"].best == {"right": 1.0}
    key = next(cache.glob("*/key.json"))
    assert json.loads(key.read_text())["examples"] == len(WORDS)  # four texts in six pairs: the trunk ran for four
    again = run(**{**given, "epochs": 1}, out=str(tmp_path / "again"), cache=str(cache))
    assert again.cache_hit
    predictor = Predictor(tmp_path / "cached", device="cpu")
    assert predictor.score(str(preferences))["metrics"]["right"] == 1.0
    margins = predictor.predict([("the film was bad", "the film was great")]).columns["margin"]
    assert margins[0] < 0


def _places(cache: Any) -> dict[str, str]:
    return {"cached": str(cache), "uncached": "off"}
