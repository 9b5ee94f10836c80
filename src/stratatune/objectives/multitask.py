"""``multitask``: several label columns of one text, a head each on a shared output layer.

Each head is one of the objectives of a single label column: a class, a label set or a number. They share the cache, the
data pass and what trains below them; the output layer has a slice for each. With the option ``tops`` groups of columns
have separate tops, and share the cache and the data pass alone (``training/trials/tops.py``).

Shapes: B examples, K heads, C outputs of one head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from stratatune.data.encoded import LABEL, Encoded, Targets
from stratatune.data.label_columns import read_columns
from stratatune.data.label_sets import columns_in, joined
from stratatune.data.read_options import ReadOptions
from stratatune.data.readers import Table
from stratatune.data.splitting import RowLabels
from stratatune.errors import ConfigError, did_you_mean
from stratatune.objectives.answers import Answers, Using
from stratatune.objectives.asked import Asked, common_of, pretended_common
from stratatune.objectives.metrics import check_metric
from stratatune.objectives.numbers import Numbers
from stratatune.objectives.objective import Objective
from stratatune.objectives.pooled import FAMILIES, PLACES, Pooled, encode_pooled, pooled
from stratatune.objectives.saved import common_from
from stratatune.objectives.task_head import KINDS, HeadAtWork, TaskHead, labels_of_column, settle_head
from stratatune.objectives.tops import TOPS, groups_in

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase
    from typing_extensions import Self

    from stratatune.data.batching import Batch
    from stratatune.model.question import Question

MEAN = "mean"


class _Columns(Mapping[str, type]):
    """The options of this objective: any label column, with the name of an objective; and ``tops``."""

    def __getitem__(self, name: str) -> type:
        if not name:
            raise KeyError(name)
        return str

    def __iter__(self) -> Iterator[str]:
        return iter(("COLUMN", TOPS))

    def __len__(self) -> int:
        return 2


@dataclass(frozen=True, kw_only=True)
class Multitask(Objective):
    """Several label columns a text.

    ``auto`` means it where a run names several label columns.

    Attributes:
        heads: one a column, in the order of the output layer.
    """

    name: ClassVar[str] = "multitask"
    summary: ClassVar[str] = "several label columns at once (classes, label sets, numbers), with one head each"
    head: ClassVar[str] = "sequence"
    families: ClassVar[frozenset[str]] = FAMILIES
    reads: ClassVar[Literal["one", "few", "all"]] = "one"
    metrics: ClassVar[tuple[str, ...]] = (MEAN,)
    bounded: ClassVar[frozenset[str]] = frozenset(metrics)
    options: ClassVar[Mapping[str, type]] = _Columns()
    place: ClassVar[str] = Pooled.place
    fitted_start: ClassVar[bool] = True
    # A stock pipeline then gives the logits of every head as they are.
    problem_type: ClassVar[str | None] = "regression"

    heads: tuple[TaskHead, ...]

    # --- how it is chosen and made ---------------------------------------------------------------------------------

    @classmethod
    def settle(cls, asked: Asked) -> tuple[Self, list[str]]:
        if asked.task:
            raise ConfigError([f"objective: the task {asked.task.name} has one label column"], "leave out --task")
        columns = columns_in(asked.data.label_column or "")
        options = {name: value for name, value in asked.options.items() if name != TOPS}
        if odd := next((name for name in options if name not in columns), None):
            legal = (*columns, TOPS)
            raise ConfigError([f"objective: multitask: {odd!r} is not a label column"], did_you_mean(odd, legal))
        if TOPS in asked.options:
            groups_in(asked.options[TOPS], columns)  # a run with several tops trains each as a separate run
        made, notices = [], []
        for column in columns:
            head, said = settle_head(replace(asked, options=options), column)
            made.append(head)
            notices += said
        if len(columns) > 2 and all(set(head.objective.labels) <= {"0", "1"} for head in made):
            notices.append("every label column holds 0 and 1: --objective multilabel learns them as one set of labels")
        legal = (MEAN, *(f"{head.column}.{metric}" for head in made for metric in head.objective.metrics))
        metric = check_metric(asked.metric or MEAN, legal, f"the heads {', '.join(columns)}")
        return cls(**common_of(asked, metric), heads=tuple(made)), notices

    @classmethod
    def from_data(cls, data: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> Self:
        heads = tuple(TaskHead.from_data(one, tokenizer) for one in data["heads"])
        if not heads:
            raise ValueError("heads: there is none")
        return cls(**common_from(data), heads=heads)

    @classmethod
    def together(cls, parts: Sequence[Multitask]) -> Multitask:
        """Join the heads of several tops in one objective, in their order."""
        heads = tuple(head for part in parts for head in part.heads)
        return replace(parts[0], heads=heads, label=joined([head.column for head in heads]), metric=MEAN)

    def to_data(self) -> dict[str, Any]:
        heads = [one.to_data() for one in self.heads]
        own = {"units": units} if (units := self._units()) else {}
        return {**self.common(), "labels": list(self.labels), "heads": heads, **own}

    def _units(self) -> list[dict[str, Any]]:
        """Each head of numbers with its output, and the numbers that turn it into a value (``exits/units.py``)."""
        return [
            {"name": one.column, "head": at, "output": part.start, "mean": one.mean, "deviation": one.deviation}
            for at, (one, part) in enumerate(zip(self.heads, self._slices(), strict=True))
            if isinstance(one.objective, Numbers)
        ]

    @property
    def labels(self) -> tuple[str, ...]:
        """A name for each output: ``column: class``, or the column's for a number."""
        return tuple(
            f"{head.column}: {label}" if label else head.column
            for head in self.heads
            for label in (head.objective.labels or ("",))
        )

    @property
    def needs_evaluation(self) -> bool:
        return any(head.objective.needs_evaluation for head in self.heads)

    @property
    def position(self) -> str:
        return PLACES[self.family]

    @property
    def smaller(self) -> bool:
        """Whether a smaller value of :attr:`metric`, which may be that of one head, is better."""
        column, _, metric = self.metric.rpartition(".")
        return any(metric in head.objective.smaller_is_better for head in self.heads if head.column == column)

    # --- data ------------------------------------------------------------------------------------------------------

    @classmethod
    def read(cls, source: Any, options: ReadOptions) -> Table:
        """Read texts with several label columns; see :func:`stratatune.data.label_columns.read_columns`."""
        return read_columns(source, options)

    @classmethod
    def labels_by_row(cls, table: Table, options: Mapping[str, Any]) -> RowLabels | None:
        """The labels of each row in all columns, as pairs of a column and its label."""
        columns = [labels_of_column(table, column, options) for column in columns_in(table.label_column or "")]
        return [[label for column in row for label in column] for row in zip(*columns, strict=True)]

    def encode(self, table: Table, tokenizer: PreTrainedTokenizerBase) -> Encoded:
        encoded = encode_pooled(self.family, table, tokenizer, self.max_length)
        for head in self.heads:
            if head.column in table.further:
                encoded = encoded.with_targets(head.targets(table), name=head.column)
        return encoded

    @classmethod
    def pretended(cls, texts: Encoded, family: str, random: np.random.Generator) -> tuple[Self, Encoded]:
        """Make up a head of each kind."""
        heads, data = [], texts
        for name, kind in KINDS.items():
            objective, found = kind.pretended(texts, family, random)
            heads.append(TaskHead(name, objective, weight=1.0))
            data = replace(data, targets={**data.targets, name: found.targets[LABEL]})
        return cls(**pretended_common(texts, family, MEAN), heads=tuple(heads)), data

    # --- learning --------------------------------------------------------------------------------------------------

    def question(self, batch: Batch, *, training: bool) -> Question:
        return pooled(batch)

    def loss(self, logits: Tensor, batch: Batch, *, training: bool = True) -> Tensor:
        """The mean of the heads' losses, each times its weight: ``logits`` [B, sum C].

        A head's loss is summed over the examples that have its label and divided by B, so that small batches add up to
        a large one.
        """
        # Not a plain 0: a batch in which no row has a label must still have a gradient, of zeros.
        total = logits.sum() * 0.0
        for head, part in zip(self.heads, self._slices(), strict=True):
            own, targets = logits[:, part], batch.targets[head.column]
            rows = head.present_in(targets)
            if len(rows) < len(targets):
                own, targets = own[rows], targets[rows]
            if len(targets):
                loss = head.objective.loss(head.raw(own), replace(batch, targets={LABEL: targets}), training=training)
                total = total + head.weight * len(targets) / len(batch) * loss
        return total / len(self.heads)

    def tuned(self, output: np.ndarray, data: Encoded) -> tuple[Self, np.ndarray]:
        heads, found = [], output.copy()
        for (head, part, own), columns in zip(self._parts(output, data), self._columns(), strict=True):
            objective, changed = head.objective.tuned(part, own) if len(part) else (head.objective, part)
            there = np.flatnonzero(head.present(data.targets[head.column].values))
            if len(there):
                found[there, columns] = changed.reshape(len(there), -1)
            heads.append(replace(head, objective=objective))
        if all(one.objective is other.objective for one, other in zip(heads, self.heads, strict=True)):
            return self, output
        return replace(self, heads=tuple(heads)), found

    # --- using -----------------------------------------------------------------------------------------------------

    @property
    def outputs(self) -> int:
        return sum(head.objective.outputs for head in self.heads)

    def _slices(self) -> list[slice]:
        """The outputs of each head."""
        return _slices_of([head.objective.outputs for head in self.heads])

    def _columns(self) -> list[slice]:
        """The columns of each head in the predictions: one for each class or label, or one for a number."""
        return _slices_of([max(1, len(head.objective.labels)) for head in self.heads])

    def predict(self, logits: Tensor, batch: Batch) -> np.ndarray:
        """``logits`` [B, sum C] -> the predictions of all heads, side by side [B, columns]."""
        parts = zip(self.heads, self._slices(), strict=True)
        found = [head.objective.predict(head.raw(logits[:, part]), batch) for head, part in parts]
        return np.concatenate([one.reshape(len(one), -1) for one in found], axis=1)

    def _of(self, head: TaskHead, output: np.ndarray) -> np.ndarray:
        """A head's columns as its objective predicts them: [N, C], or [N] for a number."""
        found = output[:, self._columns()[self.heads.index(head)]]
        return found if head.objective.labels else found[:, 0]

    def _parts(self, output: np.ndarray, data: Encoded) -> Iterator[tuple[TaskHead, np.ndarray, Encoded]]:
        """Each head's predictions and targets, for the examples that have its label."""
        for head in self.heads:
            values = data.targets[head.column].values
            there = head.present(values)
            own = replace(data, targets={LABEL: Targets(values[there])})  # no score reads their tokens
            yield head, self._of(head, output)[there], own

    def score(self, output: np.ndarray, data: Encoded, unit: float) -> tuple[dict[str, float], list[str]]:
        """``mean``: the mean of the metrics that select each head; and all heads' metrics as ``column.metric``."""
        found: dict[str, float] = {}
        means, notices = [], []
        for head, part, own in self._parts(output, data):
            if not len(part):
                found |= {f"{head.column}.{name}": 0.0 for name in head.objective.metrics}
                notices.append(f"the scores of {head.column} are 0: no row has its label")
                continue
            scores, said = head.objective.score(part, own, unit)
            found |= {f"{head.column}.{name}": value for name, value in scores.items()}
            notices += [f"{head.column}: {line}" for line in said]
            means.append(scores[head.objective.metric])
        return {MEAN: float(np.mean(means)) if means else 0.0, **found}, notices

    def by_class(self, output: np.ndarray, data: Encoded) -> dict[str, Any]:
        """The classes and labels of all heads, by ``column: class``."""
        if not data.targets:
            return {}
        classes = []
        for head, part, own in self._parts(output, data):
            found = head.objective.by_class(part, own) if len(part) and head.objective.labels else {}
            classes += [{**one, "label": f"{head.column}: {one['label']}"} for one in found.get("classes", ())]
        return {"f1": "of each head by itself", "classes": classes} if classes else {}

    def answer(self, table: Table, using: Using) -> Answers:
        """A column for each head, by its name, and after them the scores of its classes as ``p_column_class``."""
        output = using.output(table)
        answers: dict[str, Any] = {}
        scores: list[tuple[str, str, Any]] = []
        for head in self.heads:
            said = head.objective.answer(table, HeadAtWork(self._of(head, output), using))
            (_, answers[head.column]), *own = said.columns.items()
            scores += [(head.column, said.chances[name], values) for name, values in own]
        named = _named(scores, set(answers))
        chances = {name: label for name, (_, label, _) in zip(named, scores, strict=True)}
        return Answers({**answers, **named}, chances=chances)

    def for_probes(self, data: Encoded, seed: int) -> Encoded:
        """Every class and label of every head as a set, and whether a number is above the median."""
        columns = []
        for head in self.heads:
            values = data.targets[head.column].values
            there = head.present(values)
            if values.dtype.kind == "f":
                columns.append((values > np.median(values[there]))[:, None] & there[:, None])
            elif values.dtype.kind == "b":
                columns.append(values)
            else:
                columns.append(values[:, None] == np.arange(len(head.objective.labels)))
        return replace(data, targets={}).with_targets(np.concatenate(columns, axis=1))


def _named(scores: Sequence[tuple[str, str, Any]], taken: set[str]) -> dict[str, Any]:
    """Name each score by its column and class: ``p_a_b``, and with another mark where that would name two of them."""
    for mark in ("_", "=", ": "):
        found = {f"p_{column}{mark}{label}": values for column, label, values in scores}
        if len(found) == len(scores) and not taken & set(found):
            return found
    return {f"p_{number}_{column}_{label}": values for number, (column, label, values) in enumerate(scores)}


def _slices_of(sizes: Sequence[int]) -> list[slice]:
    ends = np.cumsum([0, *sizes]).tolist()
    return [slice(start, end) for start, end in zip(ends, ends[1:], strict=False)]
