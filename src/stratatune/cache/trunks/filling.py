"""A trunk cache filled from whatever source its trunk has."""

from __future__ import annotations

from collections.abc import Callable

import torch

from stratatune.cache.feed import Feed
from stratatune.cache.trunks.resident import Resident
from stratatune.cache.trunks.source import TrunkSource
from stratatune.cache.trunks.streamed import Streamed
from stratatune.data.encode import Encoded
from stratatune.model.split import Trunk
from stratatune.model.unread import Unread


def source_of(feed: Feed, device: torch.device) -> TrunkSource:
    """The trunk behind ``feed``: in memory, or in its checkpoint."""
    unread = Unread.of(feed.trunk.attached.backbone.model) if isinstance(feed.trunk, Trunk) else None
    return Resident(device) if unread is None else Streamed(unread, unread.wave_bytes, device)


def fill(feed: Feed, data: Encoded, pad_id: int, device: torch.device, advance: Callable[[int], object]) -> None:
    """Run the trunk over everything that the cache behind ``feed`` still lacks."""
    source_of(feed, device).fill(feed, data, pad_id, advance)
