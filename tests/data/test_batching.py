"""Batches: nothing lost, nothing doubled, next to no padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stratatune.data.batching import AT_ONCE, LONG, collate, divided, padding_ratio, parts_of, plan_batches, shard
from stratatune.data.encode import encode_plain
from stratatune.data.readers import Table
from stratatune.errors import DataError

LENGTHS = st.lists(st.integers(1, 60), max_size=300)


@given(LENGTHS, st.integers(1, 40), st.one_of(st.none(), st.integers(60, 500)), st.booleans())
def test_every_example_once_within_the_bounds(lengths, size, budget, shuffle):
    lengths = np.array(lengths, dtype=np.int64)
    batches = plan_batches(lengths, batch_size=size, token_budget=budget, seed=0, epoch=0, shuffle=shuffle)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(0 < len(batch) <= size for batch in batches)
    assert all(len(batch) * lengths[batch].max() <= (budget or 10**9) for batch in batches)


@given(LENGTHS, st.integers(60, 500))
def test_a_token_budget_alone(lengths, budget):
    lengths = np.array(lengths, dtype=np.int64)
    batches = plan_batches(lengths, token_budget=budget, seed=0, epoch=0)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(len(batch) * lengths[batch].max() <= budget for batch in batches)


@given(st.integers(1, 400), st.integers(1, 20_000), st.booleans())
def test_parts_of_long_texts(texts, longest, learning):
    parts, most = parts_of(texts, longest, learning=learning), AT_ONCE if learning else 2 * AT_ONCE
    assert 1 <= parts <= texts
    if longest <= LONG:
        assert parts == 1
    else:
        rows = -(-texts // parts)
        assert rows == 1 or (rows - 1) * longest < most  # parts of equal number, up to one
        assert parts == 1 or -(-texts // (parts - 1)) * longest > most  # and no more of them than needed


def test_divided_batches_hold_the_same_examples():
    lengths = np.array([2000] * 30 + [100] * 64)
    batches = [np.arange(30), np.arange(30, 94)]
    found = divided(batches, lengths)
    assert [len(part) for part in found] == [8, 8, 7, 7, 64]
    assert np.array_equal(np.concatenate(found), np.arange(94))


def sst2_like(n=20_000):
    """Geometric-ish, mean 13, as SST-2's phrases."""
    return np.minimum(3 + np.random.default_rng(0).geometric(0.1, n), 66)


@pytest.mark.parametrize("bound", [{"batch_size": 32}, {"token_budget": 512}])
def test_hardly_any_padding(bound):
    lengths = sst2_like()
    assert 12.5 < lengths.mean() < 13.5
    assert padding_ratio(plan_batches(lengths, **bound, seed=0, epoch=0), lengths) < 1.1
    random = np.array_split(np.random.default_rng(0).permutation(len(lengths)), len(lengths) // 32)
    assert padding_ratio(random, lengths) > 2


def test_epochs_differ_and_repeat():
    lengths = sst2_like(2000)
    first, again, second, other = (
        [batch.tolist() for batch in plan_batches(lengths, batch_size=32, seed=seed, epoch=epoch)]
        for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0))
    )
    assert first == again
    assert first != second and first != other and second != other
    assert [len(b) for b in first] != sorted(len(b) for b in first) or first[0] != sorted(first[0])


def test_batches_do_not_come_by_length():
    lengths = sst2_like()
    heads = [int(lengths[batch].max()) for batch in plan_batches(lengths, batch_size=32, seed=0, epoch=0)]
    assert abs(np.corrcoef(heads, np.arange(len(heads)))[0, 1]) < 0.2


def test_without_shuffling_the_longest_come_first():
    batches = plan_batches(np.array([3, 9, 9, 1]), batch_size=3, seed=0, epoch=0, shuffle=False)
    assert [batch.tolist() for batch in batches] == [[1, 2, 0], [3]]


def test_bad_bounds():
    with pytest.raises(DataError, match="neither a batch size nor a token budget is set"):
        plan_batches(np.array([1]), seed=0, epoch=0)
    with pytest.raises(DataError, match="batch size 0"):
        plan_batches(np.array([1]), batch_size=0, seed=0, epoch=0)
    with pytest.raises(DataError, match="the longest text has 300 tokens, more than a batch's token budget of 256"):
        plan_batches(np.array([300]), token_budget=256, seed=0, epoch=0)


@given(st.integers(0, 30), st.integers(1, 8))
def test_shards(count, world):
    batches = [np.array([i]) for i in range(count)]
    exact = [int(b[0]) for rank in range(world) for b in shard(batches, rank, world, even=False)]
    assert sorted(exact) == list(range(count))
    even = [shard(batches, rank, world) for rank in range(world)]
    assert len({len(part) for part in even}) == 1
    assert {int(b[0]) for part in even for b in part} == set(range(count))


def test_collate(tokenizer):
    texts = ["good", "the food was very bad", "yes it is"]
    encoded = encode_plain(Table((texts,)), tokenizer, 64).with_labels([0, 1, 2])
    batch = collate(encoded, np.array([2, 1]), tokenizer.pad_token_id)
    expected = tokenizer([texts[2], texts[1]], padding=True, return_tensors="pt")
    assert torch.equal(batch.input_ids, expected["input_ids"])
    assert torch.equal(batch.mask, expected["attention_mask"].bool())
    if "token_type_ids" in expected:
        assert batch.token_types is not None and torch.equal(batch.token_types, expected["token_type_ids"])
    assert (batch.index.tolist(), batch.read.tolist(), len(batch)) == ([2, 1], [0, 0], 2)
    assert batch.labels is not None and batch.labels.tolist() == [2, 1]
    assert batch.tokens == int(expected["attention_mask"].sum())
    assert batch.to("cpu").token_types is batch.token_types or batch.token_types is not None
