"""A late prompt: soft prompt vectors made from the hidden state itself and put in front of it (LPT; BFT eq. 1-2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stratatune.plan.treatments import LatePrompt

REFUSES_MERGE = "a late prompt lengthens the sequence with vectors that depend on the input; no weight can hold it"


class NaiveGenerator(nn.Module):
    """``SP = reshape(W2 relu(W1 h_0 + b1) + b2)`` with ``h_0`` the first token's hidden state (BFT eq. 1-2).

    W1 [M, D], W2 [P*D, M]; torch's default initialisation of linears, and dropout after the reshape, as in LPT.

    Args:
        hidden: D.
        tokens: P.
        bottleneck: M.
        dropout: probability on the prompt vectors.
    """

    def __init__(self, hidden: int, tokens: int, bottleneck: int, dropout: float) -> None:
        super().__init__()
        self.tokens = tokens
        self.down = nn.Linear(hidden, bottleneck)
        self.up = nn.Linear(bottleneck, tokens * hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """``hidden`` [B, T, D], ``mask`` [B, T] -> prompt [B, P, D]."""
        prompt = self.up(nn.functional.relu(self.down(hidden[:, 0])))  # [B, P*D]
        return self.dropout(prompt.view(hidden.shape[0], self.tokens, hidden.shape[2]))


class LatePromptInsertion(nn.Module):
    """Puts the generated prompt before the first token; no position is added; every later block sees P + T tokens."""

    def __init__(self, generator: NaiveGenerator) -> None:
        super().__init__()
        self.generator = generator
        self.tokens = generator.tokens

    def forward(self, hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """``hidden`` [B, T, D], ``mask`` [B, T] bool -> [B, P+T, D], [B, P+T]."""
        prompt = self.generator(hidden, mask).to(hidden.dtype)
        seen = mask.new_ones(mask.shape[0], self.tokens)
        return torch.cat([prompt, hidden], dim=1), torch.cat([seen, mask], dim=1)


def build(config: LatePrompt, hidden: int) -> LatePromptInsertion:
    """The late prompt of ``config`` for hidden size ``hidden``."""
    return LatePromptInsertion(NaiveGenerator(hidden, config.tokens, config.bottleneck, config.dropout))
