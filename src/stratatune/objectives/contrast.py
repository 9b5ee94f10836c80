"""Losses over the vectors of a batch: each equals the loss of that name in sentence-transformers.

Shapes: B texts of a batch, G examples, K texts of an example, E the width of a vector, M candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy, mse_loss, normalize


def ranking_loss(vectors: Tensor, groups: Tensor, names: Tensor, scale: float) -> Tensor:
    """Multiple-negatives ranking (Henderson et al. 2017, arXiv 1705.00652).

    Each anchor is to find its positive among every positive and negative of the batch: the cross-entropy of cosines
    times ``scale``. Texts that are equal are one candidate; an anchor's own text, and what is a positive of the same
    anchor in another example, are none.

    Args:
        vectors: [B, E].
        groups: int64 [G, K] of the B texts: anchor, positive, negatives; -1 after the last.
        names: int64 [G, K], equal where the texts are equal, whatever was written before them.
        scale: the factor of cosines, 1 / temperature.
    """
    members = groups[:, 1:]
    there = members >= 0
    # By text, not by row: a document that answers two queries of the batch is one candidate, never its own negative.
    candidates, at = members[there].unique(return_inverse=True)  # [M], [n]
    columns = torch.full_like(members, -1).masked_scatter(there, at)
    positive = columns[:, 0]  # [G]
    text = torch.empty_like(candidates).scatter(0, at, names[:, 1:][there])  # [M]
    anchor = names[:, 0]
    known = torch.zeros(len(groups), len(candidates), dtype=torch.bool, device=vectors.device)
    known = known.scatter(1, positive[:, None], torch.ones_like(positive[:, None], dtype=torch.bool))
    same = (anchor[:, None] == anchor[None, :]).to(vectors.dtype)
    no_negative = (same @ known.to(vectors.dtype) > 0) | (text[None, :] == anchor[:, None])
    scores = normalize(vectors[groups[:, 0]], dim=1) @ normalize(vectors[candidates], dim=1).T * scale
    return cross_entropy(scores.masked_fill(no_negative & ~known, -torch.inf), positive)


def with_lone(groups: Tensor, names: Tensor) -> tuple[Tensor, Tensor]:
    """The groups of :func:`ranking_loss`, the documents that come alone as further negatives of the first example.

    A negative of one example is one of all. ``groups`` and ``names`` are int64 [G, K]; a row of one text is a document
    of a corpus. Without any other row there are no groups [0, K].
    """
    if groups.shape[1] < 2:
        return groups[:0], names[:0]
    alone = groups[:, 1] < 0
    if not alone.any() or alone.all():
        return groups[~alone], names[~alone]
    found = list[Tensor]()
    for values, fill in ((groups, -1), (names, 0)):
        more = values.new_full((int((~alone).sum()), int(alone.sum())), fill)
        more[0] = values[alone, 0]
        found.append(torch.cat([values[~alone], more], dim=1))
    return found[0], found[1]


def cosine_loss(vectors: Tensor, groups: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared error of the cosine of each pair [G, 2] against ``wanted`` [G]."""
    first, second = vectors[groups[:, 0]], vectors[groups[:, 1]]
    return mse_loss(cosine_similarity(first, second), wanted.to(vectors.dtype))


def cosent_loss(vectors: Tensor, groups: Tensor, scores: Tensor, scale: float) -> Tensor:
    """CoSENT (Huang et al. 2024): ``log(1 + sum exp(scale (cos i - cos j)))`` over i, j with score i < score j."""
    first, second = normalize(vectors[groups[:, 0]], dim=1), normalize(vectors[groups[:, 1]], dim=1)
    cosines = (first * second).sum(1) * scale
    differences = cosines[:, None] - cosines[None, :]
    # Pairs without an order do not count; the 0 before the others is the 1 in the logarithm.
    differences = differences.masked_fill(scores[:, None] >= scores[None, :], -torch.inf)
    return torch.logsumexp(torch.cat([cosines.new_zeros(1), differences.flatten()]), dim=0)


def matryoshka(loss: Callable[[Tensor], Tensor], vectors: Tensor, widths: Sequence[int]) -> Tensor:
    """The sum of a loss over prefixes of each vector with ``widths`` values (arXiv 2205.13147)."""
    total = vectors.new_zeros(())
    for width in widths:
        total = total + loss(normalize(vectors[:, :width], dim=1))
    return total
