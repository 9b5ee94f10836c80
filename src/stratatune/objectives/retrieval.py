"""Scores of rankings: how high the right documents are. No torch.

Shapes: Q queries, N documents, E the width of a vector.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np

K = 10
RANKINGS = (f"ndcg@{K}", f"mrr@{K}", "recall@1", f"recall@{K}")
_PIECE = 1 << 24  # similarities at a time


def unit(vectors: np.ndarray) -> np.ndarray:
    """Scale vectors [n, E] to length 1; a vector of zeros stays."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def nearest(queries: np.ndarray, documents: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``count`` nearest documents of each query by cosine, the nearest first: numbers and cosines [Q, count].

    Of documents with equal cosines the one with the lower number comes first: right for a choice of some documents, but
    not for a score, which would depend on the order of the data (:func:`search_scores`).
    """
    queries, documents = unit(queries), unit(documents)
    count, step = min(count, len(documents)), max(1, _PIECE // max(1, len(documents)))
    numbers, cosines = [np.empty((0, count), np.int64)], [np.empty((0, count), np.float32)]
    for start in range(0, len(queries), step):
        found = queries[start : start + step] @ documents.T
        order = np.stack([_first(row, count) for row in found])
        numbers.append(order)
        cosines.append(np.take_along_axis(found, order, axis=1))
    return np.concatenate(numbers), np.concatenate(cosines)


def _first(cosines: np.ndarray, count: int) -> np.ndarray:
    """The places of the ``count`` largest of [N], the largest first; of equal ones the first."""
    # Only what can be among them is sorted: a corpus may be large.
    least = np.partition(cosines, -count)[-count]
    found = np.flatnonzero(~(cosines < least))  # also where one is NaN
    return found[np.argsort(-cosines[found], kind="stable")[:count]]


def ranking_scores(ranked: Iterable[tuple[Sequence[Sequence[float]], Sequence[float]]]) -> dict[str, float]:
    """Means over queries of nDCG, MRR and recall.

    ``ranked`` has for each query the gains of the documents found, in rank order, and all existing gains, which show
    what the best order would be. Documents with one score are one group in any order: each score is the mean over all
    orders of the group, so that the order of the data has no influence. nDCG is that of Jarvelin and Kekalainen (2002)
    with the gain itself in place of 2^gain - 1; the others count documents with a gain above 0. Queries without any
    are left out.
    """
    rows = []
    for groups, every in ranked:  # the groups are whole, down to place K at least
        ideal = sorted(every, reverse=True)
        right = sum(gain > 0 for gain in every)
        if not right:
            continue
        hits = _shared([[float(gain > 0) for gain in group] for group in groups])
        recalls = [sum(hits[:k]) / right for k in (1, K)]
        rows.append((_dcg(_shared(groups)) / _dcg(ideal), _reciprocal(groups), *recalls))
    means = np.mean(rows, axis=0) if rows else np.zeros(len(RANKINGS))
    return dict(zip(RANKINGS, map(float, means), strict=True))


def groups_of(scores: np.ndarray, gains: np.ndarray) -> list[list[float]]:
    """The gains of N candidates, the highest score first, those of equal scores in one group."""
    order = np.argsort(-scores, kind="stable")
    borders = np.flatnonzero(np.diff(scores[order]) != 0) + 1
    return [group.tolist() for group in np.split(gains[order], borders)]


def _shared(groups: Sequence[Sequence[float]]) -> list[float]:
    """The gain at each of the first K places, as the mean over all orders within each group."""
    places: list[float] = []
    for group in groups:
        if len(places) >= K:
            break
        mean = group[0] if min(group) == max(group) else sum(group) / len(group)  # a sum of equal numbers is rounded
        places += [mean] * min(len(group), K - len(places))
    return places


def _reciprocal(groups: Sequence[Sequence[float]]) -> float:
    """1 / the place of the first right one, in the mean over all orders of each group; 0 from place K + 1 on."""
    before = 0
    for group in groups:
        right, mean, none_yet = sum(gain > 0 for gain in group), 0.0, 1.0
        for at in range(min(len(group) - right + 1, K - before) if right else 0):
            chance = right / (len(group) - at)  # that this one is right, where none before it in its group is
            mean += none_yet * chance / (before + at + 1)
            none_yet *= 1 - chance
        if right:
            return mean
        before += len(group)
    return 0.0


def _dcg(gains: Sequence[float]) -> float:
    return float(sum(gain / np.log2(place + 1) for place, gain in enumerate(gains[:K], start=1)))


def search_scores(
    queries: np.ndarray, documents: np.ndarray, right: Sequence[frozenset[int]], own: Sequence[int | None] = ()
) -> dict[str, float]:
    """The scores of a search.

    Documents with one cosine have no order: a score is the mean over all their orders, as in :func:`ranking_scores`. So
    a model whose vectors are all the same has the scores of chance, wherever the right documents are in the data.

    Args:
        queries: [Q, E].
        documents: [N, E].
        right: the numbers of the documents that are right for each query.
        own: the document with each query's own text, which is not searched unless it is right; none: no text is both.
    """
    return ranking_scores(_found(unit(queries), unit(documents), right, own or [None] * len(queries)))


def _found(
    queries: np.ndarray, documents: np.ndarray, right: Sequence[frozenset[int]], own: Sequence[int | None]
) -> Iterator[tuple[list[list[float]], list[float]]]:
    """The gains of each query's best K documents and of those that share the last one's cosine, and all its gains."""
    # Equal documents share a column of the product, whose columns are rounded by their places.
    first: dict[bytes, int] = {}
    column = np.array([first.setdefault(_key(one), len(first)) for one in documents], np.int64)
    repeated = len(first) < len(documents)
    distinct = documents[np.unique(column, return_index=True)[1]] if repeated else documents
    step, numbers = max(1, _PIECE // max(1, len(documents))), np.arange(len(documents))
    gains = np.zeros(len(documents))
    each = zip(right, own, strict=True)
    for start in range(0, len(queries), step):
        cosines = queries[start : start + step] @ distinct.T
        cosines = cosines[:, column] if repeated else cosines
        for row, (wanted, alike) in zip(cosines, islice(each, len(cosines)), strict=False):
            at = numbers if alike is None or alike in wanted else np.delete(numbers, alike)
            if len(at) > K:
                at = at[row[at] >= np.partition(row[at], -K)[-K]]
            gains[list(wanted)] = 1.0
            groups = groups_of(row[at], gains[at])
            gains[list(wanted)] = 0.0
            yield groups, [1.0] * len(wanted)


def _key(vector: np.ndarray) -> bytes:
    return hashlib.blake2b(vector.tobytes(), digest_size=16).digest()


def pair_accuracy(scores: np.ndarray, gains: np.ndarray, among: Iterable[np.ndarray]) -> float:
    """The share of pairs with different gains whose scores are in the same order; equal scores count half.

    ``among`` are the numbers of the candidates that are compared with one another. 0 where there is no such pair.
    """
    right, total = 0.0, 0
    for at in among:
        for gain in np.unique(gains[at])[1:]:
            above, below = scores[at[gains[at] == gain]], np.sort(scores[at[gains[at] < gain]])
            right += sum(np.searchsorted(below, above, side).sum() for side in ("left", "right")) / 2
            total += len(above) * len(below)
    return float(right / total) if total else 0.0
