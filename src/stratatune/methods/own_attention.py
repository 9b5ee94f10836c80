"""Attention over a prefix, for the modules of transformers that compute attention themselves.

Most models' attention calls a function that transformers lets one replace (``_compat.attend_through``). MPNet's and
DeBERTa-v2's does not, so its whole ``forward`` is replaced: each function here computes what the module of transformers
5.23 and 5.24 computes, with P keys and values before those of the tokens. These have no position in the text, so they
get no relative position bias, and no mask hides them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Before = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Puts the prefix before keys and values: both [B, H, T, W] -> both [B, H, P+T, W]."""


def mpnet(
    attention: Any,
    before: Before,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    position_bias: Tensor | None = None,
    output_attentions: bool = False,
    query_states: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, ...]:
    """``MPNetSelfAttention.forward`` over a prefix: [B, T, D] -> [B, T, D], and [B, H, T, P+T] if asked for.

    ``query_states`` [B, N, D] are the states that ask, where they are not all of the tokens; bias and mask are theirs.
    """
    size = attention.attention_head_size
    queries = hidden_states if query_states is None else query_states
    projected = (attention.q(queries), attention.k(hidden_states), attention.v(hidden_states))
    query, key, value = (states.view(*states.shape[:2], -1, size).transpose(1, 2) for states in projected)
    tokens = key.shape[2]
    key, value = before(key, value)
    # The bias is added after the scaling.
    scores = query @ key.transpose(-1, -2) / math.sqrt(size)
    for added in (position_bias, attention_mask):
        if added is not None:
            scores = scores + nn.functional.pad(added, (key.shape[2] - tokens, 0))
    weights = attention.dropout(scores.softmax(-1))
    output = attention.o((weights @ value).transpose(1, 2).flatten(2))
    return (output, weights) if output_attentions else (output,)


def deberta(
    attention: Any,
    before: Before,
    hidden_states: Tensor,
    attention_mask: Tensor,
    output_attentions: bool = False,
    query_states: Tensor | None = None,
    relative_pos: Tensor | None = None,
    rel_embeddings: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """DeBERTa-v2's ``DisentangledSelfAttention.forward`` over a prefix, whose scores are those of content alone."""
    heads = attention.num_attention_heads
    query, key, value = (  # [B * H, T, W]
        attention.transpose_for_scores(project(states), heads)
        for project, states in (
            (attention.query_proj, hidden_states if query_states is None else query_states),
            (attention.key_proj, hidden_states),
            (attention.value_proj, hidden_states),
        )
    )
    parts = 1 + ("c2p" in attention.pos_att_type) + ("p2c" in attention.pos_att_type)
    keys, values = before(_by_head(key, heads), _by_head(value, heads))
    prefix = keys.shape[2] - key.shape[1]
    scores = _by_head(query, heads) @ keys.transpose(-1, -2) / math.sqrt(query.shape[-1] * parts)
    if attention.relative_attention:
        positions = attention.pos_dropout(rel_embeddings)
        bias = attention.disentangled_attention_bias(query, key, relative_pos, positions, parts)
        scores = scores + nn.functional.pad(_by_head(bias, heads), (prefix, 0))
    seen = nn.functional.pad(attention_mask.bool(), (prefix, 0), value=True)
    weights = scores.masked_fill(~seen, torch.finfo(scores.dtype).min).softmax(-1)
    weights = attention.dropout(weights)
    return (weights @ values).transpose(1, 2).flatten(2), weights if output_attentions else None


def _by_head(states: Tensor, heads: int) -> Tensor:
    return states.view(-1, heads, *states.shape[1:])


FORWARDS: dict[str, Callable[..., Any]] = {"MPNetSelfAttention": mpnet, "DisentangledSelfAttention": deberta}
"""By the name of the module's class."""
