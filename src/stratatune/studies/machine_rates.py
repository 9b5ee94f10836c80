"""Rates of this machine: matrix products, and bytes from its disk. Measuring takes about a second."""

from __future__ import annotations

import os
import tempfile
import time
from typing import TYPE_CHECKING

from stratatune.costs.placing import Rates

if TYPE_CHECKING:
    from torch import Tensor

_SIZE, _TIMES = {"cpu": 2048, "cuda": 8192}, 3
"""Rows of the matrices: on a GPU 2048 of them take less time than the call and the reading of a number."""
_BYTES = 128 << 20
_FEWEST = 1 << 20


def measured_rates(*, low: bool) -> Rates:
    """The rates of the fastest device; ``low``: of products in bf16, else in fp32."""
    return Rates(_products(low=low), _disk())


def _products(*, low: bool) -> float:
    """The FLOP/s of a product of two square matrices, the best of several."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = _SIZE[device]
    one = torch.randn(size, size, device=device, dtype=torch.bfloat16 if low else torch.float32)
    best = min(_seconds(one) for _ in range(_TIMES))
    return 2 * size**3 / best


def _seconds(one: Tensor) -> float:
    started = time.perf_counter()
    float((one @ one)[0, 0])  # which waits for a GPU
    return time.perf_counter() - started


def _disk() -> float:
    """The bytes a second of reading a file that was dropped from the page cache, if the system can; else of memory."""
    with tempfile.TemporaryFile() as file:
        file.write(os.urandom(_FEWEST) * (_BYTES // _FEWEST))
        file.flush()
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, _BYTES, os.POSIX_FADV_DONTNEED)
        started = time.perf_counter()
        for place in range(0, _BYTES, _FEWEST):
            os.pread(file.fileno(), _FEWEST, place)
        return _BYTES / (time.perf_counter() - started)
