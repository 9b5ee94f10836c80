"""A late prompt: soft prompt vectors made from the hidden state itself and put before it (LPT; BFT eq. 1-2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stratatune.methods.precision import as_trained
from stratatune.methods.site import Place
from stratatune.plan.methods import LatePrompt

REFUSES_MERGE = "a late prompt lengthens the sequence with vectors that depend on the input; no weight can hold it"
_SPREAD = 0.02


class NaiveGenerator(nn.Module):
    """``SP = reshape(W2 relu(W1 h_0 + b1) + b2)`` with ``h_0`` the first token's hidden state (BFT eq. 1-2).

    W1 [M, D], W2 [P*D, M]; torch's default initialisation of linears, as in LPT.

    Args:
        hidden: D.
        tokens: P.
        bottleneck: M.
    """

    def __init__(self, hidden: int, tokens: int, bottleneck: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.down = nn.Linear(hidden, bottleneck)
        self.up = nn.Linear(bottleneck, tokens * hidden)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """``hidden`` [B, T, D], ``mask`` [B, T] bool -> prompt [B, P, D]."""
        prompt = self.up(nn.functional.relu(self.down(as_trained(hidden[:, 0], self.down.weight))))  # [B, P*D]
        return prompt.view(hidden.shape[0], self.tokens, hidden.shape[2])


class PoolingGenerator(nn.Module):
    """``SP = W2 relu(pool(W1 h + b1)) + b2``: all real tokens narrowed, pooled into P slots, widened (LPT).

    W1 [M, D], W2 [D, M]. Slot p of n real tokens pools tokens floor(p n / P) to ceil((p + 1) n / P) - 1, as torch's
    adaptive pooling of that text alone would; padding takes no part.

    Args:
        hidden: D.
        tokens: P.
        bottleneck: M.
        largest: pool by maximum (MPPG) instead of average (APPG).
    """

    def __init__(self, hidden: int, tokens: int, bottleneck: int, *, largest: bool) -> None:
        super().__init__()
        self.tokens, self.largest = tokens, largest
        self.down = nn.Linear(hidden, bottleneck)
        self.up = nn.Linear(bottleneck, hidden)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """``hidden`` [B, T, D], ``mask`` [B, T] bool -> prompt [B, P, D]."""
        narrow, slots = (
            self.down(as_trained(hidden, self.down.weight)),
            slots_of(mask, self.tokens),
        )  # [B, T, M], [B, P, T]
        pooled = _largest(narrow, slots) if self.largest else _average(narrow, slots)
        return self.up(nn.functional.relu(pooled))


def slots_of(mask: Tensor, slots: int) -> Tensor:
    """The real tokens that belong to each of P slots: ``mask`` [B, T] bool -> [B, P, T] bool."""
    count = mask.sum(dim=1)[:, None, None]  # [B, 1, 1]
    place = (mask.cumsum(dim=1) - 1).unsqueeze(1)  # [B, 1, T], among the real tokens
    slot = torch.arange(slots, device=mask.device)[None, :, None]  # [1, P, 1]
    first, stop = slot * count // slots, ((slot + 1) * count + slots - 1) // slots
    return (place >= first) & (place < stop) & mask.unsqueeze(1)


def _average(narrow: Tensor, slots: Tensor) -> Tensor:
    weights = slots.to(narrow.dtype)
    return weights @ narrow / weights.sum(dim=2, keepdim=True)


def _largest(narrow: Tensor, slots: Tensor) -> Tensor:
    """Pool slot by slot, since P times [B, T, M] at once would take much memory."""
    outside = [~slots[:, number, :, None] for number in range(slots.shape[1])]  # each [B, T, 1]
    return torch.stack([narrow.masked_fill(out, float("-inf")).amax(dim=1) for out in outside], dim=1)


class TableGenerator(nn.Module):
    """P trained vectors [P, D], the same for every text: LPT without a generator."""

    def __init__(self, hidden: int, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.vectors = nn.Parameter(torch.empty(tokens, hidden))
        nn.init.normal_(self.vectors, std=_SPREAD)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """``hidden`` [B, T, D] -> [B, P, D]."""
        return self.vectors.expand(hidden.shape[0], -1, -1)


class LatePromptInsertion(nn.Module):
    """Puts the generated prompt first; no position is added to it, and every later block sees P + T tokens.

    In a decoder (``causal``) only the last token has seen the text, so the generator gets the tokens in reverse: its
    first token is the last one that it may read, before the label word (LPT).

    Args:
        generator: ``(hidden [B, T, D], mask [B, T]) -> [B, P, D]``; it is shown the text alone.
        tokens: P.
        before: prompt positions that already precede the text.
        dropout: probability on the prompt vectors.
    """

    def __init__(self, generator: nn.Module, tokens: int, before: int, dropout: float) -> None:
        super().__init__()
        self.generator = generator
        self.causal = False
        self.tokens, self.before = tokens, before
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """``hidden`` [B, T, D], ``mask`` [B, T] bool (tokens that the generator may read) -> [B, P+T, D], [B, P+T]."""
        text = hidden[:, self.before :], mask[:, self.before :]
        prompt = self.dropout(self.generator(*(_backwards(*text) if self.causal else text)))
        return put_first(prompt, hidden, mask)


def _backwards(hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens of ``mask`` from the last to the first, then the others: [B, T, D], [B, T]."""
    place = torch.arange(mask.shape[1], device=mask.device)
    order = torch.where(mask, -place, place + 1).argsort(dim=1)
    return hidden.gather(1, order.unsqueeze(2).expand_as(hidden)), mask.gather(1, order)


def put_first(prompt: Tensor, hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """``prompt`` [B, P, D] before ``hidden`` [B, T, D]; every token may see it."""
    seen = mask.new_ones(mask.shape[0], prompt.shape[1])
    return torch.cat([prompt.to(hidden.dtype), hidden], dim=1), torch.cat([seen, mask], dim=1)


def build(config: LatePrompt, place: Place) -> LatePromptInsertion:
    """The late prompt of ``config`` at ``place``."""
    return LatePromptInsertion(_generator(config, place.hidden), config.tokens, place.before, config.dropout)


def _generator(config: LatePrompt, hidden: int) -> nn.Module:
    if config.generator == "table":
        return TableGenerator(hidden, config.tokens)
    if config.generator == "naive":
        return NaiveGenerator(hidden, config.tokens, config.bottleneck)
    return PoolingGenerator(hidden, config.tokens, config.bottleneck, largest=config.generator == "mppg")
