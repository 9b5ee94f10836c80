"""A trained run that is being served: its model, its name, and its trunk."""

from __future__ import annotations

import copy
import functools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from stratatune.data.encoded import Encoded
from stratatune.data.readers import Table
from stratatune.hashing import digest_of_json
from stratatune.model.unread import Unread
from stratatune.serving.generated import GeneratedText, GeneratedTexts
from stratatune.serving.remembered import RememberedTrunk
from stratatune.serving.weights import SharedWeights
from stratatune.training.answered import plain, rows_of
from stratatune.training.evaluate import evaluate
from stratatune.training.predict import Predictor

Row = dict[str, Any]
_SHORTEST_ROOM = 64
"""The tokens of an answer even where a run's longest text leaves no more: most texts are shorter."""


@dataclass(eq=False)
class Task:
    """A trained run, ready to answer.

    Attributes:
        name: its name in the API.
        run: the folder that it was loaded from.
        predictor: its model, tokenizer and objective.
        trunk: names the trunk; tasks of one trunk share its output. Empty: this task runs its own.
        held: shared weights that must live as long as the task.
        loaded: when, in seconds since 1970.
    """

    name: str
    run: str
    predictor: Predictor
    trunk: str
    held: list[Any] = field(default_factory=list, repr=False)
    loaded: int = field(default_factory=lambda: int(time.time()))
    _counts: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @classmethod
    def load(cls, name: str, run: str, shared: SharedWeights, **where: Any) -> Task:
        """Load a run; ``where`` has the options of :class:`stratatune.training.predict.Predictor`.

        Raises:
            ModelError: nothing trained is there, or its base model has changed.
        """
        predictor = Predictor(run, bases=shared.bases, **where)
        held = [one for attached in predictor.attached for one in shared.share(attached)]
        return cls(name, run, predictor, trunk_of(predictor), held)

    def reads(self, columns: int) -> bool:
        """Whether it answers for this many texts at once: one, or two of a pair."""
        return self.objective.asks(columns)

    @property
    def objective(self) -> Any:
        """The objective of the task."""
        return self.predictor.objective

    def describe(self) -> Row:
        """A description of the task for clients."""
        own = {
            "name": self.name,
            "objective": self.objective.name,
            "columns": self.objective.asked_at_once,
            "reads": list(self.objective.text),
            "generates": self.objective.writes,
            "conversations": self.objective.converses,
            "labels": list(self.objective.labels),
            "trunk": self.trunk[:12],
        }
        if self.predictor.model is None:  # onnxruntime runs it
            return own
        attached = self.predictor.model.attached
        resolved, origin = attached.resolved, attached.origin
        return {
            **own,
            "base": Path(origin.path).name if origin.path else origin.name,  # no paths of this machine
            "plan": str(resolved.plan),
            "frozen_depth": resolved.frozen_depth,
            "blocks": resolved.shape.blocks,
        }

    def new_tokens(self, most: int) -> int:
        """The tokens that an answer may have where a request does not say: ``most``, or what the model has room for.

        What a run's longest text leaves is the same for every text, so that texts of any lengths share a batch.
        """
        room = self.predictor.attached[0].resolved.shape.max_tokens - self.objective.max_length
        return max(1, min(most, max(room, _SHORTEST_ROOM)))

    def count(self, texts: Sequence[str]) -> int:
        """The number of tokens that the model reads of these texts; from any thread.

        The predictor's tokenizer is another thread's, and a fast tokenizer fails if two threads use it at once.
        """
        with self._counts:
            rows: Any = self._counting(list(texts), truncation=True, max_length=self.objective.max_length)
        return sum(map(len, rows["input_ids"]))

    @functools.cached_property
    def _counting(self) -> Any:
        return copy.deepcopy(self.predictor.tokenizer)

    def read(self, texts: Sequence[Any]) -> Table:
        """Make a table of texts, or of pairs of texts.

        Raises:
            DataError: they are not as this task needs them.
        """
        return self.predictor.read(list(texts))

    def answers(
        self,
        table: Table,
        data: Encoded | None,
        trunk: RememberedTrunk | None,
        written: Sequence[GeneratedText] = (),
        options: Mapping[str, Any] | None = None,
        between: Callable[[], None] = lambda: None,
    ) -> list[Row]:
        """A row for each text of ``table``, as ``stratatune predict`` writes it.

        Args:
            table: the texts.
            data: the table encoded; None: the model predicts as `predict` does.
            trunk: has run for them.
            written: follows the answer to each text, where it is generated.
            options: how it is generated.
            between: called after each token that is generated.
        """
        if data is not None and trunk is not None:
            said = self.objective.answer(table, _Using(self.predictor, table, data, trunk))
        elif self.objective.writes and written:
            with self.predictor.writing(options or {}, GeneratedTexts(written, between)):
                said = self.objective.answer(table, self.predictor)
        else:
            said = self.objective.answer(table, self.predictor)
        return [plain(row) for row in rows_of({}, said.columns)]


@dataclass(frozen=True)
class _Using:
    """A model in use on texts that are encoded already, and for which the trunk has run."""

    predictor: Predictor
    table: Table
    data: Encoded
    trunk: RememberedTrunk

    @property
    def tokenizer(self) -> Any:
        """The model's own tokenizer."""
        return self.predictor.tokenizer

    def output(self, table: Table) -> np.ndarray:
        """The objective's predictions for every row of ``table``."""
        forward, data = self.predictor.forward, self.data
        if table is not self.table:  # an objective may predict each column by itself
            data = self.predictor.encode(replace(table, labels=None, label_column=None))
            self.trunk.run(forward, [data], self.predictor.batch_size)
        feed = forward.feed(codec=self.predictor.codec, trunk=self.trunk)
        return evaluate(forward, data, feed, batch_size=self.predictor.batch_size).output

    def untuned(self, table: Table) -> np.ndarray:
        """The output of the base model."""
        return self.predictor.untuned(table)

    def generate(self, texts: Any, **options: Any) -> list[str]:
        """The text that the model generates for each text."""
        return self.predictor.generate(texts, **options)


def trunk_of(predictor: Predictor) -> str:
    """A digest of what tasks must share for one run of the trunk to serve them; empty where it serves this task alone.

    A trunk is not shared where it trains, where the model writes text, where candidates follow each text, where its
    weights are not in memory, and where onnxruntime runs it.
    """
    if predictor.model is None:
        return ""
    attached, objective = predictor.model.attached, predictor.objective
    unread = Unread.of(attached.backbone.model) is not None
    depth = attached.resolved.frozen_depth
    if objective.writes or sum(objective.branches) or unread or not depth or attached.resolved.trains_embeddings:
        return ""
    return digest_of_json(
        {
            "base": attached.base_hash,
            "depth": depth,
            "precision": str(predictor.forward.precision),
            "device": str(predictor.device),
            "attention": attached.backbone.model.config._attn_implementation,
            "dtype": str(next(attached.backbone.model.parameters()).dtype),
        },
        size=16,
    )
