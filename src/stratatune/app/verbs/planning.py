"""``stratatune plan``: a plan on a model, drawn and counted. No weights, no torch."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stratatune.app.door import Answer, Door, verb
from stratatune.errors import ConfigError, ResourceError, did_you_mean

if TYPE_CHECKING:
    from stratatune.plan import Resolved
    from stratatune.study.cost import Cost

OBJECTIVES = ("auto", "mlm", "classification", "regression")


@verb()
def plan(
    door: Door,
    plan: Annotated[
        str, typer.Argument(help="A preset's name (`stratatune list presets`) or a plan's text.", show_default=False)
    ],
    model: Annotated[str, typer.Option(help="A built-in shape, a folder or a hub id.", show_default=False)],
    objective: Annotated[str, typer.Option(help="auto (the plan's own), mlm, classification or regression.")] = "auto",
    labels: Annotated[int, typer.Option(min=1, help="Classes of the task: the size of its output layer.")] = 2,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of an example, for the predicted cost.")] = 64,
    cache_dtype: Annotated[
        str, typer.Option(help="How the cache keeps hidden states: fp32, bf16, fp16, int8.")
    ] = "fp32",
    svg: Annotated[Path | None, typer.Option(help="Write the picture into this file too.", show_default=False)] = None,
) -> Answer:
    """Resolve a plan against a model and draw it: what trains, what is remembered, what it costs.

    Downloads nothing but the model's configuration.
    """
    from stratatune.plan import Plan, shape_of
    from stratatune.plan.picture import terminal
    from stratatune.study.cost import cost

    head = settled(objective, Plan.parse(plan).objective)
    resolved = Plan.parse(plan).resolve(shape_of(model))
    costs = cost(resolved, tokens=tokens, objective=head, dtype=cache_dtype)
    data: dict[str, Any] = {**resolved.summary(head, labels), **costs.to_data(), "cache_dtype": cache_dtype}
    if svg is not None:
        data["svg"] = _write_svg(resolved, head, svg)
    for problem in resolved.problems(head):
        door.reporter().notice(problem)
    return Answer(
        data, "\n".join((terminal(resolved, colour=in_colour(), objective=head), "", _told(costs, cache_dtype)))
    )


def settled(objective: str, own: str) -> str:
    """The pretrained head that an objective wears; ``own`` is the plan's."""
    if objective not in OBJECTIVES:
        raise ConfigError([f"objective: {objective!r}"], did_you_mean(objective, OBJECTIVES))
    return {"auto": own, "regression": "classification"}.get(objective, objective)


def in_colour() -> bool:
    """Whether standard output is a terminal that shows colours (``NO_COLOR`` says no)."""
    return sys.__stdout__ is not None and sys.__stdout__.isatty() and not os.environ.get("NO_COLOR")


def _write_svg(resolved: Resolved, objective: str, path: Path) -> str:
    from stratatune.plan.svg import svg

    try:
        path.write_text(svg(resolved, objective), encoding="utf-8")
    except OSError as error:
        raise ResourceError(
            f"cannot write {path}: {error.strerror}", "give --svg a file in a folder that you may write"
        ) from error
    return str(path)


def _told(costs: Cost, dtype: str) -> str:
    """The predicted cost in two lines."""
    step = f"{costs.speedup_vs_full:.1f}x less work than full tuning, {costs.speedup_vs_lora:.1f}x less than LoRA"
    if not costs.cache_bytes_per_token:
        return f"a training step of {costs.tokens} tokens, predicted: {step}; nothing to cache"
    cached = f"{costs.speedup_vs_full_cached:.1f}x and {costs.speedup_vs_lora_cached:.1f}x"
    size = f"{costs.cache_bytes_per_token:,} bytes a token ({dtype})"
    first = f"a training step of {costs.tokens} tokens, predicted: {step};"
    return f"{first}\nfrom the trunk cache {cached}; the cache takes {size}"
