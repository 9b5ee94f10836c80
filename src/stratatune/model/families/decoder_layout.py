"""Positions of the tokens of a decoder's batch, and which tokens each of them may see.

Shapes: B texts, Q positions computed, K positions seen (Q = K unless a key-value cache holds the earlier ones), P
    prompts.

*Branches.* A label word of several tokens is scored by running it after the text. All candidates share one row: the
text, then the tokens of every candidate one after the other. A candidate's tokens see the text and themselves, and
their positions continue from the end of the text, so each gives the same numbers as if it were there alone.

*Late prompts.* Prompt vectors come first and get no position: a rotary embedding turns them by position 0, which is
no turn at all, and the tokens keep the positions they had. Attention stays causal over P + T: every token sees all
prompts, a prompt sees those before it. This is what LPT's decoder does.

*Prompts at the input* come first as words do: they take the first P positions, and the text continues after them.

*Both ways.* Where a config says so, every token sees all real tokens, a window reaches as far ahead as back, and
prompts see the text too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

_EVERYWHERE = 2**31  # a key's position that lies inside every window


@dataclass(frozen=True)
class Layout:
    """Positions of tokens, and which tokens they may see.

    Attributes:
        positions: [B, Q] int64, for position embeddings.
        keys: [B, K] int64, the positions that are seen; prompts lie inside every window.
        allowed: [B, Q, K] bool.
        prefix: [B, K] bool, what a prompt generator may read: the prompts and real tokens up to the one that is read.
        both: whether tokens see what follows them.
        real: [B, K] bool, the prompts and all real tokens.
    """

    positions: Tensor
    keys: Tensor
    allowed: Tensor
    prefix: Tensor
    real: Tensor
    both: bool = False

    def behind_words(self, prompt: int, *, rows: bool = True) -> Layout:
        """The layout after ``prompt`` more words, which take positions themselves; ``rows``: see :meth:`with_prompt`.

        They count in a window as words do.
        """
        made = self.with_prompt(prompt, rows=rows)
        first = torch.arange(prompt, device=made.keys.device).expand(len(made.keys), -1)
        keys = torch.cat([first, self.keys + prompt], dim=1)
        return replace(made, keys=keys, positions=keys[:, -made.positions.shape[1] :])

    def with_prompt(self, prompt: int, *, rows: bool = True) -> Layout:
        """The layout after ``prompt`` more positions; ``rows=False``: they are seen, but not computed again."""
        if prompt == 0:
            return self
        batch, computed, _ = self.allowed.shape
        allowed = torch.cat([self.allowed.new_ones(batch, computed, prompt), self.allowed], dim=2)
        positions = self.positions
        if rows:
            top = torch.ones(prompt, allowed.shape[2], dtype=torch.bool, device=allowed.device)
            seen = self._with_prefix(prompt).unsqueeze(1) if self.both else top.tril()
            allowed = torch.cat([(top & seen).expand(batch, -1, -1), allowed], dim=1)
            positions = torch.cat([positions.new_zeros(batch, prompt), positions], dim=1)
        # Large enough that the difference to any position is below every window.
        keys = torch.cat([self.keys.new_full((batch, prompt), _EVERYWHERE), self.keys], dim=1)
        real = torch.cat([self.real.new_ones(batch, prompt), self.real], dim=1)
        return Layout(positions, keys, allowed, self._with_prefix(prompt), real, self.both)

    def _with_prefix(self, prompt: int) -> Tensor:
        """[B, prompt + K] bool: ``prefix`` after so many more prompts."""
        return torch.cat([self.prefix.new_ones(len(self.prefix), prompt), self.prefix], dim=1)

    def mask_of_states(self) -> Tensor | None:
        """[B, Q] int64, 0 at padding, for blocks that carry a state; None where one token alone is computed."""
        computed = self.positions.shape[1]
        return None if computed == 1 else self.real[:, -computed:].long()

    def mask(self, window: int | None, dtype: torch.dtype | None) -> Tensor:
        """[B, 1, Q, K]: True where attention may go, or with a ``dtype`` 0 there and the lowest number elsewhere."""
        allowed = self.allowed
        if window is not None:
            back = self.positions[:, :, None] - self.keys[:, None, :]
            allowed = allowed & (back < window)
            if self.both:
                allowed = allowed & ((back > -window) | (self.keys == _EVERYWHERE)[:, None, :])
        allowed = allowed.unsqueeze(1)
        if dtype is None:
            return allowed
        # finfo.min and not -inf, as transformers' own masks: a row of -inf alone has a softmax of NaN.
        return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(
            ~allowed, torch.finfo(dtype).min
        )


def branched(mask: Tensor, read: Tensor, branches: tuple[int, ...], *, both: bool = False) -> Layout:
    """The layout of texts padded on the right, with the candidates' tokens after them.

    Args:
        mask: [B, T] bool, real tokens.
        read: [B], the last token of the text itself.
        branches: how many tokens of each candidate follow the text; the same for every text.
        both: whether tokens see what follows them; there are no candidates then.
    """
    column = torch.arange(mask.shape[1], device=mask.device)
    positions, segment = column.expand(mask.shape), torch.zeros_like(mask, dtype=torch.long)
    if sum(branches):
        owner = torch.tensor([n for n, size in enumerate(branches, start=1) for _ in range(size)], device=mask.device)
        place = torch.tensor([i for size in branches for i in range(size)], device=mask.device)
        # Padding further right counts as the last candidate's here; the mask hides it from all others.
        behind = column - read[:, None] - 1  # [B, T], below 0 in the text
        index = behind.clamp(0, len(owner) - 1)
        segment = torch.where(behind >= 0, owner[index], 0)
        positions = torch.where(behind >= 0, read[:, None] + 1 + place[index], column)
    seen = (segment[:, None, :] == 0) | (segment[:, None, :] == segment[:, :, None])
    allowed = _seen(mask, column, column, both=both) & seen
    return Layout(positions, positions, allowed | _self(column, column), mask & (column <= read[:, None]), mask, both)


def continued(mask: Tensor, read: Tensor | None, computed: int, *, both: bool = False) -> Layout:
    """The layout of the last ``computed`` tokens of K, in texts padded on either side, without prompts.

    Positions count real tokens. ``mask`` [B, K]; ``read`` [B] is the last token that a generator may read, by default
    the last real one.
    """
    # Count as transformers' generate does: padding on the left takes no position.
    keys = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
    column = torch.arange(mask.shape[1], device=mask.device)
    rows = column[-computed:]
    prefix = mask
    if read is not None:  # at least the first real token, should the read one be padding
        prefix = mask & (column <= torch.maximum(read, mask.int().argmax(dim=1))[:, None])
    allowed = _seen(mask, rows, column, both=both) | _self(rows, column)
    return Layout(keys[:, -computed:], keys, allowed, prefix, mask, both)


def _seen(mask: Tensor, rows: Tensor, columns: Tensor, *, both: bool) -> Tensor:
    """The real tokens that each row sees: those up to itself, or all of them."""
    seen = mask[:, None, :].expand(-1, len(rows), -1)
    return seen if both else seen & (columns <= rows[:, None])


def _self(rows: Tensor, columns: Tensor) -> Tensor:
    """Let every position see itself, padding too, so that no softmax is over nothing."""
    return columns == rows[:, None]
