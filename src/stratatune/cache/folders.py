"""Operations on trunk caches for ``stratatune cache``, and the size limit. No torch."""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stratatune.cache.keys import KEY_FILE, CacheKey
from stratatune.cache.shards import read_identity, read_shards, take_lock
from stratatune.errors import CacheError, ResourceError

_DIGEST = re.compile(r"[0-9a-f]{24}")
_REMOVED = ".removed-"  # a cache that is being deleted


@dataclass(frozen=True)
class CacheInfo:
    """One cache as a listing shows it."""

    folder: Path
    key: CacheKey | None  # None when key.json is missing or unreadable
    examples: int  # distinct texts
    present: int  # examples in whole shards
    bytes: int  # of all its files
    last_used: float  # seconds since 1970, of the last opening

    @property
    def digest(self) -> str:
        """The name of its folder."""
        return self.folder.name

    @property
    def complete(self) -> bool:
        """Whether every example is in a whole shard."""
        return self.key is not None and self.present == self.examples


def list_caches(root: Path) -> list[CacheInfo]:
    """Every cache under ``root``, the most recently used first; reads sidecars but no rows."""
    found: list[CacheInfo] = []
    for folder in root.iterdir() if root.is_dir() else ():
        if _DIGEST.fullmatch(folder.name):
            with contextlib.suppress(FileNotFoundError):  # another process removes it just now
                found.append(_info(folder))
    return sorted(found, key=lambda info: -info.last_used)


def _info(folder: Path) -> CacheInfo:
    size = _folder_bytes(folder)
    try:
        identity = read_identity(folder)
    except CacheError:
        identity = None
    if identity is None:
        return CacheInfo(folder, None, 0, 0, size, folder.stat().st_mtime)
    # A listing must not read gigabytes, so sizes are checked and rows are not.
    shards, _ = read_shards(folder, identity, verify=False)
    present = len(np.unique(np.concatenate([shard.examples for shard in shards]))) if shards else 0
    return CacheInfo(folder, identity.key, identity.examples, present, size, (folder / KEY_FILE).stat().st_mtime)


def _folder_bytes(folder: Path) -> int:
    total = 0
    for path in folder.glob("*"):
        with contextlib.suppress(FileNotFoundError):  # a writer may rename or sweep it just now
            total += path.stat().st_size
    return total


def verify_cache(folder: Path) -> list[str]:
    """Read every byte of a cache and return its problems, one line each; an empty list is a sound cache."""
    try:
        identity = read_identity(folder)
    except CacheError as error:
        return [error.message]
    if identity is None:
        return [f"{folder} has no {KEY_FILE}"]
    problems = [] if identity.key.digest == folder.name else [f"{folder} holds the cache {identity.key.digest}"]
    _, bad = read_shards(folder, identity, verify=True)
    return problems + [f"{path}: {fault}" for path, fault in bad.items()]


def remove_cache(root: Path, digest_or_prefix: str) -> int:
    """Delete the one cache with this digest or prefix and return the bytes freed. A process that reads it can continue.

    Raises CacheError when none or several match or a writer holds it, ResourceError when the folder may not be changed.
    """
    infos = list_caches(root)
    found = [info for info in infos if info.digest.startswith(digest_or_prefix)] if digest_or_prefix else []
    if len(found) != 1:
        some = ", ".join(info.digest for info in found or infos) or "none"
        raise CacheError(f"{len(found)} trunk caches in {root} match {digest_or_prefix!r}", f"there are: {some}")
    _remove(found[0].folder)
    return found[0].bytes


def _remove(folder: Path) -> None:
    """Rename the folder out of sight, which is atomic, and then delete it and what a killed removal left."""
    try:
        lock = take_lock(folder)
        if lock is None:
            raise CacheError(f"the trunk cache {folder} is being written", "wait for that run, or stop it")
        try:
            # Deleting takes time and may be killed; half a cache under its own name would look like a damaged one.
            gone = folder.with_name(_REMOVED + folder.name)
            shutil.rmtree(gone, ignore_errors=True)  # what a killed removal of the same cache left
            folder.rename(gone)
        finally:
            lock.release()
    except OSError as error:
        said = f"the trunk cache {folder} cannot be removed: {error.strerror or error}"
        raise ResourceError(said, "its owner can remove it") from error
    # After the rename nobody can open it, so the lock is not needed any more.
    for gone in folder.parent.glob(f"{_REMOVED}*"):
        shutil.rmtree(gone, ignore_errors=True)


def evict(root: Path, limit_bytes: int, keep: Container[str] = ()) -> int:
    """Delete complete caches, the least recently used first, until all but ``keep`` take at most ``limit_bytes``.

    The caches ``keep``, by their digests, caches being written and incomplete ones (a run may resume them) stay.
    Returns the bytes freed.
    """
    infos = [info for info in list_caches(root) if info.digest not in keep]
    excess, freed = sum(info.bytes for info in infos) - limit_bytes, 0
    for info in reversed(infos):
        if freed >= excess:
            break
        # An incomplete cache may belong to a run that was stopped and will be resumed.
        if info.complete:
            with contextlib.suppress(CacheError):  # in use
                _remove(info.folder)
                freed += info.bytes
    return freed


@dataclass(frozen=True)
class Pruned:
    """What :func:`prune` did: the caches that it ``removed``, and those that it had to leave."""

    removed: list[CacheInfo]
    left: list[CacheInfo]


def prune(root: Path, unused: float | None = None, keep: int | None = None) -> Pruned:
    """Delete the caches that nobody opened for ``unused`` seconds, and then the least recently used ones but ``keep``.

    For ``keep`` (bytes of the caches that stay) only complete ones are taken: a run may resume the others. Caches that
    are being written, or that this user may not remove, are left.
    """
    chosen, now = list[CacheInfo](), time.time()
    infos = list_caches(root)
    if unused is not None:
        chosen += [info for info in infos if now - info.last_used > unused]
        infos = [info for info in infos if info not in chosen]
    excess = 0 if keep is None else sum(info.bytes for info in infos) - keep
    for info in reversed(infos):
        if excess > 0 and info.complete:
            chosen.append(info)
            excess -= info.bytes
    found = Pruned([], [])
    for info in chosen:
        try:
            _remove(info.folder)
        except (CacheError, ResourceError):
            found.left.append(info)
        else:
            found.removed.append(info)
    return found
