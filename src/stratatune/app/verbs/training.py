"""``stratatune train``, and the options that say what a run is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stratatune.app.door import Answer, Door, verb

if TYPE_CHECKING:
    from stratatune.training.config import RunConfig
    from stratatune.training.run import Result

_MODEL, _DATA, _OPTIMISER, _MACHINE = "Model and plan", "Data", "Training", "Machine"


def _option(panel: str, meaning: str, metavar: str) -> Any:
    return typer.Option(help=meaning, metavar=metavar, rich_help_panel=panel, show_default=False)


def run_settings(
    file: Annotated[
        Path | None, typer.Argument(metavar="RUN.yaml", help="Settings; options below win over it.", show_default=False)
    ] = None,
    model: Annotated[str | None, _option(_MODEL, "The base model: a hub id or a folder.", "M")] = None,
    plan: Annotated[str | None, _option(_MODEL, "A preset's name or a plan's text.", "PLAN")] = None,
    objective: Annotated[
        str | None, _option(_MODEL, "auto, mlm, classification, regression, causal, completion or seq2seq.", "WORD")
    ] = None,
    template: Annotated[
        str | None, _option(_MODEL, "mlm: a template's name, or text with {a} and <mask>.", "TEXT")
    ] = None,
    label_words: Annotated[str | None, _option(_MODEL, "mlm: a word for each label.", "LABEL=WORD,...")] = None,
    max_length: Annotated[int | None, _option(_MODEL, "Tokens at most in an example.", "N")] = None,
    train: Annotated[str | None, _option(_DATA, "Training data: a file, a folder or a hub id.", "FILE")] = None,
    eval: Annotated[str | None, _option(_DATA, "Evaluation data.", "FILE")] = None,
    test: Annotated[str | None, _option(_DATA, "Test data, scored once at the end.", "FILE")] = None,
    task: Annotated[str | None, _option(_DATA, "A named task (`stratatune list tasks`).", "TASK")] = None,
    text: Annotated[str | None, _option(_DATA, "The text column, or two.", "COL[,COL]")] = None,
    label: Annotated[str | None, _option(_DATA, "The label column.", "COL")] = None,
    bad_rows: Annotated[
        str | None, _option(_DATA, "Rows with a blank text or no label: refuse, skip or empty.", "WORD")
    ] = None,
    delimiter: Annotated[str | None, _option(_DATA, "Between columns of csv and tsv; recognised.", "CHAR")] = None,
    encoding: Annotated[str | None, _option(_DATA, "Of text files; UTF-8 by default.", "NAME")] = None,
    train_samples: Annotated[int | None, _option(_DATA, "Train on this many rows only.", "N")] = None,
    out: Annotated[str | None, _option(_OPTIMISER, "The run folder (runs/latest).", "DIR")] = None,
    epochs: Annotated[int | None, _option(_OPTIMISER, "Passes over the training data.", "N")] = None,
    batch_size: Annotated[int | None, _option(_OPTIMISER, "Examples in a batch.", "N")] = None,
    lr: Annotated[float | None, _option(_OPTIMISER, "Peak learning rate.", "X")] = None,
    seed: Annotated[int | None, _option(_OPTIMISER, "Seeds new weights, order and dropout.", "N")] = None,
    metric: Annotated[str | None, _option(_OPTIMISER, "What decides which epoch is best.", "NAME")] = None,
    early_stopping: Annotated[int | None, _option(_OPTIMISER, "Stop after N evaluations without a gain.", "N")] = None,
    cache: Annotated[str | None, _option(_MACHINE, "The trunk cache: auto, off, ram or a folder.", "WORD|DIR")] = None,
    precision: Annotated[str | None, _option(_MACHINE, "fp32, bf16 or auto.", "WORD")] = None,
    device: Annotated[str | None, _option(_MACHINE, "auto, cpu, cuda or mps.", "WORD")] = None,
    set: Annotated[
        list[str] | None, _option(_MACHINE, "Any setting of RUN.yaml; may be given again.", "NAME=VALUE")
    ] = None,
    resume: Annotated[
        bool | None, typer.Option("--resume", help="Go on from the last checkpoint.", rich_help_panel=_MACHINE)
    ] = None,
) -> RunConfig:
    """The group of options that make a run: the file's settings, over them the options given, over these ``--set``."""
    given = {name: value for name, value in locals().items() if value is not None and name not in ("file", "set")}
    return _config(file, given, set or [])


def _config(file: Path | None, given: dict[str, Any], overrides: list[str]) -> RunConfig:
    from stratatune.training.config import load_config, merge, validate

    if "label_words" in given:
        given["label_words"] = _words(given["label_words"])
    return validate(merge({**(load_config(file) if file else {}), **given}, overrides))


def _words(text: str) -> dict[str, str]:
    """``yes=good,no=bad`` as a mapping.

    Raises:
        ConfigError: a part that is no ``label=word``.
    """
    from stratatune.errors import ConfigError

    pairs = [part.partition("=") for part in text.split(",")]
    odd = [f"label_words: {label!r} has no word" for label, _, word in pairs if not (label.strip() and word.strip())]
    if odd:
        raise ConfigError(odd, "write --label-words yes=good,no=bad")
    return {label.strip(): word.strip() for label, _, word in pairs}


@verb(interrupted="the same command with --resume goes on from the last checkpoint", settings=run_settings)
def train(door: Door, settings: RunConfig) -> Answer:
    """Train a plan on labelled text; the trained adapter, its scores and its settings go into the run folder."""
    from stratatune.app.reporting import leave_report
    from stratatune.progress import is_main
    from stratatune.training.run import train

    reporter = door.reporter()
    result = train(settings, reporter=reporter)
    if is_main():
        leave_report(result.out, reporter)
    return Answer(result.to_json(), note=summary(result))


def summary(result: Result) -> str:
    """What a run came to, why it was as fast as it was, and what to type next."""
    lines = {
        "score": _metrics(result.best) + f"  (epoch {result.best_epoch} of {result.epochs})"
        if result.best
        else "not evaluated; --eval FILE gives a score",
        "test": _metrics(result.test),
        "time": _time(result),
        "why fast": _why(result),
        "saved": f"{Path(result.out) / 'adapter'}  ({result.trainable:,} of {result.total:,} parameters)",
        "next": f"stratatune predict {result.out} --data FILE --out predictions.csv",
    }
    return "\n".join(("", *(f"{name:<9} {line}" for name, line in lines.items() if line)))


def _metrics(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())


def _time(result: Result) -> str:
    spent = result.seconds
    return (
        f"{spent['cache']:.1f} s trunk, {spent['train']:.1f} s training, {spent['eval']:.1f} s evaluation; "
        f"{result.tokens_per_second:,.0f} tokens/s; peak memory {result.peak_memory_bytes / 2**30:.2f} GiB"
    )


def _why(result: Result) -> str:
    """What was spared, in one line."""
    blocks = result.frozen_depth + result.backprop_blocks
    backward = f"backward through {result.backprop_blocks} of {blocks} blocks"
    if not result.frozen_depth:
        return f"{backward}: this plan trains at the bottom, so nothing is spared"
    if result.cache_hit:
        return f"{backward}; the {result.frozen_depth} below never ran: all of it was in the trunk cache"
    if result.seconds["cache"] and not any(notice.startswith("no trunk cache") for notice in result.notices):
        return f"{backward}; the {result.frozen_depth} below ran once for each example"
    return f"{backward}; no trunk cache, so the {result.frozen_depth} below ran each epoch"
