"""int8 in the trunk cache: what is kept is what the formula says, by scales that never change under rows."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stratatune.cache import shards
from stratatune.cache.codec import HEADROOM, Codec, scales_for
from stratatune.cache.folders import list_caches, verify_cache
from stratatune.cache.keys import CacheKey
from stratatune.cache.store import TrunkCache
from stratatune.errors import CacheError

KEY = CacheKey("w", "tok", "{a}", "data", 128, 18, "all", "int8", (("torch", "2.13"),), "tiny")
N, D = 40, 16
LENGTHS = np.random.default_rng(0).integers(1, 9, N)
FIRST = np.concatenate([[0], np.cumsum(LENGTHS)])
SMALL = 512  # bytes of a shard: a few examples


def hidden_states(rows, width, seed=0, outliers=(3, 11)):
    """Rows [n, D] as real models give them: most channels near 1, a few near 30, some tokens larger than others."""
    random = np.random.default_rng(seed)
    values = random.standard_normal((rows, width)) * random.lognormal(0, 0.3, width)
    values[:, outliers] = 30 + 2 * random.standard_normal((rows, len(outliers)))
    return torch.tensor(values * random.lognormal(0, 0.2, (rows, 1)), dtype=torch.float32)


ALL = hidden_states(int(LENGTHS.sum()), D)
SCALES = scales_for(ALL.abs().amax(dim=0))


def rows_of(index):
    return torch.cat([ALL[FIRST[i] : FIRST[i + 1]] for i in index]) if len(index) else torch.empty(0, D)


def codes_of(rows, scales=SCALES):
    """The reference, in fp64 and by numpy: round to the nearest code, halves to even, clipped at 127."""
    exact = rows.double().numpy() / scales.double().numpy()
    return torch.tensor(np.clip(np.rint(exact), -127, 127), dtype=torch.int8)


def open_small(root, key=KEY, scales=SCALES, **options):
    return TrunkCache.open(root, key, LENGTHS, D, shard_bytes=SMALL, scales=lambda: scales, **options)


def fill(root):
    with open_small(root) as cache:
        for part in np.array_split(np.random.default_rng(2).permutation(N), 7):
            cache.put(part, rows_of(part))


def assert_right(cache, scales=SCALES):
    there = np.flatnonzero(cache.has(np.arange(N)))
    assert len(there) == N - cache.missing()
    assert torch.equal(cache.get(there), codes_of(rows_of(there), scales))
    assert torch.equal(cache.codec.scales, scales)


# ---- the formula ----


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), spread=st.floats(1e-6, 1e6), width=st.integers(1, 9))
def test_the_error_is_at_most_half_a_step(seed, spread, width):
    rows = hidden_states(50, width, seed, outliers=(0,)) * spread
    scales = scales_for(rows.abs().amax(dim=0))
    kept, out = Codec("int8", scales), torch.empty(50, width, dtype=torch.int8)
    assert kept.pack(rows, out) == 0, "a sample is never clipped by its own scales"
    difference = rows.double() - out.double() * scales.double()
    assert (difference.abs() <= scales.double() * (0.5 + 1e-5)).all()
    top = rows.abs().amax(dim=0) * HEADROOM / 127
    assert (scales >= top).all() and (scales <= top * (1 + 1 / 16)).all()


def test_packed_and_read_back_is_what_a_run_without_a_cache_rounds_to():
    kept, out = Codec("int8", SCALES), torch.empty(ALL.shape, dtype=torch.int8)
    rows = ALL * 1.5  # some lie beyond
    clipped = kept.pack(rows, out)
    assert clipped == int((rows.double().div(SCALES.double()).round().abs() > 127).sum()) > 0
    for dtype in (torch.float32, torch.bfloat16):
        assert torch.equal(kept.unpack(out, dtype), kept.rounded(rows, dtype))
        assert torch.equal(kept.rounded(kept.rounded(rows, torch.float32), dtype), kept.rounded(rows, dtype))


def test_a_scale_for_each_channel_survives_outliers_where_one_for_each_token_does_not():
    rows = hidden_states(2000, 256)
    by_channel = Codec("int8", scales_for(rows.abs().amax(dim=0))).rounded(rows, torch.float32)
    by_token = rows.abs().amax(dim=1, keepdim=True) / 127
    by_token = (rows / by_token).round() * by_token
    usual = [d for d in range(256) if d not in (3, 11)]  # where the text's meaning is

    def lost(read):
        return float((read - rows)[:, usual].norm() / rows[:, usual].norm())

    assert lost(by_channel) < 0.02 < 0.05 < lost(by_token)


def test_scales_say_the_same_of_a_sample_computed_again():
    largest = ALL.abs().amax(dim=0)
    assert torch.equal(scales_for(largest), scales_for(largest * (1 + 1e-6 * torch.randn(D)).abs()))
    odd = scales_for(torch.tensor([0.0, 1.0, 8.0]))
    assert odd[0] == odd[2], "a channel that was zero in the sample clips nothing"
    assert (scales_for(torch.zeros(3)) > 0).all()


def test_what_int8_cannot_hold_is_refused_or_stays_visible():
    kept, bad = Codec("int8", SCALES), ALL.clone()
    bad[3, 1] = float("nan")
    with pytest.raises(CacheError, match=r"int8 cannot hold \(inf or nan\)"):
        kept.pack(bad, torch.empty(bad.shape, dtype=torch.int8))
    assert kept.rounded(bad, torch.float32)[3, 1].isnan()


def test_as_plain_data():
    for kept in (Codec("int8", SCALES), Codec("bf16")):
        again = Codec.from_data(json.loads(json.dumps({**kept.to_data(), "labels": []})))
        assert again.name == kept.name
        assert (again.scales is None and kept.scales is None) or torch.equal(again.scales, kept.scales)
    assert Codec.from_data({}) == Codec("fp32")


# ---- the cache ----


@pytest.mark.parametrize("place", ["disk", "ram"])
def test_round_trip(tmp_path, place):
    with open_small(tmp_path if place == "disk" else None) as cache:
        for part in np.array_split(np.random.default_rng(1).permutation(N), 7):
            cache.put(part, rows_of(part))
            assert torch.equal(cache.get(part), codes_of(rows_of(part))), "pending rows are the written ones"
        assert cache.complete and cache.clipped == 0
        assert cache.bytes == int(LENGTHS.sum()) * D
        assert_right(cache)
    if place == "disk":
        with open_small(tmp_path) as again:
            assert again.complete
            assert_right(again)


def test_bytes_of_a_value_on_disk(tmp_path):
    lengths, width = np.random.default_rng(0).integers(4, 24, 3000), 384
    rows = hidden_states(int(lengths.sum()), width)
    scales = scales_for(rows.abs().amax(dim=0))
    with TrunkCache.open(tmp_path, KEY, lengths, width, scales=lambda: scales) as cache:
        cache.put(np.arange(3000), rows)
    assert list_caches(tmp_path)[0].bytes <= 1.02 * rows.numel()


def test_scales_are_found_once_and_only_for_a_new_cache(tmp_path):
    def never():
        raise AssertionError("the scales were there already")

    with open_small(tmp_path) as cache:
        cache.put(np.arange(9), rows_of(np.arange(9)))
    with TrunkCache.open(tmp_path, KEY, LENGTHS, D, shard_bytes=SMALL, scales=never) as cache:
        cache.put(np.arange(N), rows_of(np.arange(N)))
        assert cache.complete
        assert_right(cache)
    with TrunkCache.open(tmp_path, KEY, LENGTHS, D) as cache:
        assert_right(cache)
    with pytest.raises(ValueError, match="needs scales"):
        TrunkCache.open(None, KEY, LENGTHS, D)
    with pytest.raises(ValueError, match="3 scales for 16 channels"):
        open_small(None, scales=torch.ones(3))


def test_a_build_that_was_killed_goes_on_with_its_own_scales(tmp_path, monkeypatch):
    """Killed behind every file that is written; whoever resumes finds other scales, and must not use them."""
    real, left = shards._write, [0]

    class Killed(BaseException):
        """As good as SIGKILL for what is on disk: nothing is written any more."""

    def deadly(path, data):
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        real(path, data)

    monkeypatch.setattr(shards, "_write", deadly)
    resumed = 0
    for writes in range(1, 12):
        left[0], root = writes, tmp_path / str(writes)
        with pytest.raises(Killed):
            fill(root)
        left[0] = -1
        with open_small(root, scales=2 * SCALES) as cache:
            assert torch.equal(cache.codec.scales, SCALES)
            resumed += 0 < cache.missing() < N
            cache.put(np.arange(N), rows_of(np.arange(N)))
            assert cache.complete
            assert_right(cache)
        with open_small(root) as cache:
            assert_right(cache)
    assert resumed > 4


def test_what_was_clipped_is_counted_across_openings(tmp_path):
    few = SCALES / 2
    expected = int((ALL.double().div(few.double()).round().abs() > 127).sum())
    with open_small(tmp_path, scales=few) as cache:
        cache.put(np.arange(20), rows_of(np.arange(20)))
    with open_small(tmp_path, scales=few) as cache:
        cache.put(np.arange(N), rows_of(np.arange(N)))
        assert cache.clipped == expected > 0
        assert_right(cache, few)
    with open_small(tmp_path) as cache:
        assert cache.clipped == expected


# ---- faults ----


def test_a_changed_scale_is_never_read(tmp_path):
    fill(tmp_path)
    key_file = tmp_path / KEY.digest / "key.json"
    value = json.loads(key_file.read_text())
    assert value["format"] == 2 and len(value["scales"]) == D
    value["scales"][3] *= 2
    key_file.write_text(json.dumps(value))
    assert "checksum" in verify_cache(key_file.parent)[0]
    with open_small(tmp_path) as cache:
        assert cache.missing() == N and "scales fail their checksum" in cache.notices[0]


def test_shards_of_other_scales_are_dropped(tmp_path):
    fill(tmp_path / "one")
    with open_small(tmp_path / "other", scales=2 * SCALES):
        pass
    one, other = (Path(tmp_path / name / KEY.digest) for name in ("one", "other"))
    (one / "key.json").write_bytes((other / "key.json").read_bytes())
    with open_small(tmp_path / "one") as cache:
        assert cache.missing() == N and "made with other scales" in cache.notices[0]
        cache.put(np.arange(N), rows_of(np.arange(N)))
        assert_right(cache, 2 * SCALES)


def test_other_dtypes_have_no_scales(tmp_path):
    with TrunkCache.open(tmp_path, replace(KEY, dtype="bf16"), LENGTHS, D) as cache:
        cache.put([0], rows_of([0]))
        assert cache.codec.scales is None and cache.clipped == 0
    assert json.loads(next(tmp_path.glob("*/key.json")).read_text())["scales"] == []
