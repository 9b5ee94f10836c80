"""Targets of every form, and examples of several texts: cut, joined, padded."""

from __future__ import annotations

import numpy as np
import pytest

import tiny
from stratatune.data.batching import collate, collate_examples
from stratatune.data.encode import encode_plain
from stratatune.data.encoded import IGNORED, Targets, concatenate
from stratatune.data.readers import Table

TEXTS = ["the film", "a very long story about a film", "this book", "the day and the night"]
FORMS = {
    "classes": Targets(np.array([2, 0, 1, 1])),
    "values": Targets(np.array([0.5, 1, 2, 3], np.float32)),
    "sets of labels": Targets(np.eye(4, dtype=np.float32)),
    "tags": Targets(np.arange(7), np.array([0, 2, 2, 5, 7])),
    "spans": Targets(np.arange(10).reshape(5, 2), np.array([0, 1, 2, 2, 5])),
}


@pytest.fixture(scope="module")
def data():
    return encode_plain(Table((TEXTS,)), tiny.bert_tokenizer(), 64)


@pytest.mark.parametrize("form", FORMS)
def test_targets_are_cut_joined_and_padded(data, form):
    targets = FORMS[form]
    whole = data.with_targets(targets.values, targets.offsets)
    cut = whole.subset([3, 1])
    again = concatenate([cut, whole.subset([0])]).targets["label"]
    for place, number in enumerate((3, 1, 0)):
        rows = slice(targets.starts[number], targets.starts[number] + targets.sizes[number])
        own = slice(again.starts[place], again.starts[place] + again.sizes[place])
        np.testing.assert_array_equal(again.values[own], targets.values[rows])
    index = np.array([2, 0])
    batch = collate(whole, index, 0).targets["label"].numpy()
    assert len(batch) == 2
    for row, number in zip(batch, index, strict=True):
        if targets.offsets is None:
            np.testing.assert_array_equal(row, targets.values[number])
        else:
            size = targets.sizes[number]
            np.testing.assert_array_equal(
                row[:size], targets.values[targets.starts[number] : targets.starts[number] + size]
            )
            assert (row[size:] == IGNORED).all()


def test_several_kinds_of_targets_stand_beside_one_another(data):
    both = data.with_labels([0, 1, 1, 0]).with_targets(np.array([0.5, 1, 2, 3], np.float32), name="stars")
    batch = collate(both, np.array([1, 3]), 0).to("cpu")
    assert batch.labels is not None and batch.labels.tolist() == [1, 0]
    assert batch.targets["stars"].tolist() == [1, 3]
    assert both.fingerprint == data.fingerprint


def test_examples_of_several_texts(data):
    """Three examples over four texts: a text that is in two of them is in the batch once."""
    grouped = data.with_groups([[0, 1], [2, 1, 3], [3]]).with_labels([1.0, 2.0, 3.0])
    assert (len(grouped), grouped.examples) == (4, 3) and grouped.fingerprint == data.fingerprint
    lengths = data.lengths
    assert grouped.example_lengths.tolist() == [2 * lengths[:2].max(), 3 * lengths[1:].max(), lengths[3]]
    batch = collate_examples(grouped, np.array([1, 0]), 0)
    assert batch.index.tolist() == [0, 1, 2, 3] and batch.groups is not None and batch.examples == 2
    assert batch.groups.tolist() == [[2, 1, 3], [0, 1, -1]] and batch.labels.tolist() == [2, 1]
    last = collate_examples(grouped, np.array([2]), 0)
    assert last.index.tolist() == [3] and last.groups is not None and last.groups.tolist() == [[0]]
    with pytest.raises(ValueError, match="3 examples"):
        grouped.with_labels([1, 2, 3, 4])


def test_groups_are_cut_and_joined(data):
    grouped = data.with_groups([[0, 1], [2, 1], [3, 2]]).with_labels([0, 1, 2])
    cut = grouped.subset([2, 0])
    joined = concatenate([cut, grouped])
    assert (len(joined), joined.examples) == (8, 5) and joined.labels is not None and joined.groups is not None
    assert joined.labels.tolist() == [2, 0, 0, 1, 2]
    members = [joined.subset([n]).lengths.tolist() for n in range(5)]
    expected = [data.lengths[sorted(group)].tolist() for group in ([3, 2], [0, 1], [0, 1], [2, 1], [3, 2])]
    assert members == expected
