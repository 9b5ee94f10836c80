"""Choices of rows: a part of the training data held out for evaluation, and samples of the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

from stratatune.data.readers import Table
from stratatune.errors import DataError

RowLabels = Sequence[Collection[Hashable]]
"""The labels of each of N rows: any number of them, none included."""


class RowGroups(NamedTuple):
    """Groups of rows that belong in one part of the data: what was learned of one row would give another away.

    Attributes:
        what: what the rows of a group have in common, in one word.
        names: the group of each of N rows.
        compared: whether rows of a group are compared with each other, so that samples have whole groups too.
    """

    what: str
    names: Sequence[Hashable]
    compared: bool = False

    def members(self) -> list[np.ndarray]:
        """The positions of each group's rows, sorted; the groups by their first rows."""
        rows: dict[Hashable, list[int]] = {}
        for row, name in enumerate(self.names):
            rows.setdefault(name, []).append(row)
        return [np.array(found, np.int64) for found in rows.values()]


def hold_out(
    table: Table,
    share: float,
    seed: int,
    *,
    classes: Sequence[Any] | None = None,
    labels: RowLabels | None = None,
    groups: RowGroups | None = None,
) -> tuple[Table, Table]:
    """Split ``table`` in two: the rest to train on, and ``share`` of its rows, drawn by ``seed``.

    Args:
        table: N rows.
        share: between 0 and 1; one row at least is held out.
        seed: the seed of the draw.
        classes: the class of each row [N]. Each is held out by its share, and one row of each at least stays to be
            learned from: a class of a single row is not held out.
        labels: the labels of each row [N] where it has any number of them. The rows are then exchanged so that each
            label stays in one row at least; fewer are held out where there is no other way.
        groups: whole groups are held out, as many as come nearest to the share of the rows. Each class and label stays
            in one group at least.

    Raises:
        DataError: nothing would be left to train on, or nothing can be held out.
    """
    count = max(1, round(share * len(table)))
    if count >= len(table):
        raise DataError(
            f"{table.source} has {len(table)} rows: none is left to train on",
            "hold out less (eval_split), or give --eval",
        )
    every = np.arange(len(table))
    if groups is not None:
        own = labels if labels is not None else [(one,) for one in classes or [""] * len(table)]
        rest = _without_groups(groups, own, count, seed)
    else:
        rest = np.setdiff1d(every, _by_class(table, classes, count, seed))
        rest = rest if labels is None else with_every_label(labels, rest, seed)
    if len(rest) == len(table):
        raise DataError(f"{table.source}: {_why_none(groups, len(table))}", "give evaluation data with --eval")
    return table.select(rest), table.select(np.setdiff1d(every, rest))


def _why_none(groups: RowGroups | None, rows: int) -> str:
    if groups is None:
        return f"each of {rows} rows has something to learn that no other has: none is held out"
    count = len(set(groups.names))
    if count == 1:
        return f"all of {rows} rows have one {groups.what}: no part of them can be held out"
    return f"{rows} rows, each {groups.what} of {count} with a label that no other has: none is held out"


def _by_class(table: Table, classes: Sequence[Any] | None, count: int, seed: int) -> np.ndarray:
    """The positions of ``count`` rows, each class by its share and never whole.

    Raises:
        DataError: no class has more than one row.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(table))
    _, members, sizes = np.unique(np.asarray(classes or [""] * len(table)), return_inverse=True, return_counts=True)
    wanted = _wanted(sizes, count, random)
    if not wanted.any():
        raise DataError(
            f"{table.source}: each of {len(sizes)} classes has one row, so that none can be held out",
            "give evaluation data with --eval",
        )
    return np.concatenate([order[members[order] == number][:size] for number, size in enumerate(wanted)])


def _without_groups(groups: RowGroups, labels: RowLabels, count: int, seed: int) -> np.ndarray:
    """The sorted positions of the rows of all groups but those of about ``count`` rows, with every label in them."""
    members = groups.members()
    order = np.random.default_rng(seed).permutation(len(members))[1:]  # one group stays at least
    sums = np.cumsum([len(members[one]) for one in order])
    held = order[: int(np.argmin(np.abs(sums - count))) + 1] if len(order) else order
    rest = np.setdiff1d(np.arange(len(members)), held)
    of_groups = [frozenset(label for row in rows for label in labels[row]) for rows in members]
    return np.sort(np.concatenate([members[one] for one in with_every_label(of_groups, rest, seed)]))


def _wanted(sizes: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """The number of rows of each class [C] out of ``count``, by largest remainder; at most all but one of a class.

    Among equal remainders the seed decides, and not the order of the classes.
    """
    exact = sizes * count / sizes.sum()
    wanted = np.minimum(np.floor(exact).astype(np.int64), sizes - 1)
    for number in np.lexsort((random.permutation(len(sizes)), wanted - exact)):
        if wanted.sum() < count and wanted[number] < sizes[number] - 1:
            wanted[number] += 1
    return wanted


def with_every_label(labels: RowLabels, taken: np.ndarray, seed: int) -> np.ndarray:
    """Exchange rows that are taken for others, so that every label of the data is in one that is.

    Args:
        labels: the labels of each row [N].
        taken: the positions of the rows that are taken int64 [n].
        seed: the seed of the order in which rows are exchanged.

    Returns:
        Sorted positions: n of them, or more where an exchange one by one leaves no n rows that have every label.
    """
    sets, rows = [frozenset(row) for row in labels], set(taken.tolist())
    order = np.random.default_rng(seed).permutation(len(sets)).tolist()
    count = Counter(label for row in rows for label in sets[row])
    for row in order:
        if row not in rows and any(not count[label] for label in sets[row]):
            rows.add(row)
            count.update(sets[row])
    for row in order:
        if len(rows) == len(taken):
            break
        if row in rows and all(count[label] > 1 for label in sets[row]):
            rows.remove(row)
            count.subtract(sets[row])
    return np.array(sorted(rows), np.int64)


def halves(values: Sequence[float]) -> RowLabels:
    """Whether each of N numbers is in the upper half.

    As labels of the rows these keep some of either half, since numbers that are all the same teach nothing.
    """
    found = np.asarray(values, np.float64)
    if not len(found):
        return []
    middle = np.median(found)
    # The median may be the largest number, in columns of 0 and 1 for example.
    upper = found > middle if (found > middle).any() else found >= middle
    return [(bool(one),) for one in upper]


def sample(labels: Sequence[Any] | np.ndarray, k: int, seed: int) -> np.ndarray:
    """Draw ``k`` of the examples, each class by its share: sorted positions int64 [k].

    A class keeps at least one example where ``k`` allows it. Float labels (regression) are drawn without classes.
    """
    array = np.asarray(labels)
    random = np.random.default_rng(seed)
    if k >= len(array):
        return np.arange(len(array))
    if array.dtype.kind == "f":
        return np.sort(random.permutation(len(array))[:k])
    _, classes, counts = np.unique(array, return_inverse=True, return_counts=True)
    order = random.permutation(len(array))
    # Among equal remainders the first are served, so the seed orders the classes.
    served = random.permutation(len(counts))
    quotas = np.empty_like(counts)
    quotas[served] = _quotas(counts[served], k)
    taken = [order[classes[order] == c][:quota] for c, quota in enumerate(quotas)]
    return np.sort(np.concatenate(taken))


def sample_groups(groups: RowGroups, k: int, seed: int) -> np.ndarray:
    """Draw ``k`` rows in whole groups, of which the last may be cut: sorted positions int64 [k]."""
    members = groups.members()
    order = np.random.default_rng(seed).permutation(len(members))
    return np.sort(np.concatenate([members[one] for one in order])[:k])


def _quotas(counts: np.ndarray, k: int) -> np.ndarray:
    """The number of rows of each class, by largest remainder; none is without an example if k is enough."""
    exact = counts * k / counts.sum()
    quotas = np.maximum(np.floor(exact).astype(np.int64), int(k >= len(counts)))
    while quotas.sum() != k:
        over = quotas.sum() > k
        gap = (
            np.where(quotas > 1, quotas - exact, -np.inf)
            if over
            else np.where(quotas < counts, exact - quotas, -np.inf)
        )
        quotas[int(np.argmax(gap))] += -1 if over else 1
    return quotas
