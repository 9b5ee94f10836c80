"""Kills at every write of a run, of the building of a cache and of a grid's book; counts what did not go on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from faults.benching import make_bench
from stratatune.cache.folders import list_caches, verify_cache
from stratatune.model.saving import read_tensors
from stratatune.studies.grid.records import read_records

HARNESS = Path(__file__).with_name("kills.py")


def campaign(count: int) -> dict[str, Any]:
    """About ``count`` kills, spread over three scenarios and over clean and torn ends."""
    total: dict[str, Any] = {"tried": 0, "lost": [], "believed": [], "slow": 0, "slowest": 0.0, "bad": []}
    with tempfile.TemporaryDirectory() as folder:
        (place := Path(folder) / "bench").mkdir()
        os.environ["STRATATUNE_CACHE"] = str(Path(folder) / "caches")
        bench = make_bench(place)
        config = {"model": str(bench.base), "train": str(bench.data), "eval": str(bench.data), "text": "text"}
        config |= {
            "label": "label",
            "plan": "bft-adapter@2",
            "epochs": max(3, count // 25),
            "checkpoint_every": 1,
            "batch_size": 8,
        }
        parts = [(scenario, torn) for scenario in ("train", "cache", "book") for torn in (False, True)]
        for number, (scenario, torn) in enumerate(parts):
            share = (count - total["tried"]) // (len(parts) - number)
            _scenario(Path(folder) / f"{scenario}-{torn}", scenario, torn, share, config, total)
    return total


def _scenario(
    folder: Path, scenario: str, torn: bool, share: int, config: dict[str, Any], total: dict[str, Any]
) -> None:
    whole = _run(folder / "whole", scenario, [], config, torn)
    events = whole[0]["events"]
    points = list(range(events))[:: max(1, events // max(1, share))][:share]
    for one in _run(folder / "killed", scenario, points, config, torn):
        total["tried"] += one["killed"]
        place = folder / "killed" / f"{one['point']}"
        what = f"{scenario}, torn {torn}, killed at {one['point']} of {events}"
        if one["end"]:
            total["lost"].append(f"{what}: did not go on")
        elif not _same(scenario, place, folder / "whole" / "None"):
            total["believed"].append(f"{what}: went on to something else")


def _run(folder: Path, scenario: str, points: list[int], config: dict[str, Any], torn: bool) -> list[dict[str, Any]]:
    job = {"scenario": scenario, "config": config, "points": points, "torn": torn, "folder": str(folder)}
    done = subprocess.run(
        [sys.executable, str(HARNESS)], input=json.dumps(job), capture_output=True, text=True, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def _same(scenario: str, place: Path, whole: Path) -> bool:
    if scenario == "book":
        return [one.status for one in read_records(place / "grid")[1]] == ["failed"] * 3
    caches = list_caches(place / "cache")
    if not caches or not all(info.complete and not verify_cache(info.folder) for info in caches):
        return False
    if scenario == "cache":
        return len(caches) == len(list_caches(whole / "cache"))
    mine, right = read_tensors(place / "run" / "adapter"), read_tensors(whole / "run" / "adapter")
    return mine.keys() == right.keys() and all(bool((mine[name] == value).all()) for name, value in right.items())
