"""What is held out: by class, nothing whole."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from stratatune.data.readers import Table
from stratatune.data.splitting import RowGroups, halves, hold_out, sample, sample_groups, with_every_label
from stratatune.errors import DataError

HELD_OF_CLASSES = [3, 4, 6, 11, 13]


def by_class(whole, *rest, **more):
    return hold_out(whole, *rest, classes=whole.labels, **more)


def table(labels):
    return Table(([f"text {i}" for i in range(len(labels))],), list(labels))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("share", [0.05, 0.3, 0.7, 0.9])
def test_every_class_stays_and_every_row_is_in_one_part(seed, share):
    whole = table("p" * 8 + "n" * 8 + "m" + "rr")
    train, held = by_class(whole, share, seed)
    assert sorted([*train.rows, *held.rows]) == list(range(1, 20))
    assert set(train.labels) == {"p", "n", "m", "r"}
    assert "m" not in held.labels
    assert len(held) == min(round(share * 19), 15)


def test_classes_are_held_out_by_their_share():
    _, held = by_class(table("a" * 80 + "b" * 20), 0.2, 0)
    assert Counter(held.labels) == {"a": 16, "b": 4}


def test_the_seed_draws():
    parts = [list(by_class(table("ab" * 20), 0.25, seed)[1].rows) for seed in (0, 0, 1)]
    assert parts[0] == parts[1] != parts[2]


def test_the_seed_decides_among_classes_that_are_as_large():
    labels = [f"c{at % 100:03d}" for at in range(500)]
    drawn = [set(by_class(table(labels), 0.1, seed)[1].labels) for seed in range(4)]
    drawn += [{labels[at] for at in sample(labels, 60, seed)} for seed in range(4)]
    first = {f"c{at:03d}" for at in range(60)}
    assert all(len(one) in (50, 60) and not one <= first for one in drawn)
    assert drawn[0] != drawn[1] and drawn[4] != drawn[5]


def test_texts_and_numbers_are_no_classes():
    each_its_own = table([f"answer {i}" for i in range(20)])
    assert len(hold_out(each_its_own, 0.25, 0)[1]) == 5
    assert len(by_class(Table((["a"] * 20,)), 0.25, 0)[1]) == 5


def test_the_draw_of_classes_stays_what_it_was():
    _, held = by_class(table("aab" * 6), 0.3, 0)
    assert list(held.rows) == HELD_OF_CLASSES
    same = [(label,) for label in "aab" * 6]
    assert list(by_class(table("aab" * 6), 0.3, 0, labels=same)[1].rows) == HELD_OF_CLASSES


def sets(count, seed):
    """Rows with up to three of thirty labels, of which many are in one row or two."""
    random = np.random.default_rng(seed)
    return [set((random.zipf(1.3, random.integers(0, 4)) % 30).tolist()) for _ in range(count)]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("share", [0.05, 0.3, 0.7, 0.95])
def test_no_label_of_a_set_is_held_out_whole(seed, share):
    labels = sets(60, seed)
    train, held = hold_out(table([""] * 60), share, seed, labels=labels)
    assert sorted([*train.rows, *held.rows]) == list(range(1, 61))
    left = Counter(label for row in train.rows for label in labels[row - 1])
    assert set(left) == set().union(*labels)
    # Fewer than wanted are held out only where every row that stays has the last of some label.
    fewer = len(held) < round(share * 60)
    assert not fewer or all(any(left[one] == 1 for one in labels[row - 1]) for row in train.rows)
    assert len(held) <= round(share * 60) and (share > 0.3 or not fewer)


def test_rows_that_must_stay_are_exchanged_for_others():
    labels = [{"x: a", f"y: {at}"} for at in range(4)] + [{"x: a", "y: 0"}] * 8
    seeds = range(8)
    for seed in seeds:
        train, held = hold_out(table([""] * 12), 0.5, seed, labels=labels)
        assert len(held) == 6 and {2, 3, 4} <= set(train.rows)
    assert any({2, 3, 4} & set(hold_out(table([""] * 12), 0.5, seed)[1].rows) for seed in seeds)


def test_where_every_row_has_a_label_of_its_own_none_is_held_out():
    labels = [{"common", at} for at in range(5)]
    with pytest.raises(DataError, match=r"each of 5 rows has something to learn that no other has: none.*with eval"):
        hold_out(table([""] * 5), 0.2, 0, labels=labels)
    assert len(hold_out(table([""] * 6), 0.9, 0, labels=[*labels, set()])[1]) == 1


def test_rows_that_have_every_label_stay_as_they_were_drawn():
    taken = np.array([0, 3])
    assert with_every_label([{"a"}, {"b"}, {"a"}, {"b"}], taken, 0).tolist() == [0, 3]
    assert len(with_every_label([{"a"}, {"b"}, {"c"}], taken[:1], 0)) == 3


def test_numbers_keep_either_half():
    assert halves([3.0, 1.0, 2.0]) == [(True,), (False,), (False,)]
    assert halves([1.0, 1.0, 0.0]) == [(True,), (True,), (False,)]
    assert halves([]) == [] and set(halves([2.0, 2.0])) == {(True,)}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("share", [0.05, 0.3, 0.7, 0.95])
def test_groups_are_held_out_whole_and_every_class_stays(seed, share):
    random = np.random.default_rng(seed)
    names, labels = random.integers(0, 20, 100).tolist(), random.integers(0, 3, 100).tolist()
    groups = RowGroups("context", names)
    train, held = hold_out(table(labels), share, seed, classes=labels, groups=groups)
    kept, out = ({names[row - 1] for row in part.rows} for part in (train, held))
    assert sorted([*train.rows, *held.rows]) == list(range(1, 101))
    assert not kept & out and kept and out and set(train.labels) == set(labels)
    largest = max(Counter(names).values())
    # Exchanges for a class exchange groups, whose sizes differ.
    assert abs(len(held) - 100 * share) <= (largest if share <= 0.3 else 2 * largest)
    again = hold_out(table(labels), share, seed, classes=labels, groups=groups)[1]
    assert list(again.rows) == list(held.rows)


def test_groups_of_one_row_are_rows():
    held = hold_out(table("ab" * 20), 0.25, 0, groups=RowGroups("query", range(40)))[1]
    assert len(held) == 10


def test_rows_of_one_group_cannot_be_held_out():
    with pytest.raises(DataError, match=r"all of 6 rows have one context: no part.*with eval"):
        hold_out(table("ababab"), 0.3, 0, groups=RowGroups("context", ["x"] * 6))
    with pytest.raises(DataError, match=r"6 rows, each context of 2 with a label that no other has"):
        hold_out(table("aaabbb"), 0.3, 0, classes="aaabbb", groups=RowGroups("context", "xxxyyy"))


def test_samples_take_whole_groups_and_cut_the_last():
    names = [row // 4 for row in range(40)]
    for seed in range(5):
        taken = sample_groups(RowGroups("query", names), 10, seed)
        assert len(taken) == 10 and sorted(Counter(names[row] for row in taken).values()) == [2, 4, 4]
    assert len(sample_groups(RowGroups("query", names), 100, 0)) == 40


def test_nothing_to_hold_out():
    with pytest.raises(DataError, match="none is left to train on"):
        by_class(table("ab"), 0.9, 0)
    with pytest.raises(DataError, match="each of 3 classes has one row"):
        by_class(table("abc"), 0.3, 0)
