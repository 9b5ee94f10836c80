"""``--cache auto``: what it chooses and says, and that a disk that fills up does not stop a run."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch

from stratatune.cache import shards
from stratatune.cache.feed import Feed
from stratatune.cache.folders import list_caches
from stratatune.cache.policy import Need, Room, choose, mean_passes, passes_of
from stratatune.model.saving import read_tensors
from stratatune.progress import Reporter
from stratatune.training import cache_policy as automatic
from stratatune.training import caching
from stratatune.training.cache_policy import disk_speed, free_memory
from stratatune.training.checkpoint import saved_settings
from stratatune.training.run import train

GB = 10**9
NEED = Need(values=GB, passes=10, trunk_seconds=100.0, dtypes=("bf16", "int8"))
ROOM = Room(limit=10 * GB, disk=100 * GB, memory=16 * GB, disk_speed=0.5e9)


def tensors(result):
    return read_tensors(Path(result.out) / "adapter")


def same_bits(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


# ---- the choice ----


@pytest.mark.parametrize(
    ("need", "room", "place", "dtype", "says"),
    [
        (
            {},
            {},
            "disk",
            "bf16",
            "bf16 on disk: a pass of the trunk takes 100 s, reading 2.0 GB 1 s; about 887 s saved",
        ),
        ({}, {"disk": GB // 100}, "ram", "bf16", "in memory, as the disk has no room"),
        ({}, {"disk": 0, "disk_speed": 0}, "ram", "bf16", "in memory, as its folder cannot be written to"),
        ({}, {"disk": 2 * GB, "memory": 3 * GB}, "disk", "int8", "int8 on disk, as bf16 does not fit"),
        ({}, {"disk": 0, "memory": 3 * GB}, "ram", "int8", "int8 in memory"),
        ({}, {"limit": GB}, "disk", "int8", "int8 on disk"),
        ({"dtypes": ("bf16",)}, {"limit": GB}, "none", "bf16", "2.0 GB in bf16 do not fit (limit 1.0 GB, "),
        ({}, {"disk": GB // 2, "memory": GB}, "none", "bf16", "1.0 GB in int8 do not fit"),
        ({"passes": 1}, {}, "none", "bf16", "uses each hidden state only once"),
        (
            {"trunk_seconds": 0.5},
            {},
            "none",
            "bf16",
            "the trunk takes 0.5 s a pass, reading 2.0 GB 1 s and writing 4 s",
        ),
        ({"trunk_seconds": 3.0}, {"memory": GB}, "none", "bf16", "reading 2.0 GB 4 s and writing 4 s"),
        ({"passes": 1.5, "trunk_seconds": 5.0}, {}, "none", "bf16", "writing 4 s"),
    ],
)
def test_what_is_chosen_and_why(need, room, place, dtype, says):
    choice = choose(Need(**{**vars(NEED), **need}), Room(**{**vars(ROOM), **room}))
    assert (choice.place, choice.dtype) == (place, dtype)
    assert says in choice.why and "\n" not in choice.why
    assert choice.why.startswith("no trunk cache" if place == "none" else "trunk cache")


def test_how_often_data_are_asked_for():
    assert [passes_of(name, 10, 3) for name in ("training", "evaluation", "test")] == [10, 5, 1]
    assert mean_passes([(30, 2), (10, 6)]) == 3 and mean_passes([]) == 0


def test_this_machine(tmp_path):
    assert 0 < free_memory() < 10**15
    assert disk_speed(tmp_path / "new") > 1e5
    (tmp_path / "file").touch()
    assert disk_speed(tmp_path / "file") == 0


def test_the_disk_is_measured_once_a_week(tmp_path, monkeypatch):
    measured = []
    monkeypatch.setattr(automatic, "_measured_speed", lambda root: measured.append(root) or 1e6 * len(measured))
    assert [disk_speed(tmp_path) for _ in range(3)] == [1e6] * 3
    (note,) = tmp_path.iterdir()
    assert list_caches(tmp_path) == []
    week = json.loads(note.read_text())
    note.write_text(json.dumps({**week, "measured": week["measured"] - 8 * 86_400}))
    assert disk_speed(tmp_path) == 2e6
    for count, damaged in enumerate(("", "[]", '{"bytes_per_second": "x", "measured": 0}', "{", "null"), start=3):
        note.write_text(damaged)
        assert disk_speed(tmp_path) == 1e6 * count


# ---- in a run ----


@pytest.fixture
def said(settings, monkeypatch, tmp_path, capsys):
    """Gives ``said(room, **changes)``: the result of an automatic run on a machine of ``room``, and what it said."""
    monkeypatch.setenv("STRATATUNE_CACHE", str(tmp_path / "root"))
    monkeypatch.setattr(automatic, "_pace", lambda *_: 1.0)  # a trunk so slow that a cache always pays

    def start(room=None, **changes):
        monkeypatch.setattr(caching, "room_for", lambda *_: Room(**{**vars(ROOM), **(room or {})}))
        reporter = Reporter()
        result = train(settings(**{"cache": "auto", "epochs": 3, **changes}), reporter=reporter)
        lines = [line for line in capsys.readouterr().err.splitlines() if "trunk cache" in line]
        return result, lines

    return start


def test_on_disk_and_found_by_the_next_run(said, tmp_path):
    _, lines = said()
    assert lines[0].startswith("trunk cache: fp32 on disk: a pass of the trunk takes")
    assert len(list((tmp_path / "root").iterdir())) == 2
    again, lines = said(out=str(tmp_path / "again"), epochs=1)
    assert again.cache_hit and lines[0].startswith("trunk cache: fp32 on disk, continued from an earlier run")


def test_in_memory_where_the_disk_has_no_room(said, tmp_path):
    on_disk, _ = said()
    in_memory, lines = said({"disk": 0}, out=str(tmp_path / "memory"), template="{a} <mask> .")
    assert lines[0].startswith("trunk cache: fp32 in memory") and len(list((tmp_path / "root").iterdir())) == 2
    assert in_memory.best.keys() == on_disk.best.keys()


def test_int8_where_nothing_else_fits_and_the_same_when_resumed(said, tmp_path, monkeypatch):
    said(out=str(tmp_path / "wide"))
    size = sum(path.stat().st_size for path in (tmp_path / "root").glob("*/*.bin"))
    small = {"limit": size // 3}
    monkeypatch.setenv("STRATATUNE_CACHE", str(tmp_path / "other"))
    plain, left = Feed.hidden, [9]

    def hidden(self, *given):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return plain(self, *given)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Feed, "hidden", hidden)
        said(small, checkpoint_every=1)
    assert (saved_settings(tmp_path / "run") or {})["cache_dtype"] == "int8"
    resumed, lines = said({}, resume=True, checkpoint_every=1)
    assert "int8 on disk" in lines[0], "by now all would fit, but the run began in int8"
    with monkeypatch.context() as patch:
        patch.setenv("STRATATUNE_CACHE", str(tmp_path / "third"))
        straight, lines = said(small, out=str(tmp_path / "straight"), checkpoint_every=1)
    assert "int8 on disk, as fp32 does not fit" in lines[0]
    assert same_bits(tensors(resumed), tensors(straight))


def test_none_for_one_epoch_without_evaluation_and_what_is_said(said, tmp_path):
    _, lines = said(epochs=1, eval=None)
    assert lines == ["no trunk cache: this run uses each hidden state only once"] and not (tmp_path / "root").exists()


def test_explicit_settings_are_obeyed(said, tmp_path):
    said(cache=str(tmp_path / "mine"), epochs=1, eval=None)
    assert len(list((tmp_path / "mine").iterdir())) == 1
    result, _ = said({"disk": 0, "memory": 0}, cache="ram", cache_dtype="fp16", out=str(tmp_path / "ram"))
    assert not result.notices


def full_after(writes, monkeypatch):
    """From the ``writes``-th shard on the disk has no room."""
    plain, left = shards.write_shard, [writes]

    def write(*arguments):
        if left[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left[0] -= 1
        return plain(*arguments)

    monkeypatch.setattr(shards, "write_shard", write)


@pytest.mark.parametrize("writes", [0, 1, 3])
def test_a_disk_that_fills_up_does_not_stop_an_automatic_run(writes, said, tmp_path, monkeypatch):
    from stratatune.cache.store import TrunkCache

    monkeypatch.setattr(
        TrunkCache.open.__func__, "__kwdefaults__", {"scales": None, "verify": True, "shard_bytes": 4096}
    )
    whole, _ = said()
    monkeypatch.setenv("STRATATUNE_CACHE", str(tmp_path / "full"))
    full_after(writes, monkeypatch)
    result, _ = said(out=str(tmp_path / "filled"))
    told = [line for line in result.notices if "No space left on device" in line]
    assert told and all("what is remembered stays in use" in line for line in told)
    one, other = tensors(result), tensors(whole)
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=2e-5, rtol=1e-4)
    named, _ = said(out=str(tmp_path / "named"), cache=str(tmp_path / "named-cache"))
    assert any("No space left on device" in line for line in named.notices)
