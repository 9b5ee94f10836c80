"""What is held out: by class, nothing whole."""

from __future__ import annotations

from collections import Counter

import pytest

from stratatune.data.readers import Table
from stratatune.data.splitting import hold_out
from stratatune.errors import DataError


def table(labels):
    return Table(([f"text {i}" for i in range(len(labels))],), list(labels))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("share", [0.05, 0.3, 0.7, 0.9])
def test_every_class_stays_and_every_row_is_in_one_part(seed, share):
    whole = table("p" * 8 + "n" * 8 + "m" + "rr")
    train, held = hold_out(whole, share, seed, classes=True)
    assert sorted([*train.rows, *held.rows]) == list(range(1, 20))
    assert set(train.labels) == {"p", "n", "m", "r"}
    assert "m" not in held.labels
    assert len(held) == min(round(share * 19), 15)


def test_classes_are_held_out_by_their_share():
    _, held = hold_out(table("a" * 80 + "b" * 20), 0.2, 0, classes=True)
    assert Counter(held.labels) == {"a": 16, "b": 4}


def test_the_seed_draws():
    parts = [list(hold_out(table("ab" * 20), 0.25, seed, classes=True)[1].rows) for seed in (0, 0, 1)]
    assert parts[0] == parts[1] != parts[2]


def test_texts_and_numbers_are_no_classes():
    each_its_own = table([f"answer {i}" for i in range(20)])
    assert len(hold_out(each_its_own, 0.25, 0, classes=False)[1]) == 5
    assert len(hold_out(Table((["a"] * 20,)), 0.25, 0, classes=True)[1]) == 5


def test_nothing_to_hold_out():
    with pytest.raises(DataError, match="none is left to train on"):
        hold_out(table("ab"), 0.9, 0, classes=True)
    with pytest.raises(DataError, match="each of 3 classes has one row"):
        hold_out(table("abc"), 0.3, 0, classes=True)
