"""Damage to files: how bytes go wrong, and which answers a reader of damaged files may give."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

Damage = Callable[[bytes, random.Random], bytes]


def flip(content: bytes, chance: random.Random) -> bytes:
    """One bit."""
    at = chance.randrange(len(content))
    return content[:at] + bytes([content[at] ^ (1 << chance.randrange(8))]) + content[at + 1 :]


def truncate(content: bytes, chance: random.Random) -> bytes:
    """The end is missing."""
    return content[: chance.randrange(len(content))]


def empty(content: bytes, chance: random.Random) -> bytes:
    """All is missing."""
    return b""


def swap(content: bytes, chance: random.Random) -> bytes:
    """Two parts in each other's place."""
    half = len(content) // 2
    length = chance.randint(1, max(1, half // 4))
    one, two = chance.randrange(max(1, half - length)), chance.randrange(half, max(half + 1, len(content) - length))
    first, second = content[one : one + length], content[two : two + length]
    return content[:one] + second + content[one + length : two] + first + content[two + length :]


def zeros(content: bytes, chance: random.Random) -> bytes:
    """A block of zeros, as after a power cut."""
    at, length = chance.randrange(len(content)), chance.choice((16, 512, 4096))
    return content[:at] + bytes(len(content[at : at + length])) + content[at + length :]


def appended(content: bytes, chance: random.Random) -> bytes:
    """More than there was."""
    return content + chance.randbytes(chance.randint(1, 64))


DAMAGES: dict[str, Damage] = {one.__name__: one for one in (flip, truncate, empty, swap, zeros, appended)}


def files_in(folder: Path, *, without: tuple[str, ...] = ()) -> list[Path]:
    """The files below a folder that hold something, in a fixed order."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    return [path for path in found if path.name not in without]
