"""Reading the next batches from a cache in a background thread while the current step computes.

The thread draws no random numbers and changes no number: it makes the same requests to the same cache, in the same
order, only earlier. On a GPU what it reads is pinned and copied by a separate stream, during the computation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

DEPTH = 2  # batches ready or under way at a time


class Prefetcher:
    """Reads ``coming`` batches [B] in order, a few before they are needed.

    Args:
        read: the hidden states of a batch as stored, padded [B, T, D]; None when they are not all there.
        unpack: makes values of them, on the device.
        coming: example numbers of the batches that will be read.
        device: where they are to be.
    """

    def __init__(
        self,
        read: Callable[[np.ndarray], Tensor | None],
        unpack: Callable[[Tensor], Tensor],
        coming: Iterable[np.ndarray],
        device: torch.device,
    ) -> None:
        self._read, self._unpack, self._device = read, unpack, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._coming = iter(coming)
        self._ready: deque[tuple[np.ndarray, Future[Tensor | None]]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="stratatune-ahead")
        self._go_on()

    def take(self, index: np.ndarray) -> Tensor | None:
        """The hidden states of the batch ``index`` [B]; None if it is not the next one, or was not complete.

        Raises whatever reading it raised.
        """
        # Not announced: the caller reads it itself.
        if not self._ready or not np.array_equal(self._ready[0][0], index):
            return None
        hidden = self._ready.popleft()[1].result()
        self._go_on()
        if hidden is not None and self._stream is not None:
            now = torch.cuda.current_stream(self._device)
            # The copy may still be under way on the other stream.
            now.wait_stream(self._stream)
            hidden.record_stream(now)  # its memory is not used again before the step that reads it is done
        return hidden

    def close(self) -> None:
        """Stop reading, and wait until the thread has."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._ready.clear()

    def _go_on(self) -> None:
        while len(self._ready) < DEPTH and (index := next(self._coming, None)) is not None:
            self._ready.append((index, self._thread.submit(self._prepare, index)))

    def _prepare(self, index: np.ndarray) -> Tensor | None:
        rows = self._read(index)
        if rows is None:
            return None
        # Rows of a cache on the device come from the computation's own stream, where whatever reads them must be, too.
        if self._stream is None or rows.is_cuda:
            return self._unpack(rows.to(self._device))
        with torch.cuda.stream(self._stream):
            return self._unpack(rows.pin_memory().to(self._device, non_blocking=True))
