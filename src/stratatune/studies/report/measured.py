"""Runs as numbers: their rows and columns, their scores, and the means for tables and figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from stratatune.data.tasks import TASKS
from stratatune.objectives.registry import is_bounded, smaller_is_better
from stratatune.studies.grid.records import RunRecord
from stratatune.studies.report.wording import listed
from stratatune.studies.statistics import Comparison, Interval, compare, interval

_PLAIN = ("model", "plan", "task")
MEAN = "mean"
"""The column of means over all others."""


def metric_of(record: RunRecord) -> str:
    """The metric by which the run was selected; in a result of 0.1 its setting, its task's, or the first reported."""
    result = record.result or {}
    best, task = result.get("best") or {}, TASKS.get(record.config.get("task") or "")
    named = result.get("metric") or record.config.get("metric") or (task.metric if task else "")
    return named if named in best or not best else next(iter(best))


def scale(metric: str) -> float:
    """The factor of a score in print: percent where it lies between -1 and 1."""
    return 100.0 if is_bounded(metric) else 1.0


def decimals(metrics: Iterable[str], scores: Iterable[float]) -> int:
    """The digits after the point of scores in print: one of those in percent.

    Others have three, or more where even the largest begins further down.
    """
    if all(scale(name) > 1 for name in metrics):
        return 1
    largest = max(map(abs, scores), default=0.0)
    return min(9, max(3, 2 - math.floor(math.log10(largest)))) if largest > 0 else 3


def title_of(metric: str) -> str:
    """The metric's name with its unit."""
    names = {"acc_f1": "mean of accuracy and F1", "mse": "mean squared error", "map": "mean average precision"}
    return names.get(metric, metric.replace("f1", "F1").replace("_", " ")) + (", %" if scale(metric) > 1 else "")


@dataclass(frozen=True)
class Measured:
    """The runs of a report, by row and column.

    Attributes:
        records: every run, failed and unfinished ones too, in the order of the grid.
        row_axes: the coordinates that make a row; the plan, and whatever else was varied, unless said otherwise.
        column_axes: those that make a column; the task unless said otherwise.
        metric: the metric, in place of each task's own.
    """

    records: tuple[RunRecord, ...]
    row_axes: tuple[str, ...] = ()
    column_axes: tuple[str, ...] = ()
    metric: str = ""

    @classmethod
    def of(
        cls, records: Iterable[RunRecord], rows: Sequence[str] = (), columns: Sequence[str] = (), metric: str = ""
    ) -> Measured:
        """Arrange the records; axes that are not given are found in the runs."""
        records = tuple(records)
        across = tuple(columns) or ("task",)
        named = dict.fromkeys(name for record in records for name in record.coordinates)
        varied = [name for name in named if len({str(record.coordinates.get(name)) for record in records}) > 1]
        given = ("plan", "seed", *across)
        down = tuple(rows) or ("plan", *(name for name in varied if name not in given))
        return cls(records, down, across, metric)

    @property
    def done(self) -> tuple[RunRecord, ...]:
        """The runs with a result."""
        return tuple(record for record in self.records if record.status == "done" and record.result)

    @property
    def failed(self) -> tuple[RunRecord, ...]:
        """The runs with an error."""
        return tuple(record for record in self.records if record.status == "failed")

    def row(self, record: RunRecord) -> str:
        """The name of a run's row: model, plan and task as they are, other axes as ``name value``."""
        return self.place(record, self.row_axes)

    def column(self, record: RunRecord) -> str:
        """The name of a run's column."""
        return self.place(record, self.column_axes)

    def place(self, record: RunRecord, axes: Iterable[str]) -> str:
        """The name of a run's place on some axes."""
        return named(record, axes, self._alike)

    @cached_property
    def _alike(self) -> frozenset[str]:
        """The axes on which the last parts of paths are alike where the paths differ."""
        axes = {name for record in self.records for name in record.coordinates}
        values = {name: {str(one.coordinates.get(name)) for one in self.records} for name in axes}
        return frozenset(name for name, own in values.items() if len({_last(one) for one in own}) < len(own))

    @property
    def heading(self) -> str:
        """The names of the rows' axes."""
        return " · ".join(self.row_axes)

    @cached_property
    def rows(self) -> tuple[str, ...]:
        """Every row, in the order of the grid."""
        return tuple(dict.fromkeys(map(self.row, self.records)))

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Every column, in the order of the grid."""
        return tuple(dict.fromkeys(map(self.column, self.records)))

    def seeds(self) -> tuple[Any, ...]:
        """Every seed, in the order of the grid."""
        return tuple(dict.fromkeys(one.coordinates.get("seed", one.config.get("seed")) for one in self.records))

    @cached_property
    def averaged(self) -> str:
        """What a mean of a cell is over, in words: seeds, and each axis that makes neither rows nor columns."""
        inside = ("seed", *self.row_axes, *self.column_axes)
        names = dict.fromkeys(name for record in self.records for name in record.coordinates if name not in inside)
        more = [name for name in names if len({str(one.coordinates.get(name)) for one in self.records}) > 1]
        return listed(["seeds", *more])

    def digits(self, column: str = MEAN) -> int:
        """The digits after the point of a column's scores; for the mean, of all."""
        runs = [one for one in self.done if column in (MEAN, self.column(one))]
        found = [score for one in runs if (score := self.score(one)) == score]  # noqa: PLR0124  NaN: it has no score
        return decimals(map(self.metric_of, runs), found)

    def metrics(self) -> tuple[str, ...]:
        """Every metric by which a run is scored."""
        return tuple(dict.fromkeys(self.metric_of(record) for record in self.done))

    def metric_of(self, record: RunRecord) -> str:
        """The metric by which a run is scored."""
        return self.metric or metric_of(record)

    def score(self, record: RunRecord, metric: str = "") -> float:
        """The score as printed: of the test data, if the run has any, else of the evaluation data; NaN without both."""
        result, name = record.result or {}, metric or self.metric_of(record)
        value = (result.get("test") or result.get("best") or {}).get(name)
        return float("nan") if value is None else scale(name) * value

    @cached_property
    def _cells(self) -> dict[tuple[str, str], dict[str, float]]:
        """Scores by row and column, then by the key that distinguishes a cell's runs."""
        found: dict[tuple[str, str], dict[str, float]] = {}
        for record in self.done:
            score = self.score(record)
            if score == score:  # noqa: PLR0124  NaN: it has no score
                cell = found.setdefault((self.row(record), self.column(record)), {})
                key = self._replicate(record)
                # The same settings again, in another folder, are another run.
                cell[f"{key} {record.folder}" if key in cell else key] = score
        return found

    def _replicate(self, record: RunRecord) -> str:
        """The key that distinguishes the runs of one cell: the seed, and every axis that is neither row nor column."""
        inside = (*self.row_axes, *self.column_axes)
        return str(sorted((name, str(value)) for name, value in record.coordinates.items() if name not in inside))

    def scores(self, row: str, column: str) -> dict[str, float]:
        """The scores of a cell; for the mean, those of replicates that every column has."""
        if column != MEAN:
            return self._cells.get((row, column), {})
        across = [self.scores(row, one) for one in self.columns]
        shared = [name for name in across[0] if all(name in other for other in across)] if across else []
        return {name: fmean(other[name] for other in across) for name in shared}

    def cell(self, row: str, column: str) -> Interval | None:
        """The mean of a cell with its interval; None if no run of it is done."""
        found = self.scores(row, column)
        return interval(list(found.values())) if found else None

    def pairs(self, row: str) -> dict[tuple, float]:
        """A row's scores by column and replicate.

        Where smaller scores are better in some columns and larger ones in others, the former are negated, so that the
        larger number is the better one in all of them.
        """
        return {
            (column, name): -score if self.mixed and self.smaller_in(column) else score
            for column in self.columns
            for name, score in self.scores(row, column).items()
        }

    def against(self, row: str, other: str) -> Comparison | None:
        """Compare ``row`` with ``other`` over the columns and seeds that both have."""
        return compare(self.pairs(row), self.pairs(other), smaller=self.smaller)

    @cached_property
    def smaller(self) -> bool:
        """Whether smaller scores are better, by every metric."""
        return bool(self.metrics()) and all(smaller_is_better(name) for name in self.metrics())

    @cached_property
    def mixed(self) -> bool:
        """Whether smaller scores are better by some metrics and larger ones by others, so that they have no mean."""
        return len({smaller_is_better(name) for name in self.metrics()}) > 1

    def smaller_in(self, column: str) -> bool:
        """Whether smaller scores are better in a column."""
        return column in self._smaller

    @cached_property
    def _smaller(self) -> frozenset[str]:
        """The columns in which smaller scores are better, by every metric."""
        metrics: dict[str, set[str]] = {}
        for record in self.done:
            metrics.setdefault(self.column(record), set()).add(self.metric_of(record))
        return frozenset(column for column, own in metrics.items() if all(map(smaller_is_better, own)))

    def of_row(self, row: str) -> tuple[RunRecord, ...]:
        """The finished runs of a row."""
        return tuple(record for record in self.done if self.row(record) == row)

    def mean_over(self, row: str, number: Callable[[Mapping[str, Any]], float]) -> float:
        """The mean of a number of the results of a row."""
        return fmean(number(record.result or {}) for record in self.of_row(row))


def named(record: RunRecord, axes: Iterable[str], whole: Collection[str] = ("plan",)) -> str:
    """The name of a run's place on some axes; a path by its last part, but for the axes of ``whole``."""
    values = {axis: record.coordinates.get(axis) for axis in axes}
    parts = {
        axis: "" if value is None else str(value) if axis in ("plan", *whole) else _last(str(value))
        for axis, value in values.items()
    }
    return " · ".join(word if axis in _PLAIN else f"{axis} {word}" for axis, word in parts.items() if word) or "all"


def _last(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]
