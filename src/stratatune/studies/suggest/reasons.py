"""The reasons for a proposed plan, in a few lines. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from stratatune.objectives.registry import OBJECTIVES
from stratatune.shapes.shape import LM_HEADS
from stratatune.studies.suggest.candidates import FEW, top_depth
from stratatune.studies.suggest.choosing import WHOLE
from stratatune.studies.suggest.pricing import Candidate
from stratatune.studies.suggest.probing import Probe
from stratatune.units import readable_seconds

if TYPE_CHECKING:
    from stratatune.studies.suggest.view import View


def reasons(views: Sequence[View]) -> Iterator[str]:
    """The lines of all views, the chosen family's first."""
    view, chosen = views[0], views[0].chosen
    assert chosen is not None
    yield _evidence(view)
    yield _depth(view)
    if chosen.depth != view.found.depth:
        yield f"at depth {view.found.depth} it would be over the budget, so depth {chosen.depth} takes its place"
    yield _saved(view, chosen)
    left_out = [one for one in view.candidates if one.over]
    if left_out:
        named = "; ".join(f"depth {one.depth}: {one.over}" for one in left_out[:4])
        yield f"{len(left_out)} of {len(view.candidates)} candidates are over the budget ({named}{_more(left_out)})"
    for other in views[1:]:
        beaten = "predicts no better, or costs more" if other.chosen else "none of its plans fits the budgets"
        yield f"{other.family}, read at {other.position}: {_number(other.found.best)} at the best depth; {beaten}"


def _evidence(view: View) -> str:
    found, best = view.found, view.found.best
    control = f"targets in random order: {best.control:.2f} ± {best.control_error:.2f}"
    if not found.informative:
        return f"no depth predicts {view.probed} at {view.position}: {_number(best)} at best, {control}"
    return f"at {view.position} the information is there from depth {found.gathered.depth} on: " + (
        f"{_number(found.gathered)} ({_measure(view)}; best {_number(best)} at depth {best.depth}; {control})"
    )


def _depth(view: View) -> str:
    if view.family in WHOLE:
        return _whole(view)
    found, where = view.found, "insert" if view.family == "bft" else "start LoRA"
    if not found.informative:
        return f"so the probes cannot choose, and the paper's place is used: {where} at depth {found.depth}"
    line = (
        f"so {where} below that, at depth {found.depth}: block {found.depth} and those above still gather what changes"
    )
    if view.family == "spafit":
        line += f"; blocks below depth {found.frozen} predict no better than the embeddings, so they are frozen"
    return line


def _whole(view: View) -> str:
    found, top = view.found, top_depth(max(one.depth for one in view.probes))
    if found.depth == top:
        return f"so the topmost blocks train, from depth {found.depth} on, usually the best score for its cost"
    if found.few:
        return f"rows are few ({FEW:,} at most), so more blocks train than the topmost: from depth {found.depth} on"
    return f"a depth below {top} predicts better than {top} does, so more blocks train: from depth {found.depth} on"


def _saved(view: View, chosen: Candidate) -> str:
    shallow = view.candidates[0]
    new = OBJECTIVES[view.objective].head not in (*LM_HEADS, "none")
    output = " beside the new output layer" if new else ""
    saved = f"{100 * (1 - chosen.flops / shallow.flops):.0f} % less work than depth {shallow.depth}, "
    return (
        f"a trunk of {chosen.frozen_depth} blocks runs once: {saved if chosen != shallow else ''}"
        f"about {readable_seconds(chosen.seconds)} here, {chosen.memory_bytes / 1e6:,.0f} MB of memory, "
        f"{chosen.cache_bytes / 1e6:,.0f} MB of cache, {chosen.trainable:,} parameters train{output}"
    )


def _measure(view: View) -> str:
    return "Pearson's correlation" if view.value else "area under the ROC curve"


def _number(one: Probe) -> str:
    return f"{one.score:.2f} ± {one.error:.2f}"


def _more(listed: Sequence[Candidate]) -> str:
    return "; ..." if len(listed) > 4 else ""
