"""Questions as objectives ask them, for tests that run trunk and top by hand."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from stratatune.model.attached import Attached
from stratatune.model.question import Question
from stratatune.model.split import Top, Trunk
from stratatune.objectives.objective import candidate_places, candidate_scores, completion_scores, target_scores


def at(read: Tensor, rows: Tensor | None = None) -> Question:
    """One position of each text: ``read`` [B]."""
    return Question(places=read[:, None], rows=rows)


def logits_at(attached: Attached, hidden: Tensor, mask: Tensor, read: Tensor, rows: Tensor | None = None) -> Tensor:
    """The top's logits at ``read`` [B] -> [B, C]; a classifier pools by itself."""
    if attached.backbone.output == "classification":
        return Top(attached)(hidden, mask, Question())
    return Top(attached)(hidden, mask, at(read, rows))[:, 0]


def scores_behind(attached: Attached, hidden: Tensor, mask: Tensor, read: Tensor, ids: Tensor) -> Tensor:
    """The summed log-probability of the tokens ``ids`` [B, T] behind ``read`` [B], and how many they are -> [B, 2]."""
    column = torch.arange(mask.shape[1], device=mask.device)
    places = (mask & (column > read[:, None])).roll(-1, dims=1) & (column < mask.shape[1] - 1)
    batch: Any = SimpleNamespace(input_ids=ids, mask=mask, read=read)
    return completion_scores(Top(attached)(hidden, mask, Question(places=places)), batch)


def scores_of(attached: Attached, hidden: Tensor, mask: Tensor, targets: Tensor) -> Tensor:
    """The summed log-probability of a second stack's ``targets`` [B, U], and how many they are -> [B, 2]."""
    return target_scores(Top(attached)(hidden, mask, Question(targets=targets)), targets)


def candidates(attached: Attached, ids: Tensor, mask: Tensor, read: Tensor, suffixes: Sequence[Sequence[int]]) -> Any:
    """The mean log-probability of every candidate behind a text that ends at ``read`` [B] -> [B, C].

    Padding of the hidden states is zero, as it comes out of a cache.
    """
    offsets, sources = candidate_places(suffixes)
    branches = tuple(len(suffix) - 1 for suffix in suffixes)
    question = Question(places=read[:, None] + torch.tensor(offsets), branches=branches)
    hidden = torch.where(mask[..., None], Trunk(attached)(ids, mask, None, question), 0)
    return candidate_scores(Top(attached)(hidden, mask, question), sources, suffixes)
