"""Questions as objectives ask them, for tests that run trunk and top by hand."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from stratatune.data.encoded import IGNORED
from stratatune.model.attached import Attached
from stratatune.model.question import Question
from stratatune.model.split import Top, Trunk
from stratatune.objectives.candidates import Candidates
from stratatune.objectives.completion import Completion
from stratatune.objectives.labels import ClassLabels
from stratatune.objectives.objective import Objective
from stratatune.objectives.text_loss import likelihoods
from stratatune.objectives.text_to_text import TextToText

COMMON: Any = {"text": ("text",), "label": "label", "metric": "accuracy"}


def at(read: Tensor, rows: Tensor | None = None) -> Question:
    """One position of each text: ``read`` [B]."""
    return Question(places=read[:, None], rows=rows)


def logits_at(attached: Attached, hidden: Tensor, mask: Tensor, read: Tensor, rows: Tensor | None = None) -> Tensor:
    """The top's logits at ``read`` [B] -> [B, C]; a classifier pools by itself."""
    if attached.backbone.head.name == "sequence":
        return Top(attached)(hidden, mask, Question())
    return Top(attached)(hidden, mask, at(read, rows))[:, 0]


def behind(mask: Tensor, read: Tensor, ids: Tensor) -> Tensor:
    """The tokens behind ``read`` [B] as targets [B, T]; -100 elsewhere."""
    column = torch.arange(mask.shape[1], device=mask.device)
    return ids.masked_fill(~(mask & (column > read[:, None])), IGNORED)


def text_objective(attached: Attached) -> Objective:
    """Free text: behind a text, or by a second stack."""
    return (TextToText if attached.backbone.head.name == "seq2seq_lm" else Completion)(**COMMON)


def scores_behind(attached: Attached, hidden: Tensor, mask: Tensor, read: Tensor, ids: Tensor) -> Tensor:
    """The summed log-probability of the tokens ``ids`` [B, T] behind ``read`` [B], and how many they are -> [B, 2]."""
    batch: Any = SimpleNamespace(labels=behind(mask, read, ids))
    question = Completion(**COMMON).question(batch, training=False)
    logits = Top(attached)(hidden, mask, question)
    return likelihoods(logits, torch.nn.functional.pad(batch.labels[:, 1:], (0, 1), value=IGNORED))


def scores_of(attached: Attached, hidden: Tensor, mask: Tensor, targets: Tensor) -> Tensor:
    """The summed log-probability of a second stack's ``targets`` [B, U], and how many they are -> [B, 2]."""
    return likelihoods(Top(attached)(hidden, mask, Question(targets=targets)), targets)


def candidates(attached: Attached, ids: Tensor, mask: Tensor, read: Tensor, suffixes: Sequence[Sequence[int]]) -> Any:
    """The mean log-probability of every candidate behind a text that ends at ``read`` [B] -> [B, C].

    Padding of the hidden states is zero, as it comes out of a cache.
    """
    names = tuple(map(str, range(len(suffixes))))
    objective = Candidates(**COMMON, label_kind=ClassLabels(names), suffixes=tuple(map(tuple, suffixes)))
    question = objective.question(SimpleNamespace(read=read), training=False)  # pyright: ignore[reportArgumentType]
    hidden = torch.where(mask[..., None], Trunk(attached)(ids, mask, None, question), 0)
    return objective.likelihoods(Top(attached)(hidden, mask, question))
