"""A checkpoint on disk, read one tensor at a time: safetensors, one file or shards with an index.

Nothing stays mapped: each tensor is read into separate memory, so a process holds of a checkpoint only what it
requested for (a mapped file counts against a limit on the address space as a whole; safetensors maps one while it opens
it). Rows of a tensor are read here, since safetensors 0.8 without mapping reads the whole tensor for every slice.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from stratatune.errors import ModelError
from stratatune.outside import Unreadable, path_exists, read_json, regular_file

_ONE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_DTYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8},
    **{"BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2},
}
_EXPERT = re.compile(r"(?P<experts>.+\.experts)\.(?P<number>\d+)\.(?P<matrix>(?:gate|up|down)_proj|w[123])\.weight$")
_JOINED = {
    **{"gate_proj": ("gate_up_proj", 0), "up_proj": ("gate_up_proj", 1), "down_proj": ("down_proj", 0)},
    **{"w1": ("gate_up_proj", 0), "w3": ("gate_up_proj", 1), "w2": ("down_proj", 0)},
}
"""The tensor of a model that holds a matrix of every expert, and the matrix's place in it, by its name in a file."""
_BLOCKS, _SCALES = "_blocks", "_scales"
_RUN = 64  # rows closer together than this are read in one go


@dataclass(frozen=True)
class Entry:
    """A tensor of a checkpoint: its file, its dtype, its shape, and at which byte of the file it begins.

    Where it holds the matrices of all experts of a block, ``experts`` are the entries of those of each, which lie one
    below the other in it; file and start are then the first one's. Where it is packed (MXFP4), ``packed`` are the
    entries of its blocks of 4-bit values and of their scales; shape and dtype are those of the unpacked tensor.
    """

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    experts: tuple[tuple[Entry, ...], ...] = ()
    packed: tuple[Entry, ...] = ()


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a checkpoint, by their names in it."""

    entries: dict[str, Entry]
    _open: dict[Path, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, name: str, revision: str | None = None) -> Checkpoint | None:
        """The checkpoint of a folder or a hub id; None where it has no safetensors of the usual names.

        Raises:
            ModelError: a shard is missing, too short, or not in this format.
        """
        files = _files(name, revision)
        if not files:
            return None
        found: dict[str, Entry] = {}
        opened: dict[Path, Any] = {}
        for file in files:
            handle = opened[file] = _opened(file)
            starts = _starts(file)
            for key in handle.keys():  # noqa: SIM118 - it is not a mapping
                part = handle.get_slice(key)
                # A dtype that torch does not have counts as uint8, so load_model leaves such a checkpoint to
                # transformers.
                dtype = _DTYPES.get(part.get_dtype(), torch.uint8)
                found[key] = Entry(file, dtype, tuple(part.get_shape()), starts[key])
        return cls(found, opened)

    def with_experts_joined(self) -> Checkpoint:
        """This checkpoint with the matrices of a block's experts as one tensor, as transformers' models hold them.

        Published checkpoints have two or three matrices for each expert; those that a model's ``save_pretrained`` wrote
        under its own names have the tensors already.
        """
        found: dict[str, dict[tuple[int, int], str]] = {}
        for key in self.entries:
            if match := _EXPERT.match(key):
                name, place = _JOINED[match["matrix"]]
                found.setdefault(f"{match['experts']}.{name}", {})[int(match["number"]), place] = key
        entries = dict(self.entries)
        for name, keys in found.items():
            if (joined := _joined([self.entries[keys[place]] for place in sorted(keys)], sorted(keys))) is not None:
                entries = {key: one for key, one in entries.items() if key not in keys.values()} | {name: joined}
        return Checkpoint(entries, self._open)

    def unpacked(self) -> Checkpoint:
        """This checkpoint with experts in MXFP4, as gpt-oss is published, in bf16: each is unpacked as it is read."""
        entries = dict(self.entries)
        for key, blocks in self.entries.items():
            name = key.removesuffix(_BLOCKS)
            scales = self.entries.get(name + _SCALES)
            if name == key or scales is None or {blocks.dtype, scales.dtype} != {torch.uint8}:
                continue
            if len(blocks.shape) == 4 and blocks.shape[:3] == scales.shape:  # [E, N, G, 16], two values a byte
                count, outs, groups, width = blocks.shape
                shape = (count, 2 * width * groups, outs)
                entries[name] = Entry(blocks.file, torch.bfloat16, shape, blocks.start, packed=(blocks, scales))
                del entries[key], entries[name + _SCALES]
        return Checkpoint(entries, self._open)

    @property
    def joins_experts(self) -> bool:
        """Whether some of its tensors are several in the files."""
        return any(entry.experts for entry in self.entries.values())

    @property
    def bytes(self) -> int:
        """The bytes of all its tensors."""
        return sum(math.prod(entry.shape) * entry.dtype.itemsize for entry in self.entries.values())

    def read(self, key: str) -> Tensor:
        """The whole tensor, as stored.

        Raises:
            ModelError: the file is gone or has become shorter since it was opened.
        """
        entry = self.entries[key]
        if entry.experts or entry.packed:
            return self._rows(key, 0, entry.shape[0])
        return self._reading(key, lambda: self._open[entry.file].get_tensor(key))

    def pieces(self, key: str, values: int) -> Iterator[Tensor]:
        """The tensor's values [n] in their order, as stored, in pieces of whole rows with about ``values`` each."""
        shape = self.entries[key].shape
        if len(shape) < 2 or math.prod(shape) <= values:
            yield self.read(key).flatten()
            return
        rows = max(1, values // math.prod(shape[1:]))
        for start in range(0, shape[0], rows):
            yield self._rows(key, start, min(start + rows, shape[0])).flatten()

    def read_rows(self, key: str, rows: Tensor) -> Tensor:
        """Read ``rows`` [n] (sorted, each once) of a matrix [V, E] -> [n, E], and no others but for small gaps."""
        entry = self.entries[key]
        found = torch.empty(len(rows), *entry.shape[1:], dtype=entry.dtype)
        for start, stop in _runs(rows):
            first, last = int(rows[start]), int(rows[stop - 1])
            found[start:stop] = self._rows(key, first, last + 1)[rows[start:stop] - first]
        return found

    def _rows(self, key: str, first: int, stop: int) -> Tensor:
        """Rows ``first`` to ``stop`` - 1 of a tensor."""
        entry = self.entries[key]

        def read() -> Tensor:
            if entry.packed:
                return _unpacked(*(_rows_of(one, first, stop) for one in entry.packed))
            if not entry.experts:
                return _rows_of(entry, first, stop)
            found = torch.empty(stop - first, *entry.shape[1:], dtype=entry.dtype)
            _read_experts(entry.experts[first:stop], found)
            return found

        return self._reading(key, read)

    def _reading(self, key: str, read: Callable[[], Tensor]) -> Tensor:
        file = self.entries[key].file
        try:
            return read()
        except (SafetensorError, OSError, RuntimeError) as error:
            raise ModelError(f"{file}: {key} cannot be read: {_line(error)}", "is the file still whole?") from error


def _starts(file: Path) -> dict[str, int]:
    """The byte at which each tensor of a whole file begins.

    The data follow the header, whose length is in the first eight bytes.
    """
    with file.open("rb") as raw:
        length = int.from_bytes(raw.read(8), "little")
        header: dict[str, Any] = json.loads(raw.read(length))
    return {key: 8 + length + one["data_offsets"][0] for key, one in header.items() if key != "__metadata__"}


def _joined(entries: Sequence[Entry], places: Sequence[tuple[int, int]]) -> Entry | None:
    """The entry of matrices at (expert, place), in this order; None: they are not alike, or some are missing."""
    count, each = places[-1][0] + 1, places[-1][1] + 1
    alike = len({(one.dtype, one.shape) for one in entries}) == 1 and len(entries[0].shape) == 2
    if not alike or list(places) != [(number, matrix) for number in range(count) for matrix in range(each)]:
        return None
    first, experts = entries[0], tuple(tuple(entries[at : at + each]) for at in range(0, len(entries), each))
    return Entry(first.file, first.dtype, (count, each * first.shape[0], first.shape[1]), first.start, experts)


def _rows_of(entry: Entry, first: int, stop: int) -> Tensor:
    """Rows ``first`` to ``stop`` - 1 of a tensor as it is in its file."""
    found = torch.empty(stop - first, *entry.shape[1:], dtype=entry.dtype)
    row = math.prod(entry.shape[1:]) * entry.dtype.itemsize
    with entry.file.open("rb", buffering=0) as file:
        _read_into(file.fileno(), found, entry.start + first * row)
    return found


def _unpacked(blocks: Tensor, scales: Tensor) -> Tensor:
    """MXFP4 ``blocks`` [E, N, G, 16] and their exponents ``scales`` [E, N, G] -> bf16 [E, 32 G, N], which is exact."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    return convert_moe_packed_tensors(blocks, scales, dtype=torch.bfloat16)


def _read_experts(experts: Sequence[Sequence[Entry]], found: Tensor) -> None:
    """Fill ``found`` [E, N, K] with the matrices of each expert, one below the other."""
    with contextlib.ExitStack() as opened:
        files: dict[Path, int] = {}
        for matrices, into in zip(experts, found, strict=True):
            row = 0
            for one in matrices:
                if one.file not in files:
                    files[one.file] = opened.enter_context(one.file.open("rb", buffering=0)).fileno()
                _read_into(files[one.file], into[row : row + one.shape[0]], one.start)
                row += one.shape[0]


def _read_into(file: int, found: Tensor, start: int) -> None:
    """Fill ``found`` with the bytes of a file from ``start`` on."""
    left = found.flatten().view(torch.uint8).numpy().data
    while left:
        count = os.preadv(file, [left], start)
        if not count:
            raise OSError("the file ends too early")
        left, start = left[count:], start + count


def _runs(rows: Tensor) -> Iterator[tuple[int, int]]:
    """Slices of sorted ``rows`` [n] whose members lie close together."""
    breaks = (torch.diff(rows) > _RUN).nonzero().flatten().add(1).tolist()
    starts = [0, *breaks] if len(rows) else []
    # Without rows there is no start but still one end, hence not strict.
    yield from zip(starts, [*breaks, len(rows)], strict=False)


def _files(name: str, revision: str | None) -> list[Path]:
    """The safetensors files of a folder or a hub id, in their order."""
    locate = functools.partial(_located, name, revision)
    # In the order of from_pretrained: a folder with both would otherwise give us other weights than transformers.
    if (one := locate(_ONE)) is not None:
        return [one]
    if (index := locate(_INDEX)) is None:
        return []
    try:
        parts = sorted(set(read_json(index)["weight_map"].values()))
    except Unreadable as error:
        raise ModelError(f"{index} is damaged: {error}", "copy the checkpoint again") from error
    except (TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"{index} is damaged: it has no weight_map of shards", "copy the checkpoint again") from error
    files = {part: locate(str(part)) for part in parts}
    gone = [part for part, file in files.items() if file is None]
    if gone:
        more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
        raise ModelError(
            f"the checkpoint {name!r} lacks its shard {gone[0]}{more}, of {len(parts)}", "copy the checkpoint again"
        )
    return [file for file in files.values() if file is not None]


def _located(name: str, revision: str | None, file: str) -> Path | None:
    # A folder of this name wins over a hub id, as in from_pretrained.
    if path_exists(Path(name)):
        there = Path(name) / file
        return there if path_exists(there) else None
    from transformers.utils.hub import cached_file

    found = cached_file(
        name,
        file,
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if found is None else Path(found)


def _opened(file: Path) -> Any:
    if wrong := regular_file(file):
        raise ModelError(f"{file} cannot be read: {wrong}", "give a folder of files that you can read")
    try:
        return safe_open(file, framework="pt", device="cpu", backend="pread")
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{file} is not a whole safetensors file ({file.stat().st_size:,} bytes): {_line(error)}",
            "copy the checkpoint again",
        ) from error


def _line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
