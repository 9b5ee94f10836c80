"""Processes that fill trunk caches under one folder run the trunk once for each text, whoever came first."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from stratatune.cache.keys import CacheKey
from stratatune.cache.siblings import filling
from stratatune.cache.store import TrunkCache
from stratatune.cache.trunks.filling import fill_pooled
from stratatune.data.encoded import Encoded

KEY = CacheKey("w", "tok", "", "data", 128, 2, "all", "fp32", (), "tiny")
WIDTH = 4
DATA = Encoded(np.arange(10, dtype=np.int32), None, np.array([0, 2, 5, 10]), np.array([0, 0, 0], np.int32))


class CountingFeed:
    """A feed whose trunk gives ones, and counts its texts."""

    def __init__(self, cache: TrunkCache) -> None:
        self.cache, self.ran = cache, 0
        self.trunk = SimpleNamespace()

    def hidden(self, batch: Any) -> None:
        self.ran += len(batch.index)
        self.cache.put(batch.index, torch.ones(int(DATA.lengths[batch.index].sum()), WIDTH))

    def flush(self) -> None:
        self.cache.flush()


def opened(root) -> TrunkCache:
    return TrunkCache.open(root, KEY, DATA.lengths, WIDTH)


def test_who_waited_for_the_writer_takes_what_it_wrote(tmp_path):
    """The second has opened the cache before the first has written anything, as two jobs of a search do."""
    first, second = CountingFeed(opened(tmp_path)), CountingFeed(opened(tmp_path))
    assert first.cache.writable and not second.cache.writable
    for feed in (first, second):
        fill_pooled(feed, DATA, 0, torch.device("cpu"))  # pyright: ignore[reportArgumentType]
    assert (first.ran, second.ran) == (3, 0)
    assert second.cache.complete and torch.equal(second.cache.get([0, 1, 2]), torch.ones(10, WIDTH))


def test_who_can_keep_nothing_runs_nothing(tmp_path):
    """The writer has yet to fill its cache: what another process ran now would be run once more when it is asked."""
    first, second = CountingFeed(opened(tmp_path)), CountingFeed(opened(tmp_path))
    assert fill_pooled(second, DATA, 0, torch.device("cpu")) == 0  # pyright: ignore[reportArgumentType]
    assert (first.ran, second.ran) == (0, 0)


def test_a_process_takes_its_turn_again_inside(tmp_path):
    feed = None
    with filling(tmp_path):
        feed = CountingFeed(opened(tmp_path))
        fill_pooled(feed, DATA, 0, torch.device("cpu"))  # pyright: ignore[reportArgumentType]
    assert feed.ran == 3


def test_a_damaged_shard_is_not_taken(tmp_path):
    first, second = CountingFeed(opened(tmp_path)), CountingFeed(opened(tmp_path))
    fill_pooled(first, DATA, 0, torch.device("cpu"))  # pyright: ignore[reportArgumentType]
    shards = list(tmp_path.glob("*/shard-*.bin"))
    assert shards
    for shard in shards:
        damaged = bytearray(shard.read_bytes())
        damaged[-1] ^= 1
        shard.write_bytes(damaged)
    fill_pooled(second, DATA, 0, torch.device("cpu"))  # pyright: ignore[reportArgumentType]
    assert not second.cache.complete
    second.cache.close()
    first.cache.close()
    third = CountingFeed(opened(tmp_path))
    fill_pooled(third, DATA, 0, torch.device("cpu"))  # pyright: ignore[reportArgumentType]
    assert third.ran == 3
