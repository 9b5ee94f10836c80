"""A recipe of short runs on a tiny model, and an engine without processes, for the tests of grids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

import tiny
from stratatune.studies.grid.engines import Job, Outcome
from stratatune.studies.grid.worker import work

GOOD, BAD = "a very good film and a great story", "a very poor film and a sad story"
TEXTS = [
    (GOOD, "positive"),
    (BAD, "negative"),
    (f"she likes it , {GOOD}", "positive"),
    (f"he hates it , {BAD}", "negative"),
]


def write_recipe(folder: Path, **changes: Any) -> Path:
    """A recipe with its data and its model in ``folder``: two plans at one depth, two seeds, unless changed."""
    data, model = folder / "data", folder / "models" / "tiny"
    if not model.exists():
        data.mkdir(parents=True)
        lines = ["text,label", *(f'"{text}",{label}' for text, label in TEXTS * 4)]
        (data / "train.csv").write_text("\n".join(lines) + "\n")
        (data / "dev.csv").write_text("\n".join(lines[:9]) + "\n")
        tiny.save_tiny(model, "bert", "mlm")
    base = {"train": "{data}/train.csv", "eval": "{data}/dev.csv", "text": "text", "label": "label"}
    base |= {"epochs": 1, "batch_size": 8, "device": "cpu"}
    recipe = {
        **{"title": "tiny", "data": {"data": "data", "models": "models"}},
        **{"models": ["{models}/tiny"], "plans": ["bft-adapter@2", "lpt@2"], "seeds": [0, 1]},
        **changes,
        "base": {**base, **changes.get("base", {})},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def epochs_of(run: Path) -> list[int]:
    """The epochs that a run folder's log has, each once unless one was trained twice."""
    return [json.loads(line)["epoch"] for line in (run / "metrics.jsonl").read_text().splitlines()]


class Inline:
    """Does a grid's jobs in this process, one after the other: for tests of what a grid asks for and leaves.

    Processes, and what kills them, are the matter of ``tests/studies/grid``.
    """

    slots = 1

    def __init__(self, jobs: int | None = None) -> None:
        self._job: Job = {}

    def start(self, job: Job) -> None:
        self._job = job

    def wait(self) -> Outcome:
        return work(dict(self._job))

    def stop(self) -> None:
        """Nothing is under way between two calls."""
