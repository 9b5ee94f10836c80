"""What an objective asks of a forward pass: all that the model's rooms know of it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Question:
    """Which logits are wanted.

    Shapes: B texts, T tokens of the longest, N places, C candidates, U target tokens.

    Attributes:
        places: positions [B, N], or a mask [B, T] of bool (then the logits are [n, ...], one row for each True, in
            reading order); None: every token, or, where the head pools by itself, what it pools.
        rows: numbers of the rows of the LM head [C] that are wanted; None: all.
        branches: how many tokens of each candidate stand behind the text, in a decoder's input of label words.
        targets: what a second stack is given [B, U], -100 behind the end.
    """

    places: Tensor | None = None
    rows: Tensor | None = None
    branches: tuple[int, ...] = ()
    targets: Tensor | None = None
