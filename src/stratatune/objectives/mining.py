"""Hard negatives: the nearest documents of each query that are not its answer."""

from __future__ import annotations

import numpy as np

from stratatune.data.encoded import Encoded
from stratatune.objectives.grouped import starts_of_rows
from stratatune.objectives.retrieval import nearest, unit

_DEEP = 64  # how many neighbours are looked at for a negative, besides those that are wanted


def with_negatives(data: Encoded, found: np.ndarray, targets: str, count: int, margin: float) -> tuple[Encoded, str]:
    """``data`` with up to ``count`` more negatives in each group, and notices about them.

    The nearest document of an anchor that is not an answer in the data is often an answer that nobody marked, and would
    teach the opposite. So a negative is at most ``1 - margin`` times as near as the positive (NV-Retriever, de Souza P.
    Moreira et al. 2024, arXiv 2407.15831).

    Args:
        data: N texts in groups of an anchor, its positive and negatives; a group of one text is a document of a corpus,
            and is no group of what is returned.
        found: [N, E], the vectors by which texts are compared.
        targets: the name of the targets that name the texts of the groups, equal where texts are equal.
        count: the most negatives for each group.
        margin: see above.
    """
    assert data.groups is not None
    groups, names = data.groups, data.targets[targets]
    starts = starts_of_rows(groups)
    anchors, positives = groups.values[starts], groups.values[starts + 1]
    name_of = np.zeros(len(data), np.int64)
    name_of[groups.values] = names.values
    documents = np.unique(np.delete(groups.values, starts))
    documents = documents[np.argsort(name_of[documents])]  # of equally near ones not those that come first in the data
    right: dict[int, set[int]] = {}
    for anchor, positive in zip(name_of[anchors].tolist(), name_of[positives].tolist(), strict=True):
        right.setdefault(anchor, {anchor}).add(positive)
    near, cosines = nearest(found[anchors], found[documents], count + _DEEP)
    limits = (unit(found[anchors]) * unit(found[positives])).sum(1) * (1 - margin)
    rows, named, full = [], [], 0
    ends = starts + groups.sizes[groups.sizes > 1]
    for row in range(len(anchors)):
        own = groups.values[starts[row] : ends[row]].tolist()
        taken = {*right[int(name_of[anchors[row]])], *name_of[own].tolist()}
        legal = documents[near[row][cosines[row] <= limits[row]]]
        new = [one for one in legal.tolist() if int(name_of[one]) not in taken][:count]
        full += len(new) == count
        rows.append([*own, *new])
        named += name_of[rows[-1]].tolist()
    data = data.with_groups(rows)
    assert data.groups is not None
    data = data.with_targets(np.array(named, np.int64), data.groups.offsets, targets)
    where = "each row" if full == len(rows) else f"{full:,} of {len(rows):,} rows, fewer for the others"
    return data, f"{count} hard negatives mined from {len(documents):,} documents for {where}"
