"""Rows of a trunk cache in memory: the number of each example's, and how they are allocated or mapped.

Shapes: `N` examples in all, `B` examples of one call, `D` values in a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stratatune.errors import ResourceError
from stratatune.units import DTYPE_BYTES, readable_size


def rows_per_example(lengths: np.ndarray, positions: str) -> np.ndarray:
    """The number of rows kept of examples of ``lengths`` [N] tokens: every token, or the one read. int64 [N]."""
    lengths = np.asarray(lengths, dtype=np.int64)
    return np.ones_like(lengths) if positions == "read" else lengths


def estimate_bytes(lengths: np.ndarray, width: int, dtype: str, positions: str) -> int:
    """Bytes of a cache's rows, for examples of ``lengths`` [N] tokens and ``width`` values a row."""
    return int(rows_per_example(lengths, positions).sum()) * width * DTYPE_BYTES[dtype]


def numbers(index: np.ndarray | Tensor, count: int) -> np.ndarray:
    """Example numbers [B] as an array; IndexError outside 0..count - 1: a negative one would mean another example."""
    index = np.asarray(index, dtype=np.int64)
    if len(index) and (index.min() < 0 or index.max() >= count):
        raise IndexError(f"examples {index.min()}..{index.max()} of a cache of {count}")
    return index


def ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The numbers start, start + 1, ... of each of B ranges, one range after another. [B], [B] -> [sum counts]."""
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(counts.sum())


def gather(slots: Sequence[Tensor], slot: np.ndarray, first: np.ndarray, counts: np.ndarray) -> Tensor:
    """Rows [sum counts, D] of B > 0 examples: ``counts`` [B] rows each from ``first`` [B] on in slot ``slot`` [B].

    One index_select for each slot, and one that restores the order.
    """
    if (slot == slot[0]).all():
        return slots[slot[0]].index_select(0, torch.from_numpy(ranges(first, counts)))
    # Stable, so that examples of one slot keep the order in which they were requested.
    order = np.argsort(slot, kind="stable")
    at = torch.from_numpy(ranges(first[order], counts[order]))
    ends = np.cumsum(counts[order])
    last = np.flatnonzero(np.diff(slot[order], append=-1))  # the last example of each slot
    parts, begin = [], 0
    for number, end in zip(slot[order][last], ends[last], strict=True):
        parts.append(slots[number].index_select(0, at[begin:end]))
        begin = end
    starts = np.empty_like(ends)
    starts[order] = ends - counts[order]
    return torch.cat(parts).index_select(0, torch.from_numpy(ranges(starts, counts)))


def pad(rows: Tensor, counts: np.ndarray) -> Tensor:
    """Rows [sum counts, D] of B examples as [B, T, D], T the most of any, zeros after an example's last row."""
    longest, width = int(counts.max(initial=0)), rows.shape[1]
    # Nothing to pad: the rows are a view, and no copy is made.
    if (counts == longest).all():
        return rows.view(len(counts), longest, width)
    padded = torch.zeros(len(counts) * longest, width, dtype=rows.dtype)
    padded.index_copy_(0, torch.from_numpy(ranges(np.arange(len(counts)) * longest, counts)), rows)
    return padded.view(len(counts), longest, width)


def allocate(rows: int, width: int, dtype: torch.dtype) -> Tensor:
    """New memory for [rows, D]; ResourceError when there is not enough."""
    try:
        with torch.inference_mode(False):  # else a trunk that puts under inference mode would make it read-only outside
            return torch.empty(rows, width, dtype=dtype)
    except RuntimeError as error:
        need = readable_size(rows * width * dtype.itemsize)
        raise ResourceError(
            f"the trunk cache does not fit in memory: {need} needed", "use --cache DIR or --cache off"
        ) from error


def map_rows(path: Path, rows: int, width: int, dtype: torch.dtype) -> Tensor:
    """A shard's rows [rows, D] as a private memory map: no bytes are read now, no file handle stays open."""
    # mmap refuses a length of zero.
    if rows * width == 0:
        return allocate(rows, width, dtype)
    with torch.inference_mode(False):
        return torch.from_file(str(path), shared=False, size=rows * width, dtype=dtype).view(rows, width)


@dataclass
class Filling:
    """The slot that put() fills: ``used`` of its rows are taken by ``examples``, in that order."""

    slot: int
    rows: Tensor
    used: int = 0
    clipped: int = 0
    examples: list[np.ndarray] = field(default_factory=list)
