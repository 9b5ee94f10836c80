"""Costs of runs: parameters, blocks, seconds, tokens, memory and trunk caches, next to published ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from stratatune.studies.grid.records import RunRecord
from stratatune.studies.report.measured import Measured
from stratatune.studies.report.parts import Cell, Column, ReportTable, Text
from stratatune.studies.report.wording import listed, number, seconds, size
from stratatune.studies.statistics import interval


def costs(measured: Measured, published: Mapping[str, Mapping[str, float]]) -> ReportTable | None:
    """A table of each row's costs: parameters, blocks, seconds, tokens, memory, the trunk cache.

    Where the papers' costs are ``published``, they follow below, and each row's speed and memory are compared with the
    first row's, as in the paper.
    """
    rows = []
    for row in measured.rows:
        if runs := measured.of_row(row):
            results = [run.result or {} for run in runs]
            against = _against(measured, row, published) if published else ()
            hits = Cell(_hits([run.result or {} for run in runs if remembers(run)]), _spared(measured, runs))
            rows.append((Cell(row), *_cost(results, published.get(row)), *against, hits))
    if not rows:
        return None
    ratios = (f"speed, {rows[0][0].text} = 1", "memory saved") if published else ()
    heads = ("trained", "backward through", "trunk", "training", "tokens/s", "peak memory", *ratios, "cache hits")
    note = (
        "Means over the runs of a row; seconds of one run. Trunk: running the frozen part, once an example where it is "
        "cached. A hit is a run whose cache was complete before its first step."
    )
    if any(row[-1].below for row in rows):
        note += " Saved: an estimate, the trunk passes that did not run at the speed of those that did."
    return ReportTable("Cost of a run.", (Column(measured.heading, False), *map(Column, heads)), tuple(rows), note)


def caches(measured: Measured, built: Sequence[Mapping[str, Any]]) -> ReportTable | None:
    """The trunk caches that a grid built before its runs, by depth, and how often they were read."""
    rows = []
    for depth in sorted({one["depth"] for one in built}):
        alike = [one for one in built if one["depth"] == depth]
        sets = [data for one in alike for data in one["caches"] if data]
        readers = [one for one in measured.done if (one.result or {})["frozen_depth"] == depth and remembers(one)]
        passes = sum((one.result or {})["epochs"] for one in readers)
        spent = sum(one["seconds"] for one in alike)
        cells = (
            f"{len(alike)}",
            size(sum(data["bytes"] for data in sets)),
            seconds(spent),
            f"{len(readers)}",
            f"{passes}",
        )
        rows.append((Cell(f"depth {depth}"), *map(Cell, cells)))
    heads = ("built", "on disk", "seconds to build", "runs that read them", "epochs without the trunk")
    note = (
        "Each was built once before the runs, start-up included; a run that read one has no trunk seconds of its own."
    )
    return (
        ReportTable("Trunk caches.", (Column("trunk", False), *map(Column, heads)), tuple(rows), note) if rows else None
    )


def _cost(results: Sequence[Mapping[str, Any]], paper: Mapping[str, float] | None) -> list[Cell]:
    def mean(of: str) -> float:
        return fmean(result[of] for result in results)

    def spent(kind: str) -> str:
        return seconds(fmean(result["seconds"][kind] for result in results))

    def published(of: str, said: Callable[[float], str]) -> tuple[str, ...]:
        return (f"paper {said(paper[of])}",) if paper and of in paper else ()

    speeds = interval([result["tokens_per_second"] for result in results])
    moved = (f"± {speeds.deviation:,.0f}",) if paper and speeds.deviation is not None else ()
    blocks = results[0]["frozen_depth"] + results[0]["backprop_blocks"]
    return [
        Cell(f"{mean('trainable'):,.0f}", published("trained", lambda value: f"{value:,.0f}")),
        Cell(f"{results[0]['backprop_blocks']} of {blocks}"),
        Cell(spent("cache")),
        Cell(spent("train")),
        Cell(f"{speeds.mean:,.0f}", (*moved, *published("tokens_per_ms", lambda value: f"{1000 * value:,.0f}"))),
        Cell(size(mean("peak_memory_bytes")), published("memory_gb", lambda value: size(1e9 * value))),
    ]


def _against(measured: Measured, row: str, published: Mapping[str, Mapping[str, float]]) -> tuple[Cell, Cell]:
    """Speed as a multiple of the first row's, and memory saved against it, each above the paper's own."""
    first = next(one for one in measured.rows if measured.of_row(one))

    def ratio(of: str) -> float:
        return measured.mean_over(row, lambda result: result[of]) / measured.mean_over(first, lambda result: result[of])

    def paper(of: str) -> float | None:
        there = (published.get(row, {}).get(of), published.get(first, {}).get(of))
        return there[0] / there[1] if there[0] and there[1] else None

    speed, memory = paper("tokens_per_ms"), paper("memory_gb")
    return (
        Cell(f"{ratio('tokens_per_second'):.2f}×", () if speed is None else (f"paper {speed:.2f}×",)),
        Cell(_saved(ratio("peak_memory_bytes")), () if memory is None else (f"paper {_saved(memory)}",)),
    )


def _saved(ratio: float) -> str:
    return f"{number(100 * (1 - ratio), 1)} %"


def _hits(results: Sequence[Mapping[str, Any]]) -> str:
    return f"{sum(bool(result['cache_hit']) for result in results)} of {len(results)}" if results else "–"


def _spared(measured: Measured, runs: Sequence[RunRecord]) -> tuple[str, ...]:
    found = sum(spared(measured, run) for run in runs)
    return (f"{seconds(found)} saved",) if found >= 0.05 else ()


def spared(measured: Measured, run: RunRecord) -> float:
    """Seconds of the trunk that a run saved: a pass each epoch, by the slowest known pass, less its own.

    A pass is known where a run made it; it holds for all runs of the same model, data and frozen depth.
    """
    result = run.result or {}
    if not remembers(run):
        return 0.0
    alike = [one for one in measured.done if _trunk(one) == _trunk(run) and remembers(one)]
    one_pass = max((one.result or {})["seconds"]["cache"] for one in alike)
    return max(0.0, one_pass * result["epochs"] - result["seconds"]["cache"])


def remembers(run: RunRecord) -> bool:
    """Whether the run had a trunk cache."""
    result = run.result or {}
    refused = any(str(line).startswith("no trunk cache") for line in result.get("notices", ()))
    return bool(result.get("frozen_depth")) and run.config.get("cache") != "off" and not refused


def _trunk(run: RunRecord) -> tuple[Any, ...]:
    named = ("model", "task", "train", "train_samples", "max_length", "precision", "cache_dtype", "template")
    return ((run.result or {}).get("frozen_depth"), (run.result or {}).get("objective"), *map(run.config.get, named))


_PROTOCOL = {
    "batch_size": "batches of {}",
    "token_budget": "{} tokens a batch at the most",
    "max_length": "at most {} tokens an example",
    "train_samples": "{} examples",
    "epochs": "epochs: {}",
    "precision": "precision {}",
    "cache": "trunk cache {}",
}


def protocol(measured: Measured) -> Text | None:
    """A text on how the costs were measured: the settings that all runs share, and those that differ."""
    runs = measured.done
    if not runs:
        return None
    same, odd = [], []
    for name, said in _PROTOCOL.items():
        values = {str(run.config.get(name)) for run in runs} - {"None"}
        (same if len(values) == 1 else odd).extend([said.format(*values)] if len(values) == 1 else values and [name])
    gpus = listed(sorted({str(run.environment.get("gpu") or "the CPU") for run in runs}))
    threads = sorted({run.environment["threads"] for run in runs if run.environment.get("threads")})
    on = gpus + (f" (threads: {listed(threads)})" if "CPU" in gpus and threads else "")
    rounds = len(measured.seeds())
    warning = f" Not the same in all runs: {listed(odd)}." if odd else ""
    return Text(
        f"How it was measured: each run in a process of its own on {on}; the same for all: {listed(same)}; "
        f"{rounds} round{'s' * (rounds != 1)}.{warning} Tokens/s are real tokens, without padding, over the seconds of "
        "forward, backward and step, the frozen part included; on a GPU the clock is read once all its work is done. "
        "Start, reading, encoding and evaluation do not count. Peak memory: on a GPU the most that torch had allocated "
        "there, elsewhere the most that the process held, libraries and weights included."
    )
