"""Reading ahead and a cache on the device: the same numbers, sooner; and nothing is left running, whatever happens."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from stratatune.cache import feed as feeds
from stratatune.cache.feed import Feed
from stratatune.cache.keys import CacheKey
from stratatune.cache.prefetch import DEPTH, Prefetcher
from stratatune.cache.store import TrunkCache
from stratatune.errors import CacheError
from stratatune.model.saving import read_tensors

CPU = torch.device("cpu")
LENGTHS = np.random.default_rng(0).integers(1, 9, 40)
FIRST = np.concatenate([[0], np.cumsum(LENGTHS)])
ROWS = torch.randn(int(LENGTHS.sum()), 8, generator=torch.Generator().manual_seed(0))


def tensors(result):
    return read_tensors(Path(result.out) / "adapter")


def same_bits(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def readers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("stratatune-ahead")]


def plain_reads(monkeypatch):
    """Nothing is read ahead any more."""
    monkeypatch.setattr(Prefetcher, "take", lambda self, index: None)


# ---- reading ahead ----


@pytest.mark.parametrize("changes", [{}, {"cache_dtype": "int8"}, {"precision": "bf16"}, {"plan": "head"}])
@pytest.mark.parametrize("place", ["ram", "disk"])
def test_no_number_changes(changes, place, run, tmp_path, monkeypatch):
    def cache(name):
        return str(tmp_path / f"cache-{name}") if place == "disk" else "ram"

    taken, plain = [], Prefetcher.take

    def take(self, index):
        found = plain(self, index)
        taken.append(found is not None)
        return found

    monkeypatch.setattr(Prefetcher, "take", take)
    ahead = run(**changes, epochs=3, cache=cache("ahead"), out=str(tmp_path / "ahead"))
    assert sum(taken) >= 2 * 6, "from the second epoch on every batch is there before it is asked for"
    plain_reads(monkeypatch)
    other = run(**changes, epochs=3, cache=cache("plain"), out=str(tmp_path / "plain"))
    assert same_bits(tensors(ahead), tensors(other)) and ahead.best == other.best
    assert not readers()


def test_a_few_batches_ahead_in_order_and_never_more():
    asked, plan = [], [np.array([n]) for n in range(9)]

    def read(index):
        asked.append(int(index[0]))
        return None if index[0] == 3 else torch.full((1, 2, 4), float(index[0]))

    ahead = Prefetcher(read, lambda rows: rows + 1, plan, CPU)
    for index in plan:
        found = ahead.take(index)
        assert (found is None) == (index[0] == 3), "what is not there is the caller's to compute"
        assert found is None or torch.equal(found, torch.full((1, 2, 4), float(index[0]) + 1))
        assert len(asked) <= index[0] + 1 + DEPTH
    assert ahead.take(np.array([0])) is None and asked == list(range(9))
    ahead.close()
    assert not readers()


def test_another_batch_than_the_next_one_is_not_mistaken_for_it():
    ahead = Prefetcher(lambda index: torch.zeros(1), lambda rows: rows, [np.array([1, 2]), np.array([3])], CPU)
    assert ahead.take(np.array([2, 1])) is None and ahead.take(np.array([1, 2])) is not None
    ahead.close()


@pytest.mark.parametrize("error", [CacheError("gone", "make it again"), OSError("unplugged"), KeyboardInterrupt()])
def test_what_stops_the_reading_stops_the_run_and_the_thread(error, run, tmp_path, monkeypatch):
    cache = str(tmp_path / "cache")
    run(cache=cache, out=str(tmp_path / "first"))

    def broken(self, index):
        raise error

    monkeypatch.setattr(Feed, "_read", broken)
    with pytest.raises(type(error)):
        run(cache=cache, out=str(tmp_path / "second"))
    assert not readers()


def test_a_step_that_fails_stops_the_thread(run, tmp_path, monkeypatch):
    from stratatune.objectives.label_words import LabelWords

    cache = str(tmp_path / "cache")
    run(cache=cache, out=str(tmp_path / "first"))
    plain, left = LabelWords.loss, [4]

    def loss(self, *given, training=True):
        left[0] -= training
        if left[0] == 0:
            assert readers()
            raise KeyboardInterrupt
        return plain(self, *given, training=training)

    monkeypatch.setattr(LabelWords, "loss", loss)
    with pytest.raises(KeyboardInterrupt) as stopped:  # its traceback holds the loop's frames, and the thread must go
        run(cache=cache, out=str(tmp_path / "second"), checkpoint_every=1)
    assert stopped.tb and not readers()
    monkeypatch.setattr(LabelWords, "loss", plain)
    again = run(cache=cache, out=str(tmp_path / "second"), checkpoint_every=1, resume=True)
    assert same_bits(tensors(again), read_tensors(tmp_path / "first" / "adapter"))


# ---- on the device ----


@pytest.mark.parametrize("place", ["ram", "disk"])
@pytest.mark.parametrize("positions", ["all", "read"])
def test_rows_on_the_device_are_the_cache_s(place, positions, tmp_path):
    key = CacheKey("w", "t", "", "d", 8, 2, positions, "bf16", ())
    root = tmp_path if place == "disk" else None
    rows = ROWS if positions == "all" else ROWS[: len(LENGTHS)]
    with TrunkCache.open(root, key, LENGTHS, 8, shard_bytes=256) as cache:
        for part in np.array_split(np.random.default_rng(1).permutation(len(LENGTHS)), 5):
            mine = torch.cat([rows[FIRST[i] : FIRST[i + 1]] if positions == "all" else rows[i : i + 1] for i in part])
            cache.put(part, mine)
        random = np.random.default_rng(2)
        asked = [random.integers(0, len(LENGTHS), 7) for _ in range(20)]
        before = [cache.get_padded(index) for index in asked]
        cache.move_to(CPU)
        assert cache.resident is not None and cache.resident.rows.dtype == torch.bfloat16
        assert all(torch.equal(cache.get_padded(index), rows) for index, rows in zip(asked, before, strict=True))


def test_a_run_takes_its_cache_to_the_device_where_it_fits(run, tmp_path, monkeypatch):
    moved, plain = [], TrunkCache.move_to
    monkeypatch.setattr(TrunkCache, "move_to", lambda self, device: (moved.append(self.bytes), plain(self, device)))
    on_cpu = run(epochs=3, out=str(tmp_path / "away"))
    assert not moved, "a CPU has no memory of its own"
    monkeypatch.setattr(feeds, "room_on", lambda device: 10**9)
    near = run(epochs=3, out=str(tmp_path / "near"))
    assert len(moved) == 2 and same_bits(tensors(near), tensors(on_cpu))
    smaller = min(moved)
    moved.clear()
    monkeypatch.setattr(feeds, "room_on", lambda device: smaller)
    run(epochs=3, out=str(tmp_path / "half"))
    assert moved == [smaller]
