"""The contents of what a grid's runs read, data and models, so that a file that changes under its name is noticed."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stratatune.data.several import files_in
from stratatune.errors import DataError
from stratatune.hashing import fast_digest
from stratatune.outside import path_exists

_DATA = ("train", "eval", "test", "corpus")
_OF_A_MODEL = frozenset((".safetensors", ".json", ".model", ".txt", ".jinja", ".py"))
"""Endings of a model's files that numbers may depend on: a card or a picture is none of them."""
_PIECE = 1 << 20
_MOST = 10_000
"""The most files of one folder that are looked at."""

Contents = dict[str, list[Any]]
"""Path to ``[bytes, time of the last change in nanoseconds, hash]``."""


def contents_of(settings: Mapping[str, Any]) -> Contents:
    """The files that a run with ``settings`` reads as data or as a model; empty where these are names on a hub."""
    found: Contents = {}
    data = (path for name in _DATA for path in _files(settings.get(name)))
    for path in itertools.chain(data, _model_files(settings)):
        try:
            size, changed = _looked_at(path)
            found[str(path)] = [size, changed, _hash(path, size, changed)]
        except OSError:  # the run itself says what is wrong with it
            continue
    return found


def changed(before: Contents) -> list[str]:
    """The files that hold something else than ``before`` says; a file that is gone is not one of them."""
    return [path for path, (size, when, was) in before.items() if _differs(Path(path), size, when, was)]


def _differs(path: Path, size: int, when: int, was: str) -> bool:
    try:
        now = _looked_at(path)
        # A file of the same size and time is taken for the same: data may be large, and a grid asks at every call.
        return now != (size, when) and (now[0] != size or _hash(path, *now) != was)
    except OSError:
        return False


def _files(source: Any) -> Iterator[Path]:
    if not isinstance(source, str):
        return
    path = Path(os.path.expanduser(source))
    try:
        if path.is_dir():
            inside = (one for one in sorted(path.rglob("*")) if one.is_file() and not one.name.startswith("."))
            yield from (one for one, _ in zip(inside, range(_MOST), strict=False))
        elif path.is_file():
            yield path
        else:
            yield from files_in(source)
    except (DataError, OSError, ValueError):  # the run itself says what is wrong with it
        return


def _model_files(settings: Mapping[str, Any]) -> Iterator[Path]:
    """The files of the base model, and of the adapter that a run starts from, where these are folders.

    What lies further down belongs to other models.
    """
    for name in ("model", "start_from"):
        if not isinstance(source := settings.get(name), str):
            continue
        folder = Path(os.path.expanduser(source))
        if name == "start_from" and path_exists(folder / "adapter"):
            folder /= "adapter"
        with contextlib.suppress(OSError, ValueError):  # a name on a hub, or one that no file can have
            yield from (one for one in sorted(folder.iterdir()) if one.suffix in _OF_A_MODEL and one.is_file())


def _looked_at(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


@functools.lru_cache(maxsize=_MOST)
def _hash(path: Path, size: int, when: int) -> str:
    """The hash of a file, which runs of one grid ask for many times."""
    with path.open("rb") as file:
        return fast_digest(iter(lambda: file.read(_PIECE), b""))
