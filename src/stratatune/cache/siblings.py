"""Reuse rows of another cache of the same trunk, so that data sets which share texts run it once for each text.

A search over folds trains on different parts of the same texts. Each part has its own cache, and next to it a mark
for each text: a hash of what the trunk reads of it. A new cache takes the rows of texts that other caches have.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from stratatune.cache.folders import list_caches
from stratatune.cache.keys import CacheKey
from stratatune.cache.store import TrunkCache
from stratatune.data.encoded import Encoded
from stratatune.errors import StratatuneError
from stratatune.files import make_folder, write_bytes
from stratatune.hashing import fast_digest

MARKS = "marks.npy"
_LOCK = ".filling.lock"
_AT_ONCE = 256


def marks_of(data: Encoded, positions: str) -> np.ndarray:
    """A hash of what the trunk reads of each distinct text, uint64 [M], with the position if only that is kept."""
    first = data.distinct.first
    found = np.empty(len(first), np.uint64)
    for place, number in enumerate(first):
        start, end = data.offsets[number : number + 2]
        parts: list[Any] = [data.ids[start:end].tobytes()]
        if data.types is not None:
            parts.append(data.types[start:end].tobytes())
        if positions == "read":
            parts.append(str(int(data.read[number])))
        found[place] = int(fast_digest(parts, bits=64), 16)
    return found


def write_marks(cache: TrunkCache, marks: np.ndarray, lengths: np.ndarray) -> None:
    """Write the marks of a cache on disk, and the tokens of each text, beside its rows."""
    if cache.folder is not None and not (cache.folder / MARKS).is_file():
        held = io.BytesIO()
        np.save(held, np.stack([marks.view(np.int64), lengths.astype(np.int64)]))
        write_bytes(cache.folder / MARKS, held.getvalue())


def adopt(cache: TrunkCache, marks: np.ndarray, first: np.ndarray) -> int:
    """Put rows into ``cache`` that other caches next to it have; returns the number of texts.

    Args:
        cache: the cache.
        marks: those of its texts [M].
        first: an example of each text [M].
    """
    # int8 rows are in the scales of their own training data.
    if cache.folder is None or not cache.writable or cache.key.dtype == "int8":
        return 0
    before = cache.missing()
    for info in list_caches(cache.folder.parent):
        if cache.complete:
            break
        if info.key is not None and info.present and info.folder != cache.folder and _alike(info.key, cache.key):
            with contextlib.suppress(OSError, ValueError, StratatuneError):  # damaged or on its way out
                _take(cache, marks, first, info.folder, info.key)
    return before - cache.missing()


def _alike(one: CacheKey, other: CacheKey) -> bool:
    """Whether the same tokens have the same rows in both."""
    same = {"data": "", "max_length": 0, "template": "", "tokenizer": "", "model": ""}
    return replace(one, **same) == replace(other, **same)


def _take(cache: TrunkCache, marks: np.ndarray, first: np.ndarray, folder: Path, key: CacheKey) -> None:
    # No pickle: the folder may come from anywhere.
    theirs, lengths = np.load(folder / MARKS, allow_pickle=False)
    found = TrunkCache.read_only(folder, key, lengths, cache.width)
    copy_rows(cache, marks, first, found, theirs.view(np.uint64), np.arange(len(theirs)))


def copy_rows(
    cache: TrunkCache, marks: np.ndarray, first: np.ndarray, found: TrunkCache, theirs: np.ndarray, at: np.ndarray
) -> None:
    """Copy the rows that ``cache`` lacks and ``found`` has, a cache of the same trunk and precision.

    ``marks`` [M] and ``first`` [M] are as for :func:`adopt`; ``theirs`` and ``at`` those of ``found``.
    """
    lacking = ~cache.has(first)
    missing, wanted = first[lacking], marks[lacking]
    # Sorted once, so each text is found by bisection instead of a pass over all marks.
    order = np.argsort(theirs)
    places = np.searchsorted(theirs[order], wanted).clip(max=len(theirs) - 1)
    same = theirs[order][places] == wanted
    same[same] = found.has(at[order[places[same]]])
    mine, other = missing[same], at[order[places[same]]]
    for start in range(0, len(mine), _AT_ONCE):
        rows = found.get(other[start : start + _AT_ONCE])
        cache.put(mine[start : start + _AT_ONCE], found.codec.unpack(rows, torch.float32))


@contextlib.contextmanager
def filling(root: Path) -> Iterator[None]:
    """While this is open, other processes wait to fill a cache under ``root``, and can then take rows of this one.

    The same process may open it again inside.
    """
    make_folder(root)
    with FileLock(root / _LOCK, is_singleton=True):
        yield
