"""``multilabel``: any number of labels a text, each with its own score from a new output layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from stratatune.data.encoded import Encoded
from stratatune.data.label_sets import Cell, columns_in, cut, read_sets, separator_for, separator_named, separator_of
from stratatune.data.labels import check_lengths, ordered, unseen_in_set
from stratatune.data.read_options import ReadOptions
from stratatune.data.readers import Table
from stratatune.data.splitting import RowLabels
from stratatune.errors import ConfigError, DataError
from stratatune.objectives.answers import Answers, Using
from stratatune.objectives.asked import Asked, common_of, pretended_common
from stratatune.objectives.class_loss import MOST_FOCAL
from stratatune.objectives.labels import scores_of
from stratatune.objectives.metrics import check_metric
from stratatune.objectives.pooled import Pooled
from stratatune.objectives.saved import Names, saved_as, unsaved
from stratatune.objectives.set_loss import SetLoss, set_weights
from stratatune.objectives.set_metrics import (
    GRID,
    SET_METRICS,
    best_threshold,
    best_thresholds,
    counts,
    micro,
    precision_recall_f1,
    set_scores,
)
from stratatune.objectives.tensors import at_least_fp32
from stratatune.objectives.weights import WEIGHT
from stratatune.objectives.written import check_number

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase
    from typing_extensions import Self

    from stratatune.data.batching import Batch

TUNED, BY_LABEL = "tuned", "tuned_by_label"
_USUAL = "0.5"
_MOST = 100_000  # outputs that an adapter's record may have
_PRETENDED, _PRETENDED_SHARE = 8, 0.2  # labels of made-up data, and how many of the texts have each
_FEW_ROWS = 10  # in so small a table every label may well occur once


@dataclass(frozen=True, kw_only=True)
class Multilabel(Pooled):
    """A set of labels a text.

    Attributes:
        names: the labels, in the order of the logits.
        separator: between two labels in a cell of text; empty where a cell holds one.
        tuning: ``tuned`` or ``tuned_by_label``, where thresholds are tuned on the evaluation data; else empty.
        thresholds: [C], the score from which on each label is predicted; empty until they are tuned: then each
            evaluation is scored by those that suit it.
        learnt_by: weights and focal loss.
    """

    name: ClassVar[str] = "multilabel"
    summary: ClassVar[str] = "any number of labels per text, with a new output layer"
    metrics: ClassVar[tuple[str, ...]] = SET_METRICS
    bounded: ClassVar[frozenset[str]] = frozenset(metrics)
    options: ClassVar[Mapping[str, type]] = {"threshold": str, "separator": str, "weights": str, "focal": float}
    problem_type: ClassVar[str | None] = "multi_label_classification"
    fitted_start: ClassVar[bool] = True

    names: Names = saved_as("labels")
    separator: str = ""
    tuning: str = ""
    thresholds: tuple[float, ...] = ()
    learnt_by: SetLoss = unsaved(SetLoss())

    # --- how it is chosen and made ---------------------------------------------------------------------------------

    @classmethod
    def settle(cls, asked: Asked) -> tuple[Self, list[str]]:
        if asked.task:
            raise ConfigError([f"objective: the task {asked.task.name} has one label a text"], "leave out --task")
        metric = check_metric(asked.metric or SET_METRICS[0], cls.metrics, "label sets")
        tuning, start = _threshold(asked.options.get("threshold", _USUAL))
        tables = [asked.data, *asked.others]
        cells = [cell for table in tables for cell in _cells(table)]
        separator, notices = _separator(asked.options, cells, asked.data.source)
        names = _names(tables, separator)
        check_lengths(names, asked.data.source)
        made = cls(
            **common_of(asked, metric),
            names=names,
            separator=separator,
            tuning=tuning,
            thresholds=() if tuning else (start,) * len(names),
        )
        if any(name in asked.options for name in ("weights", "focal")):
            made = replace(made, learnt_by=_loss_of(asked.options, made.targets(asked.data), names))
        empty = sum(not cut(cell, separator) for cell in _cells(asked.data))
        if empty:
            notices.append(f"{empty:,} of {len(asked.data):,} texts of {asked.data.source} have no label")
        return made, notices

    def __post_init__(self) -> None:
        if len(self.thresholds) not in (0, len(self.names)) or not all(0 < one < 1 for one in self.thresholds):
            raise ValueError(f"thresholds: one between 0 and 1 for each of {len(self.names)} labels is needed")

    def to_data(self) -> dict[str, Any]:
        # Where one threshold serves all labels it is written by itself too, as `classification` writes its own.
        single = {"threshold": self.thresholds[0]} if len(set(self.thresholds)) == 1 else {}
        return {**super().to_data(), **single}

    @property
    def labels(self) -> tuple[str, ...]:
        return self.names

    @property
    def needs_evaluation(self) -> bool:
        return bool(self.tuning)

    # --- data ------------------------------------------------------------------------------------------------------

    @classmethod
    def read(cls, source: Any, options: ReadOptions) -> Table:
        """Read texts with label sets; see :func:`stratatune.data.label_sets.read_sets`."""
        return read_sets(source, options)

    @classmethod
    def labels_by_row(cls, table: Table, options: Mapping[str, Any]) -> RowLabels | None:
        """The label set of each row."""
        cells = _cells(table)
        mark = _separator(options, cells, table.source)[0]
        return [cut(cell, mark) for cell in cells]

    def encode(self, table: Table, tokenizer: PreTrainedTokenizerBase) -> Encoded:
        encoded = super().encode(table, tokenizer)
        mark = self.separator if table.labels is None else self._separator_in(table)
        if mark == self.separator:
            return encoded
        said = f"labels in a cell of {table.source} are separated by {mark!r}"
        return replace(encoded, notices=(*encoded.notices, said))

    def targets(self, table: Table) -> np.ndarray:
        """The label sets of a table, bool [N, C]."""
        index, mark = {label: number for number, label in enumerate(self.names)}, self._separator_in(table)
        found = np.zeros((len(table), len(self.names)), bool)
        for at, cell in enumerate(_cells(table)):
            for label in cut(cell, mark):
                if label not in index:
                    raise unseen_in_set(f"{table.source}, row {table.rows[at]}: label", label, self.names)
                found[at, index[label]] = True
        return found

    def _separator_in(self, table: Table) -> str:
        """That of training, or another one that leaves no label unknown."""
        return separator_for(_cells(table), self.separator, frozenset(self.names))

    @classmethod
    def pretended(cls, texts: Encoded, family: str, random: np.random.Generator) -> tuple[Self, Encoded]:
        names = tuple(f"label{number}" for number in range(_PRETENDED))
        made = cls(**pretended_common(texts, family, SET_METRICS[0]), names=names)
        return made, texts.with_targets(random.random((len(texts), len(names))) < _PRETENDED_SHARE)

    # --- learning --------------------------------------------------------------------------------------------------

    def loss(self, logits: Tensor, batch: Batch, *, training: bool = True) -> Tensor:
        """Binary cross-entropy, mean over texts and labels: ``logits`` [B, C].

        That of an evaluation has no weights and is not focal, so that runs can be compared.
        """
        assert batch.labels is not None
        return (self.learnt_by if training else SetLoss())(logits, batch.labels, batch.targets.get(WEIGHT))

    def tuned(self, output: np.ndarray, data: Encoded) -> tuple[Self, np.ndarray]:
        if data.labels is None or not self.tuning:
            return self, output
        if self.tuning == BY_LABEL:
            found = best_thresholds(data.labels, output).tolist()
        else:
            found = [best_threshold(data.labels, output, self.metric)] * len(self.names)
        return replace(self, thresholds=tuple(found)), output

    # --- using -----------------------------------------------------------------------------------------------------

    def decided_from(self, threshold: float) -> Self:
        return replace(self, thresholds=(threshold,) * len(self.names), tuning="")

    def predict(self, logits: Tensor, batch: Batch) -> np.ndarray:
        """``logits`` [B, C] -> scores [B, C], each between 0 and 1."""
        return at_least_fp32(logits).sigmoid().cpu().numpy()

    def chosen(self, output: np.ndarray) -> np.ndarray:
        """Scores [N, C] -> sets bool [N, C]."""
        return output >= np.array(self.thresholds or [float(_USUAL)] * len(self.names))

    def score(self, output: np.ndarray, data: Encoded, unit: float) -> tuple[dict[str, float], list[str]]:
        assert data.labels is not None
        # While thresholds are not settled, each epoch is scored by those that suit it, or epochs could not be compared.
        own = self if self.thresholds else self.tuned(output, data)[0]
        absent = int((~data.labels.any(axis=0)).sum())
        said = f"macro_f1 and map leave out {absent} of {len(self.names)} labels, which do not occur in the data"
        return set_scores(data.labels, own.chosen(output), output), [said] if absent else []

    def by_class(self, output: np.ndarray, data: Encoded) -> dict[str, Any]:
        """Precision, recall and F1 of each label with its threshold, and over all labels for a range of thresholds."""
        if data.labels is None:
            return {}
        found = counts(data.labels, self.chosen(output))
        thresholds = self.thresholds or [float(_USUAL)] * len(self.names)
        columns = (*(one.tolist() for one in precision_recall_f1(found)), found[2].tolist(), thresholds)
        names = ("label", "precision", "recall", "f1", "n", "threshold")
        classes = [dict(zip(names, row, strict=True)) for row in zip(self.names, *columns, strict=True)]
        return {"f1": f"over all labels (micro), {self._decided}", "classes": classes, "curve": _curve(data, output)}

    @property
    def _decided(self) -> str:
        """The threshold as text for people."""
        on = ", tuned on the evaluation data" if self.tuning else ""
        if self.tuning == BY_LABEL or not self.thresholds:
            return f"each label by its threshold{on}"
        return f"threshold {self.thresholds[0]:g}{on}"

    def answer(self, table: Table, using: Using) -> Answers:
        """``labels``, the likeliest first, and a score for each label."""
        output = using.output(table)
        order, chosen = np.argsort(-output, axis=1, kind="stable"), self.chosen(output)
        sets = [[self.names[at] for at in row if own[at]] for row, own in zip(order, chosen, strict=True)]
        scores = scores_of(self.names, output)
        chances = dict(zip(scores, self.names, strict=True))
        return Answers({"labels": sets, **scores}, probabilities=output, chances=chances)


def _cells(table: Table) -> list[Cell]:
    if table.labels is None:
        raise DataError(f"{table.source} has no labels", "name the label column with --label")
    labels: Any = table.labels  # as read_sets gives them
    return list(labels)


def _threshold(threshold: str) -> tuple[str, float]:
    """The way thresholds are tuned, or the one that is fixed.

    Raises:
        ConfigError: neither a number between 0 and 1 nor one of the words.
    """
    if threshold in (TUNED, BY_LABEL):
        return threshold, float(_USUAL)
    try:
        value = float(threshold)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        legal = f"legal: a number between 0 and 1, {TUNED}, {BY_LABEL}"
        raise ConfigError([f"objective: multilabel: threshold {threshold!r}"], legal)
    return "", value


def _loss_of(options: Mapping[str, Any], truth: np.ndarray, names: Sequence[str]) -> SetLoss:
    """The loss that the options name, for training data with the label sets ``truth`` [N, C]."""
    focal = options.get("focal", 0.0)
    check_number("multilabel", "focal", focal, 0 <= focal <= MOST_FOCAL, f"a number between 0 and {MOST_FOCAL}")
    return SetLoss(*set_weights(options.get("weights", ""), truth, names), focal)


def _separator(options: Mapping[str, Any], cells: list[Cell], place: str) -> tuple[str, list[str]]:
    """The separator that was named or is in the cells, with a notice if it was recognised."""
    if word := options.get("separator"):
        return separator_named(word), []
    found = separator_of(cells, place)
    return found, [f"labels in a cell are separated by {found!r}"] if found else []


def _names(tables: Sequence[Table], separator: str) -> tuple[str, ...]:
    """The labels of all parts of the data; for columns of 0 and 1 their names, with or without a 1."""
    first = tables[0]
    if first.label_column and len(columns := columns_in(first.label_column)) > 1:
        return columns
    rows = [cut(cell, separator) for table in tables for cell in _cells(table)]
    labels = [label for row in rows for label in row]
    names = set(labels)
    if not names:
        raise DataError(f"{first.source}: no text has a label", "name another column with --label")
    if len(names) > _MOST or (len(names) == len(labels) and len(rows) > _FEW_ROWS):
        raise DataError(
            f"{first.source}: {len(names):,} different labels in {len(rows):,} rows are too many to learn from",
            "name another column with --label, or what separates two labels: multilabel(separator=...)",
        )
    return ordered(names)


def _curve(data: Encoded, output: np.ndarray) -> dict[str, list[float]]:
    """Precision, recall and F1 over all labels, by a threshold common to all."""
    assert data.labels is not None
    at = GRID[4::5]
    columns = zip(*(micro(data.labels, output >= threshold) for threshold in at), strict=True)
    named = zip(("precision", "recall", "f1"), columns, strict=True)
    return {"threshold": at.tolist(), **{name: list(column) for name, column in named}}
