"""``multitask``: several label columns of one text, a head each on a shared output layer.

Each head is one of the objectives of a single label column: a class, a label set or a number. They share the cache, the
data pass and what trains below them; the output layer has a slice for each.

Shapes: B examples, K heads, C outputs of one head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from stratatune.data.encode import IGNORED, LABEL, Encoded, Targets
from stratatune.data.label_columns import EMPTY, read_columns
from stratatune.data.label_sets import columns_in, joined
from stratatune.data.labels import LabelSet, looks_like_sets
from stratatune.data.readers import Table
from stratatune.data.written import AS_USUAL, Written
from stratatune.errors import ConfigError, DataError, did_you_mean
from stratatune.objectives.classes import Classes
from stratatune.objectives.metrics import check_metric
from stratatune.objectives.multilabel import Multilabel
from stratatune.objectives.numbers import Numbers
from stratatune.objectives.objective import Answers, Asked, Objective, Using, common_from, common_of
from stratatune.objectives.pooled import FAMILIES, PLACES, Pooled, encode_pooled, pooled
from stratatune.objectives.written import parse

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase
    from typing_extensions import Self

    from stratatune.data.batching import Batch
    from stratatune.data.tasks import Task
    from stratatune.model.question import Question

KINDS: dict[str, type[Pooled]] = {one.name: one for one in (Classes, Multilabel, Numbers)}
"""What a head may be."""
MEAN = "mean"
_HEAD_FIELDS = ("column", "weight", "mean", "deviation")


@dataclass(frozen=True)
class TaskHead:
    """One label column.

    Attributes:
        column: its name.
        objective: what is learnt of it.
        weight: of its loss, see :func:`_weight`.
        mean, deviation: of the numbers that a head of numbers learns: its output is how many deviations a number lies
            above the mean. Raw numbers would take many steps to come near, and hold up the other heads.
    """

    column: str
    objective: Pooled
    weight: float
    mean: float = 0.0
    deviation: float = 1.0

    def raw(self, logits: Tensor) -> Tensor:
        """Its outputs [n, C] as its objective reads them."""
        return logits if self.objective.labels else self.mean + self.deviation * logits

    def present(self, values: np.ndarray) -> np.ndarray:
        """Which of its targets [N, ...] are there: bool [N]."""
        if values.dtype.kind == "b":
            return np.ones(len(values), bool)
        return ~np.isnan(values) if values.dtype.kind == "f" else values != IGNORED


class _Columns(Mapping[str, type]):
    """The options of this objective: any label column, with the name of an objective."""

    def __getitem__(self, name: str) -> type:
        if not name:
            raise KeyError(name)
        return str

    def __iter__(self) -> Iterator[str]:
        return iter(("COLUMN",))

    def __len__(self) -> int:
        return 1


@dataclass(frozen=True, kw_only=True)
class Multitask(Objective):
    """Several label columns a text.

    Attributes:
        heads: one a column, in the order of the output layer.
    """

    name: ClassVar[str] = "multitask"
    summary: ClassVar[str] = "several label columns at once (classes, label sets, numbers), a head each"
    head: ClassVar[str] = "sequence"
    families: ClassVar[frozenset[str]] = FAMILIES
    reads: ClassVar[Literal["one", "few", "all"]] = "one"
    metrics: ClassVar[tuple[str, ...]] = (MEAN,)
    options: ClassVar[Mapping[str, type]] = _Columns()
    place: ClassVar[str] = Pooled.place
    problem_type: ClassVar[str | None] = (
        "regression"  # a stock pipeline then gives the logits of every head as they are
    )

    heads: tuple[TaskHead, ...]

    # --- how it is chosen and made ---------------------------------------------------------------------------------

    @classmethod
    def suits(cls, asked: Asked) -> bool:
        return False  # `auto` means it where several label columns are named, see :class:`Outline`

    @classmethod
    def settle(cls, asked: Asked) -> tuple[Self, list[str]]:
        if asked.task:
            raise ConfigError([f"objective: the task {asked.task.name} has one label column"], "leave out --task")
        columns = columns_in(asked.data.label_column or "")
        if odd := next((name for name in asked.options if name not in columns), None):
            raise ConfigError([f"objective: multitask: {odd!r} is no label column"], did_you_mean(odd, columns))
        made, notices = [], []
        for column in columns:
            head, said = _head(asked, column)
            made.append(head)
            notices += said
        if len(columns) > 2 and all(set(head.objective.labels) <= {"0", "1"} for head in made):
            notices.append("every label column holds 0 and 1: --objective multilabel learns them as one set of labels")
        legal = (MEAN, *(f"{head.column}.{metric}" for head in made for metric in head.objective.metrics))
        metric = check_metric(asked.metric or MEAN, legal, f"the heads {', '.join(columns)}")
        return cls(**common_of(asked, metric), heads=tuple(made)), notices

    @classmethod
    def from_data(cls, data: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> Self:
        heads = tuple(
            TaskHead(
                str(one["column"]),
                KINDS[one["objective"]].from_data(one, tokenizer),
                **{name: float(one[name]) for name in ("weight", "mean", "deviation")},
            )
            for one in data["heads"]
        )
        if not heads:
            raise ValueError("heads: there is none")
        return cls(**common_from(data), heads=heads)

    def to_data(self) -> dict[str, Any]:
        heads = [
            {**one.objective.to_data(), **{name: getattr(one, name) for name in _HEAD_FIELDS}} for one in self.heads
        ]
        return {**self.common(), "labels": list(self.labels), "heads": heads}

    @property
    def labels(self) -> tuple[str, ...]:
        """A name for each output: ``column: class``, of a number the column's."""
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

    def better(self, new: float, old: float | None) -> bool:
        column, _, metric = self.metric.rpartition(".")
        for head in self.heads:
            if head.column == column:
                return replace(head.objective, metric=metric).better(new, old)
        return super().better(new, old)

    # --- data ------------------------------------------------------------------------------------------------------

    @classmethod
    def read(
        cls,
        source: Any,
        *,
        text: Sequence[str] | None,
        label: str | None,
        task: str | Task | None,
        split: str | None,
        need_labels: bool = True,
        written: Written = AS_USUAL,
        keep_whole: bool = False,
    ) -> Table:
        """Texts with the values of several label columns; see :func:`stratatune.data.label_columns.read_columns`."""
        asked = {"text": text, "label": label, "split": split, "need_labels": need_labels}
        return read_columns(source, written=written, keep_whole=keep_whole, **asked)

    @classmethod
    def classes_of(cls, table: Table) -> None:
        return None

    def encode(self, table: Table, tokenizer: PreTrainedTokenizerBase) -> Encoded:
        encoded = encode_pooled(self.family, table, tokenizer, self.max_length)
        for head in self.heads:
            if head.column in table.further:
                encoded = encoded.with_targets(_targets(head.objective, table, head.column), name=head.column)
        return encoded

    # --- learning --------------------------------------------------------------------------------------------------

    def question(self, batch: Batch, *, training: bool) -> Question:
        return pooled(batch)

    def loss(self, logits: Tensor, batch: Batch, *, training: bool = True) -> Tensor:
        """The mean of the heads' losses, each times its weight: ``logits`` [B, sum C].

        A head's loss is summed over the examples that have its label and divided by B, so that small batches add up to
        a large one.
        """
        total = logits.sum() * 0.0
        for head, part in zip(self.heads, self._slices(), strict=True):
            own, targets = logits[:, part], batch.targets[head.column]
            rows = _labelled(targets)
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
        """The columns of each head in what is predicted: one for each class or label, or one for a number."""
        return _slices_of([max(1, len(head.objective.labels)) for head in self.heads])

    def predict(self, logits: Tensor, batch: Batch) -> np.ndarray:
        """``logits`` [B, sum C] -> what each head predicts, side by side [B, columns]."""
        parts = zip(self.heads, self._slices(), strict=True)
        found = [head.objective.predict(head.raw(logits[:, part]), batch) for head, part in parts]
        return np.concatenate([one.reshape(len(one), -1) for one in found], axis=1)

    def _of(self, head: TaskHead, output: np.ndarray) -> np.ndarray:
        """A head's columns as its objective predicts them: [N, C], or [N] for a number."""
        found = output[:, self._columns()[self.heads.index(head)]]
        return found if head.objective.labels else found[:, 0]

    def _parts(self, output: np.ndarray, data: Encoded) -> Iterator[tuple[TaskHead, np.ndarray, Encoded]]:
        """Of each head what it predicts and its targets, for the examples that have its label."""
        for head in self.heads:
            values = data.targets[head.column].values
            there = head.present(values)
            own = replace(data, targets={LABEL: Targets(values[there])})  # whose tokens no score reads
            yield head, self._of(head, output)[there], own

    def score(self, output: np.ndarray, data: Encoded, unit: float) -> tuple[dict[str, float], list[str]]:
        """``mean``: of what each head would be selected by; and each head's metrics as ``column.metric``."""
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
        """For each head a column of its name, and behind them the scores of its classes as ``p_column_class``."""
        output = using.output(table)
        answers: dict[str, Any] = {}
        scores: dict[str, Any] = {}
        for head in self.heads:
            said = head.objective.answer(table, _Predicted(self._of(head, output), using)).columns
            for number, (name, values) in enumerate(said.items()):
                if number == 0:
                    answers[head.column] = values
                else:
                    scores[f"p_{head.column}_{name.removeprefix('p_')}"] = values
        return Answers({**answers, **scores})

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


@dataclass(frozen=True)
class _Predicted:
    """A model at work, whose predictions are those of one head."""

    found: np.ndarray
    using: Using

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.using.tokenizer

    def output(self, table: Table) -> np.ndarray:
        """What the head predicts."""
        return self.found

    def untuned(self, table: Table) -> np.ndarray:
        """As the model at work."""
        return self.using.untuned(table)

    def generate(self, texts: Sequence[str] | Sequence[list[int]], **options: Any) -> list[str]:
        """As the model at work."""
        return self.using.generate(texts, **options)


def _slices_of(sizes: Sequence[int]) -> list[slice]:
    ends = np.cumsum([0, *sizes]).tolist()
    return [slice(start, end) for start, end in zip(ends, ends[1:], strict=False)]


# --- settling one head -----------------------------------------------------------------------------------------------


def _head(asked: Asked, column: str) -> tuple[TaskHead, list[str]]:
    """The head of a column, and notices about it."""
    tables = [asked.data, *asked.others]
    parts = [_labelled_rows(table, column) for table in tables]
    if not len(parts[0]):
        raise DataError(f"{asked.data.source}: label column {column!r} is empty", "leave it out of --label")
    kind, options, guessed = _kind(asked, column, parts)
    if kind is Multilabel:
        parts = [_with_labels(table, column, range(len(table))) for table in tables]  # where an empty cell is a set
    head_asked = replace(
        asked, table=parts[0], others=tuple(parts[1:]), objective=kind.name, options=options, metric=None
    )
    objective, said = kind.settle(head_asked)
    notices = [f"{column}: {line}" for line in said]
    if guessed:
        size = f" of {len(objective.labels)}" if objective.labels else ""
        notices.insert(0, f"column {column!r} is learned by {kind.name}{size}; another: multitask({column}=...)")
    if len(parts[0]) < len(asked.data):
        empty = len(asked.data) - len(parts[0])
        notices.append(f"{column}: {empty:,} of {len(asked.data):,} rows have no label and teach this head nothing")
    values = objective.targets(parts[0])
    scale = (float(values.mean()), float(values.std())) if kind is Numbers else (0.0, 1.0)
    return TaskHead(column, objective, _weight(values, len(asked.data)), *scale), notices


def _kind(asked: Asked, column: str, parts: Sequence[Table]) -> tuple[type[Pooled], dict[str, Any], bool]:
    """The objective of a column: the one that was named, with its options, or the one that its values suit."""
    if column in asked.options:
        name, options = parse(asked.options[column], {name: one.options for name, one in KINDS.items()})
        return KINDS[name], options, False
    values = [value for part in parts for value in part.labels or []]
    if any(isinstance(value, list) for value in values) or looks_like_sets(set(values)):
        return Multilabel, {}, True
    try:
        LabelSet.infer(values, parts[0].source)
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
    """The rows of a table with one label column, as the reader of a single one gives them."""
    values = table.further[column]
    labels: Any = [values[row] for row in rows]
    found = table if len(rows) == len(table) else table.select(rows)
    place = f"{table.source}, column {column!r}"
    return replace(found, labels=labels, label_column=joined((column,)), source=place, further={}, notices=())


def _labelled_rows(table: Table, column: str) -> Table:
    return _with_labels(table, column, [at for at, value in enumerate(table.further[column]) if value != EMPTY])


def _targets(objective: Pooled, table: Table, column: str) -> np.ndarray:
    """The targets of a column [N, ...]; -100 or NaN where a row has no label."""
    rows = [at for at, value in enumerate(table.further[column]) if value != EMPTY]
    if isinstance(objective, Multilabel) or len(rows) == len(table):
        return objective.targets(_with_labels(table, column, range(len(table))))
    found = objective.targets(_with_labels(table, column, rows))
    every = np.full(len(table), np.nan if found.dtype.kind == "f" else IGNORED, found.dtype)
    every[rows] = found
    return every


def _labelled(targets: Tensor) -> Tensor:
    """The examples of a batch that have a label: their numbers int64 [n]."""
    import torch

    if targets.dtype == torch.bool:
        return torch.arange(len(targets), device=targets.device)
    there = ~targets.isnan() if targets.is_floating_point() else targets != IGNORED
    return there.nonzero()[:, 0]


def _weight(values: np.ndarray, rows: int) -> float:
    """What a head's loss is multiplied with: 1 over the loss of the best answer that does not look at the text.

    That is the entropy of its classes, the mean entropy of its labels, or the variance of its numbers. So stars from 0
    to 100 weigh as much as a yes or no. A head whose labels are in a share of the rows alone weighs as much as others.
    """
    if values.dtype.kind == "f":
        blind = float(values.var())
    elif values.dtype.kind == "b":
        share = np.clip(values.mean(axis=0), 1e-12, 1 - 1e-12)
        blind = float(-(share * np.log(share) + (1 - share) * np.log(1 - share)).mean())
    else:
        share = np.bincount(values)[np.bincount(values) > 0] / len(values)
        blind = float(-(share * np.log(share)).sum())
    return rows / len(values) / blind if blind > 0 else 1.0
