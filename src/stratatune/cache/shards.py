"""The files of a trunk cache, written so that a kill at any point corrupts nothing. No torch.

A cache is one folder, named by its key's digest::

    key.json            what the rows are: the key's ingredients, the width, the number and lengths' hash of examples,
                        int8's scales and their checksum
    shard-00000.bin     rows, C order, little endian, about 64 MiB
    shard-00000.json    its sidecar: which examples in which order, bytes, checksum, dtype, the scales' checksum
    write.lock          held by the one writer; the operating system frees it when the process dies

Each file is written under a temporary name, fsynced and renamed, the sidecar last: a shard exists only if its sidecar
does. So a killed writer leaves whole shards and litter (temporary files, rows without a sidecar) that the next writer
sweeps away.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from stratatune.cache.keys import FORMAT, KEY_FILE, CacheKey, Identity
from stratatune.errors import CacheError, ResourceError
from stratatune.files import replacing, sync_folder
from stratatune.outside import parse_json
from stratatune.units import readable_size

HINT = "use --cache ram, --cache off, or --cache DIR with another folder"
_READ_BYTES = 1 << 20


def free_bytes(folder: Path) -> int:
    """Bytes free on the disk of ``folder``, which need not exist yet."""
    there = next((path for path in (folder, *folder.absolute().parents) if path.is_dir()), Path("/"))
    return shutil.disk_usage(there).free


def check_space(root: Path, need: int) -> None:
    """Raise ResourceError if the disk of ``root`` (which need not exist yet) has fewer than ``need`` bytes free."""
    free = free_bytes(root)
    if free < need:
        text = f"no room for the trunk cache in {root}: {readable_size(need)} needed, {readable_size(free)} free"
        raise ResourceError(text, HINT)


def cannot_write(folder: Path, need: int, error: OSError) -> ResourceError:
    """The failure to write ``need`` bytes into ``folder``, in one line."""
    sizes = f"{readable_size(need)} needed, {readable_size(free_bytes(folder))} free"
    return ResourceError(f"cannot write the trunk cache in {folder}: {error.strerror or error} ({sizes})", HINT)


@contextlib.contextmanager
def file_errors(folder: Path, need: int) -> Iterator[None]:
    """Turn an OSError (disk full, no permission, not a folder) into a ResourceError of one line."""
    try:
        yield
    except OSError as error:
        raise cannot_write(folder, need, error) from error


def take_lock(folder: Path) -> FileLock | None:
    """Take the writer's lock of a cache; None while another writer lives. OSError when the folder is not writable."""
    lock = FileLock(folder / "write.lock", thread_local=False)  # a prefetch thread may be the one that closes
    try:
        # Without waiting: a second run reads what is there and computes the rest itself.
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock


def lock_or_read(folder: Path, need: int) -> tuple[FileLock | None, str]:
    """Take the writer's lock; None, with a notice, if this cache is only read. ResourceError if it can be neither."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = take_lock(folder)
        return lock, "" if lock else f"another process is writing the trunk cache {folder}; this one only reads it"
    except OSError as error:
        if (folder / KEY_FILE).is_file():
            return None, f"the trunk cache {folder} is not writable; it is only read"
        raise cannot_write(folder, need, error) from error


# ---- writing and reading one file ----


def _write(path: Path, data: bytes | memoryview) -> None:
    with replacing(path) as partial:
        partial.write_bytes(data)


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def write_identity(folder: Path, identity: Identity) -> None:
    """Write key.json."""
    value = {**asdict(identity), "scales_crc32": identity.scales_crc32}
    _write(folder / KEY_FILE, json.dumps(value, indent=1).encode())


def fix(folder: Path) -> str:
    """The hint for a cache that cannot be used."""
    return f"remove it with: stratatune cache rm {folder.name}"


def read_identity(folder: Path) -> Identity | None:
    """The content of key.json, or None where there is none. CacheError when it is unreadable or of another format."""
    try:
        value = parse_json((folder / KEY_FILE).read_text(encoding="utf-8"))
        if value["format"] != FORMAT:
            text = f"the trunk cache {folder} has format {value['format']}; this version reads format {FORMAT}"
            raise CacheError(text, fix(folder))
        key, checksum = value.pop("key"), value.pop("scales_crc32")
        versions = tuple((name, version) for name, version in key.pop("versions"))
        scales = tuple(map(float, value.pop("scales")))
        identity = Identity(key=CacheKey(**key, versions=versions), scales=scales, **value)
        if identity.scales_crc32 != checksum:
            raise ValueError("its scales fail their checksum")
        return identity
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CacheError(f"the trunk cache {folder} has an unreadable {KEY_FILE}: {error}", fix(folder)) from error


# ---- shards ----


@dataclass(frozen=True)
class Shard:
    """One complete shard: the rows of ``examples`` [n], one example after another."""

    path: Path
    examples: np.ndarray  # int64 [n], example numbers in the order of the rows
    size: int  # bytes
    clipped: int = 0  # values beyond their channel's int8 scale


def write_shard(
    folder: Path, number: int, identity: Identity, examples: np.ndarray, data: memoryview, clipped: int
) -> Shard:
    """Write rows and then their sidecar. OSError (disk full ...) leaves no shard, whole or half."""
    path = folder / f"shard-{number:05d}.bin"
    examples = examples.astype("<i8")
    sidecar = {
        "dtype": identity.key.dtype,
        "width": identity.width,
        "bytes": data.nbytes,
        "crc32": zlib.crc32(data),
        "scales_crc32": identity.scales_crc32,
        "clipped": clipped,
        "examples_crc32": zlib.crc32(examples.tobytes()),  # a changed number would give rows to the wrong example
        "examples": examples.tolist(),  # JSON: 0.09 s per million to write or read, once per opening
    }
    try:
        _write(path, data)
        _write(path.with_suffix(".json"), _json(sidecar))
    except OSError:
        # A partly written file would take space on a disk that is full already.
        delete_shard(path)
        raise
    return Shard(path, examples, data.nbytes, clipped)


def delete_shard(path: Path) -> None:
    """Remove a shard, its sidecar first, so that there is never a sidecar without rows."""
    for one in (path.with_suffix(".json"), path.with_suffix(".bin")):
        with contextlib.suppress(OSError):
            one.unlink()


def _checksum(path: Path) -> int:
    """crc32 of a file by chunks (6 GB/s here against 1.3 of blake2b; it has to catch accidents, not forgers)."""
    value, chunk = 0, memoryview(bytearray(_READ_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(chunk):
            value = zlib.crc32(chunk[:count], value)
    return value


def _read_shard(sidecar: Path, identity: Identity, verify: bool) -> Shard:
    """Read one shard by its sidecar. ValueError, KeyError, TypeError or OSError when it is not complete."""
    path, value = sidecar.with_suffix(".bin"), parse_json(sidecar.read_text(encoding="utf-8"))
    examples = np.array(value["examples"], dtype="<i8")
    if zlib.crc32(examples.tobytes()) != value["examples_crc32"]:
        raise ValueError("the list of examples fails its checksum")
    if examples.size and (examples.min() < 0 or examples.max() >= identity.examples):
        raise ValueError(f"it names examples outside 0..{identity.examples - 1}")
    if (value["dtype"], value["width"]) != (identity.key.dtype, identity.width):
        raise ValueError(f"it holds {value['dtype']} rows of {value['width']} values")
    if value["scales_crc32"] != identity.scales_crc32:
        raise ValueError("it was made with other scales")
    # Also without `verify`: reading a memory map beyond the end of its file would kill the process.
    if path.stat().st_size != value["bytes"]:
        raise ValueError(f"it has {path.stat().st_size} bytes instead of {value['bytes']}")
    if verify and _checksum(path) != value["crc32"]:
        raise ValueError("its rows fail their checksum")
    return Shard(path, examples, value["bytes"], int(value["clipped"]))


def read_shards(folder: Path, identity: Identity, *, verify: bool) -> tuple[list[Shard], dict[Path, str]]:
    """Read the complete shards of a cache, and the path and fault of each other one. ``verify``: check all bytes."""

    def attempt(sidecar: Path) -> Shard | str:
        try:
            return _read_shard(sidecar, identity, verify)
        except KeyError as error:
            return f"its sidecar lacks {error}"
        except (OSError, ValueError, TypeError) as error:
            return str(error)

    sidecars = sorted(folder.glob("shard-*.json"))
    with ThreadPoolExecutor(max_workers=4) as pool:  # crc32 and reading both release the GIL
        found = list(pool.map(attempt, sidecars))
    bad = {
        path.with_suffix(".bin"): fault for path, fault in zip(sidecars, found, strict=True) if isinstance(fault, str)
    }
    return [shard for shard in found if isinstance(shard, Shard)], bad


def sweep(folder: Path, shards: list[Shard]) -> int:
    """Remove files of killed writers next to the ``shards``; returns the first number that no shard ever had."""
    keep = {path for shard in shards for path in (shard.path, shard.path.with_suffix(".json"))}
    litter = [
        path for path in (*folder.glob("shard-*"), *folder.glob("*.tmp"), *folder.glob(".*.part")) if path not in keep
    ]
    number = _next_number(folder)
    for path in litter:
        with contextlib.suppress(OSError):
            path.unlink()
    return number


def _next_number(folder: Path) -> int:
    numbers = [int(found[1]) for path in folder.glob("shard-*") if (found := re.match(r"shard-(\d+)\.", path.name))]
    return max(numbers, default=-1) + 1


# ---- several writers ----


def part_root(folder: Path, rank: int) -> Path:
    """The folder in which process ``rank`` of a build keeps its part: a cache inside the cache ``folder``."""
    return folder / f"rank-{rank}"


def adopt(folder: Path, identity: Identity) -> None:
    """Take the complete shards out of the parts that other processes made; live writers keep theirs.

    A shard moves rows first, so one whose move was cut short has no sidecar on one side and no rows on the other.
    """
    for part in sorted(folder.glob(f"rank-*/{folder.name}")):
        lock = take_lock(part)
        if lock is None:
            continue
        with contextlib.suppress(CacheError):
            stored = read_identity(part)
            mine = stored is not None and not stored.differences(identity)
            for shard in read_shards(part, identity, verify=False)[0] if mine else ():
                _move(shard, folder)
        lock.release()
        shutil.rmtree(part.parent, ignore_errors=True)
        sync_folder(folder)


def _move(shard: Shard, folder: Path) -> None:
    path = folder / f"shard-{_next_number(folder):05d}.bin"
    os.replace(shard.path, path)
    os.replace(shard.path.with_suffix(".json"), path.with_suffix(".json"))
