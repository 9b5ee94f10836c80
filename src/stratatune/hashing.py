"""Hashes: a careful one for names and keys, a fast one for gigabytes of weights. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

import xxhash

Part = str | bytes | memoryview


def digest(*parts: Part, size: int) -> str:
    """BLAKE2b of ``parts`` one after the other, in ``2 * size`` hex characters: for names of files and runs."""
    found = blake2b(digest_size=size)
    for part in parts:
        found.update(part.encode() if isinstance(part, str) else part)
    return found.hexdigest()


def digest_of_json(value: Any, *, size: int, separators: tuple[str, str] | None = None, ascii: bool = True) -> str:
    """:func:`digest` of plain data as JSON with its keys in order.

    Args:
        value: anything that ``json.dumps`` accepts.
        size: bytes of the digest.
        separators, ascii: how the JSON is written, which the digest depends on.
    """
    return digest(json.dumps(value, sort_keys=True, separators=separators, ensure_ascii=ascii), size=size)


def fast_digest(parts: Iterable[Part], bits: int = 128) -> str:
    """XXH3 of ``parts`` one after the other, 128 or 64 bits as hex: for differences by accident, not by intent."""
    return _fast(parts, bits).hexdigest()


def fast_digests(texts: Iterable[Iterable[Part]]) -> bytes:
    """The 128 bits of each of ``texts``, given by its parts, in 16 bytes one after the other."""
    return b"".join(_fast(parts, 128).digest() for parts in texts)


def _fast(parts: Iterable[Part], bits: int) -> Any:
    found = xxhash.xxh3_128() if bits == 128 else xxhash.xxh3_64()
    for part in parts:
        found.update(part.encode() if isinstance(part, str) else part)
    return found
