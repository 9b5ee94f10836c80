"""The trunk cache: what it says is there is exactly right, whatever was killed, cut, flipped or full before."""

import contextlib
import errno
import json
import os
import shutil
import threading
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import forked
from stratatune.cache import shards
from stratatune.cache.folders import evict, list_caches, prune, remove_cache, verify_cache
from stratatune.cache.keys import CacheKey, default_root
from stratatune.cache.rows import estimate_bytes
from stratatune.cache.shards import check_space
from stratatune.cache.store import TrunkCache
from stratatune.errors import CacheError, ResourceError

KEY = CacheKey("w", "tok", "{a}", "data", 128, 18, "all", "fp32", (("torch", "2.13"), ("transformers", "5.5")), "tiny")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
N, D = 60, 8
LENGTHS = np.random.default_rng(0).integers(1, 9, N)
SMALL = 1024  # bytes of a shard: a few examples


def rows_of(index, lengths=LENGTHS, width=D):
    """The rows that the trunk would give: every value tells its example, row and column. [sum T, D]"""
    parts = [
        1000.0 * int(i) + 10 * torch.arange(lengths[i])[:, None] + torch.arange(width)[None] / width for i in index
    ]
    return torch.cat(parts).float() / 100 if parts else torch.empty(0, width)


def open_small(root, key=KEY, **options):
    return TrunkCache.open(root, key, LENGTHS, D, shard_bytes=SMALL, **options)


def fill(root, key=KEY, order=None):
    with open_small(root, key) as cache:
        for part in np.array_split(np.arange(N) if order is None else order, 9):
            cache.put(part, rows_of(part))
        assert cache.complete


def assert_right(cache):
    """Every example that the cache claims has exactly its rows."""
    there = np.flatnonzero(cache.has(np.arange(N)))
    assert len(there) == N - cache.missing()
    assert torch.equal(cache.get(there), rows_of(there).to(cache.dtype))


def only_shard(root, number=1):
    return next(root.glob(f"*/shard-{number:05d}.bin"))


# ---- round trips ----


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("place", ["disk", "ram"])
def test_round_trip(tmp_path, dtype, place):
    key = replace(KEY, dtype=dtype)
    with open_small(tmp_path if place == "disk" else None, key) as cache:
        order = np.random.default_rng(1).permutation(N)
        for part in np.array_split(order, 7):
            cache.put(part, rows_of(part))
            assert torch.equal(cache.get(part[::-1].copy()), rows_of(part[::-1]).to(DTYPES[dtype]))
        assert cache.complete and cache.missing() == 0 and cache.writable and cache.verify() == []
        assert cache.bytes == estimate_bytes(LENGTHS, D, dtype, "all")
        assert_right(cache)
    if place == "disk":
        with open_small(tmp_path, key) as again:
            assert again.complete and again.get([3]).dtype == DTYPES[dtype]
            assert_right(again)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_order_of_putting_and_getting(tmp_path_factory, data):
    root = tmp_path_factory.mktemp("cache")
    order = np.array(data.draw(st.permutations(range(N))))
    cuts = sorted(data.draw(st.lists(st.integers(0, N), max_size=6)))
    with open_small(root) as cache:
        for part in np.split(order, cuts):
            cache.put(part, rows_of(part))
            if data.draw(st.booleans()):
                cache.flush()
    wanted = np.array(data.draw(st.lists(st.integers(0, N - 1), max_size=20)), dtype=np.int64)
    with open_small(root) as cache:
        assert cache.complete
        assert torch.equal(cache.get(wanted), rows_of(wanted))


def test_padded_rows_end_in_zeros(tmp_path):
    fill(tmp_path)
    with open_small(tmp_path) as cache:
        index = torch.tensor([5, 40, 0, 5])
        padded = cache.get_padded(index)
        assert padded.shape == (4, LENGTHS[index.numpy()].max(), D)
        for one, i in zip(padded, index.tolist(), strict=True):
            assert torch.equal(one[: LENGTHS[i]], rows_of([i])) and not one[LENGTHS[i] :].any()
        assert torch.equal(cache.get_padded([7])[0], rows_of([7]))
        assert cache.get_padded([]).shape == (0, 0, D)


def test_read_positions_keep_one_row(tmp_path):
    key = replace(KEY, positions="read")
    with TrunkCache.open(tmp_path, key, LENGTHS, D) as cache:
        cache.put([4, 2], torch.tensor([[4.0], [2.0]]).expand(2, D))
        assert cache.get([2, 4])[:, 0].tolist() == [2, 4]
        assert cache.bytes == 2 * D * 4
    assert estimate_bytes(LENGTHS, D, "bf16", "read") == N * D * 2


def test_repeated_and_present_examples_are_ignored(tmp_path):
    with open_small(tmp_path) as cache:
        cache.put([3, 3, 5], rows_of([3, 3, 5]))
        cache.put([5, 6], rows_of([5, 6]) * torch.tensor([0.0] * LENGTHS[5] + [1.0] * LENGTHS[6])[:, None])
        assert cache.missing() == N - 3
        assert_right(cache)


def test_pending_rows_do_not_change_with_the_callers_arrays(tmp_path):
    index, rows = np.array([4, 7]), rows_of([4, 7])
    with open_small(tmp_path) as cache:
        cache.put(index, rows)
        index[:], rows[:] = 0, 0
        cache.get([4, 7])[:] = 0
    with open_small(tmp_path) as cache:
        assert cache.has([4, 7]).all()
        assert_right(cache)
        cache.get([4, 7])[:] = 0
        assert_right(cache)


def test_put_under_inference_mode_and_with_gradients(tmp_path):
    with open_small(None) as cache:
        with torch.inference_mode():
            cache.put([0], rows_of([0]))
        cache.put([1], rows_of([1]).requires_grad_())
        got = cache.get([0, 1])
        assert not got.requires_grad and not got.is_inference()
        assert_right(cache)


def test_examples_without_rows_and_larger_than_a_shard(tmp_path):
    lengths = np.array([0, 300, 0, 2])
    for _ in range(2):
        with TrunkCache.open(tmp_path, KEY, lengths, D, shard_bytes=64) as cache:
            cache.put([2, 1, 0, 3], rows_of([2, 1, 0, 3], lengths))
            assert cache.complete
            assert torch.equal(cache.get([1, 0, 3]), rows_of([1, 3], lengths))
            assert cache.get([0, 2]).shape == (0, D)
    with TrunkCache.open(tmp_path / "none", KEY, np.array([], dtype=np.int64), D) as cache:
        assert cache.complete


def test_wrong_use_is_said(tmp_path):
    with open_small(tmp_path) as cache:
        with pytest.raises(ValueError, match="expected"):
            cache.put([0], torch.zeros(LENGTHS[0] + 1, D))
        with pytest.raises(IndexError):
            cache.has([-1])
        with pytest.raises(CacheError, match="example 9 is not in"):
            cache.get([9])
    with (
        TrunkCache.open(None, replace(KEY, dtype="fp16"), np.array([1]), 2) as cache,
        pytest.raises(CacheError, match="fp16 cannot hold"),
    ):
        cache.put([0], torch.full((1, 2), 1e6))


def test_reading_beside_writing_sees_only_right_rows(tmp_path):
    cache, wrong, done = open_small(tmp_path), [], threading.Event()

    def read():
        while not done.is_set():
            there = np.flatnonzero(cache.has(np.arange(N)))
            if not torch.equal(cache.get(there), rows_of(there)):
                wrong.append(there)

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(N):
        cache.put([i], rows_of([i]))
    done.set()
    reader.join()
    cache.close()
    assert not wrong


# ---- kills and faults ----

KILLED = """
import json, os, random, signal, sys
import numpy as np, torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from test_cache import KEY, N, SMALL, open_small, rows_of
from pathlib import Path
root, points = Path(sys.argv[1]), int(sys.argv[2])

def child(point):
    calls, real_replace = [0], os.replace
    def die(handle=None):
        calls[0] += 1
        if calls[0] == point:
            if handle is not None and random.Random(point).random() < 0.7:
                try:
                    os.ftruncate(handle, os.fstat(handle).st_size // 2)  # the write itself was cut
                except OSError:
                    pass  # a folder
            os.kill(os.getpid(), signal.SIGKILL)
    sync = die  # what a process wrote outlives its kill
    def rename(*names): die(); real_replace(*names); die()
    os.fsync, os.replace = sync, rename
    cache = open_small(root / f"{{point:03d}}")
    for part in np.array_split(np.random.default_rng(point).permutation(N), 11):
        cache.put(part, rows_of(part))
        if point % 3 == 0: cache.flush()
    os._exit(0)

killed = 0
for point in range(1, points + 1):
    pid = os.fork()
    if pid == 0:
        child(point)
    killed += os.waitpid(pid, 0)[1] == signal.SIGKILL
print(killed)
"""


def test_killed_writer_leaves_nothing_wrong(tmp_path, tmp_path_factory):
    points = 40
    code = KILLED.format(tests=str(Path(__file__).parent))
    done = forked.start(["-c", code, str(tmp_path), str(points)], tmp_path_factory.mktemp("said"))
    out, err = done.communicate()
    assert done.returncode == 0, err
    assert int(out) > points * 0.8
    resumed = 0
    for root in sorted(tmp_path.iterdir()):
        with open_small(root) as cache:
            assert cache.writable, "the lock of a dead process blocks"
            assert cache.notices == []
            assert_right(cache)
            resumed += 0 < cache.missing() < N
            absent = np.flatnonzero(~cache.has(np.arange(N)))
            cache.put(absent, rows_of(absent))
        with open_small(root) as cache:
            assert cache.complete
            assert_right(cache)
            assert not list(root.glob("*/.*.part"))
    assert resumed > points / 2


@pytest.mark.parametrize("fault", ["flip", "cut", "gone", "sidecar flip", "sidecar cut", "sidecar nonsense"])
def test_faulty_shard_is_dropped_and_made_again(tmp_path, fault):
    fill(tmp_path)
    path = only_shard(tmp_path)
    side = path.with_suffix(".json")
    data, text = bytearray(path.read_bytes()), side.read_text()
    data[len(data) // 2] ^= 1
    first = json.loads(text)["examples"][0]
    {
        "flip": lambda: path.write_bytes(data),
        "cut": lambda: path.write_bytes(data[:-1]),
        "gone": path.unlink,
        "sidecar flip": lambda: side.write_text(text.replace(f"[{first},", f"[{first - 1},")),
        "sidecar cut": lambda: side.write_text(text[: len(text) // 2]),
        "sidecar nonsense": lambda: side.write_text("[]"),
    }[fault]()
    assert verify_cache(path.parent)
    with open_small(tmp_path, verify=fault == "flip") as cache:  # all else shows without reading the rows
        assert 0 < cache.missing() < N and len(cache.notices) == 1 and "shard-00001" in cache.notices[0]
        assert_right(cache)
        absent = np.flatnonzero(~cache.has(np.arange(N)))
        cache.put(absent, rows_of(absent))
    assert verify_cache(path.parent) == [] and not path.exists(), "a dropped shard's number is never used again"
    with open_small(tmp_path) as cache:
        assert cache.complete
        assert_right(cache)


def test_another_format_has_a_folder_of_its_own(monkeypatch):
    before = KEY.digest
    monkeypatch.setattr("stratatune.cache.keys.FORMAT", 99)
    assert KEY.digest != before


def test_key_digest_and_stale_folders(tmp_path):
    changed = ["weights", "tokenizer", "template", "data"]
    assert len({KEY.digest, *(replace(KEY, **{name: "x"}).digest for name in changed)}) == 5
    assert replace(KEY, model="other").digest == KEY.digest != replace(KEY, depth=1).digest
    fill(tmp_path)
    with open_small(tmp_path, replace(KEY, model="renamed")) as cache:
        assert cache.complete and not cache.notices
    other = replace(KEY, data="other")
    shutil.copytree(tmp_path / KEY.digest, tmp_path / other.digest)
    with open_small(tmp_path, other) as cache:  # rows of another origin are no rows
        assert cache.missing() == N and "names another data" in cache.notices[0]


DAMAGE = {
    "format": ('"format": 2', '"format": 99', "has format 99"),
    "weights": ('"weights": "w"', '"weights": "v"', "names another weights"),
    "width": (f'"width": {D}', f'"width": {D + 1}', "names another width"),
    "name": ('"depth"', '"dexth"', "unreadable key.json"),
    "cut": (None, 50, "unreadable key.json"),
    "no record": (None, "[]", "unreadable key.json"),
    "no text": (None, b"\xff\xfe", "unreadable key.json"),
    "gone": (None, None, ""),
}


@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_key_is_rebuilt_like_a_damaged_shard(tmp_path, damage, reads):
    fill(tmp_path)
    path, (old, new, said) = tmp_path / KEY.digest / "key.json", DAMAGE[damage]
    text = path.read_text()
    path.unlink()
    if old is not None:
        assert old in text
        path.write_text(text.replace(old, str(new)))
    elif new is not None:
        path.write_bytes(text[:new].encode() if isinstance(new, int) else new.encode() if isinstance(new, str) else new)
    lock = shards.take_lock(path.parent) if reads else None
    with open_small(tmp_path) as cache:
        assert cache.missing() == N and cache.writable != reads
        assert said in " ".join(cache.notices)
        assert reads or not list(cache.folder.glob("shard-*")), "rows of an unknown origin are no rows"
        cache.put(np.arange(N), rows_of(np.arange(N)))
    if lock:
        lock.release()
        return
    assert verify_cache(path.parent) == []
    with open_small(tmp_path) as cache:
        assert cache.complete and not cache.notices
        assert_right(cache)


def test_a_flipped_bit_anywhere_is_never_believed(tmp_path):
    """One bit of one file at a time: the rows are the right ones, or they are missing."""
    fill(tmp_path / "whole")
    chance = np.random.default_rng(0)
    for number in range(120):
        root = tmp_path / "flipped"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(tmp_path / "whole", root)
        files = sorted(path for path in (root / KEY.digest).iterdir() if path.stat().st_size)
        path = files[number % len(files)]
        data = bytearray(path.read_bytes())
        data[chance.integers(len(data))] ^= 1 << int(chance.integers(8))
        path.write_bytes(data)
        with open_small(root) as cache:
            assert_right(cache)
            absent = np.flatnonzero(~cache.has(np.arange(N)))
            cache.put(absent, rows_of(absent))
        with open_small(root) as cache:
            assert cache.complete and not cache.notices, path
            assert_right(cache)


def test_a_complete_cache_on_a_full_disk_is_used(tmp_path, monkeypatch):
    fill(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(100, 100, 0))
    with open_small(tmp_path) as cache:
        assert cache.complete and not cache.notices
        assert_right(cache)


def test_half_a_cache_on_a_full_disk_is_used(tmp_path, monkeypatch):
    with open_small(tmp_path) as cache:
        cache.put(np.arange(30), rows_of(np.arange(30)))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(100, 100, 0))
    with open_small(tmp_path) as cache:
        assert cache.missing() == N - 30 and not cache.writable and "no room" in cache.notices[0]
        assert_right(cache)


def test_second_opener_only_reads(tmp_path):
    first = open_small(tmp_path)
    first.put(np.arange(30), rows_of(np.arange(30)))
    first.flush()
    with open_small(tmp_path) as second:
        assert not second.writable and "another process" in second.notices[0]
        second.put([50], rows_of([50]))
        assert second.missing() == N - 30 and not second.has([50])[0]
        assert_right(second)
        second.flush()
        first.put([50], rows_of([50]))
    with pytest.raises(CacheError, match="being written"):
        remove_cache(tmp_path, KEY.digest)
    first.close()
    with open_small(tmp_path) as third:
        assert third.writable and third.missing() == N - 31
        assert_right(third)


def test_parts_of_other_processes_are_taken_over(tmp_path, monkeypatch):
    """At opening when a build was killed, wherever its moving stopped; a live writer keeps its own."""
    for stop in range(1, 9):
        root, moved, plain = tmp_path / str(stop), [0], os.replace
        with open_small(root) as cache:
            cache.put(np.arange(20), rows_of(np.arange(20)))
            cache.flush()
            folder = cache.folder
            with open_small(shards.part_root(folder, 1)) as part:
                part.put(np.arange(20, 40), rows_of(np.arange(20, 40)))
                cache.refresh()
                assert cache.missing() == N - 20, "it is being written"
        with open_small(shards.part_root(folder, 2)) as part:
            part.put(np.arange(35, N), rows_of(np.arange(35, N)))

        def counted(*names, moved=moved, stop=stop, plain=plain):
            moved[0] += 1
            if moved[0] == stop:
                raise KeyboardInterrupt
            plain(*names)

        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            patch.setattr(os, "replace", counted)
            open_small(root).close()
        with open_small(root) as cache:
            assert cache.missing() <= 8, "all but the shard that was on its way"
            assert_right(cache)
            cache.put(np.arange(N), rows_of(np.arange(N)))
            assert cache.complete
            assert_right(cache)
        assert verify_cache(folder) == [] and not list(folder.glob("rank-*"))


def test_a_reader_sees_what_was_written_since(tmp_path):
    with open_small(tmp_path) as writer, open_small(tmp_path) as reader:
        writer.put(np.arange(N), rows_of(np.arange(N)))
        assert reader.missing() == N
        reader.refresh()
        assert reader.complete and not reader.writable
        assert_right(reader)


# ---- disks ----

Usage = namedtuple("Usage", "total used free")


def test_disk_known_to_be_full(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(100, 0, 100))
    with pytest.raises(ResourceError, match=r'needed, 100 B free \(use cache="ram", cache="off"'):
        open_small(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    check_space(tmp_path, 100)


def test_disk_fills_while_writing(tmp_path, monkeypatch):
    cache, real = open_small(tmp_path), os.fsync
    cache.put(np.arange(10), rows_of(np.arange(10)))

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match=f"{KEY.digest}: No space left on device .*needed, .*free.*cache=.ram"):
        cache.put(np.arange(10, N), rows_of(np.arange(10, N)))
    assert_right(cache)
    assert not list(cache.folder.glob(".*.part"))
    with pytest.raises(ResourceError):
        cache.close()
    monkeypatch.setattr(os, "fsync", real)
    with open_small(tmp_path) as again:
        assert again.writable
        assert_right(again)


def test_first_error_is_not_hidden_by_a_full_disk(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt), open_small(tmp_path) as cache:
        cache.put([0], rows_of([0]))
        monkeypatch.setattr(shards, "_write", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        raise KeyboardInterrupt


def test_unwritable_folder(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match="cannot write the trunk cache in .*needed.*cache="):
        open_small(tmp_path / "file")
    fill(tmp_path / "good")

    def shut(*_, **__):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(shards.FileLock, "acquire", shut)
    with open_small(tmp_path / "good") as cache:
        assert not cache.writable and cache.complete and "not writable" in cache.notices[0]
        assert_right(cache)
    monkeypatch.setattr(Path, "mkdir", shut)
    with pytest.raises(ResourceError, match="Permission denied"):
        open_small(tmp_path / "new")


def test_opening_and_reading_a_little_reads_a_little(tmp_path, monkeypatch):
    lengths, width = np.full(3200, 16), 1024
    with TrunkCache.open(tmp_path, KEY, lengths, width) as cache:
        block = torch.ones(16 * 400, width)
        for begin in range(0, 3200, 400):
            cache.put(np.arange(begin, begin + 400), block * begin)
        assert cache.bytes > 200e6
    monkeypatch.setattr(shards, "_checksum", None)  # calling it would fail
    before = resident()
    with TrunkCache.open(tmp_path, KEY, lengths, width, verify=False) as cache:
        index = np.array([0, 799, 1500, 3199])
        assert cache.get(index)[:, 0].view(4, 16)[:, 0].tolist() == [0, 400, 1200, 2800]
        assert resident() - before < 40e6


def resident():
    """Bytes of memory that this process has in use, mapped pages included."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except FileNotFoundError:
        pytest.skip("no /proc here")


# ---- administration ----


def test_listing_verifying_removing(tmp_path, monkeypatch):
    assert list_caches(tmp_path / "none") == []
    other = replace(KEY, depth=2)
    fill(tmp_path)
    with open_small(tmp_path, other) as cache:
        cache.put([1, 2], rows_of([1, 2]))
    (tmp_path / "notes").mkdir()
    os.utime(tmp_path / KEY.digest / "key.json", (1, 1))
    infos = list_caches(tmp_path)
    assert [(i.key, i.present, i.complete) for i in infos] == [(other, 2, False), (KEY, N, True)]
    assert infos[1].last_used == 1 and infos[1].bytes > estimate_bytes(LENGTHS, D, "fp32", "all")
    assert verify_cache(infos[0].folder) == []
    (tmp_path / other.digest / "key.json").write_text("{")
    assert verify_cache(infos[0].folder) and list_caches(tmp_path)[0].key is None
    for wrong in ("", "zz", "../notes"):
        with pytest.raises(CacheError, match="0 trunk caches"):
            remove_cache(tmp_path, wrong)
    freed = remove_cache(tmp_path, other.digest[:8])
    assert freed > 0 and sorted(path.name for path in tmp_path.iterdir()) == sorted([KEY.digest, "notes"])
    monkeypatch.setenv("STRATATUNE_CACHE", str(tmp_path))
    assert default_root() == tmp_path
    monkeypatch.delenv("STRATATUNE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert default_root() == Path("/x/stratatune")


def test_removed_under_a_reader(tmp_path):
    fill(tmp_path)
    writer = open_small(tmp_path)
    with open_small(tmp_path) as reader:
        writer.close()
        remove_cache(tmp_path, KEY.digest)
        assert_right(reader)


def test_evict_drops_the_least_recently_used(tmp_path):
    keys = [replace(KEY, depth=depth) for depth in range(5)]
    for age, key in enumerate(keys):
        if key.depth == 1:
            with open_small(tmp_path, key) as cache:
                cache.put([0], rows_of([0]))
        else:
            fill(tmp_path, key)
        os.utime(tmp_path / key.digest / "key.json", (age + 1, age + 1))
    one = list_caches(tmp_path)[0].bytes
    assert evict(tmp_path, 10 * one) == 0
    busy = open_small(tmp_path, keys[2])
    os.utime(tmp_path / keys[2].digest / "key.json", (3, 3))
    assert evict(tmp_path, int(2.5 * one), keep={keys[0].digest}) == one
    assert {info.key.depth for info in list_caches(tmp_path)} == {0, 1, 2, 4}
    busy.close()
    evict(tmp_path, 0)
    assert [info.key.depth for info in list_caches(tmp_path)] == [1], "what may be resumed stays"


def test_prune_leaves_what_is_in_use(tmp_path):
    keys = [replace(KEY, depth=depth) for depth in range(4)]
    for days, key in enumerate(keys):
        fill(tmp_path, key)
        used = time.time() - 86_400 * days
        os.utime(tmp_path / key.digest / "key.json", (used, used))
    one = list_caches(tmp_path)[0].bytes
    with open_small(tmp_path, keys[3]):
        os.utime(tmp_path / keys[3].digest / "key.json", (1, 1))
        found = prune(tmp_path, unused=1.5 * 86_400, keep=one)
    assert [info.key.depth for info in found.left] == [3]
    assert {info.key.depth for info in found.removed} == {1, 2}
    assert {info.key.depth for info in list_caches(tmp_path)} == {0, 3}


def test_a_cache_that_another_process_removes_meanwhile_is_not_listed(tmp_path, monkeypatch):
    from stratatune.cache import folders

    fill(tmp_path)
    plain = folders._info

    def gone(folder):
        raise FileNotFoundError(folder / "key.json")

    monkeypatch.setattr(folders, "_info", gone)
    assert list_caches(tmp_path) == []
    monkeypatch.setattr(folders, "_info", plain)
    assert len(list_caches(tmp_path)) == 1


def test_what_a_killed_removal_left_is_no_obstacle(tmp_path):
    fill(tmp_path)
    (info,) = list_caches(tmp_path)
    left = info.folder.with_name(f".removed-{info.folder.name}")
    left.mkdir()
    (left / "x").touch()
    assert remove_cache(tmp_path, info.digest) == info.bytes
    assert not info.folder.exists() and not left.exists()
