"""A trained run that is being served: its model, its name, and whose trunk it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stratatune.data.encode import Encoded
from stratatune.data.readers import Table
from stratatune.hashing import digest_of_json
from stratatune.model.unread import Unread
from stratatune.serving.remembered import RememberedTrunk
from stratatune.serving.weights import SharedWeights
from stratatune.training.answered import plain, rows_of
from stratatune.training.evaluate import evaluate
from stratatune.training.predict import Predictor

Row = dict[str, Any]


@dataclass(eq=False)
class Task:
    """A trained run, ready to answer.

    Attributes:
        name: in the API.
        run: the folder that it was loaded from.
        predictor: its model, tokenizer and objective.
        trunk: names the trunk; tasks of one trunk share what it says. Empty: this task runs its own.
        held: shared weights that must live as long as the task.
    """

    name: str
    run: str
    predictor: Predictor
    trunk: str
    held: list[Any] = field(default_factory=list, repr=False)

    @classmethod
    def load(cls, name: str, run: str, shared: SharedWeights, **where: Any) -> Task:
        """Load a run; ``where`` as the options of :class:`stratatune.training.predict.Predictor`.

        Raises:
            ModelError: nothing trained is there, or its base model is not what it was.
        """
        predictor = Predictor(run, **where)
        held = shared.share(predictor.model.attached)
        return cls(name, run, predictor, trunk_of(predictor), held)

    @property
    def columns(self) -> int:
        """Texts in a row: one, or two of a pair."""
        return self.predictor.text_columns

    @property
    def objective(self) -> Any:
        """How it is asked."""
        return self.predictor.objective

    def describe(self) -> Row:
        """What a client should know of it."""
        attached = self.predictor.model.attached
        resolved, origin = attached.resolved, attached.origin
        return {
            "name": self.name,
            "objective": self.objective.name,
            "reads": list(self.objective.text),
            "labels": list(self.objective.labels),
            "base": Path(origin.path).name if origin.path else origin.name,  # no paths of this machine
            "plan": str(resolved.plan),
            "frozen_depth": resolved.frozen_depth,
            "blocks": resolved.shape.blocks,
            "trunk": self.trunk[:12],
        }

    def read(self, texts: Sequence[Any]) -> Table:
        """Texts, or pairs of texts, as a table.

        Raises:
            DataError: they are not as this task needs them.
        """
        return self.predictor.read(list(texts))

    def answers(self, table: Table, data: Encoded | None, trunk: RememberedTrunk | None) -> list[Row]:
        """A row for each text of ``table``: what ``stratatune predict`` writes for it.

        Args:
            table: the texts.
            data: the same encoded; None: the objective asks the model in its own way, such as for generated text.
            trunk: has run for them; None: the task's own trunk runs.
        """
        using = self.predictor if data is None else _Using(self.predictor, table, data, trunk)
        said = self.objective.answer(table, using)
        return [plain(row) for row in rows_of({}, said.columns)]


@dataclass(frozen=True)
class _Using:
    """A model at work on texts that are encoded already."""

    predictor: Predictor
    table: Table
    data: Encoded
    trunk: RememberedTrunk | None

    def output(self, table: Table) -> np.ndarray:
        """What the objective predicts for every row of ``table``."""
        if table is not self.table:
            return self.predictor.output(table)
        feed = self.predictor.forward.feed(codec=self.predictor.codec, trunk=self.trunk)
        return evaluate(self.predictor.forward, self.data, feed).output

    def generate(self, texts: list[str], **options: Any) -> list[str]:
        """What the model writes for each text."""
        return self.predictor.generate(texts, **options)


def trunk_of(predictor: Predictor) -> str:
    """What tasks must have in common for one run of the trunk to serve them; empty where it serves this task alone.

    A trunk is its own where it trains, where the model writes text, where candidates stand behind each text, and where
    its weights are not in memory.
    """
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
