"""The identity of a trunk cache: its key, its form, and the folder of all caches. No torch."""

from __future__ import annotations

import os
import sys
import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from stratatune.hashing import digest, digest_of_json
from stratatune.units import DTYPE_BYTES, Dtype

FORMAT = 2
KEY_FILE = "key.json"


@dataclass(frozen=True)
class CacheKey:
    """Everything that the rows of a trunk cache depend on; two runs with equal digests may share one cache.

    weights, tokenizer, template and data are hashes or names of those (of data whose texts repeat, also the number of
    distinct ones); ``versions`` holds the libraries that matter.
    """

    weights: str
    tokenizer: str
    template: str
    data: str
    max_length: int
    depth: int
    positions: Literal["all", "read"]  # rows of every real token, or only of the one token that the head reads
    dtype: Dtype
    versions: tuple[tuple[str, str], ...]
    model: str = ""  # for people: shown in listings, not part of the digest

    @property
    def digest(self) -> str:
        """The name of the cache's folder, 24 hex characters. Another format has another folder and is built anew."""
        # A field that is added here changes every digest: older caches are then not found, and are evicted as they age.
        said = {"format": FORMAT, **asdict(replace(self, model=""))}
        return digest_of_json(said, size=12, separators=(",", ":"))


@dataclass(frozen=True)
class Identity:
    """The content of key.json: the key, and the form of the data that follows it."""

    key: CacheKey
    width: int  # D, values in a row
    examples: int  # distinct texts
    lengths: str  # hash of their numbers of rows
    scales: tuple[float, ...] = ()  # [D], of int8
    format: int = FORMAT
    byteorder: str = sys.byteorder

    @classmethod
    def of(cls, key: CacheKey, rows: np.ndarray, width: int) -> Identity:
        """The identity of a cache of ``rows`` [N] rows per example."""
        # Little endian and 64 bits whatever the machine, so that the hash is the same everywhere.
        return cls(key, width, len(rows), digest(rows.astype("<i8").tobytes(), size=12))

    @property
    def row_bytes(self) -> int:
        """Bytes of one row on disk."""
        return self.width * DTYPE_BYTES[self.key.dtype]

    @property
    def scales_crc32(self) -> int:
        """A checksum of the scales, which every shard made with them repeats; 0 where there are none."""
        return zlib.crc32(np.asarray(self.scales, dtype="<f4").tobytes())

    def differences(self, other: Identity) -> list[str]:
        """Names of the fields that differ, without the model's name, which is for people, and facts about the rows."""
        mine, theirs = ({**asdict(one), **asdict(one.key), "key": 0, "model": 0, "scales": 0} for one in (self, other))
        return [name for name, value in mine.items() if theirs[name] != value]


def default_root() -> Path:
    """The folder of caches: $STRATATUNE_CACHE, else $XDG_CACHE_HOME/stratatune, else ~/.cache/stratatune."""
    if chosen := os.environ.get("STRATATUNE_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "stratatune"
