"""A run and its trunk caches: what another run, a full disk or a lost file makes of them costs time, never the run."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from stratatune.cache.folders import list_caches
from stratatune.errors import ResourceError
from stratatune.model.saving import read_tensors
from stratatune.progress import Reporter
from stratatune.training.build import build_cache

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def caches(tmp_path, monkeypatch):
    """The folder of caches, empty, where ``auto`` and the name find it."""
    monkeypatch.setenv("STRATATUNE_CACHE", str(tmp_path / "caches"))
    return tmp_path / "caches"


def assert_same_tensors(one, other):
    mine, theirs = (read_tensors(Path(result.out) / "adapter") for result in (one, other))
    for name, tensor in mine.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=1e-4, atol=2e-6)


def full(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(100, 100, 0))


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_a_runs_own_caches_do_not_push_each_other_out(run, caches, tmp_path, dtype):
    """A limit that holds both, barely: the second run finds both as the first left them."""
    changes = {"cache": str(caches), "cache_dtype": dtype, "plan": "bft-adapter@2", "epochs": 1}
    run(**changes, out=str(tmp_path / "first"))
    sizes = [info.bytes for info in list_caches(caches)]
    assert len(sizes) == 2
    before = {path: path.stat().st_mtime_ns for path in caches.rglob("shard-*")}
    result = run(**changes, out=str(tmp_path / "second"), cache_limit=f"{int(sum(sizes) * 1.05)}B")
    assert result.cache_hit and before == {path: path.stat().st_mtime_ns for path in caches.rglob("shard-*")}


def test_older_caches_make_room_for_a_runs_own(run, caches, tmp_path):
    changes = {"cache": str(caches), "plan": "bft-adapter@2", "epochs": 1}
    run(**changes, out=str(tmp_path / "old"), max_length=20)
    run(**changes, out=str(tmp_path / "new"))
    old, limit = {info.digest for info in list_caches(caches)}, sum(info.bytes for info in list_caches(caches)) // 2
    run(**changes, out=str(tmp_path / "newest"), max_length=24, cache_limit=f"{int(limit * 1.1)}B")
    left = {info.digest for info in list_caches(caches)}
    assert len(left) == 2 and not left & old


@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_one_file_to_train_and_to_evaluate(run, files, caches, tmp_path, cache):
    both = {"train": str(files / "train.csv"), "eval": str(files / "train.csv"), "test": str(files / "train.csv")}
    result = run(**both, cache="ram" if cache == "ram" else str(caches), out=str(tmp_path / "one"))
    assert not any("another process" in notice for notice in result.notices)
    assert cache == "ram" or [info.complete for info in list_caches(caches)] == [True]
    copy = shutil.copy(files / "train.csv", tmp_path / "copy.csv")
    other = run(**{**both, "eval": str(copy)}, cache="off", out=str(tmp_path / "other"))
    assert result.best == pytest.approx(other.best, abs=1e-6) and result.test == pytest.approx(other.test, abs=1e-6)


@pytest.mark.parametrize("cache", ["auto", "named"])
def test_a_complete_cache_on_a_full_disk(run, caches, tmp_path, monkeypatch, cache):
    changes = {"plan": "bft-adapter@2"}
    whole = run(**changes, cache=str(caches), out=str(tmp_path / "first"))
    full(monkeypatch)
    again = run(**changes, cache="auto" if cache == "auto" else str(caches), out=str(tmp_path / "again"))
    assert again.cache_hit and not any("no room" in notice for notice in again.notices)
    assert_same_tensors(whole, again)


def test_a_cache_that_is_named_on_a_full_disk(run, settings, caches, tmp_path, monkeypatch):
    """In memory where it fits, else the trunk runs; to build one there is an error, as nothing else was asked for."""
    changes = {"plan": "bft-adapter@2"}
    whole = run(**changes, out=str(tmp_path / "first"))
    full(monkeypatch)
    result = run(**changes, cache=str(caches), out=str(tmp_path / "full"))
    assert sum("it is kept in memory" in notice for notice in result.notices) == 2
    assert_same_tensors(whole, result)
    monkeypatch.setattr("stratatune.training.caching.free_memory", lambda: 0)
    none = run(**changes, cache=str(caches), out=str(tmp_path / "none"))
    assert sum("the trunk runs every epoch" in notice for notice in none.notices) == 2
    assert_same_tensors(whole, none)
    with pytest.raises(ResourceError):
        build_cache(settings(**changes, cache=str(caches), out=str(tmp_path / "built")), Reporter(quiet=True))


def test_a_damaged_key_file_does_not_end_a_run(run, caches, tmp_path):
    changes = {"plan": "bft-adapter@2", "cache": str(caches)}
    whole = run(**changes, out=str(tmp_path / "first"))
    for path in caches.glob("*/key.json"):
        path.write_text("{")
    again = run(**changes, out=str(tmp_path / "again"))
    assert sum("rebuilt" in notice for notice in again.notices) == 2 and not again.cache_hit
    assert_same_tensors(whole, again)
    assert all(info.complete for info in list_caches(caches))
