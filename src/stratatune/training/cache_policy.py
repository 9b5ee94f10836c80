"""Facts about the run and the machine by which ``--cache auto`` chooses (``cache/policy.py``)."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import psutil

from stratatune.cache.keys import Dtype
from stratatune.cache.policy import Need, Room, mean_passes
from stratatune.cache.rows import rows_per_example
from stratatune.cache.shards import free_bytes
from stratatune.data.batching import Batch, collate
from stratatune.data.encoded import Encoded
from stratatune.errors import ResourceError
from stratatune.files import write_text

_PROBE_BYTES = 8 << 20
_SPEED_FILE, _SPEED_LASTS = "disk-speed.json", 7 * 86_400  # seconds
_EXAMPLES = 16


def need_of(
    data: Mapping[str, tuple[Encoded, float]],
    width: int,
    positions: str,
    dtypes: tuple[Dtype, ...],
    run: Callable[[Batch], object],
    pad_id: int,
) -> Need:
    """The need of ``data`` (encoded, with how often each is read); ``run`` times the trunk on a few examples."""
    again = [(one.lengths[one.distinct.first], passes) for one, passes in data.values() if passes > 1]
    parts = [(int(rows_per_example(lengths, positions).sum()) * width, passes) for lengths, passes in again]
    tokens = sum(int(lengths.sum()) for lengths, _ in again)
    if not parts:
        return Need(0, 1, 0.0, dtypes)
    longest = max((one for one, _ in data.values()), key=len)
    return Need(sum(size for size, _ in parts), mean_passes(parts), tokens * _pace(longest, run, pad_id), dtypes)


def _pace(data: Encoded, run: Callable[[Batch], object], pad_id: int) -> float:
    """Seconds that the trunk takes for a token, measured on examples of about median length."""
    order = np.argsort(data.lengths, kind="stable")
    # Examples of like lengths: padding would otherwise be timed as if it were text.
    middle = order[max(0, len(order) // 2 - _EXAMPLES // 2) :][:_EXAMPLES]
    run(collate(data, middle[:1], pad_id))  # what is made on first use is not part of the pace
    started = time.perf_counter()
    run(collate(data, middle, pad_id))
    return (time.perf_counter() - started) / int(data.lengths[middle].sum())


def room_for(root: Path, limit: int) -> Room:
    """The space of this machine for a cache under ``root`` (which need not exist yet)."""
    speed = disk_speed(root)
    return Room(limit, free_bytes(root) if speed else 0, free_memory(), speed)


def free_memory() -> int:
    """The bytes of free memory, of the machine or of the container that this runs in."""
    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):  # no container, or no limit ("max")
        # In a container psutil reports the machine's memory, and the kernel kills the process at the group's limit.
        free = min(free, int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return max(0, free)


def disk_speed(root: Path) -> float:
    """Bytes a second that the disk of ``root`` writes or reads, the slower, without the page cache; 0: not writable.

    Measured once a week; in between the number remembered in ``root`` is used.
    """
    if found := _remembered_speed(root):
        return found
    measured = _measured_speed(root)
    if measured:
        with contextlib.suppress(ResourceError):
            write_text(root / _SPEED_FILE, json.dumps({"bytes_per_second": measured, "measured": time.time()}) + "\n")
    return measured


def _remembered_speed(root: Path) -> float:
    """The speed measured here within the last week; 0: there is none, or the folder is no longer writable."""
    try:
        record = json.loads((root / _SPEED_FILE).read_bytes())
        fresh = 0 <= time.time() - record["measured"] < _SPEED_LASTS
        speed = float(record["bytes_per_second"])
    except (OSError, ValueError, TypeError, KeyError):
        return 0.0
    # The file is data from outside: a time in the future or a speed of nan decides nothing.
    usable = fresh and 0 < speed < float("inf") and os.access(root, os.W_OK | os.X_OK)
    return speed if usable else 0.0


def _measured_speed(root: Path) -> float:
    # Random: file systems that compress would write zeros at any speed.
    data = os.urandom(_PROBE_BYTES)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root) as file:
            started = time.perf_counter()
            file.write(data)
            file.flush()
            # Without it the time would be that of a copy into the page cache.
            os.fsync(file.fileno())
            written = time.perf_counter()
            # Linux drops the pages that were just written, so that the read comes from the disk; macOS has no such
            # call.
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            file.read()
            slower = max(written - started, time.perf_counter() - written)
    except OSError:
        return 0.0
    return _PROBE_BYTES / max(slower, 1e-9)
