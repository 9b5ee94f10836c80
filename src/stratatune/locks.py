"""Locks on folders, which the operating system frees when their holder dies in any way. No torch."""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock, Timeout

_PATIENCE = 1.0  # seconds; is_held() of another process takes a lock for an instant


def hold(path: Path) -> FileLock | None:
    """Take the lock ``path``, to be released; None while another has it.

    Raises:
        OSError: the file cannot be made.
    """
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(timeout=_PATIENCE)
    except Timeout:
        return None
    return lock


def is_held(path: Path) -> bool:
    """Whether a living process, this one included, has the lock ``path``; writes nothing."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except ImportError:  # Windows
        lock = hold(path)
        if lock is not None:
            lock.release()
        return lock is None
    except BlockingIOError:
        return True
    except OSError:  # no locks on this file system
        return False
    finally:
        os.close(handle)
    return False
