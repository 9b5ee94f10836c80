"""The interface of a source that fills a trunk cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from stratatune.cache.feed import Feed
from stratatune.data.batching import divided, plan_batches
from stratatune.data.encoded import Encoded


class TrunkSource(Protocol):
    """Runs the trunk over a whole data set.

    Attributes:
        digest: joins a cache's key; empty where the numbers are those of the trunk in memory.
    """

    digest: str

    def fill(
        self,
        feed: Feed,
        data: Encoded,
        pad_id: int,
        advance: Callable[[int], object],
        batches: Sequence[np.ndarray] | None = None,
    ) -> None:
        """Run over everything that the cache of ``feed`` still lacks, the longest examples first.

        Args:
            feed: has a cache.
            data: all of its examples.
            pad_id: fills a batch's shorter rows.
            advance: called with how many examples were done.
            batches: those of :func:`building_batches` that are wanted, examples [B] each; None: all.
        """
        ...


def building_batches(data: Encoded, batch_size: int = 64) -> list[np.ndarray]:
    """The batches in which the trunk runs over a whole data set: each distinct text once, the longest first."""
    first = data.distinct.first
    batches = plan_batches(data.lengths[first], batch_size=batch_size, seed=0, epoch=0, shuffle=False)
    return divided([first[index] for index in batches], data.lengths)
