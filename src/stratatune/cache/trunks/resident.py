"""``resident``: the trunk is in memory, and runs batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from stratatune.cache.feed import Feed
from stratatune.cache.trunks.source import building_batches
from stratatune.data.batching import collate
from stratatune.data.encoded import Encoded


class Resident:
    """A trunk in memory; see :class:`stratatune.cache.trunks.source.TrunkSource`.

    Args:
        device: where it is.
    """

    digest = ""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def fill(
        self,
        feed: Feed,
        data: Encoded,
        pad_id: int,
        advance: Callable[[int], object],
        batches: Sequence[np.ndarray] | None = None,
    ) -> None:
        """Run each batch through all blocks."""
        assert feed.cache is not None
        for index in building_batches(data) if batches is None else batches:
            # A batch with one example missing is run as a whole: its other rows are ignored when they are put.
            if not feed.cache.has(index).all():
                feed.hidden(collate(data, index, pad_id).to(self.device))
            advance(len(index))
        feed.flush()
