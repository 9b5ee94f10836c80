"""``stratatune suggest``: propose a plan for this model and these data."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stratatune.app.door import Answer, Door, verb
from stratatune.app.run_options import run_options

if TYPE_CHECKING:
    from stratatune.studies.suggest.suggestion import Suggestion
    from stratatune.training.config import RunConfig


@verb(interrupted="with --out, the same command continues the trials of --refine", settings=run_options)
def suggest(
    door: Door,
    settings: RunConfig,
    family: Annotated[
        str, typer.Option(help="full, lora, bft, spafit or any (the better of the last two).", metavar="WORD")
    ] = "full",
    samples: Annotated[int, typer.Option(help="Maximum number of examples to read.", metavar="N")] = 500,
    budget_seconds: Annotated[
        float | None,
        typer.Option(help="Seconds that training may take on this machine.", metavar="S", show_default=False),
    ] = None,
    budget_memory: Annotated[
        str | None, typer.Option(help="Memory that the run may use, such as 8GB.", metavar="B", show_default=False)
    ] = None,
    refine: Annotated[
        bool, typer.Option("--refine", help="Then refine the plan by short real trials (extra `search`).")
    ] = False,
    trials: Annotated[
        int | None, typer.Option(help="Trials of --refine; default: 16.", metavar="N", show_default=False)
    ] = None,
) -> Answer:
    """Propose a plan for your data: probe every depth in one pass, and predict what each plan costs.

    Takes the options of `train`; --out gets suggestion.json, suggestion.svg and run.yaml for `stratatune train`.
    """
    from stratatune.app.suggest import asked_for, out_of
    from stratatune.studies.suggest.suggest import suggest

    asked = asked_for(settings, family, samples, budget_seconds, budget_memory, refine, trials)
    folder = out_of(settings)
    found = suggest(settings, asked, folder=folder, reporter=door.reporter())
    files = found.save(folder) if folder else {}
    return Answer({**found.to_json(), "files": files}, _proposal(found), _next(found, folder))


def _proposal(found: Suggestion) -> str:
    return "\n".join((found.plan, "", *(f"  {line}" for line in found.why), "", *_table(found)))


def _table(found: Suggestion) -> list[str]:
    """A table of all candidates: depth, the score of its probe, and the cost of a run."""
    view = found.views[0]
    read = {one.depth: one for one in view.probes if one.reading == "read"}
    lines = ["depth         score of the probe  work (TFLOP)  seconds  memory (MB)"]
    for one in view.candidates:
        probe = read[one.depth]
        mark = "  <-" if one.depth == found.depth else f"  over: {one.over}" if one.over else ""
        lines.append(
            f"{one.depth:>5}  {probe.score:>15.3f} ± {probe.error:.3f}  {one.flops / 1e12:>13,.2f}"
            f"  {one.seconds:>7,.0f}  {one.memory_bytes / 1e6:>11,.0f}{mark}"
        )
    for one in view.beside:  # no probe chose them
        mark = f"  over: {one.over}" if one.over else ""
        lines.append(
            f"{one.plan:<29}  {one.flops / 1e12:>13,.2f}  {one.seconds:>7,.0f}  {one.memory_bytes / 1e6:>11,.0f}{mark}"
        )
    return lines


def _next(found: Suggestion, folder: Path | None) -> str:
    if folder:
        return f"\nnext: stratatune train {shlex.quote(str(folder / 'run.yaml'))}"
    rate = f" --lr {found.config.lr:g}" if "lr" in found.config.model_fields_set else ""
    return f'\nnext: the same options with `stratatune train --plan "{found.plan}"{rate}`; --out DIR saves them'
