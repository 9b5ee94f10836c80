"""Write files: each appears whole or not at all, and a failure is one line that names the path. No torch."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from stratatune.errors import ConfigError, ResourceError

_HINT = "choose a place with free space that you can write to"


def _failures() -> tuple[type[Exception], ...]:
    """The exceptions of a failed write; called only after a failure, so that no run waits for safetensors."""
    from safetensors import SafetensorError

    return OSError, SafetensorError


@contextlib.contextmanager
def write_errors(path: str | Path, hint: str = _HINT) -> Iterator[None]:
    """Turn a full disk or a missing permission into one line about ``path``.

    Raises:
        ResourceError: the disk is full, or the path cannot be written.
    """
    try:
        yield
    except _failures() as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ResourceError(f"cannot write {path}: {reason}", hint) from error


def make_folder(folder: Path, hint: str = _HINT) -> None:
    """Make a folder and missing folders above it.

    Raises:
        ResourceError: it cannot be made.
    """
    with write_errors(folder, hint):
        folder.mkdir(parents=True, exist_ok=True)


def write_text(path: Path, text: str, hint: str = _HINT) -> None:
    """Write a text file in UTF-8.

    Raises:
        ResourceError: it cannot be written; a file that was there before is as it was.
    """
    write_bytes(path, text.encode(), hint)


def write_bytes(path: Path, data: bytes | memoryview, hint: str = _HINT) -> None:
    """Write a file of bytes; as :func:`write_text`."""
    with write_errors(path, hint), replacing(path) as partial:
        partial.write_bytes(data)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file next to ``path`` to write to, which replaces it at the end; after a failure nothing of it is left.

    File and folder are synced, so that a power cut leaves the old file or the new one. A new file has the permissions
    of the user's umask, whoever creates it; one that was there keeps its own. A link is followed. What is not a regular
    file (``/dev/stdout``, a pipe) is written in place.

    Raises:
        OSError: it cannot be written; :func:`write_errors` makes one line of that.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        yield path
        return
    _sweep(path)
    partial = path.with_name(f".{path.name[:200]}.{os.getpid()}.part")
    try:
        mode = _created(partial) if not path.exists() else stat.S_IMODE(path.stat().st_mode)
        yield partial
        partial.chmod(mode)
        _sync(partial)
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def check_empty(name: str, folder: Path) -> None:
    """Refuse a folder with something in it, under the ``name`` of the argument: what is written would mix with that.

    Raises:
        ConfigError: it is not empty.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError([f"{name}: {folder} is not empty"], "choose a new folder")


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A path next to ``folder`` to make a folder at, which replaces it at the end; after a failure nothing is left.

    ``folder`` must be missing or empty: whoever was refused for want of space can give the same command again.

    Raises:
        ResourceError: it cannot be made.
    """
    folder = Path(os.path.realpath(folder))
    make_folder(folder.parent)
    _sweep(folder)
    partial = folder.with_name(f".{folder.name[:200]}.{os.getpid()}.part")
    try:
        yield partial
        with write_errors(folder):
            partial.mkdir(exist_ok=True)
            for path in partial.rglob("*"):
                _sync(path)
            if folder.is_dir():
                folder.rmdir()
            os.replace(partial, folder)
    except ResourceError as error:  # it names the place that the user knows
        shutil.rmtree(partial, ignore_errors=True)
        raise ResourceError(error.message.replace(str(partial), str(folder)), error.hint) from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` durable; some systems cannot, and then a power cut may bring the old file back."""
    with contextlib.suppress(OSError):
        _sync(folder)


def _created(path: Path) -> int:
    """Create an empty file; its permissions are 0666 less the umask."""
    path.touch()
    return stat.S_IMODE(path.stat().st_mode)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sweep(path: Path) -> None:
    """Remove files that killed processes left next to ``path`` while they wrote it."""
    start = f".{path.name[:200]}."
    with contextlib.suppress(OSError):
        for entry in os.scandir(path.parent):
            process = entry.name.removeprefix(start).removesuffix(".part")
            if entry.name == f"{start}{process}.part" and process.isdecimal() and not _runs(int(process)):
                shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)


def _runs(process: int) -> bool:
    import psutil  # a tenth of a second, for what is rarely there

    return psutil.pid_exists(process)
