"""Tables from runs: scores next to published ones, comparisons with a reference, the runs themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stratatune.studies.grid.recipe_parts import Published
from stratatune.studies.grid.records import RunRecord
from stratatune.studies.report.costs import remembers
from stratatune.studies.report.measured import MEAN, Measured, title_of
from stratatune.studies.report.parts import Cell, Code, Column, Folded, Part, ReportTable
from stratatune.studies.report.wording import between, difference, number, p_value, seconds, signed, spread
from stratatune.studies.statistics import Interval, adjusted
from stratatune.training.result import found_trunk

Scores = Mapping[tuple[str, str], Published]
"""The papers' scores, as printed here, by row and column."""


def scores(measured: Measured, published: Scores) -> ReportTable:
    """A table of rows by columns: the mean, its deviation, its interval, and the paper's value."""
    columns = (*measured.columns, *([MEAN] if len(measured.columns) > 1 and not measured.mixed else []))
    cells = {(row, column): measured.cell(row, column) for row in measured.rows for column in columns}
    best = {
        column: _best(
            [cells[row, column] for row in measured.rows],
            smaller=measured.smaller if column == MEAN else measured.smaller_in(column),
        )
        for column in columns
    }
    digits = {column: measured.digits(column) for column in columns}
    titles = [title_of(name) for name in measured.metrics()]
    rows = tuple(
        (Cell(row), *(_score(cells[row, one], best[one], published.get((row, one)), digits[one]) for one in columns))
        for row in measured.rows
    )
    what = titles[0].capitalize() if len(titles) == 1 else "The score of each task"
    said = f"{what}: mean ± standard deviation over {measured.averaged}, "
    said += f"below it the 95 % interval of the mean{', below that what was published' if published else ''}."
    heads = tuple(Column(one, below=_metric(measured, one)) for one in columns)
    return ReportTable(said, (Column(measured.heading, number=False), *heads), rows, _score_note(bool(published)))


def _score_note(published: bool) -> str:
    arrows = " ↑ and ↓: measured above or below what was published, whose value lies outside the interval."
    return "Bold: the best mean of the column." + (arrows if published else "")


def _metric(measured: Measured, column: str) -> str:
    """The metric below a column's name where columns have different ones."""
    if len(measured.metrics()) < 2:
        return ""
    found = {measured.metric_of(one) for one in measured.done if measured.column(one) == column}
    return title_of(found.pop()) if len(found) == 1 else ""


def _best(found: Sequence[Interval | None], *, smaller: bool) -> float | None:
    means = [one.mean for one in found if one is not None]
    return (min(means) if smaller else max(means)) if len(means) > 1 else None


def _score(found: Interval | None, best: float | None, paper: Published | None, digits: int) -> Cell:
    if found is None:
        return Cell("–", (_paper(None, paper, digits),) if paper is not None else ())
    below = (between(found, digits), "" if paper is None else _paper(found, paper, digits))
    return Cell(spread(found, digits), tuple(line for line in below if line), strong=found.mean == best)


def _paper(found: Interval | None, paper: Published, digits: int) -> str:
    """``paper 96.5 ± 0.3 ↓2.1``: the paper's value and the distance to it, an arrow if outside the interval."""
    deviation = "" if paper.deviation is None else f" ± {number(paper.deviation, digits)}"
    said = f"paper {number(paper.value, digits)}{deviation}"
    if found is None:
        return said
    gap, low, high = found.mean - paper.value, found.low, found.high
    if low is None or high is None or low <= paper.value <= high:
        return f"{said} ({signed(gap, digits)})"
    return f"{said} {'↑' if gap > 0 else '↓'}{abs(gap):.{digits}f}"


def comparisons(measured: Measured, reference: str) -> ReportTable | None:
    """A comparison of every row with one: the difference with its interval, the pairs, the test."""
    found = [(row, measured.against(row, reference)) for row in measured.rows if row != reference]
    there = [(row, one) for row, one in found if one is not None]
    if not there:
        return None
    tested = [at for at, (_, one) in enumerate(there) if one.p_value is not None]
    holm = dict(zip(tested, adjusted([there[at][1].p_value or 0.0 for at in tested]), strict=True))
    rows = tuple(
        (
            Cell(row),
            Cell(difference(one.difference, measured.digits() + 1), strong=one.verdict() != "cannot tell"),
            Cell(str(one.pairs)),
            Cell(p_value(one.p_value)),
            Cell(p_value(holm.get(at))),
            Cell(p_value(one.smallest_p)),
        )
        for at, (row, one) in enumerate(there)
    )
    heads = ("difference", "pairs", "p", "p, Holm", "smallest p")
    note = (
        "A pair is the same column and seed under both. The interval is Student's, 95 %; bold where it leaves 0 out, "
        "unless fewer than six pairs all differ by the same. "
        "p: two-sided permutation test of the paired differences; Holm: adjusted for the number of rows; smallest p: "
        "the smallest value that so many pairs can give. Pairs of one task share its data, so they say more about "
        "seeds than about other tasks."
    )
    if measured.smaller or measured.mixed:
        note += " Where a smaller score is better, the sign of the difference is reversed, so that above 0 is better."
    return ReportTable(
        f"Difference in score from {reference}.", (Column(measured.heading, False), *map(Column, heads)), rows, note
    )


def runs(measured: Measured) -> tuple[Part, ...]:
    """Every run with its command, folded up by row."""
    folded: list[Part] = []
    for row in measured.rows:
        inside = [run for run in measured.records if measured.row(run) == row]
        done = sum(run.status == "done" for run in inside)
        commands = "\n".join(run.command for run in inside)
        folded.append(Folded(f"{row}: {done} of {len(inside)} done", (_listed(measured, inside), Code(commands))))
    return tuple(folded)


def _listed(measured: Measured, inside: Sequence[RunRecord]) -> ReportTable:
    heads = ("column", "seed", "score", "best epoch", "seconds", "cache")
    rows = tuple((Cell(run.id, code=True), *map(Cell, _facts_of(measured, run))) for run in inside)
    return ReportTable(
        "The runs, then their commands in the same order.", (Column("run", False), *map(Column, heads)), rows
    )


def _facts_of(measured: Measured, run: RunRecord) -> list[str]:
    seed = str(run.coordinates.get("seed", run.config.get("seed", "–")))
    result = run.result
    if run.status != "done" or not result:
        return [measured.column(run), seed, run.status, "–", "–", "–"]
    spent, score = result["seconds"], measured.score(run)
    said = number(score, measured.digits(measured.column(run)) + 1) if score == score else "–"  # noqa: PLR0124  NaN: it has no score
    cache = (
        "found"
        if found_trunk(result["cache_hit"], spent)
        else ("built" if spent["cache"] and remembers(run) else "none")
    )
    return [
        measured.column(run),
        seed,
        said,
        str(result["best_epoch"]),
        seconds(spent["cache"] + spent["train"]),
        cache,
    ]
