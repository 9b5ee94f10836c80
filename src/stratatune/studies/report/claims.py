"""Published and measured numbers side by side: scores by row and column, and claims judged by paired differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import Any

from stratatune.objectives.registry import smaller_is_better
from stratatune.studies.grid.recipe import Recipe
from stratatune.studies.grid.recipe_parts import Claim, Published, agrees
from stratatune.studies.grid.records import RunRecord
from stratatune.studies.report.measured import Measured, decimals, scale
from stratatune.studies.report.parts import Finding
from stratatune.studies.report.wording import difference, listed, signed, tested
from stratatune.studies.statistics import compare

COSTS = ("trained", "tokens_per_ms", "memory_gb")
"""Costs that a recipe may give as a published ``metric``, besides scores."""


def published(recipe: Recipe | None, measured: Measured) -> dict[tuple[str, str], Published]:
    """The papers' scores by the row and column of the runs at their coordinates."""
    found: dict[tuple[str, str], Published] = {}
    for one in recipe.published if recipe else ():
        for run in measured.records:
            if agrees(run.coordinates, one.where) and one.metric in (None, measured.metric, measured.metric_of(run)):
                found[measured.row(run), measured.column(run)] = one
    return found


def published_costs(recipe: Recipe | None, measured: Measured) -> dict[str, dict[str, float]]:
    """The papers' :data:`COSTS` by row."""
    found: dict[str, dict[str, float]] = {}
    for one in recipe.published if recipe else ():
        if one.metric in COSTS:
            row = next((measured.row(run) for run in measured.records if agrees(run.coordinates, one.where)), None)
            found.setdefault(row or "", {})[one.metric] = one.value
    return found


def notes(recipe: Recipe | None) -> list[str]:
    """The recipe's notes about the numbers of its paper, each once."""
    return list(dict.fromkeys(one.note for one in recipe.published if one.note)) if recipe else []


def findings(recipe: Recipe | None, measured: Measured) -> Iterator[Finding]:
    """Each claim of the recipe with its verdict."""
    for claim in recipe.claims if recipe else ():
        yield _judged(claim, measured)


def _judged(claim: Claim, measured: Measured) -> Finding:
    metric = claim.metric or measured.metric
    named = {*claim.better, *claim.worse}
    better, worse = (_scores(measured, where, named, claim.on, metric) for where in (claim.better, claim.worse))
    smaller = smaller_is_better(metric) if metric else measured.smaller
    found = compare(better, worse, smaller=smaller)
    if found is None:
        return Finding(claim.text, "cannot tell", "No pair of runs is done.")
    metrics = [metric] if metric else measured.metrics()
    digits = decimals(metrics, (*better.values(), *worse.values()))
    points = " points" if all(scale(name) > 1 for name in metrics) else ""
    parts = [f"{difference(found.difference, digits + 1)}{points} over {tested(found)}"]
    if each := _each(better, worse, smaller, digits):
        parts.append(f"by {claim.on}: {each}")
    sides = [_trained(measured, where) for where in (claim.better, claim.worse)]
    if all(sides) and sides[0] != sides[1]:
        parts.append(f"{sides[0]} parameters train against {sides[1]}")
    if claim.margin:
        parts.append(f"a margin of {claim.margin:g} is allowed")
    return Finding(claim.text, found.verdict(claim.margin), f"{'; '.join(parts)}.")


def _trained(measured: Measured, where: Mapping[str, Any]) -> str:
    """The number of parameters that train in the runs at ``where``; a range where they differ."""
    counts = sorted({(run.result or {})["trainable"] for run in measured.done if agrees(run.coordinates, where)})
    return " to ".join(f"{count:,}" for count in dict.fromkeys(counts[:1] + counts[-1:]))


Key = tuple[str, str]
"""The place on the claim's axis, and everything else that both sides share."""


def _scores(measured: Measured, where: Mapping[str, Any], named: set[str], on: str, metric: str) -> dict[Key, float]:
    """Scores of the runs at ``where`` by their pairing key: every coordinate that the claim does not name.

    Where a side is the mean of several runs, only of those of which none is missing: half of them are another mean.
    """
    found: dict[Key, list[float]] = {}
    turned = measured.mixed and not metric  # scores that are better when smaller are negated
    for run in measured.done:
        score = measured.score(run, metric)
        score = -score if turned and smaller_is_better(measured.metric_of(run)) else score
        if agrees(run.coordinates, where) and score == score:  # noqa: PLR0124  NaN: it has no score
            found.setdefault(_key(run, named, on), []).append(score)
    missing = {
        _key(run, named, on) for run in measured.records if run not in measured.done and agrees(run.coordinates, where)
    }
    return {key: fmean(values) for key, values in found.items() if key not in missing}


def _key(run: RunRecord, named: set[str], on: str) -> Key:
    rest = sorted((axis, str(value)) for axis, value in run.coordinates.items() if axis not in {*named, on})
    return str(run.coordinates.get(on, "")), str(rest)


def _each(better: Mapping[Key, float], worse: Mapping[Key, float], smaller: bool, digits: int) -> str:
    """The mean difference at each place of the axis, if there are several."""
    gaps: dict[str, list[float]] = {}
    for key in better:
        if key in worse:
            gaps.setdefault(key[0], []).append((worse[key] - better[key]) if smaller else (better[key] - worse[key]))
    return listed([f"{place} {signed(fmean(found), digits)}" for place, found in gaps.items()]) if len(gaps) > 1 else ""
