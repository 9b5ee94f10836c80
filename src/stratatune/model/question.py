"""The question that an objective puts to a forward pass: all that model/ knows of the objective."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Question:
    """The logits that are wanted.

    The shape of the logits follows from ``places``: positions [B, N] give [B, N, C], a mask [B, T] gives [n, C], one
    row for each True in reading order, and None gives [B, T, C], or [B, C] where the head pools the tokens by itself.
    With ``targets`` the second stack answers: [B, U, C], or [B, C] where the head pools.

    Shapes: B texts, T tokens of the longest, N places, C candidates, U target tokens.

    Attributes:
        places: positions [B, N], the first of which is the last token of the text itself, where a decoder's candidates
            follow it; or a mask [B, T] of bool; None: every token, or the head's own pooling.
        rows: numbers of the rows of the LM head [C] that are wanted; None: all.
        branches: how many tokens of each candidate follow the text, in a decoder's input of label words.
        following: the tokens [n] that follow the places, which are a mask; of a decoder with an LM head. In place of
            logits it gives the log-probability of each, and 1 where it is the likeliest token, else 0: [n, 2].
        targets: the tokens for a second stack [B, U], -100 after the end; where its head pools, the source's own tokens
            [B, T].
        ids: the tokens of the texts [B, T], for a model whose blocks read a part of each besides the hidden state.
    """

    places: Tensor | None = None
    rows: Tensor | None = None
    branches: tuple[int, ...] = ()
    following: Tensor | None = None
    targets: Tensor | None = None
    ids: Tensor | None = None


def last_of(mask: Tensor) -> Tensor:
    """The last real token of each row of ``mask`` [B, T] bool, as places [B, 1]."""
    # argmax gives the first of equal values, so on the flipped mask the last real token.
    return (mask.shape[1] - 1 - mask.int().flip(1).argmax(dim=1))[:, None]


def text_end(question: Question, mask: Tensor) -> Tensor:
    """The last token of each text that the answer may depend on [B]: the first place, or the last real token."""
    places, last = question.places, last_of(mask)[:, 0]
    if places is None:
        return last
    if places.dtype is not torch.bool:
        return places[:, 0]
    return torch.where(places.any(dim=1), places.int().argmax(dim=1), last)
