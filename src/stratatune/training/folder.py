"""Locks on run folders: each belongs to one process at a time. No torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from stratatune.errors import ConfigError
from stratatune.files import make_folder, write_errors
from stratatune.locks import hold, is_held
from stratatune.outside import path_exists
from stratatune.progress import is_main

LOCK = ".run.lock"


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold the right to write into a run folder, made if missing; of several processes, the first has it.

    A folder that was made here and into which nothing was written, as of a run that is refused, is removed again.

    Raises:
        ConfigError: another process trains into it.
        ResourceError: it cannot be written.
    """
    made = not path_exists(folder)
    make_folder(folder)
    # The other ranks train into the same folder by right, and write nothing.
    if not is_main():
        yield
        return
    with write_errors(folder):
        lock = hold(folder / LOCK)
    if lock is None:
        raise in_use(folder)
    try:
        yield
    finally:
        if made:
            _remove_unused(folder)
        lock.release()


def _remove_unused(folder: Path) -> None:
    """Remove a run folder that holds its lock alone."""
    with contextlib.suppress(OSError):  # a folder that stays does no harm
        if [one.name for one in folder.iterdir()] == [LOCK]:
            (folder / LOCK).unlink()
            folder.rmdir()


def is_running(folder: Path) -> bool:
    """Whether a living process trains into ``folder``."""
    return is_held(folder / LOCK)


def in_use(folder: Path) -> ConfigError:
    """The refusal of a folder into which another process trains."""
    return ConfigError(
        [f"out: another process is training into {folder}"], "choose another --out, or wait until it has finished"
    )
