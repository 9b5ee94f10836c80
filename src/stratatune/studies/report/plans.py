"""The pictures of the plans of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from stratatune.errors import UserError
from stratatune.objectives.registry import OBJECTIVES
from stratatune.plan import Plan, shape_of
from stratatune.plan.picture import terminal
from stratatune.plan.svg import svg
from stratatune.studies.grid.records import RunRecord
from stratatune.studies.report.measured import Measured
from stratatune.studies.report.parts import Folded, Part, Picture, Text


def picture(run: RunRecord) -> Picture | None:
    """The plan of a run on its model; None if the model's shape is no longer available."""
    try:
        shape = shape_of(run.config["model"], run.config.get("revision"))
        resolved = Plan.parse(run.config["plan"]).resolve(
            replace(shape, name=shape.name.rstrip("/").rsplit("/", 1)[-1])
        )
    except UserError:
        return None
    objective = (run.result or {}).get("objective")
    drawn = OBJECTIVES[objective].head if objective in OBJECTIVES else None
    description = f"{run.config['plan']}: backward through {resolved.backprop_blocks} of {resolved.shape.blocks} blocks"
    return Picture(svg(resolved, drawn), terminal(resolved, colour=False, objective=drawn), description)


def pictures(measured: Measured) -> tuple[Part, ...]:
    """A picture for each plan and model, folded up except for the first."""
    first: dict[tuple[str, str], RunRecord] = {}
    for run in measured.records:
        first.setdefault((str(run.config.get("plan")), str(run.config.get("model"))), run)
    drawn = [(measured.row(run), picture(run)) for run in first.values()]
    parts = _folded([(name, one) for name, one in drawn if one is not None])
    missing = len(drawn) - len(parts)
    said = Text(f"{missing} of {len(drawn)} plans are not drawn: their model is not on this machine.")
    return (*parts, *([said] if missing else []))


def _folded(drawn: Sequence[tuple[str, Picture]]) -> tuple[Part, ...]:
    return tuple(Folded(name, (one,), open=number == 0) for number, (name, one) in enumerate(drawn))
