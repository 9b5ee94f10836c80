"""The report of a grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stratatune.studies.grid.recipe import Recipe
from stratatune.studies.grid.recipe_parts import TIMES, ReportLayout
from stratatune.studies.grid.records import RunRecord
from stratatune.studies.report import charts, claims, costs, tables
from stratatune.studies.report.measured import Measured
from stratatune.studies.report.parts import Code, Fact, Figure, Folded, Part, Report, Section, Text
from stratatune.studies.report.plans import pictures
from stratatune.studies.report.single import environment
from stratatune.studies.report.wording import listed, seconds


def many(
    recipe: Recipe | None,
    records: Sequence[RunRecord],
    title: str,
    caches: Sequence[Mapping[str, Any]] = (),
    left_out: str = "",
) -> Report:
    """Sections of a grid, finished or not; ``caches`` as ``studies/grid/records.py`` reads them.

    ``left_out`` says which runs of the folder are not among ``records``.
    """
    asked = recipe.report if recipe else None
    measured = Measured.of(
        records,
        asked.rows if asked else (),
        asked.columns if asked else (),
        (asked.metric if asked else None) or "",
    )
    scored = not asked or not asked.figures or asked.figures != ("cost",)
    sections = [
        Section("Failed", tuple(_failed(measured))),
        Section("Results", tuple(_results(recipe, measured, left_out)) if scored else ()),
        Section("Claims", tuple(_claims(recipe, measured))),
        Section("Comparisons", tuple(_comparisons(measured)) if scored else ()),
        Section("Figures", tuple(_figures(measured, asked)) if scored else ()),
        Section("Cost", tuple(_cost(recipe, measured, caches, scored, "" if scored else left_out))),
        Section("Plans", pictures(measured)),
        Section("Runs", tables.runs(measured)),
        Section("Environment", tuple(environment(list(measured.records)))),
        Section("How to read this", tuple(map(Text, _reading(measured)))),
    ]
    about = recipe.about if recipe else ""
    heading = recipe.title if recipe else title
    return Report(heading, about, tuple(_facts(measured)), tuple(section for section in sections if section.parts))


def _facts(measured: Measured) -> list[Fact]:
    left = len(measured.records) - len(measured.done) - len(measured.failed)
    models = dict.fromkeys(str(one.config.get("model")).rstrip("/").rsplit("/", 1)[-1] for one in measured.records)
    spent = [(one.result or {})["seconds"] for one in measured.done]
    trunk = sum(one["cache"] for one in spent)
    return [
        Fact(
            "runs", f"{len(measured.done)} of {len(measured.records)}", f"{len(measured.failed)} failed, {left} to do"
        ),
        Fact("model" if len(models) == 1 else "models", listed(list(models))),
        Fact(
            "rows × columns",
            f"{len(measured.rows)} × {len(measured.columns)}",
            f"{', '.join(measured.row_axes)} × {', '.join(measured.column_axes)}",
        ),
        Fact("seeds", str(len(measured.seeds())), listed(measured.seeds())),
        Fact("time", seconds(sum(sum(one.values()) for one in spent)), f"trunk {seconds(trunk)} of it"),
    ]


def _failed(measured: Measured) -> list[Part]:
    if not measured.failed:
        return []
    said = Text(f"{len(measured.failed)} of {len(measured.records)} runs failed; they are in no mean below.")
    return [
        said,
        *(
            Folded(_name(measured, run), (Code(run.error or "no error was written"), Code(run.command)))
            for run in measured.failed
        ),
    ]


def _name(measured: Measured, run: RunRecord) -> str:
    seed = run.coordinates.get("seed", run.config.get("seed"))
    first = (run.error or "").strip().splitlines()
    return f"{measured.row(run)} · {measured.column(run)} · seed {seed}: {first[-1] if first else 'failed'}"


def _results(recipe: Recipe | None, measured: Measured, left_out: str) -> list[Part]:
    said = [left_out] if left_out else []
    if not measured.done:
        return [*map(Text, ("No run is done yet.", *said))]
    published = claims.published(recipe, measured)
    parts: list[Part] = [tables.scores(measured, published)]
    return [*parts, *map(Text, (*claims.notes(recipe), *_left_out(recipe, measured), *said))]


def _left_out(recipe: Recipe | None, measured: Measured) -> list[str]:
    """The places on the recipe's axes that no run of this grid has, because it was begun with ``--only``."""
    gone = []
    for axis, items in recipe.axes.items() if recipe else ():
        there = {str(run.coordinates.get(axis)) for run in measured.records}
        names = [str(item.name) for item in items if str(item.name) not in there]
        gone += [f"{axis} {listed(names)}"] if names else []
    return [f"Not in this grid, though in the recipe: {'; '.join(gone)}."] if gone else []


def _cost(
    recipe: Recipe | None, measured: Measured, caches: Sequence[Mapping[str, Any]], scored: bool, left_out: str
) -> list[Part]:
    """The costs, with the protocol of measuring them if the grid is about nothing else."""
    parts = [
        costs.costs(measured, claims.published_costs(recipe, measured)),
        costs.caches(measured, caches),
        None if scored else costs.protocol(measured),
        Text(left_out) if left_out else None,
    ]
    return [part for part in parts if part is not None]


def _claims(recipe: Recipe | None, measured: Measured) -> list[Part]:
    found: list[Part] = list(claims.findings(recipe, measured))
    return [Text(f"What {recipe.paper} says, at this size."), *found] if found and recipe and recipe.paper else found


def _comparisons(measured: Measured) -> list[Part]:
    first = next((row for row in measured.rows if measured.of_row(row)), None)
    table = tables.comparisons(measured, first) if first and len(measured.rows) > 1 else None
    return [table] if table else []


def _figures(measured: Measured, asked: ReportLayout | None) -> list[Figure]:
    """The figures that the recipe names; all that the runs allow if it names none."""
    x, y = (asked.x or "", asked.y or "") if asked else ("", "")
    drawn = {
        "depth": lambda: charts.depth(measured, x if x not in TIMES else "", y),
        "curves": lambda: charts.curves(measured, x if x in TIMES else "step", y),
        "cost": lambda: charts.costs(measured),
    }
    wanted = asked.figures if asked else ()
    found = [draw() for name, draw in drawn.items() if not wanted or name in wanted]
    return [one for one in found if one is not None]


def _reading(measured: Measured) -> list[str]:
    count = len(measured.seeds())
    said = [
        "The interval of a mean is a percentile bootstrap over seeds (95 %): how far the mean would move with other "
        "seeds of the same data. It says nothing about other data sets."
    ]
    if count < 2:
        said.append("One seed only: there is no interval, and no difference can be distinguished from chance.")
    elif count < 6:
        said.append(
            f"With {count} seeds a bootstrap interval hardly reaches beyond the lowest and the highest seed, "
            "and is too narrow; a claim is judged by Student's interval of the paired differences instead."
        )
    said.append(
        "A claim holds where the interval of the difference lies above 0, does not hold where it lies below, and "
        "is uncertain where 0 is inside, or where fewer than six pairs all differ by the same. The evaluation data "
        "selected the epoch, for every row alike."
    )
    return said
