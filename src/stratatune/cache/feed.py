"""The top's input: computed by the trunk, or read from what the trunk computed earlier.

A :class:`Feed` gives the hidden state at the frozen depth for a batch. With a cache it takes what is there and, where
something is missing, runs the trunk once and writes it down, so epoch one trains while it writes.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from stratatune.cache.codec import Codec
from stratatune.cache.on_device import room_on
from stratatune.cache.prefetch import Prefetcher
from stratatune.cache.store import TrunkCache
from stratatune.data.batching import Batch
from stratatune.errors import ResourceError
from stratatune.model.families.last_block import take
from stratatune.model.question import Question
from stratatune.model.split import Trunk

_QUEUED = 16
"""Passes whose times are still to be read: a GPU has long finished the one before them."""
Asking = Callable[[Batch], Question]
"""Turns a batch into an objective's question."""


@dataclass
class FeedClock:
    """The cost of feeding: seconds in the trunk, and how many examples were computed and how many remembered."""

    computed: int = 0
    remembered: int = 0
    _seconds: float = 0.0
    _queued: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = field(default_factory=deque)
    """The begin and the end of passes that a GPU may not have finished."""

    @property
    def trunk_seconds(self) -> float:
        """Seconds in the trunk, once a GPU has finished all of its passes."""
        self._count(0)
        return self._seconds

    @contextlib.contextmanager
    def in_trunk(self, device: torch.device) -> Iterator[None]:
        """Count the time of what runs while this is open; a GPU's own, which is not waited for."""
        if device.type != "cuda":
            started = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - started
            return
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        yield
        end.record()
        self._queued.append((begin, end))
        self._count(_QUEUED)

    def _count(self, left: int) -> None:
        while len(self._queued) > left:
            begin, end = self._queued.popleft()
            end.synchronize()
            self._seconds += begin.elapsed_time(end) / 1000


class Feed:
    """Hidden states at the frozen depth for the batches of one data set.

    Args:
        trunk: the model below the frozen depth.
        cache: remembers what the trunk computed; None: it runs every time.
        one_position: the frozen depth is the model's depth, so only the position read matters and is kept.
        question: makes a batch's question, where the trunk needs it; None: no candidates follow the texts.
        autocast: bf16 or None; the trunk runs in it.
        codec: the precision in which a cache keeps hidden states. They are rounded to it whether a cache is there or
            not, so that cached = uncached, bit for bit; None: the cache's, fp32 without one.
        on_full: called with the reason why a cache can no longer be written; the trunk then runs for what is missing.
            None: that is an error.
    """

    def __init__(
        self,
        trunk: Trunk,
        cache: TrunkCache | None,
        *,
        one_position: bool,
        autocast: torch.dtype | None,
        question: Asking | None = None,
        codec: Codec | None = None,
        on_full: Callable[[ResourceError], None] | None = None,
    ) -> None:
        self.trunk = trunk
        self.cache = cache
        self.one_position = one_position
        self.question = question
        self.autocast = autocast
        self.codec = codec or (Codec() if cache is None else cache.codec)
        self.given = torch.float32  # what blocks without autocast take
        # fp32 that was requested under autocast is returned as fp32, with all of its digits.
        if autocast is not None and self.codec.stored in (autocast, torch.int8):
            self.given = autocast
        self.on_full = on_full
        self.clock = FeedClock()
        self._prefetcher: Prefetcher | None = None

    @contextlib.contextmanager
    def prefetch(self, coming: Sequence[np.ndarray], device: torch.device) -> Iterator[None]:
        """While this is open, coming batches [B] that are remembered are read before hidden() is called for them."""
        self.close()
        if self.cache is not None:
            self._prefetcher = Prefetcher(self._read, self._unpack, coming, device)
        try:
            yield
        finally:
            self.close()

    def close(self) -> None:
        """Stop reading ahead."""
        if self._prefetcher is not None:
            self._prefetcher.close()
            self._prefetcher = None

    @property
    def complete(self) -> bool:
        """Whether everything is remembered, so that the trunk need not run again."""
        return self.cache is not None and self.cache.complete

    def move_to(self, device: torch.device) -> int:
        """Take a complete cache into the memory of ``device`` where it has room; returns the bytes that went there."""
        if self.cache is None or not self.cache.complete or self.cache.resident is not None:
            return 0
        if not 0 < self.cache.bytes <= room_on(device):
            return 0
        self.cache.move_to(device)
        return self.cache.bytes

    def hidden(self, batch: Batch) -> Tensor:
        """The hidden state [B, T, D] (or [B, 1, D] if only the position read matters), on the batch's device."""
        if self.cache is None:
            return self._rounded(self._computed(batch))
        index = batch.index.numpy()
        if self._prefetcher is not None and (read := self._prefetcher.take(index)) is not None:
            self.clock.remembered += len(index)
            return read
        if not self.cache.has(index).all():
            hidden = self._computed(batch)
            self.remember(batch, hidden)
            if not self.cache.has(index).all():  # another run is writing it, or the disk is full
                return self._rounded(hidden)
        else:
            self.clock.remembered += len(index)
        # Read back even what was just computed: every epoch sees the same numbers, and zeros for padding.
        return self._unpack(self.cache.get_padded(index).to(batch.input_ids.device, non_blocking=True))

    def _read(self, index: np.ndarray) -> Tensor | None:
        assert self.cache is not None
        return self.cache.get_padded(index) if self.cache.has(index).all() else None

    def _unpack(self, rows: Tensor) -> Tensor:
        return self.codec.unpack(rows, self.given)

    def _computed(self, batch: Batch) -> Tensor:
        with self.clock.in_trunk(batch.input_ids.device):
            hidden = run_trunk(self.trunk, batch, self.question, one_position=self.one_position, autocast=self.autocast)
        self.clock.computed += len(batch.index)
        return hidden

    def _rounded(self, hidden: Tensor) -> Tensor:
        # Embeddings that train need their gradient, which rounding cuts, so nothing of them is cached.
        return hidden if self.trunk.trains else self.codec.rounded(hidden, self.given)

    def flush(self) -> None:
        """Write the cache's pending rows."""
        if self.cache is not None:
            with self._going_on(self.cache):
                self.cache.flush()

    def remember(self, batch: Batch, hidden: Tensor) -> None:
        """Keep the trunk's output for a batch, where the cache can be written."""
        if self.cache is not None and self.cache.writable:
            with self._going_on(self.cache):
                # On the CPU: rows live there, or on disk, until move_to says otherwise.
                self.cache.put(batch.index.numpy(), real_rows(hidden, batch).cpu())

    @contextlib.contextmanager
    def _going_on(self, cache: TrunkCache) -> Iterator[None]:
        """Let the run go on when the cache can no longer be written; raise if it was requested by name."""
        try:
            yield
        except ResourceError as error:
            if self.on_full is None:
                raise
            # The run is worth more than its cache: what is there is read on, and the trunk runs for the rest.
            cache.stop_writing()
            self.on_full(error)

    def beside(self, cache: TrunkCache) -> Feed:
        """A feed of the same trunk that writes into another cache; both share one clock."""
        found = Feed(
            self.trunk,
            cache,
            one_position=self.one_position,
            autocast=self.autocast,
            question=self.question,
            codec=self.codec,
            on_full=self.on_full,
        )
        found.clock = self.clock
        return found


def run_trunk(
    trunk: Trunk, batch: Batch, question: Asking | None = None, *, one_position: bool, autocast: torch.dtype | None
) -> Tensor:
    """The trunk's output for a batch, unrounded: [B, T, D], or [B, 1, D] when only the position read matters."""
    with torch.autocast(batch.input_ids.device.type, dtype=autocast, enabled=autocast is not None):
        hidden = trunk(batch.input_ids, batch.mask, batch.token_types, question and question(batch))
    return take(hidden, batch.read) if one_position else hidden


def real_rows(hidden: Tensor, batch: Batch) -> Tensor:
    """The rows that a cache keeps of ``hidden`` [B, T, D] or [B, 1, D]: [sum T, D] without padding, or [B, D]."""
    return hidden[:, 0] if hidden.shape[1] == 1 else hidden[batch.mask]
