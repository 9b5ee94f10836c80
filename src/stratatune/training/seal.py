"""Checksums of a finished run: of its result and of the files that a report reads with it. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stratatune.hashing import digest_of_json, fast_digest

KEY = "checksums"
_FILES = ("config.yaml", "metrics.jsonl", "env.json")
_RESULT = "result.json"


def sealed(result: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """``result`` with the checksums of itself and of the files in ``folder``."""
    # The sums are of the result without them, so they can be part of it.
    return {**result, KEY: {**_of_files(folder), _RESULT: _of(result)}}


def broken(result: Mapping[str, Any], folder: Path) -> str:
    """The first file that has changed since the run; empty if none has, or if a version before 0.2 wrote them."""
    sums = result.get(KEY)
    if not isinstance(sums, Mapping):
        return ""
    if sums.get(_RESULT) != _of(opened(result)):
        return _RESULT
    there = _of_files(folder)
    return next((name for name in _FILES if sums.get(name) != there.get(name)), "")


def opened(result: Mapping[str, Any]) -> dict[str, Any]:
    """``result`` without the checksums."""
    return {name: value for name, value in result.items() if name != KEY}


def _of(result: Mapping[str, Any]) -> str:
    return digest_of_json(result, size=8)


def _of_files(folder: Path) -> dict[str, str]:
    found = {name: folder / name for name in _FILES}
    return {name: fast_digest([path.read_bytes()], bits=64) for name, path in found.items() if path.is_file()}
