"""Prompt tuning: trained vectors before the word embeddings of every text (Lester et al., 2021)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from stratatune.methods.late_prompt import put_first
from stratatune.methods.precision import HALVES
from stratatune.methods.site import Place
from stratatune.plan.methods import Prompt

REFUSES_MERGE = (
    "a prompt lengthens the sequence; no weight of the base can hold it (its vectors are not embeddings of words)"
)


class PromptInsertion(nn.Module):
    """``[E(P); E(x)]``: P trained vectors [P, D] go through the model's own embeddings E in place of words.

    They take positions 0..P-1 and token type 0, and the text the positions from P on, as if P words had been written
    before it. They start as the embeddings of words drawn at random (Lester et al., section 3.2: "sampled vocab").

    Args:
        vectors: their start [P, D].
        embed: embeds the vectors: [P, D] -> [1, P, D].
    """

    def __init__(self, vectors: Tensor, embed: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.tokens = vectors.shape[0]
        self.vectors = nn.Parameter(vectors)
        # Embeddings in half precision take nothing wider, not even under autocast.
        self.computed = vectors.dtype if vectors.dtype in HALVES else None
        self.embed = embed

    def forward(self, hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """``hidden`` [B, T, D] at depth 0, ``mask`` [B, T] bool -> [B, P+T, D], [B, P+T]."""
        return put_first(self.embed(self.vectors.to(self.computed)).expand(hidden.shape[0], -1, -1), hidden, mask)


def build(config: Prompt, place: Place) -> PromptInsertion:
    """The prompt of ``config``, drawn from the words of ``place``."""
    words = place.words
    drawn = torch.randint(words.num_embeddings, (config.tokens,)).to(words.weight.device)
    return PromptInsertion(words(drawn).detach().clone(), place.embed)
