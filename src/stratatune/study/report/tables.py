"""Tables from runs: scores beside published ones, comparisons with a reference, costs, the runs themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from stratatune.study.records import RunRecord
from stratatune.study.report.measured import MEAN, Measured, title_of
from stratatune.study.report.parts import Cell, Code, Column, Folded, Part, Table
from stratatune.study.report.wording import between, difference, number, p_value, seconds, signed, size, spread
from stratatune.study.statistics import Interval, adjusted

Published = Mapping[tuple[str, str], float]
"""The papers' scores, as printed here, by row and column."""


def scores(measured: Measured, published: Published) -> Table:
    """Rows by columns: the mean, its deviation, its interval, and what the paper says."""
    columns = (*measured.columns, *([MEAN] if len(measured.columns) > 1 else []))
    cells = {(row, column): measured.cell(row, column) for row in measured.rows for column in columns}
    best = {column: _best(measured, [cells[row, column] for row in measured.rows]) for column in columns}
    titles = [title_of(name) for name in measured.metrics()]
    rows = tuple(
        (Cell(row), *(_score(cells[row, one], best[one], published.get((row, one))) for one in columns))
        for row in measured.rows
    )
    said = (
        f"{titles[0].capitalize() if len(titles) == 1 else 'The score of each task'}: mean ± standard deviation over "
    )
    said += f"seeds, below it the 95 % interval of the mean{', below that the published score' if published else ''}."
    heads = tuple(Column(one, below=_metric(measured, one)) for one in columns)
    return Table(said, (Column(_heading(measured), number=False), *heads), rows, _score_note(bool(published)))


def _score_note(published: bool) -> str:
    arrows = " ↑ and ↓: measured above or below what was published, whose value lies outside the interval."
    return "Bold: the best mean of the column." + (arrows if published else "")


def _heading(measured: Measured) -> str:
    return " · ".join(measured.row_axes)


def _metric(measured: Measured, column: str) -> str:
    """The metric below a column's name where columns have different ones."""
    if len(measured.metrics()) < 2:
        return ""
    found = {measured.metric_of(one) for one in measured.done if measured.column(one) == column}
    return title_of(found.pop()) if len(found) == 1 else ""


def _best(measured: Measured, found: Sequence[Interval | None]) -> float | None:
    means = [one.mean for one in found if one is not None]
    return (min(means) if measured.smaller else max(means)) if len(means) > 1 else None


def _score(found: Interval | None, best: float | None, paper: float | None) -> Cell:
    if found is None:
        return Cell("–", (_paper(None, paper),) if paper is not None else ())
    below = (between(found), "" if paper is None else _paper(found, paper))
    return Cell(spread(found), tuple(line for line in below if line), strong=found.mean == best)


def _paper(found: Interval | None, paper: float) -> str:
    """``paper 96.5 ↓2.1``: how far the measured mean is from it, with an arrow where it lies outside the interval."""
    said = f"paper {number(paper)}"
    if found is None:
        return said
    gap, low, high = found.mean - paper, found.low, found.high
    if low is None or high is None or low <= paper <= high:
        return f"{said} ({signed(gap)})"
    return f"{said} {'↑' if gap > 0 else '↓'}{abs(gap):.1f}"


def comparisons(measured: Measured, reference: str) -> Table | None:
    """Every row against one: the difference with its interval, the pairs, the test."""
    found = [(row, measured.against(row, reference)) for row in measured.rows if row != reference]
    there = [(row, one) for row, one in found if one is not None]
    if not there:
        return None
    tested = [at for at, (_, one) in enumerate(there) if one.p_value is not None]
    holm = dict(zip(tested, adjusted([there[at][1].p_value or 0.0 for at in tested]), strict=True))
    rows = tuple(
        (
            Cell(row),
            Cell(difference(one.difference), strong=one.verdict() != "cannot tell"),
            Cell(str(one.pairs)),
            Cell(p_value(one.p_value)),
            Cell(p_value(holm.get(at))),
            Cell(p_value(one.smallest_p)),
        )
        for at, (row, one) in enumerate(there)
    )
    heads = ("difference", "pairs", "p", "p, Holm", "least p")
    note = (
        "A pair is the same column and seed under both. The interval is Student's, 95 %; bold where it leaves 0 out. "
        "p: two-sided permutation test of the paired differences; Holm: adjusted for the number of rows; least p: the "
        "smallest value that so many pairs can give. Pairs of one task share its data, so they say more about seeds "
        "than about other tasks."
    )
    return Table(
        f"Score less that of {reference}.", (Column(_heading(measured), False), *map(Column, heads)), rows, note
    )


def costs(measured: Measured, published: Mapping[str, Mapping[str, float]]) -> Table | None:
    """What each row took: parameters, blocks, seconds, tokens, memory, the trunk cache.

    Where the papers' costs are ``published``, each row's speed and memory are set against the first row's, as theirs.
    """
    rows = []
    for row in measured.rows:
        if runs := measured.of_row(row):
            results = [run.result or {} for run in runs]
            against = _against(measured, row, published) if published else ()
            hits = Cell(_hits(results), _spared(measured, runs))
            rows.append((Cell(row), *map(Cell, _cost(results)), *against, hits))
    if not rows:
        return None
    ratios = (f"speed, {rows[0][0].text} = 1", "memory saved") if published else ()
    heads = ("trained", "backward through", "trunk", "training", "tokens/s", "peak memory", *ratios, "cache hits")
    note = (
        "Means over the runs of a row; seconds of one run. Trunk: running the frozen part, once an example where it is "
        "cached. A hit is a run whose cache was there before its first step. Spared: the trunk passes that did not "
        "run, at the pace of those that did, an estimate."
    )
    return Table("Cost of a run.", (Column(_heading(measured), False), *map(Column, heads)), tuple(rows), note)


def caches(measured: Measured, built: Sequence[Mapping[str, Any]]) -> Table | None:
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
    note = "Built once each, before the runs, start-up included; so no run above has seconds of the trunk of its own."
    return Table("Trunk caches.", (Column("trunk", False), *map(Column, heads)), tuple(rows), note) if rows else None


def _cost(results: Sequence[Mapping[str, Any]]) -> list[str]:
    def mean(of: str) -> float:
        return fmean(result[of] for result in results)

    def spent(kind: str) -> str:
        return seconds(fmean(result["seconds"][kind] for result in results))

    blocks = results[0]["frozen_depth"] + results[0]["backprop_blocks"]
    return [
        f"{mean('trainable'):,.0f}",
        f"{results[0]['backprop_blocks']} of {blocks}",
        spent("cache"),
        spent("train"),
        f"{mean('tokens_per_second'):,.0f}",
        size(mean("peak_memory_bytes")),
    ]


def _against(measured: Measured, row: str, published: Mapping[str, Mapping[str, float]]) -> tuple[Cell, Cell]:
    """Speed as a multiple of the first row's and memory saved against it, each above the paper's own."""
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
    return f"{sum(bool(result['cache_hit']) for result in results)} of {len(results)}"


def _spared(measured: Measured, runs: Sequence[RunRecord]) -> tuple[str, ...]:
    found = sum(spared(measured, run) for run in runs)
    return (f"{seconds(found)} spared",) if found >= 0.05 else ()


def spared(measured: Measured, run: RunRecord) -> float:
    """Seconds of the trunk that a run did not need: a pass each epoch, by the slowest pass known, less what it spent.

    A pass is known where a run made it; runs of the same model, data and frozen depth tell of each other.
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


def runs(measured: Measured) -> tuple[Part, ...]:
    """Every run with its command, folded up by row."""
    folded: list[Part] = []
    for row in measured.rows:
        inside = [run for run in measured.records if measured.row(run) == row]
        done = sum(run.status == "done" for run in inside)
        commands = "\n".join(run.command for run in inside)
        folded.append(Folded(f"{row}: {done} of {len(inside)} done", (_listed(measured, inside), Code(commands))))
    return tuple(folded)


def _listed(measured: Measured, inside: Sequence[RunRecord]) -> Table:
    heads = ("column", "seed", "score", "best epoch", "seconds", "cache")
    rows = tuple((Cell(run.id, code=True), *map(Cell, _told(measured, run))) for run in inside)
    return Table("The runs, then their commands in the same order.", (Column("run", False), *map(Column, heads)), rows)


def _told(measured: Measured, run: RunRecord) -> list[str]:
    seed = str(run.coordinates.get("seed", run.config.get("seed", "–")))
    result = run.result
    if run.status != "done" or not result:
        return [measured.column(run), seed, run.status, "–", "–", "–"]
    spent, score = result["seconds"], measured.score(run)
    said = number(score, 2) if score == score else "–"  # noqa: PLR0124  NaN: it has no score
    cache = "found" if result["cache_hit"] else ("built" if spent["cache"] and result["frozen_depth"] else "none")
    return [
        measured.column(run),
        seed,
        said,
        str(result["best_epoch"]),
        seconds(spent["cache"] + spent["train"]),
        cache,
    ]
