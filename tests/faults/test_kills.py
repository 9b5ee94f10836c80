"""Killed in front of any write, everything goes on: runs to the same bits, caches and books whole. Long: faults.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import forked
from runs import *  # noqa: F403  (pytest finds fixtures by their names here)
from stratatune.cache.folders import list_caches, verify_cache
from stratatune.model.saving import read_tensors
from stratatune.studies.grid.records import read_records

HANGS = 1800  # seconds after which a process is given up, however slow the machine
SETTINGS = {"plan": "bft-adapter@2", "epochs": 2, "checkpoint_every": 4, "train_samples": 24}
HARNESS = str(Path(__file__).with_name("kills.py"))


@pytest.fixture
def campaign(settings, tmp_path):
    """Gives ``campaign(scenario, points, torn)``: what became of a process killed at each of the points."""

    def run(scenario, points, torn=False):
        config = settings(**SETTINGS).model_dump(mode="json", exclude_unset=True)
        job = {"scenario": scenario, "config": config, "points": points, "torn": torn}
        job["folder"] = str(tmp_path / f"{scenario}-{torn}-{len(points)}")
        out, err = forked.start([HARNESS, json.dumps(job)], tmp_path).communicate(timeout=HANGS)
        found = [json.loads(line) for line in out.splitlines()]
        assert len(found) == len(points or [None]), err[-2000:]
        assert all(one["end"] == 0 for one in found), err[-2000:]
        assert not points or all(one["killed"] for one in found), err[-2000:]
        return Path(job["folder"]), found

    return run


def outcome(folder):
    return read_tensors(folder / "run" / "adapter"), (folder / "run" / "metrics.jsonl").read_text()


@pytest.mark.parametrize("torn", [False, True])
def test_a_run(campaign, torn):
    whole, (counted,) = campaign("train", [])
    events = counted["events"]
    assert events > 40
    folder, found = campaign("train", list(range(1 + torn, events, max(1, events // 9))), torn)
    tensors, log = outcome(whole / "None")
    for one in found:
        mine, own_log = outcome(folder / f"{one['point']}")
        assert own_log == log and mine.keys() == tensors.keys(), one
        assert all(torch.equal(mine[name], tensor) for name, tensor in tensors.items()), one
        place = folder / f"{one['point']}"
        assert not [path for path in place.rglob("*") if path.name.endswith((".part", ".tmp"))], one
        assert all(info.complete and not verify_cache(info.folder) for info in list_caches(place / "cache")), one


@pytest.mark.parametrize("torn", [False, True])
def test_the_building_of_a_cache(campaign, torn):
    _, (counted,) = campaign("cache", [])
    folder, found = campaign("cache", list(range(0, counted["events"], 3)), torn)
    for one in found:
        infos = list_caches(folder / f"{one['point']}" / "cache")
        assert len(infos) == 2 and all(info.complete and not verify_cache(info.folder) for info in infos), one


def test_a_grids_book(campaign):
    _, (counted,) = campaign("book", [])
    assert counted["events"] > 10
    folder, found = campaign("book", list(range(counted["events"])))
    for one in found:
        records = read_records(folder / f"{one['point']}" / "grid")[1]
        assert [record.status for record in records] == ["failed"] * 3, one
