"""A grid of two plans on two tasks with three seeds, made by hand: its numbers can be checked by hand too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stratatune.studies.grid.recipe import Recipe, recipe_of
from stratatune.studies.grid.records import RunRecord

SCORES = {
    ("bft@1/2", "trec"): (0.90, 0.92, 0.94),
    ("lpt@1/2", "trec"): (0.80, 0.81, 0.85),
    ("bft@1/2", "rte"): (0.60, 0.66, 0.63),
    ("lpt@1/2", "rte"): (0.61, 0.60, 0.65),
}
RECIPE: dict[str, Any] = {
    "title": "Two plans & two tasks",
    "about": "Made by hand <b>for</b> the tests.",
    "paper": "BFT, table 2",
    "models": ["models/tiny"],
    "plans": ["bft@1/2", "lpt@1/2"],
    "tasks": ["trec", "rte"],
    "seeds": [0, 1, 2],
    "published": [
        {"plan": "bft@1/2", "task": "trec", "value": 92.5, "note": "The paper's model is larger."},
        {"plan": "lpt@1/2", "task": "trec", "value": 94.67},
    ],
    "claims": [
        {
            "text": "BFT is better on TREC",
            "better": {"plan": "bft@1/2", "task": "trec"},
            "worse": {"plan": "lpt@1/2", "task": "trec"},
        },
        {
            "text": "LPT is better on TREC",
            "better": {"plan": "lpt@1/2", "task": "trec"},
            "worse": {"plan": "bft@1/2", "task": "trec"},
        },
        {
            "text": "BFT is better on RTE",
            "better": {"plan": "bft@1/2", "task": "rte"},
            "worse": {"plan": "lpt@1/2", "task": "rte"},
        },
    ],
}


def result(score: float, plan: str) -> dict[str, Any]:
    """What a run of ``plan`` with this accuracy came to."""
    return {
        **{"out": "x", "plan": plan, "objective": "mlm", "frozen_depth": 12, "backprop_blocks": 12},
        **{
            "trainable": 1_893_593 if plan.startswith("bft") else 791_680,
            "total": 355_000_000,
            "best": {"accuracy": score},
        },
        **{"best_epoch": 2, "test": {}, "epochs": 3, "seconds": {"cache": 2.0, "train": 6.0, "eval": 1.0}},
        **{
            "tokens_per_second": 1000.0,
            "peak_memory_bytes": 800_000_000,
            "cache_hit": False,
            "labels": [],
            "notices": [],
        },
    }


def record(plan: str, task: str, seed: int, **changes: Any) -> RunRecord:
    """A run that is done, unless ``changes`` say otherwise."""
    score = SCORES[plan, task][seed]
    steps = [{"epoch": n, "step": 10 * n, "train_loss": 3.0 / n, "eval_accuracy": score * n / 3} for n in (1, 2, 3)]
    values: dict[str, Any] = {
        "id": f"{list(SCORES).index((plan, task)):08d}{seed:08d}",
        "config": {
            "model": "roberta-large",
            "plan": plan,
            "task": task,
            "train": "data",
            "seed": seed,
            "cache": "auto",
        },
        "status": "done",
        "coordinates": {"model": "roberta-large", "task": task, "plan": plan, "seed": seed},
        "result": result(score, plan),
        "history": steps,
        "environment": {"python": "3.11", "libraries": {"torch": "2.13.0"}},
        "error": None,
        "folder": Path("grid") / "runs" / "x",
        "command": "stratatune train grid/runs/x/config.yaml --out NEW",
    }
    return RunRecord(**{**values, **changes})


@pytest.fixture
def recipe() -> Recipe:
    return recipe_of({**RECIPE, "models": ["roberta-large"]}, "by hand")


@pytest.fixture
def records() -> list[RunRecord]:
    """All done."""
    return [record(plan, task, seed) for plan, task in SCORES for seed in range(3)]


@pytest.fixture
def unfinished(records: list[RunRecord]) -> list[RunRecord]:
    """One failed, one still waiting."""
    failed = record(
        "lpt@1/2", "rte", 2, status="failed", result=None, history=[], error="ResourceError: out of <memory>"
    )
    waiting = record("lpt@1/2", "rte", 1, status="waiting", result=None, history=[], environment={})
    return [*records[:-2], waiting, failed]
