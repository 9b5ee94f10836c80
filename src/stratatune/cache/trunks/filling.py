"""Fill a trunk cache from the source that its trunk has."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import numpy as np
import torch

from stratatune.cache.feed import Feed
from stratatune.cache.siblings import adopt, copy_rows, filling, marks_of, write_marks
from stratatune.cache.store import TrunkCache
from stratatune.cache.trunks.resident import Resident
from stratatune.cache.trunks.source import TrunkSource
from stratatune.cache.trunks.streamed import Streamed
from stratatune.data.batching import collate
from stratatune.data.encoded import Encoded
from stratatune.errors import ResourceError
from stratatune.model.split import Trunk
from stratatune.model.unread import Unread

_AT_ONCE = 64
"""Texts in a batch."""


def source_of(feed: Feed, device: torch.device) -> TrunkSource:
    """Return the trunk of ``feed``: in memory, or in its checkpoint."""
    unread = Unread.of(feed.trunk.attached.backbone.model) if isinstance(feed.trunk, Trunk) else None
    return Resident(device) if unread is None else Streamed(unread, unread.wave_bytes, device)


def fill(
    feed: Feed,
    data: Encoded,
    pad_id: int,
    device: torch.device,
    advance: Callable[[int], object],
    batches: Sequence[np.ndarray] | None = None,
) -> None:
    """Run the trunk over everything that the cache of ``feed`` still lacks, or over ``batches`` of it."""
    source_of(feed, device).fill(feed, data, pad_id, advance, batches)


def runs_first(feed: Feed, data: Encoded) -> bool:
    """Whether the trunk should run over the distinct texts of ``data`` before batches are needed.

    A batch with one text missing is run as a whole, so where many texts are equal the others would run again.
    """
    cache = feed.cache
    return data.distinct.many and cache is not None and cache.writable and not cache.complete


def take_rows(feed: Feed, data: Encoded, other: TrunkCache | None, theirs: Encoded) -> bool:
    """Copy into the cache of ``feed`` the rows of texts of ``data`` that another cache of the same run has.

    Returns whether there were any.
    """
    cache = feed.cache
    if cache is None or other is None or other is cache or not cache.writable or cache.complete:
        return False
    positions, before = cache.key.positions, cache.missing()
    # Where the disk is full, what computes the rows says so, and goes on.
    with contextlib.suppress(ResourceError):
        marks, known = marks_of(data, positions), marks_of(theirs, positions)
        copy_rows(cache, marks, data.distinct.first, other, known, theirs.distinct.first)
    return cache.missing() < before


def fill_missing(feed: Feed, data: Encoded, pad_id: int, device: torch.device) -> None:
    """Run the trunk over the texts that the cache of ``feed`` lacks, in batches of these alone."""
    assert feed.cache is not None
    first = data.distinct.first
    missing = first[~feed.cache.has(first)]
    missing = missing[np.argsort(data.lengths[missing], kind="stable")]
    for start in range(0, len(missing), _AT_ONCE):
        feed.hidden(collate(data, missing[start : start + _AT_ONCE], pad_id).to(device))
    feed.flush()


def fill_pooled(feed: Feed, data: Encoded, pad_id: int, device: torch.device) -> int:
    """Fill the cache, with rows from other caches next to it; returns the number of texts taken from those.

    One process at a time does this under one folder, so that together they run the trunk once for each text. For that
    the cache is opened within the same :func:`~stratatune.cache.siblings.filling`: its writer would otherwise hold a
    cache that it has yet to fill, and another process that comes first could keep nothing.
    """
    cache = feed.cache
    if cache is None or cache.folder is None:
        fill(feed, data, pad_id, device, lambda examples: None)
        return 0
    with filling(cache.folder.parent):
        if not cache.writable:
            # The process that writes this very cache has filled it while this one waited for its turn. If not, nothing
            # can be kept, and the trunk runs when needed.
            cache.refresh(verify=True)
            return 0
        marks = marks_of(data, cache.key.positions)
        first = data.distinct.first
        write_marks(cache, marks, data.lengths[first])
        taken = adopt(cache, marks, first)
        fill_missing(feed, data, pad_id, device)
    return taken
