"""One head of ``multitask``: a label column, and the objective that learns it.

A row may lack a label of the column: it then teaches this head nothing, and the others what they have of it.

Shapes: N examples, n of them with a label, C outputs of the head.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from stratatune.data.encoded import IGNORED
from stratatune.data.label_columns import EMPTY
from stratatune.data.label_sets import joined
from stratatune.data.labels import LabelSet, fraction_in, looks_like_sets, written_as_sets
from stratatune.data.readers import Table
from stratatune.data.splitting import RowLabels
from stratatune.errors import DataError
from stratatune.objectives.answers import Using
from stratatune.objectives.asked import Asked
from stratatune.objectives.classes import Classes
from stratatune.objectives.multilabel import Multilabel
from stratatune.objectives.numbers import Numbers
from stratatune.objectives.pooled import Pooled
from stratatune.objectives.saved import checked
from stratatune.objectives.written import parse
from stratatune.outside import Written

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

KINDS: dict[str, type[Pooled]] = {one.name: one for one in (Classes, Multilabel, Numbers)}
"""The kinds of objective that a head may have."""


@dataclass(frozen=True)
class TaskHead:
    """One label column.

    Attributes:
        column: its name.
        objective: the objective that learns it.
        weight: the weight of its loss, see :func:`_weight`.
        mean, deviation: those of the numbers that a head of numbers learns: its output is how many deviations a number
            lies above the mean. Raw numbers would take many steps to come near, and hold up the other heads.
    """

    column: str
    objective: Pooled
    weight: float
    mean: float = 0.0
    deviation: float = 1.0

    def raw(self, logits: Tensor) -> Tensor:
        """The head's outputs [n, C] as its objective reads them."""
        return logits if self.objective.labels else self.mean + self.deviation * logits

    def present(self, values: np.ndarray) -> np.ndarray:
        """The targets [N, ...] that are present: bool [N]."""
        if values.dtype.kind == "b":
            return np.ones(len(values), bool)
        return ~np.isnan(values) if values.dtype.kind == "f" else values != IGNORED

    def targets(self, table: Table) -> np.ndarray:
        """The head's targets of a table [N, ...]; -100 or NaN where a row has no label."""
        rows = _labelled(table, self.column)
        if isinstance(self.objective, Multilabel) or len(rows) == len(table):
            return self.objective.targets(_with_labels(table, self.column, range(len(table))))
        found = self.objective.targets(_with_labels(table, self.column, rows))
        every = np.full(len(table), np.nan if found.dtype.kind == "f" else IGNORED, found.dtype)
        every[rows] = found
        return every

    def present_in(self, targets: Tensor) -> Tensor:
        """The numbers, int64 [n], of a batch's examples that are :meth:`present`."""
        import torch

        if targets.dtype == torch.bool:
            return torch.arange(len(targets), device=targets.device)
        there = ~targets.isnan() if targets.is_floating_point() else targets != IGNORED
        return there.nonzero()[:, 0]

    def to_data(self) -> dict[str, Any]:
        """The head as plain data: the data of its objective, and its own."""
        return {**self.objective.to_data(), **{name: getattr(self, name) for name in _SavedHead.model_fields}}

    @classmethod
    def from_data(cls, data: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> TaskHead:
        """A head from the data of :meth:`to_data`.

        Raises:
            ValidationError: pydantic's: a value that is missing or of another type.
            KeyError: no objective of a head has this name.
        """
        own = checked(_SavedHead, data)
        # The mean and deviation are the head's; its objective reads numbers as they are.
        rest = {name: value for name, value in data.items() if name not in ("mean", "deviation")}
        return cls(objective=KINDS[data["objective"]].from_data(rest, tokenizer), **dict(own))


class _SavedHead(Written):
    column: str
    weight: float
    mean: float
    deviation: float


@dataclass(frozen=True)
class HeadAtWork:
    """A model in use, whose predictions are those of one head."""

    found: np.ndarray
    using: Using

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.using.tokenizer

    def output(self, table: Table) -> np.ndarray:
        """The head's predictions."""
        return self.found

    def untuned(self, table: Table) -> np.ndarray:
        """Delegate to the model in use."""
        return self.using.untuned(table)

    def generate(self, texts: Sequence[str] | Sequence[list[int]], **options: Any) -> list[str]:
        """Delegate to the model in use."""
        return self.using.generate(texts, **options)


def settle_head(asked: Asked, column: str) -> tuple[TaskHead, list[str]]:
    """Make the head of a column, with notices about it."""
    tables = [asked.data, *asked.others]
    parts = [_with_labels(table, column, _labelled(table, column)) for table in tables]
    if not len(parts[0]):
        raise DataError(f"{asked.data.source}: label column {column!r} is empty", "leave it out of --label")
    kind, options, guessed = _kind(asked.options, column, parts)
    if kind is Multilabel:
        parts = [_with_labels(table, column, range(len(table))) for table in tables]  # where an empty cell is a set
    head_asked = replace(
        asked, table=parts[0], others=tuple(parts[1:]), objective=kind.name, options=options, metric=None
    )
    objective, said = kind.settle(head_asked)
    notices = [f"{column}: {line}" for line in said]
    if isinstance(objective, Numbers):  # every head of numbers is standardised here, the small ones too
        objective, notices = replace(objective, mean=0.0, deviation=1.0), []
    if guessed:
        size = f" of {len(objective.labels)}" if objective.labels else ""
        notices.insert(0, f"column {column!r} is learned by {kind.name}{size}; to change that: multitask({column}=...)")
    if len(parts[0]) < len(asked.data):
        empty = len(asked.data) - len(parts[0])
        notices.append(f"{column}: {empty:,} of {len(asked.data):,} rows have no label and are ignored by this head")
    values = objective.targets(parts[0])
    scale = (float(values.mean()), float(values.std())) if kind is Numbers else (0.0, 1.0)
    return TaskHead(column, objective, _weight(values, len(asked.data)), *scale), notices


def labels_of_column(table: Table, column: str, options: Mapping[str, Any]) -> RowLabels:
    """The labels of each row [N] in a column, as pairs of the column and a label; ``options`` are those of all."""
    found: list[Collection[Hashable]] = [()] * len(table)
    rows = _labelled(table, column)
    part = _with_labels(table, column, rows)
    try:
        kind, own, _ = _kind(options, column, [part])
        labels = kind.labels_by_row(part, own) or []
    except DataError:  # labels that cannot serve; the head that is to learn them says so
        return found
    for row, each in zip(rows, labels, strict=True):
        found[row] = [(column, label) for label in each]
    return found


def _kind(options: Mapping[str, Any], column: str, parts: Sequence[Table]) -> tuple[type[Pooled], dict[str, Any], bool]:
    """The objective of a column: the one that was named, with its options, or the one that its values suit."""
    if column in options:
        name, own = parse(options[column], {name: one.options for name, one in KINDS.items()})
        return KINDS[name], own, False
    values = [value for part in parts for value in part.labels or []]
    if any(isinstance(value, list) for value in values):
        return Multilabel, {}, True
    if looks_like_sets(set(values)) or written_as_sets(set(values)):
        return Multilabel, {}, True
    if fraction_in(set(values)):
        return Numbers, {}, True
    try:
        # The classes are those of the training data, where numbers recur less often than in all parts together.
        for labels in (parts[0].labels or [], values):
            LabelSet.infer(labels, parts[0].source)
    except DataError:
        if any(_number(value) is None for value in values):
            raise
        return Numbers, {}, True
    return Classes, {}, True


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _with_labels(table: Table, column: str, rows: Sequence[int]) -> Table:
    """The rows of a table with one label column, as its reader would give them."""
    values = table.further[column]
    labels: Any = [values[row] for row in rows]
    found = table if len(rows) == len(table) else table.select(rows)
    place = f"{table.source}, column {column!r}"
    return replace(found, labels=labels, label_column=joined((column,)), source=place, further={}, notices=())


def _labelled(table: Table, column: str) -> list[int]:
    """The rows of a table that have a label in this column."""
    return [at for at, value in enumerate(table.further[column]) if value != EMPTY]


def _weight(values: np.ndarray, rows: int) -> float:
    """The factor of a head's loss: 1 over the loss of the best answer that does not look at the text.

    That is the entropy of its classes, the mean entropy of its labels, or the variance of its numbers. So stars from 0
    to 100 weigh as much as a yes or no. A head whose labels are in a share of the rows alone weighs as much as others.
    """
    if values.dtype.kind == "f":
        blind = float(values.var())
    elif values.dtype.kind == "b":
        share = values.mean(axis=0)
        own = share[(share > 0) & (share < 1)]  # a label that all or none have is known without a look
        blind = float(-(own * np.log(own) + (1 - own) * np.log(1 - own)).sum() / len(share))
    else:
        share = np.bincount(values)[np.bincount(values) > 0] / len(values)
        blind = float(-(share * np.log(share)).sum())
    return rows / len(values) / blind if blind > 0 else 1.0
