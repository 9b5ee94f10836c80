"""``stratatune plan``: draw and count a plan on a model. No weights, no torch."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stratatune.app.door import Answer, Door, verb
from stratatune.errors import ConfigError
from stratatune.files import make_folder, write_text

if TYPE_CHECKING:
    from stratatune.costs.cost import Cost
    from stratatune.costs.placing import Place, Rates
    from stratatune.plan import Plan, Resolved, Shape


@verb()
def plan(
    door: Door,
    plan: Annotated[
        str, typer.Argument(help="A preset's name (`stratatune list presets`) or a plan's text.", show_default=False)
    ],
    model: Annotated[str, typer.Option(help="A built-in shape, a folder or a hub id.", show_default=False)],
    revision: Annotated[
        str | None, typer.Option(help="The hub revision of the model: a branch, a tag or a commit.", show_default=False)
    ] = None,
    objective: Annotated[str, typer.Option(help="auto (the plan's own), or as in a run: mlm, causal, ...")] = "auto",
    labels: Annotated[int, typer.Option(min=1, help="Classes of the task: the size of its output layer.")] = 2,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens per example, for the predicted cost.")] = 64,
    cache_dtype: Annotated[
        str, typer.Option(help="How the cache keeps hidden states: fp32, bf16, fp16, int8.")
    ] = "fp32",
    svg: Annotated[Path | None, typer.Option(help="Also write the picture to this file.", show_default=False)] = None,
    lengths: Annotated[
        str | None,
        typer.Option(
            help="Predict the cost of epochs over a data file (encoded by the model's tokenizer) or a .txt of lengths.",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="With --lengths: examples per batch; default: 32.", show_default=False)
    ] = None,
    task: Annotated[str | None, typer.Option(help="With --lengths: the data's task.", show_default=False)] = None,
    text: Annotated[str | None, typer.Option(help="Its text column, or two.", show_default=False)] = None,
    label: Annotated[str | None, typer.Option(help="Its label column.", show_default=False)] = None,
    template: Annotated[
        str | None, typer.Option(help="Its template, as in a run; plain or a file for chats.", show_default=False)
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(min=3, help="Tokens of its longest example; default: as in a run.", show_default=False)
    ] = None,
) -> Answer:
    """Resolve a plan against a model and draw it: trained and cached parts, and the cost.

    Downloads nothing but the model's configuration (with --lengths of a data file, its tokenizer too).
    """
    from stratatune.costs.cost import cost
    from stratatune.objectives.registry import OBJECTIVES, written
    from stratatune.plan import Plan, shape_of
    from stratatune.plan.picture import terminal
    from stratatune.shapes.configs import check_revision

    check_revision(model, revision)
    reading = {"task": task, "text": text, "label": label, "template": template, "max_length": max_length}
    with_lengths = {"batch_size": batch_size, **reading}
    if lengths is None and (alone := [name for name, value in with_lengths.items() if value is not None]):
        raise ConfigError(
            [f"{name}: {with_lengths[name]!r} is only used with --lengths" for name in alone],
            "add --lengths with a data file or a .txt of lengths, or leave it out",
        )
    parsed, shape = Plan.parse(plan), shape_of(model, revision)
    wanted = settled(objective, parsed, shape)
    head, positions = OBJECTIVES[wanted].head, OBJECTIVES[wanted].positions_under(written(objective)[1])
    resolved = parsed.resolve(shape)
    if tokens > resolved.max_tokens:
        raise ConfigError([f"tokens: {tokens}; {model} takes {resolved.max_tokens} at most"], "use fewer")
    given = None
    if lengths is not None:
        from stratatune.studies.encoded import lengths_in

        given = lengths_in(lengths, model=model, revision=revision, plan=plan, objective=objective, **reading)
    costs = cost(
        resolved,
        None,
        given,
        tokens=tokens,
        objective=wanted,
        dtype=cache_dtype,
        batch_size=batch_size or 32,
        labels=labels,
        positions=positions,
    )
    data: dict[str, Any] = {**resolved.summary(head, labels), **costs.to_data(), "cache_dtype": cache_dtype}
    data["objective"] = wanted
    machine = _machine(resolved, costs, given, head, low=cache_dtype != "fp32") if given is not None else None
    if machine is not None:
        data |= {"machine": asdict(machine[0]), "places": {name: asdict(one) for name, one in machine[1].items()}}
    if svg is not None:
        data["svg"] = _write_svg(resolved, head, svg)
    for problem in resolved.problems(head):
        door.reporter().notice(problem)
    picture = terminal(resolved, colour=in_colour(), objective=head)
    return Answer(data, "\n".join((picture, "", _cost_lines(costs, cache_dtype), *_epochs(costs), *_placed(machine))))


def settled(objective: str, plan: Plan, shape: Shape) -> str:
    """The name of the objective that a run of this plan on this model would have.

    Raises:
        ConfigError: no such objective.
        ModelError: it does not work on this family of models.
    """
    from stratatune.objectives.asked import Asked
    from stratatune.objectives.registry import choose, written

    name, options = written(objective)
    return choose(Asked.on(shape, plan, objective=name, options=options)).name


def in_colour() -> bool:
    """Whether standard output is a terminal that shows colours (``NO_COLOR`` says no)."""
    return sys.__stdout__ is not None and sys.__stdout__.isatty() and not os.environ.get("NO_COLOR")


def _write_svg(resolved: Resolved, objective: str, path: Path) -> str:
    from stratatune.plan.svg import svg

    hint = "point --svg to a file in a folder that you can write to"
    make_folder(path.parent, hint)
    write_text(path, svg(resolved, objective), hint)
    return str(path)


def _cost_lines(costs: Cost, dtype: str) -> str:
    """The predicted cost in two lines."""
    step = f"{_times(costs.speedup_vs_full)} less work than full tuning, {_times(costs.speedup_vs_lora)} less than LoRA"
    if not costs.cache_bytes_per_token:
        return f"a training step of {costs.tokens} tokens, predicted: {step}; nothing to cache"
    cached = f"{_times(costs.speedup_vs_full_cached)} and {_times(costs.speedup_vs_lora_cached)}"
    cached = cached if costs.flops_per_token_cached else "hardly anything is left to compute"
    size = f"{costs.cache_bytes_per_token:,} bytes per token ({dtype})"
    first = f"a training step of {costs.tokens} tokens, predicted: {step};"
    return f"{first}\nfrom the trunk cache {cached}; the cache takes {size}"


def _times(ratio: float) -> str:
    """A ratio for people; of nothing left to compute there is none."""
    if not math.isfinite(ratio):
        return "–"
    return f"{ratio:.1f}x" if ratio < 1000 else f"{ratio:,.0f}x"


def _machine(
    resolved: Resolved, costs: Cost, lengths: list[int], head: str, *, low: bool
) -> tuple[Rates, dict[str, Place]]:
    """The rates of this machine, and the cost of a run on it by the place of its trunk."""
    from stratatune.costs.placing import places
    from stratatune.studies.machine_rates import measured_rates

    rates = measured_rates(low=low)
    return rates, places(resolved, costs, lengths, head, rates)


def _placed(machine: tuple[Rates, dict[str, Place]] | None) -> list[str]:
    if machine is None:
        return []
    from stratatune.units import readable_size

    rates, found = machine
    lines = [
        "",
        f"on this machine ({rates.flops / 1e9:,.0f} GFLOP/s, {readable_size(rates.disk)}/s from disk), predicted:",
        f"{'the trunk':<26}{'memory':>12}{'build':>12}{'an epoch':>12}",
    ]
    for name, one in found.items():
        seconds = f"{one.build_seconds:>10,.0f} s{one.epoch_seconds:>10,.0f} s"
        lines.append(f"{name:<26}{readable_size(one.memory_bytes):>12}{seconds}")
    return lines


def _epochs(costs: Cost) -> list[str]:
    """The cost of epochs over the lengths, next to the common baselines."""
    if not costs.epochs:
        return []
    from stratatune.costs.cost import ARMS
    from stratatune.units import readable_size

    own, drawn = costs.epochs["cached"], costs.epochs["A"].padding
    lines = [
        "",
        f"epochs of {own.steps:,} batches, padded {own.padding:.2f}x by length, {drawn:.2f}x at random; predicted:",
        f"{'':<6}{'from the cache':>16}{'ten epochs':>14}{'kept per backward pass':>28}",
    ]
    lines.append(f"{'plan':<6}{'1x':>16}{'1x':>14}{readable_size(int(own.saved_bytes)):>28}")
    for arm in ARMS:
        kept = readable_size(int(costs.epochs[arm].saved_bytes))
        once, ten = _times(costs.ratio(arm)), _times(costs.ratio(arm, 10))
        lines.append(f"{arm:<6}{once:>16}{ten:>14}{kept:>28}")
    return [*lines, *(f"{arm}: {what}" for arm, what in ARMS.items()), f"the cache: {readable_size(costs.cache_bytes)}"]
