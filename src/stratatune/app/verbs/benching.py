"""``stratatune bench``: compare plans with common baselines, on the user's own machine and data."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stratatune.app.door import Answer, Door, verb
from stratatune.errors import ConfigError, did_you_mean
from stratatune.files import make_folder, write_text

if TYPE_CHECKING:
    from stratatune.studies.bench.arms import BenchSetting
    from stratatune.studies.bench.bench import BenchReport

_LIKE, _PRECISIONS = ("sst2", "rte"), ("bf16", "fp32")
_EXAMPLES = 10_240


@verb()
def bench(
    door: Door,
    model: Annotated[str, typer.Option(help="A built-in shape, a folder or a hub id.", show_default=False)],
    train: Annotated[
        str | None,
        typer.Option(
            help="Your own data (without --objective, only their text lengths are used); without it, 10,240 "
            "made-up texts.",
            show_default=False,
        ),
    ] = None,
    plans: Annotated[str, typer.Option(help="Plans, separated by commas.")] = "bft-adapter,bft",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds for each way of training; the fastest one counts.")] = 3,
    batches: Annotated[int, typer.Option(min=1, help="Batches of an epoch that run in each round.")] = 6,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples per batch.")] = 32,
    precision: Annotated[str, typer.Option(help="bf16 or fp32.")] = "bf16",
    like: Annotated[
        str | None,
        typer.Option(help="Without --train: lengths like those of sst2 or rte; default: sst2.", show_default=False),
    ] = None,
    task: Annotated[str | None, typer.Option(help="The task of --train.", show_default=False)] = None,
    text: Annotated[str | None, typer.Option(help="Its text column, or two.", show_default=False)] = None,
    label: Annotated[str | None, typer.Option(help="Its label column.", show_default=False)] = None,
    template: Annotated[
        str | None,
        typer.Option(help="With --train: a template's name or text, or a chat template's file.", show_default=False),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help="What all learn, as in a run: classification, tags, vectors, chat, ...; by default, each plan "
            "learns what its paper does, and on a decoder all learn what the first plan does.",
            show_default=False,
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; by default as many as torch chooses.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder for bench.json and bench.svg.")] = Path("runs/bench"),
) -> Answer:
    """Time common baselines and plans, with a table and a chart.

    The baselines are full tuning (F), stock peft LoRA (A), the same in batches of similar length (B), full tuning of
    the topmost blocks (C), and the frozen model once with a ridge head (floor).

    The model is an encoder or a decoder. Its weights are random, as they do not change the time; only its configuration
    is read. With --objective, all learn that objective: a plan with our forward pass and loss, the baselines with
    transformers' own model and head.
    """
    _check_data(train, like, {"task": task, "text": text, "label": label, "template": template})
    _check("like", like or _LIKE[0], _LIKE)
    _check("precision", precision, _PRECISIONS)
    _check("device", device, ("auto", "cpu", "cuda"))
    chosen = split_plans(plans)
    from stratatune.studies.bench.bars import svg
    from stratatune.studies.bench.bench import bench as measure

    data = {"task": task, "text": text, "label": label, "template": template, "plan": chosen[0] if chosen else None}
    setting = _setting(
        model, train, like or _LIKE[0], data, objective, batch_size, batches, precision == "bf16", device, threads
    )
    say = door.reporter().say
    report = measure(setting, chosen, rounds=rounds, say=say)
    files = _write(out, report.to_data(), svg(report))
    return Answer({**report.to_data(), "files": files}, table(report), note=f"\nthe picture: {files['svg']}")


def _check_data(train: str | None, like: str | None, columns: dict[str, str | None]) -> None:
    """Refuse options for data that are not read."""
    if train is not None and like is not None:
        raise ConfigError([f"like: {like!r} is only used without --train"], "leave one of them out")
    if train is None and (
        odd := [f"{name}: {value!r} is only used with --train" for name, value in columns.items() if value]
    ):
        raise ConfigError(odd, "add --train with a data file, or leave it out")


def _check(name: str, value: str, legal: tuple[str, ...]) -> None:
    if value not in legal:
        raise ConfigError([f"{name}: {value!r}"], did_you_mean(value, legal))


def split_plans(text: str) -> list[str]:
    """Split plans at commas; those inside brackets belong to a plan's options."""
    return [part.strip() for part in re.split(r",(?![^()]*\))", text) if part.strip()]


def _setting(
    model: str,
    train: str | None,
    like: str,
    data: dict[str, Any],
    wanted: str | None,
    batch_size: int,
    batches: int,
    bf16: bool,
    device: str,
    threads: int | None,
) -> BenchSetting:
    import numpy as np
    import torch

    from stratatune.data.batching import pad_id
    from stratatune.shapes.configs import config_of
    from stratatune.shapes.sizes import shape_of
    from stratatune.studies.bench.arms import BenchSetting, lengths_like, random_data
    from stratatune.studies.bench.bench import objective_of
    from stratatune.studies.encoded import settled

    if threads:
        torch.set_num_threads(threads)
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(["device: 'cuda' is not available on this machine"], "use --device cpu")
    config = dict(config_of(model))
    shape = shape_of(config)
    here = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    if train is None and wanted and "(" in wanted:
        raise ConfigError([f"objective: {wanted!r}"], "its options need your own data: --train FILE")
    objective = objective_of(config, [data["plan"]], wanted) if data["plan"] else wanted
    data["objective"] = wanted or objective
    own = None if train is None else settled(train, model=model, **data)
    how = {"batch_size": batch_size, "bf16": bf16, "timed": batches, "device": here, "objective": objective}
    # Label words are in a prompt, or in branches after a text, which no stock arm reads.
    if own and wanted and not (own.objective.today or sum(own.objective.branches)):
        return BenchSetting(config, own.train, **how, own=(own.objective, own.train), pad=pad_id(own.tokenizer))
    lengths = own.train.lengths if own else lengths_like(like, _EXAMPLES)
    texts = random_data(np.minimum(lengths, shape.max_tokens), shape.vocab, at_end=shape.read_at_end)
    return BenchSetting(config, texts, **how)


def _write(out: Path, data: dict[str, Any], picture: str) -> dict[str, str]:
    make_folder(out)
    write_text(out / "bench.json", json.dumps(data, indent=2) + "\n")
    write_text(out / "bench.svg", picture + "\n")
    return {"json": str(out / "bench.json"), "svg": str(out / "bench.svg")}


def table(report: BenchReport) -> str:
    """A table of an epoch of each way, measured and predicted, with the baselines as multiples of each plan's time."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from stratatune.costs.cost import ARMS
    from stratatune.studies.bench.bench import EPOCHS

    padding = ", ".join(f"{name} {ratio:.2f}x" for name, ratio in report.padding.items())
    shown = Table(
        title=f"{report.model}: {report.examples:,} examples of {report.tokens:.0f} tokens; padding: {padding}",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    shown.add_column("way")
    for name in (
        "epoch, s",
        "predicted",
        f"{EPOCHS} epochs, s",
        "predicted",
        *(f"vs {arm}" for arm in ARMS),
        "kept a step",
    ):
        shown.add_column(name, justify="right")
    for way in report.ways:
        ratios = (report.ratio(way.name, arm) for arm in ARMS)
        thought = (report.ratio(way.name, arm, predicted=True) for arm in ARMS)
        shown.add_row(
            way.name,
            f"{way.seconds:,.3g}",
            f"{way.predicted:,.3g}",
            f"{way.epochs(EPOCHS):,.3g}",
            f"{way.epochs(EPOCHS, predicted=True):,.3g}",
            *(f"{one:.2f}x ({other:.2f})" for one, other in zip(ratios, thought, strict=True)),
            f"{way.saved_bytes / 1e6:,.0f} MB",
        )
    console = Console(width=150, no_color=True)
    with console.capture() as captured:
        console.print(shown)
        for name, what in ARMS.items():
            console.print(f"{name}: {what}", highlight=False)
        console.print("floor: the frozen model once, and ridge regression on its mean states", highlight=False)
        console.print("vs: the time of A, B, C or F over that of an epoch from the cache (predicted)", highlight=False)
    return captured.get().rstrip()
