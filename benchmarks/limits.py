"""A hard limit on the memory of a process: a memory cgroup where one can be made, an rlimit elsewhere.

A cgroup counts what the process allocates, and the pages of files that it read, which the kernel drops when the limit
is near; a process that still needs more is killed. ``RLIMIT_AS`` counts all that is mapped, the files of the libraries
too, whether it is in memory or not.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.jobs import Record

_ROOT = Path("/sys/fs/cgroup")
_SAMPLE = 0.02  # seconds between two looks at the memory in use


@dataclass(frozen=True)
class _Files:
    """The names that one version of cgroups gives its files."""

    root: Path
    present: str
    """A file that ``root`` has if it holds groups of this version."""
    limit: str
    peak: str
    anonymous: str
    """The field of memory.stat with the bytes that the kernel cannot drop."""
    swap: tuple[str, str | None]
    """The file that limits swap, and its content; None: the limit itself."""


_VERSIONS = (
    _Files(_ROOT, "cgroup.controllers", "memory.max", "memory.peak", "anon", ("memory.swap.max", "0")),
    _Files(
        _ROOT / "memory", "memory.stat", "memory.limit_in_bytes", "memory.max_usage_in_bytes", "total_rss",
        ("memory.memsw.limit_in_bytes", None),
    ),
)  # fmt: skip


class Group:
    """A memory cgroup of one process; it is removed with :meth:`remove`.

    Args:
        folder: the group's folder.
        files: the names of its files.
    """

    def __init__(self, folder: Path, files: _Files) -> None:
        self.folder, self.files, self.anonymous = folder, files, 0

    @classmethod
    def made(cls, limit: int) -> Group | None:
        """Make a group that holds its process within ``limit`` bytes; None where this machine allows none."""
        for files in _VERSIONS:
            # Only a kernel's own folder has the files of a group; in any other, mkdir makes a plain folder.
            if not (files.root / files.present).exists():
                continue
            folder = files.root / f"stratatune-{os.getpid()}-{time.monotonic_ns()}"
            try:
                folder.mkdir()
            except OSError:
                continue
            try:
                (folder / files.limit).write_text(str(limit))
            except OSError:  # memory is not among the controllers of this group
                folder.rmdir()
                continue
            swap, value = files.swap
            with contextlib.suppress(OSError):  # a machine without swap has no such file
                (folder / swap).write_text(value or str(limit))
            return cls(folder, files)
        return None

    @property
    def entrance(self) -> Path:
        """The file that a process writes its number into."""
        return self.folder / "cgroup.procs"

    def sample(self) -> None:
        """Look once at the bytes that cannot be dropped."""
        lines = (self.folder / "memory.stat").read_text().splitlines()
        counts = dict(line.split() for line in lines)
        self.anonymous = max(self.anonymous, int(counts[self.files.anonymous]))

    def remove(self) -> Record:
        """Remove the group, once its process has ended; returns the most bytes that it held."""
        peak = int((self.folder / self.files.peak).read_text())
        with contextlib.suppress(OSError):  # its process may not be gone yet
            self.folder.rmdir()
        return {"group": peak, "anonymous": self.anonymous}


def run_limited(command: Sequence[str], limit: int, environment: dict[str, str], *, data: bool = False) -> Record:
    """Run a command that prints a JSON object last, within ``limit`` bytes (0: without one).

    ``data``: where no cgroup can be made, its allocations are limited (``RLIMIT_DATA``), and not its mappings.

    Returns:
        That object, and ``limited_by``: ``cgroup``, ``RLIMIT_AS``, ``RLIMIT_DATA`` or ``nothing``. With a cgroup also
        its peaks: ``group`` with the pages of files, ``anonymous`` without them.

    Raises:
        SystemExit: the command failed, or the limit killed it.
    """
    group = Group.made(limit) if limit else None

    process = subprocess.Popen(
        [*_confined(group, limit, data=data), *command], stdout=subprocess.PIPE, text=True, env=environment
    )
    done = threading.Event()
    sampler = threading.Thread(target=_watch, args=(group, done), daemon=True)
    sampler.start()
    output, _ = process.communicate()
    done.set()
    sampler.join()
    peaks = {} if group is None else group.remove()
    if process.returncode:
        killed = " (killed: it needs more than its limit)" if process.returncode == -9 else ""
        raise SystemExit(f"{' '.join(command[-2:])} failed{killed} {peaks}")
    by = "cgroup" if group is not None else f"RLIMIT_{'DATA' if data else 'AS'}" if limit else "nothing"
    return {**json.loads(output.strip().splitlines()[-1]), **peaks, "limited_by": by}


def _confined(group: Group | None, limit: int, *, data: bool) -> list[str]:
    """A prefix that puts a command under its limit from the start: a shell that becomes the command."""
    if not limit:
        return []
    first = f"ulimit -{'d' if data else 'v'} {limit // 1024}" if group is None else f"echo $$ > {group.entrance}"
    return ["sh", "-c", f'{first} && exec "$@"', "sh"]


def _watch(group: Group | None, done: threading.Event) -> None:
    while group is not None and not done.wait(_SAMPLE):
        group.sample()
