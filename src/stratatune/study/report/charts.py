"""Figures from runs: learning curves, accuracy by depth, accuracy against what it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from stratatune.study.records import RunRecord
from stratatune.study.report.measured import MEAN, Measured, named, scale, title_of
from stratatune.study.report.parts import Figure, Panel, Series
from stratatune.study.statistics import Interval, interval

_BAND = "Lines are means over seeds, bands reach from the lowest to the highest."


def curves(measured: Measured) -> Figure | None:
    """Training loss and score after each evaluation, by optimiser step: a pair of panels a column (BFT figure 3)."""
    panels: list[Panel] = []
    for number, column in enumerate(measured.columns):
        runs = [one for one in measured.done if measured.column(one) == column and len(one.history) > 1]
        if not runs:
            continue
        metric = measured.metric_of(runs[0])
        place = f"{column}: " if len(measured.columns) > 1 else ""
        for key, label, factor in (
            ("train_loss", "training loss", 1.0),
            (f"eval_{metric}", title_of(metric), scale(metric)),
        ):
            series = tuple(_courses(measured, runs, key, factor))
            if series:
                digits = 1 if factor > 1 else 3
                name, title = f"curve-{number}-{key}", headed(place + label)
                panels.append(Panel(name, title, "optimiser step", series, digits=digits))
    note = _BAND if len(measured.seeds()) > 1 else ""
    return (
        Figure("curves", "Training loss, and the score on the evaluation data, by step.", tuple(panels), note)
        if panels
        else None
    )


def _courses(measured: Measured, runs: Sequence[RunRecord], key: str, factor: float) -> Iterable[Series]:
    for style, row in enumerate(measured.rows):
        by_step: dict[int, list[float]] = {}
        for run in runs:
            if measured.row(run) == row:
                for line in run.history:
                    if isinstance(line.get(key), int | float):
                        by_step.setdefault(int(line["step"]), []).append(factor * line[key])
        if by_step:
            yield _series(row, by_step, style)


def _series(name: str, by_x: Mapping[int, Sequence[float]], style: int) -> Series:
    steps = sorted(by_x)
    values = [by_x[x] for x in steps]
    bounds = (tuple(map(min, values)), tuple(map(max, values))) if any(len(v) > 1 for v in values) else ((), ())
    return Series(name, tuple(map(float, steps)), tuple(map(fmean, values)), *bounds, style=style)


def depth(measured: Measured, axis: str = "") -> Figure | None:
    """The score by the depth at which a plan is inserted, a panel a task (BFT figure 4); None where it is not varied.

    The depth is the place on ``axis``; without one it is the frozen depth that the run found, and plans that differ in
    their ``@depth`` alone make one line.
    """
    scores: dict[str, dict[str, dict[int, list[float]]]] = {}
    for run in measured.done:
        family, at, _ = str(run.coordinates.get("plan", "")).partition("@")
        if at or axis:
            place = scores.setdefault(named(run, ("task",)), {}).setdefault(family, {})
            x = run.coordinates[axis] if axis else (run.result or {})["frozen_depth"]
            place.setdefault(int(x), []).append(measured.score(run))
    families = list(dict.fromkeys(family for column in scores.values() for family in column))
    label = title_of(next(iter(measured.metrics()), "score"))
    panels = tuple(
        Panel(
            f"depth-{number}", headed(f"{task}: {label}" if len(scores) > 1 else label), axis or "frozen depth", series
        )
        for number, (task, found) in enumerate(scores.items())
        if (series := tuple(_series(f, by, families.index(f)) for f, by in found.items() if len(by) > 1))
    )
    said = "The score by the depth of insertion: nothing below it trains, so a deeper plan is a cheaper one."
    return Figure("depth", said, panels, _BAND if len(measured.seeds()) > 1 else "") if panels else None


_COSTS: tuple[tuple[str, str, Callable[[Mapping[str, Any]], float]], ...] = (
    ("time", "seconds of a run", lambda result: result["seconds"]["cache"] + result["seconds"]["train"]),
    ("memory", "peak memory, MB", lambda result: result["peak_memory_bytes"] / 1e6),
    ("parameters", "trained parameters", lambda result: result["trainable"]),
)


def costs(measured: Measured) -> Figure | None:
    """The score of each row against time, memory and parameters; None where one row has a score."""
    rows = [(style, row) for style, row in enumerate(measured.rows) if _place(measured, row)]
    if len(rows) < 2:
        return None
    panels = tuple(
        Panel(
            f"cost-{name}",
            headed(title_of(next(iter(measured.metrics()), "score"))),
            label,
            tuple(_point(measured, row, style, number) for style, row in rows),
            log_x=True,
        )
        for name, label, number in _COSTS
    )
    over = f", mean over {len(measured.columns)} columns" if len(measured.columns) > 1 else ""
    note = "Time is training, trunk passes of the run itself in it, a cache built before not; bars are 95 % intervals."
    return Figure("costs", f"The score against what it costs{over}; up and to the left is better.", panels, note)


def headed(text: str) -> str:
    """With a capital letter first, the others as they are."""
    return text[:1].upper() + text[1:]


def _point(measured: Measured, row: str, style: int, number: Callable[[Mapping[str, Any]], float]) -> Series:
    place = _place(measured, row)
    assert place is not None
    bounds = ((place.low,), (place.high,)) if place.low is not None and place.high is not None else ((), ())
    return Series(row, (measured.mean_over(row, number),), (place.mean,), *bounds, style=style, joined=False)


def _place(measured: Measured, row: str) -> Interval | None:
    """The mean over columns, or over what there is where no replicate has all of them."""
    whole = measured.cell(row, MEAN)
    if whole is None and (found := list(measured.pairs(row).values())):
        return interval(found) if len(measured.columns) == 1 else None
    return whole
