"""The trunk cache: hidden states at the frozen depth, real tokens only, kept so that the trunk runs once per example.

A ragged store: text i has rows[i] rows of D values. Examples of equal content are one text, whose rows are kept once.
On disk it is a folder of shards (`shards.py` has the format); in RAM, one tensor. Either way two numbers find a text's
rows: the slot (a shard's memory map, or the tensor that is being filled) and the first row in it. Both stay as they are
when the slot is written out, so a background thread may read while another writes.

Shapes: `N` examples in all, `M` distinct texts among them, `B` examples of one call, `T` rows of an example, `D` values
in a row.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from stratatune.cache import shards as files
from stratatune.cache.codec import DTYPES, Codec, with_scales
from stratatune.cache.folders import verify_cache
from stratatune.cache.keys import KEY_FILE, CacheKey, Identity
from stratatune.cache.on_device import Resident
from stratatune.cache.rows import Filling, allocate, gather, map_rows, numbers, pad, rows_per_example
from stratatune.data.distinct import Distinct
from stratatune.errors import CacheError, ResourceError

SHARD_BYTES = 64 << 20
_ABSENT = -1


class TrunkCache:
    """The rows of one data set under one key; made by ``TrunkCache.open``. ``index`` is an int array or tensor [B].

    put(), flush() and close() belong to one thread; has() and get() may run in others at the same time.
    """

    def __init__(
        self,
        identity: Identity,
        rows: np.ndarray,
        folder: Path | None,
        lock: FileLock | None,
        shard_bytes: int,
        distinct: Distinct | None = None,
    ) -> None:
        self.folder = folder
        self.key = identity.key
        self.width = identity.width
        self.dtype = DTYPES[identity.key.dtype]
        self.codec = Codec.of(identity)
        self.clipped = 0  # values beyond their channel's int8 scale
        self.notices: list[str] = []
        self._identity = identity
        self._rows = rows  # int64 [M]
        self._distinct = distinct
        self._slot = np.full(len(rows), _ABSENT, dtype=np.int32)
        self._first = np.zeros(len(rows), dtype=np.int64)
        self._slots: list[Tensor] = []
        self._filling: Filling | None = None
        self.resident: Resident | None = None
        self._missing = len(rows)
        self._lock = lock
        self._stopped = False
        self._next_shard = 0
        self._shard_bytes = shard_bytes

    @classmethod
    def open(
        cls,
        root: Path | None,
        key: CacheKey,
        lengths: np.ndarray,
        width: int,
        *,
        distinct: Distinct | None = None,
        scales: Callable[[], Tensor] | None = None,
        verify: bool = True,
        shard_bytes: int = SHARD_BYTES,
    ) -> TrunkCache:
        """Open or begin the cache of ``key`` under ``root``, or in RAM when that is None.

        ``lengths`` [N] are tokens per example, ``width`` is D. ``distinct`` says which examples are one text; None: no
        two are. ``scales`` finds int8's [D] for a cache that begins: a cache that is continued keeps those it has.
        ``verify`` checks every byte against its checksum; sizes are checked in any case. Faulty shards are dropped,
        with a notice, and their examples are missing again. While another process writes the cache, this one only reads
        what was whole at opening.

        A damaged or foreign key.json is like a faulty shard of all examples. On a full disk what is there is used.

        Raises ResourceError when there is no room or no permission to begin.
        """
        rows = rows_per_example(lengths if distinct is None else lengths[distinct.first], key.positions)
        identity = Identity.of(key, rows, width)
        if root is None:
            return cls(with_scales(identity, None, scales), rows, None, None, shard_bytes, distinct)
        folder, need = Path(root) / key.digest, int(rows.sum()) * identity.row_bytes
        if not (folder / KEY_FILE).is_file():
            # A cache that would begin is refused before its folder is made.
            files.check_space(Path(root), need)
        lock, notice = files.lock_or_read(folder, need)
        cache = cls(identity, rows, folder, lock, shard_bytes, distinct)
        cache.notices += [notice] if notice else []
        try:
            cache._load(folder, verify, scales)
        except BaseException:
            # Or the lock would be held by an object that nobody has.
            cache.close()
            raise
        return cache

    @classmethod
    def read_only(cls, folder: Path, key: CacheKey, lengths: np.ndarray, width: int) -> TrunkCache:
        """The complete rows of the cache in ``folder``, whoever writes it; checksums are not compared."""
        rows = rows_per_example(lengths, key.positions)
        cache = cls(Identity.of(key, rows, width), rows, folder, None, SHARD_BYTES)
        cache._load(folder, False, None)
        return cache

    # ---- state ----

    @property
    def writable(self) -> bool:
        """Whether put() keeps anything: true in RAM and for the one writer of a folder."""
        return not self._stopped and (self.folder is None or self._lock is not None)

    @property
    def complete(self) -> bool:
        """Whether every example is present."""
        return self._missing == 0

    @property
    def bytes(self) -> int:
        """The bytes of the rows that are present, written or not."""
        return int(self._rows[self._slot != _ABSENT].sum()) * self._identity.row_bytes

    @property
    def texts(self) -> int:
        """The number of texts, M."""
        return len(self._rows)

    def missing(self) -> int:
        """The number of absent texts."""
        return self._missing

    def has(self, index: np.ndarray | Tensor) -> np.ndarray:
        """The examples that are present, written or still pending. bool [B]."""
        return self._slot[self._texts(index)] != _ABSENT

    def _texts(self, index: np.ndarray | Tensor) -> np.ndarray:
        """The numbers of the texts of examples ``index`` [B]."""
        if self._distinct is None:
            return numbers(index, len(self._rows))
        return self._distinct.number[numbers(index, len(self._distinct.number))]

    # ---- reading ----

    def get(self, index: np.ndarray | Tensor) -> Tensor:
        """A copy of the rows of ``index`` as stored, one example after another: [sum T, D] on the CPU, still packed.

        Raises CacheError when one of them is absent, IndexError when one is outside 0..N-1.
        """
        texts = self._texts(index)
        slots, first, counts = self._slot[texts], self._first[texts], self._rows[texts]
        if (slots == _ABSENT).any():
            absent = np.asarray(index)[slots == _ABSENT][0]
            raise CacheError(f"example {absent} is not in the trunk cache", "run the trunk and put() its rows")
        return gather(self._slots, slots, first, counts) if len(texts) else torch.empty(0, self.width, dtype=self.dtype)

    def get_padded(self, index: np.ndarray | Tensor) -> Tensor:
        """The rows of ``index`` as [B, T, D], T the most rows of any, zeros after an example's last row.

        On the CPU, or on the device that move_to() named.
        """
        texts = self._texts(index)
        if self.resident is not None:
            return self.resident.get_padded(texts)
        return pad(self.get(index), self._rows[texts])

    def move_to(self, device: torch.device) -> None:
        """Copy every row of a complete cache to ``device``, from where get_padded() then takes them."""
        if self.resident is None:
            self.resident = Resident(self._slots, self._slot, self._first, self._rows, device)

    def verify(self) -> list[str]:
        """The problems of the files on disk, one line each; none in RAM."""
        return [] if self.folder is None else verify_cache(self.folder)

    # ---- writing ----

    def put(self, index: np.ndarray | Tensor, rows: Tensor) -> None:
        """Keep ``rows`` [sum T, D] of the examples ``index``; present ones are ignored, and a reader ignores all.

        Whole shards go to disk at once, the rest at flush(), close() or when nothing is missing any more. Raises
        ValueError for a wrong shape, CacheError for values that the dtype cannot hold, ResourceError for a full or shut
        disk (what was put before stays readable, the pending rows too; close() will try and raise once more).
        """
        index = self._texts(index)
        counts = self._rows[index]
        if rows.shape != (counts.sum(), self.width):
            raise ValueError(f"rows of shape {tuple(rows.shape)}, expected {(int(counts.sum()), self.width)}")
        if not self.writable:
            return
        new = np.zeros(len(index), dtype=bool)
        # The same text twice in one call counts once.
        new[np.unique(index, return_index=True)[1]] = True
        new &= self._slot[index] == _ABSENT
        if not new.all():
            rows = rows[torch.from_numpy(np.repeat(new, counts)).to(rows.device)]
            index = index[new]
        self._append(index, rows.detach())
        # Nothing more will be put, so nothing else would write the rest before close().
        if self.complete:
            self.flush()

    def _append(self, index: np.ndarray, rows: Tensor) -> None:
        """Put new examples into the slot that is being filled, and into new ones as each is full."""
        while len(index):
            filling = self._filling or self._begin()
            ends = np.cumsum(self._rows[index])
            fit = int(np.searchsorted(ends, len(filling.rows) - filling.used, side="right"))
            if fit == 0:
                self.flush()
                continue
            taken = int(ends[fit - 1])
            self._fill(filling, index[:fit], ends[:fit], rows[:taken])
            index, rows = index[fit:], rows[taken:]

    def _fill(self, filling: Filling, index: np.ndarray, ends: np.ndarray, rows: Tensor) -> None:
        target = filling.rows[filling.used : filling.used + len(rows)]
        clipped = self.codec.pack(rows, target)
        filling.clipped, self.clipped = filling.clipped + clipped, self.clipped + clipped
        self._first[index] = filling.used + ends - self._rows[index]
        self._slot[index] = filling.slot  # last: from here on readers see them
        filling.used += len(rows)
        filling.examples.append(index.copy())  # the caller may use the array again before the flush
        self._missing -= len(index)

    def _begin(self) -> Filling:
        """A new slot: of a shard's size, or of one example if that is larger, and never more than is missing."""
        missing = self._rows[self._slot == _ABSENT]
        room = int(missing.sum())
        if self.folder is not None:
            room = min(room, max(self._shard_bytes // max(self._identity.row_bytes, 1), int(missing.max())))
        self._filling = Filling(len(self._slots), allocate(room, self.width, self.dtype))
        self._slots.append(self._filling.rows)
        return self._filling

    def flush(self) -> None:
        """Write the pending rows as a shard; do nothing in RAM or in a reader. After a ResourceError, try again."""
        filling = self._filling
        if filling is None or self.folder is None or not filling.examples or not self.writable:
            return
        rows = filling.rows[: filling.used]
        data = rows.view(torch.uint8).numpy().data.cast("B") if rows.numel() else memoryview(b"")
        with files.file_errors(self.folder, data.nbytes):
            shard = files.write_shard(
                self.folder, self._next_shard, self._identity, np.concatenate(filling.examples), data, filling.clipped
            )
        self._next_shard += 1
        # The slot keeps its number and becomes a map of the file: its memory is freed, and readers notice nothing.
        self._slots[filling.slot] = map_rows(shard.path, len(rows), self.width, self.dtype)
        self._filling = None

    def stop_writing(self) -> None:
        """Stop writing but keep all rows, pending ones in memory too: for a disk that has filled up."""
        self._stopped = True
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def close(self) -> None:
        """Write pending rows and release the lock, even when that fails. Nothing is present afterwards."""
        try:
            self.flush()
        finally:
            self._forget()
            if self._lock is not None:
                self._lock.release()
                self._lock = None

    def refresh(self, *, verify: bool = False) -> None:
        """Read the disk again; the writer also takes over the parts that other processes made.

        ``verify`` checks every byte against its checksum, as opening does.
        """
        self.flush()
        if self.folder is not None and self._filling is None:
            self._forget()
            self._load(self.folder, verify, None)

    def _forget(self) -> None:
        self._slot[:] = _ABSENT
        self._slots, self._filling, self.resident, self._missing, self.clipped = [], None, None, len(self._rows), 0

    def __enter__(self) -> TrunkCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(*([ResourceError] if error else [])):  # a full disk must not hide the first error
            self.close()

    # ---- opening ----

    def _load(self, folder: Path, verify: bool, scales: Callable[[], Tensor] | None) -> None:
        """Check the key, find the complete shards, and as the writer delete the rest."""
        stored = self._stored(folder)
        self._identity = with_scales(self._identity, stored, scales)
        self.codec = Codec.of(self._identity)
        if stored is not None and self.writable:
            with files.file_errors(folder, 0):
                files.adopt(folder, self._identity)
        found, bad = files.read_shards(folder, self._identity, verify=verify) if stored else ([], {})
        whole = [shard for shard in found if self._add(shard, bad)]
        self.notices += [f"dropped {path} of the trunk cache: {fault}" for path, fault in bad.items()]
        if not self.writable:
            return
        need = int(self._rows[self._slot == _ABSENT].sum()) * self._identity.row_bytes
        try:
            files.check_space(folder, need)
            with files.file_errors(folder, need):
                self._next_shard = files.sweep(folder, whole)
                if stored is None:
                    files.write_identity(folder, self._identity)
                # The time of the last use, by which evict chooses.
                os.utime(folder / KEY_FILE)
        except ResourceError as error:
            # With nothing there the error is the user's to settle; with something, what is there is worth having.
            if self._missing == len(self._rows):
                raise
            self.stop_writing()
            self.notices.append(f"{error.message}; what the trunk cache has is used")

    def _stored(self, folder: Path) -> Identity | None:
        """The content of key.json, if it is this cache's; else the cache is damaged, and none of its rows are used."""
        try:
            stored = files.read_identity(folder)
            if stored is None or not (differs := stored.differences(self._identity)):
                return stored
            reason = f"its {KEY_FILE} names another {', '.join(differs)}"
        except CacheError as error:
            reason = error.message
        self.notices.append(f"the trunk cache {folder} is {'rebuilt' if self.writable else 'not used'}: {reason}")
        return None

    def _add(self, shard: files.Shard, bad: dict[Path, str]) -> bool:
        """Map a shard if its rows fit its examples; note it in ``bad`` otherwise."""
        counts = self._rows[shard.examples]
        # An example that two shards name counts once.
        fresh = self._slot[shard.examples] == _ABSENT
        if counts.sum() * self._identity.row_bytes != shard.size or len(np.unique(shard.examples)) != len(counts):
            bad[shard.path] = "its examples do not have as many rows"
            return False
        self._slots.append(map_rows(shard.path, int(counts.sum()), self.width, self.dtype))
        self._slot[shard.examples] = len(self._slots) - 1
        self._first[shard.examples] = np.cumsum(counts) - counts
        self._missing -= int(fresh.sum())
        self.clipped += shard.clipped
        return True
