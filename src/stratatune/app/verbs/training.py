"""``stratatune train``: train a plan."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from stratatune.app.door import Answer, Door, verb
from stratatune.app.run_options import run_options
from stratatune.errors import counted

if TYPE_CHECKING:
    from stratatune.training.config import RunConfig
    from stratatune.training.run import Result


@verb(interrupted="add --resume to the same command to continue from the last checkpoint", settings=run_options)
def train(door: Door, settings: RunConfig) -> Answer:
    """Train a plan on labelled text; the trained adapter, its scores and its settings go into the run folder."""
    from stratatune.app.run_report import leave_report
    from stratatune.progress import is_main
    from stratatune.studies.suggest.auto import train

    reporter = door.reporter()
    result = train(settings, reporter=reporter)
    if is_main():
        leave_report(result.out, reporter)
    return Answer(result.to_json(), note=summary(result))


def summary(result: Result) -> str:
    """The result of a run, the reasons for its speed, and commands to type next."""
    lines = {
        "score": _metrics(result.best) + f"  (epoch {result.best_epoch} of {result.epochs})"
        if result.best
        else "not evaluated; --eval FILE gives a score",
        "test": _metrics(result.test),
        "time": _time(result),
        "why fast": _why(result),
        "saved": f"{Path(result.out) / 'adapter'}  ({result.trainable:,} of {result.total:,} parameters)",
        "next": f"stratatune predict {shlex.quote(result.out)} --data FILE --out predictions.csv",
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
    """The work that was spared, in one line."""
    from stratatune.training.result import found_trunk

    blocks = result.frozen_depth + result.backprop_blocks
    backward = f"backward through {result.backprop_blocks} of {blocks} blocks"
    if not result.frozen_depth:
        return f"{backward}: this plan trains the lowest block, so there is nothing to cache"
    below = result.frozen_depth if result.cached_depth is None else result.cached_depth
    again = result.frozen_depth - below
    beside = f"; {counted(again, 'frozen block')} of the decoder ran in every step" if again else ""
    if found_trunk(result.cache_hit, result.seconds):
        return f"{backward}; the {below} below never ran: their output was in the trunk cache{beside}"
    if result.seconds["cache"] and not any(notice.startswith("no trunk cache") for notice in result.notices):
        return f"{backward}; the {below} below ran once for each example{beside}"
    return f"{backward}; no trunk cache, so the {result.frozen_depth} below ran each epoch"
