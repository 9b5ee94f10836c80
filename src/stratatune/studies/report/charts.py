"""Figures from runs: learning curves, accuracy by depth, accuracy against cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from stratatune.studies.grid.recipe_parts import LOSS, TIMES
from stratatune.studies.grid.records import RunRecord
from stratatune.studies.report.measured import MEAN, Measured, decimals, named, scale, title_of
from stratatune.studies.report.parts import Figure, Panel, Series
from stratatune.studies.statistics import Interval, interval

_BAND = "Lines are means over {}, bands reach from the lowest to the highest."
_MERGED = "depth"
"""The axis along which plans that differ in their ``@depth`` alone are one line."""


def curves(measured: Measured, x: str = "step", y: str = "") -> Figure | None:
    """Training loss and score after each evaluation: a pair of panels a column (BFT figure 3).

    Args:
        measured: the runs.
        x: one of :data:`~stratatune.studies.grid.recipe_parts.TIMES`.
        y: ``train_loss`` or a metric: that alone.
    """
    panels: list[Panel] = []
    for number, column in enumerate(measured.columns):
        runs = [one for one in measured.done if measured.column(one) == column and len(one.history) > 1]
        place = f"{column}: " if len(measured.columns) > 1 else ""
        for what in (y,) if y else (LOSS, measured.metric_of(runs[0])) if runs else ():
            key = what if what == LOSS else f"eval_{what}"
            series = tuple(_courses(measured, runs, x, key, scale(what)))
            if series:
                name, title = f"curve-{number}-{key}", headed(place + _called(what))
                panels.append(Panel(name, title, TIMES[x], series, digits=_digits([what], series)))
    several = len(measured.seeds()) > 1 or measured.averaged != "seeds"
    note = _BAND.format(measured.averaged) if several else ""
    said = (
        f"Training loss, and the score on the evaluation data, by {x}." if not y else f"{headed(_called(y))}, by {x}."
    )
    return Figure("curves", said, tuple(panels), note) if panels else None


def _called(what: str) -> str:
    return "training loss" if what == LOSS else title_of(what)


def _courses(measured: Measured, runs: Sequence[RunRecord], x: str, key: str, factor: float) -> Iterable[Series]:
    """A line for each row: at each evaluation the mean over seeds, of x too: steps and seconds differ between seeds."""
    for style, row in enumerate(measured.rows):
        by_epoch: dict[float, list[tuple[float, float]]] = {}
        for run in runs:
            if measured.row(run) == row:
                for at, line in zip(_times(run, x), run.history, strict=False):
                    if isinstance(line.get(key), int | float):
                        by_epoch.setdefault(line["epoch"], []).append((at, factor * line[key]))
        points = [tuple(zip(*by_epoch[epoch], strict=True)) for epoch in sorted(by_epoch)]
        if points:
            yield _series(row, {fmean(xs): ys for xs, ys in points}, style)


def _times(run: RunRecord, x: str) -> Sequence[float]:
    """The places of the history's lines on ``x``; runs made before 0.1 have no seconds."""
    return (run.result or {}).get("elapsed", ()) if x == "seconds" else [line[x] for line in run.history]


def _series(name: str, by_x: Mapping[float, Sequence[float]], style: int) -> Series:
    places = sorted(by_x)
    values = [by_x[x] for x in places]
    bounds = (tuple(map(min, values)), tuple(map(max, values))) if any(len(v) > 1 for v in values) else ((), ())
    return Series(name, tuple(map(float, places)), tuple(map(fmean, values)), *bounds, style=style)


def depth(measured: Measured, axis: str = "", y: str = "") -> Figure | None:
    """The score by the insertion depth of a plan, a panel a task (BFT figure 4); None if it does not vary.

    The depth is the place on ``axis``, which may be any axis of numbers; without one it is the frozen depth that the
    run found. Each combination of all other axes but the seed is a line; plans that differ in their ``@depth`` alone
    are one plan where the depth is x.

    Args:
        measured: the runs.
        axis: the coordinate that is x.
        y: ``train_loss``, of the last epoch, or a metric; empty: each run's own metric.
    """
    scores: dict[str, dict[str, dict[float, list[float]]]] = {}
    metrics: dict[str, str] = {}
    runs = [run for run in measured.done if axis or "@" in str(run.coordinates.get("plan", ""))]
    names = _lines(measured, runs, axis)
    for run, line in zip(runs, names, strict=True):
        score = _height(measured, run, y)
        if score is not None:
            task = named(run, ("task",))
            metrics[task] = y or measured.metric_of(run)
            x = run.coordinates[axis] if axis else (run.result or {})["frozen_depth"]
            scores.setdefault(task, {}).setdefault(line, {}).setdefault(float(x), []).append(score)
    styles = {line: style for style, line in enumerate(dict.fromkeys(names))}
    labels = {task: _called(metric) for task, metric in metrics.items()}
    panels = tuple(
        Panel(
            f"depth-{number}",
            headed(f"{task}: {labels[task]}" if len(scores) > 1 else labels[task]),
            axis or "frozen depth",
            series,
            digits=_digits([metrics[task]], series),
        )
        for number, (task, found) in enumerate(scores.items())
        if (series := tuple(_series(f, by, styles[f]) for f, by in found.items() if len(by) > 1))
    )
    what = "The score" if not y else headed(_called(y))
    said = f"{what} by the depth of insertion: nothing below it trains, so a deeper plan is a cheaper one."
    if axis not in ("", "depth"):
        said = f"{what} by {axis}."
    return Figure("depth", said, panels, _BAND.format("seeds") if len(measured.seeds()) > 1 else "") if panels else None


def _lines(measured: Measured, runs: Sequence[RunRecord], axis: str) -> list[str]:
    """The line of each run in a depth curve along ``axis``: its plan, and its place on all else that varies."""
    if axis in ("", _MERGED):
        families = [str(run.coordinates.get("plan", "")).partition("@")[0] for run in runs]
        runs = [
            replace(run, coordinates={**run.coordinates, "plan": family})
            for run, family in zip(runs, families, strict=True)
        ]
    axes = dict.fromkeys(name for run in runs for name in run.coordinates if name not in (axis, "seed", "task"))
    values = {name: {str(run.coordinates.get(name)) for run in runs} for name in axes}
    several = [name for name, found in values.items() if len(found) > 1 or name == "plan"]
    return [measured.place(run, several) for run in runs]


def _digits(metrics: Sequence[str], series: Sequence[Series]) -> int:
    return decimals(metrics, [y for one in series for y in one.y])


def thresholds(name: str, curve: Mapping[str, Sequence[float]]) -> Figure:
    """Precision, recall and F1 over all labels, by the threshold."""
    x = tuple(curve["threshold"])
    series = tuple(
        Series(what, x, tuple(100 * value for value in values), style=style)
        for style, (what, values) in enumerate((what, curve[what]) for what in curve if what != "threshold")
    )
    panel = Panel(f"threshold-{name}", "Over all labels, %", "threshold", series)
    return Figure(f"threshold-{name}", "Precision, recall and F1 by one threshold for all labels.", (panel,))


def _height(measured: Measured, run: RunRecord, y: str) -> float | None:
    """A run's value in a depth curve; None where it has no such number."""
    if y == LOSS:
        return run.history[-1].get(LOSS) if run.history else None
    score = measured.score(run, y)
    return score if score == score else None  # noqa: PLR0124  NaN: it has no score


_COSTS: tuple[tuple[str, str, Callable[[Mapping[str, Any]], float]], ...] = (
    ("time", "seconds of a run", lambda result: result["seconds"]["cache"] + result["seconds"]["train"]),
    ("memory", "peak memory, MB", lambda result: result["peak_memory_bytes"] / 1e6),
    ("parameters", "trained parameters", lambda result: result["trainable"]),
)


def costs(measured: Measured) -> Figure | None:
    """The score of each row against time, memory and parameters; None if only one row has a score."""
    rows = [(style, row) for style, row in enumerate(measured.rows) if _place(measured, row)]
    if len(rows) < 2 or (measured.mixed and len(measured.columns) > 1):  # there is no mean of such scores
        return None
    metrics = list(measured.metrics())
    title = title_of(metrics[0]) if len(metrics) == 1 else "mean of the columns' scores"
    panels = tuple(
        Panel(
            f"cost-{name}",
            headed(title),
            label,
            tuple(_point(measured, row, style, number) for style, row in rows),
            log_x=True,
            digits=measured.digits(),
        )
        for name, label, number in _COSTS
    )
    over = f", mean over {len(measured.columns)} columns" if len(measured.columns) > 1 else ""
    note = "Time is training with the run's own trunk passes, without a cache built before; bars are 95 % intervals."
    better = "down" if measured.smaller else "up"
    return Figure("costs", f"The score against what it costs{over}; {better} and to the left is better.", panels, note)


def headed(text: str) -> str:
    """``text`` with a capital letter first."""
    return text[:1].upper() + text[1:]


def _point(measured: Measured, row: str, style: int, number: Callable[[Mapping[str, Any]], float]) -> Series:
    place = _place(measured, row)
    assert place is not None
    bounds = ((place.low,), (place.high,)) if place.low is not None and place.high is not None else ((), ())
    return Series(row, (measured.mean_over(row, number),), (place.mean,), *bounds, style=style, joined=False)


def _place(measured: Measured, row: str) -> Interval | None:
    """The mean over columns; with a single column, over the available scores if no replicate is complete."""
    whole = measured.cell(row, MEAN)
    if whole is None and (found := list(measured.pairs(row).values())):
        return interval(found) if len(measured.columns) == 1 else None
    return whole
