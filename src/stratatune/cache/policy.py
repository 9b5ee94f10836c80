"""``--cache auto``: the choice of a precision and a place, or no cache, with the reason in one line. No torch.

Without a cache the trunk runs each time that an example is read; a cache makes that once and reads it afterwards. It
must fit, and reading must be quicker than computing. A precision below that of the computation changes numbers (int8 by
about 1 %), so it is taken only where the computation's own fits nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from stratatune.units import DTYPE_BYTES, Dtype, readable_size

MEMORY_SHARE = 0.5  # of the free memory, for a cache in memory: the rest is the run's
DISK_SHARE = 0.9
_MEMORY_SPEED = 2e9  # bytes a second, out of memory or the system's page cache, unpacking included


@dataclass(frozen=True)
class Need:
    """The hidden states to remember.

    Attributes:
        values: numbers in the hidden states of all texts that are read more than once, each text counted once.
        passes: how often each is read, on average.
        trunk_seconds: the time of one pass of the trunk over them.
        dtypes: precisions in the order of preference.
    """

    values: int
    passes: float
    trunk_seconds: float
    dtypes: tuple[Dtype, ...]


@dataclass(frozen=True)
class Room:
    """The space that this machine has.

    Attributes:
        limit: bytes that the settings allow.
        disk, memory: bytes free; a disk that cannot be written has none.
        disk_speed: bytes a second, written and read again without the page cache.
    """

    limit: int
    disk: int
    memory: int
    disk_speed: float


@dataclass(frozen=True)
class Choice:
    """A choice: ``place`` and ``dtype``, and ``why`` in one line."""

    place: Literal["disk", "ram", "none"]
    dtype: Dtype
    why: str


def choose(need: Need, room: Room) -> Choice:
    """The first precision that fits somewhere: on disk, where later runs find it, else in memory."""
    if need.passes <= 1:
        return Choice("none", need.dtypes[0], "no trunk cache: this run uses each hidden state only once")
    # Disk before memory: it serves later runs, and while it fits in the page cache it is as quick to read.
    for dtype in need.dtypes:
        size = need.values * DTYPE_BYTES[dtype]
        if size <= min(DISK_SHARE * room.disk, room.limit):
            return _worth(need, room, dtype, "disk", size)
        if size <= min(MEMORY_SHARE * room.memory, room.limit):
            return _worth(need, room, dtype, "ram", size)
    size = need.values * DTYPE_BYTES[need.dtypes[-1]]
    free = f"{readable_size(room.disk)} free on disk, {readable_size(room.memory)} in memory"
    why = f"{readable_size(size)} in {need.dtypes[-1]} do not fit (limit {readable_size(room.limit)}, {free})"
    return Choice("none", need.dtypes[0], f"no trunk cache: {why}; the trunk runs every epoch")


def _worth(need: Need, room: Room, dtype: Dtype, place: Literal["disk", "ram"], size: int) -> Choice:
    """Choose the place, or no cache if computing is faster than reading there."""
    stays = place == "ram" or size <= MEMORY_SHARE * room.memory  # what was written is still in the page cache
    once = size / (_MEMORY_SPEED if stays else room.disk_speed)
    writing = 0.0 if place == "ram" else size / room.disk_speed
    # The first pass runs the trunk in any case, so a cache saves at passes 2, 3, ...
    saved = (need.passes - 1) * (need.trunk_seconds - once) - writing
    reading = f"reading {readable_size(size)} {_seconds(once)}"
    if saved <= 0:
        why = f"the trunk takes {_seconds(need.trunk_seconds)} a pass, {reading} and writing {_seconds(writing)}"
        return Choice("none", need.dtypes[0], f"no trunk cache: {why}")
    full = "the disk has no room" if room.disk_speed else "its folder cannot be written to"
    where = {"disk": "on disk", "ram": f"in memory, as {full}"}[place]
    narrow = "" if dtype == need.dtypes[0] else f", as {need.dtypes[0]} does not fit"
    why = f"a pass of the trunk takes {_seconds(need.trunk_seconds)}, {reading}"
    return Choice(
        place, dtype, f"trunk cache: {dtype} {where}{narrow}: {why}; about {_seconds(saved)} saved in this run"
    )


def _seconds(value: float) -> str:
    return f"{value:.0f} s" if value >= 10 else f"{value:.2g} s"


def passes_of(name: str, epochs: int, eval_every: float) -> int:
    """The most often that a run reads each example of its ``training``, ``evaluation`` or other data."""
    # One evaluation more than the epochs need: the selected weights are scored at the end of a run that was resumed.
    evaluations = epochs * round(1 / eval_every) if eval_every < 1 else -(-epochs // int(eval_every))
    return {"training": epochs, "evaluation": evaluations + 1}.get(name, 1)


def mean_passes(parts: Sequence[tuple[int, float]]) -> float:
    """The mean number of passes, weighted by the values."""
    values = sum(size for size, _ in parts)
    return sum(size * passes for size, passes in parts) / values if values else 0.0
