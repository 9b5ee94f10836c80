"""The last block, computed only at the positions that the objective reads: [B, T, D] -> [B, N, D], N mostly 1.

Keys and values come from every token; the rest is computed for the read positions alone, and where a family's attention
can be asked for few queries, the queries too. A block's own modules are called, so whatever a method put into them
takes part. A row of the backbone table names its function here; a family without one runs its last block in full.

Encoders have a function a family. Decoders' blocks all take a key-value cache, so one function serves them: a cache
that keeps the keys and values of the whole text, and then the block once more, at the positions read, before it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stratatune._compat import attention_of, cache_argument
from stratatune.methods import own_attention
from stratatune.methods.prefix import before_of
from stratatune.model.skeleton import Call


def take(hidden: Tensor, read: Tensor) -> Tensor:
    """Take positions of each row: ``hidden`` [B, T, ...], ``read`` [B] -> [B, 1, ...], or [B, N] -> [B, N, ...]."""
    rows = torch.arange(len(read), device=hidden.device)
    return hidden[rows[:, None], read if read.dim() == 2 else read[:, None]]


def _query_rows(mask: Tensor, read: Tensor) -> Tensor:
    """The rows of a mask or bias [B or 1, H or 1, T or 1, T] for the N queries ``read`` -> [B, H or 1, N or 1, T]."""
    if mask.shape[2] == 1:  # one row for all queries
        return mask
    return take(mask.expand(len(read), *mask.shape[1:]).transpose(1, 2), read).transpose(1, 2)


def _heads(x: Tensor, size: int) -> Tensor:
    """Split the heads: [B, T, H * size] -> [B, H, T, size]."""
    return x.view(*x.shape[:2], -1, size).transpose(1, 2)


def _attend(attention: Any, projections: tuple[nn.Module, ...], hidden: Tensor, call: Call, read: Tensor) -> Tensor:
    """Run a family's own attention function for N queries a row -> [B, N, D]."""
    size = attention.attention_head_size
    inputs = (take(hidden, read), hidden, hidden)
    query, key, value = (_heads(project(x), size) for project, x in zip(projections, inputs, strict=True))
    dropout = attention.dropout.p if attention.training else 0.0
    mask = None if call.mask is None else _query_rows(call.mask, read)
    # The function that the config names, so eager, sdpa and what a method registered all give their own numbers.
    context, _ = attention_of(attention)(attention, query, key, value, mask, dropout=dropout, scaling=attention.scaling)
    return context.flatten(2)


def _bert(block: Any, hidden: Tensor, call: Call, read: Tensor) -> Tensor:
    attention = block.attention.self
    context = _attend(attention, (attention.query, attention.key, attention.value), hidden, call, read)
    attended = block.attention.output(context, take(hidden, read))
    return block.output(block.intermediate(attended), attended)


def _distilbert(block: Any, hidden: Tensor, call: Call, read: Tensor) -> Tensor:
    attention = block.attention
    context = _attend(attention, (attention.q_lin, attention.k_lin, attention.v_lin), hidden, call, read)
    attended = block.sa_layer_norm(attention.out_lin(context) + take(hidden, read))
    return block.output_layer_norm(block.ffn(attended) + attended)


def _mpnet(block: Any, hidden: Tensor, call: Call, read: Tensor) -> Tensor:
    mask, bias = call.args[:2]  # [B, 1, T, T] or None, [B, H, T, T]
    attention, here = block.attention.attn, take(hidden, read)
    rows = (None if mask is None else _query_rows(mask, read), _query_rows(bias, read))
    output = own_attention.mpnet(attention, before_of(attention), hidden, *rows, query_states=here)[0]
    attended = block.attention.LayerNorm(block.attention.dropout(output) + here)
    return block.output(block.intermediate(attended), attended)


def _deberta(block: Any, hidden: Tensor, call: Call, read: Tensor) -> Tensor:
    attended = take(block.attention(hidden, *call.args, **call.kwargs)[0], read)
    return block.output(block.intermediate(attended), attended)


def _modernbert(block: Any, hidden: Tensor, call: Call, read: Tensor) -> Tensor:
    # q, k and v are the output of one linear and are turned together, so the attention runs for all tokens.
    attended = take(hidden + block.attn(block.attn_norm(hidden), *call.args, **call.kwargs)[0], read)
    return attended + block.mlp(block.mlp_norm(attended))


def _albert(block: Any, hidden: Tensor, call: Call, read: Tensor) -> Tensor:
    layer = block.albert_layers[0]
    # ALBERT's attention module ends in residual and norm of its own over all tokens.
    attended = take(layer.attention(hidden, *call.args, **call.kwargs)[0], read)
    return layer.full_layer_layer_norm(layer.ff_chunk(attended) + attended)


class _TextKept(Exception):
    """Raised once the keys and values of the whole text are there; nothing after them is needed."""


class _KeysAndValues:
    """Acts as a key-value cache: the first call keeps keys and values and stops the block; later ones return them."""

    def __init__(self) -> None:
        self.kept: tuple[Tensor, Tensor] | None = None

    def update(self, key: Tensor, value: Tensor, *place: Any, **more: Any) -> tuple[Tensor, Tensor]:
        """Keep ``key`` and ``value`` [B, H, T, W], which are rotated already, or return those kept before."""
        if self.kept is None:
            self.kept = key, value
            raise _TextKept
        return self.kept


def _cached(block: Any, hidden: Tensor, call: Call, read: Tensor) -> Tensor:
    """Run a decoder's block at ``read`` [B] or [B, N], by two calls; the queries of the first are not used.

    Under gradient checkpointing a block takes no cache, and runs in full.
    """
    if block.training and getattr(block, "gradient_checkpointing", False):
        return take(block.forward(hidden, **call.kwargs), read)
    # The first run stops as soon as keys and values are there, before the attention.
    cache = {cache_argument(block): _KeysAndValues()}
    with contextlib.suppress(_TextKept):
        block.forward(hidden, **call.kwargs, **cache)
    there = {name: _there(value, read) for name, value in call.kwargs.items()}
    return block.forward(take(hidden, read), **there, **cache)


def _positionwise(block: Any, hidden: Tensor, call: Call, read: Tensor) -> Tensor:
    """Run a decoder's block whose keys and values are those of an earlier one: the others of its tokens are not met."""
    there = {name: _there(value, read) for name, value in call.kwargs.items()}
    return block.forward(take(hidden, read), **there)


def _there(given: Any, read: Tensor) -> Any:
    """The part of a block's argument for the queries ``read``: a mask, positions [B, T] or angles [B, T, W]."""
    if isinstance(given, tuple):
        return tuple(_there(each, read) for each in given)
    if not isinstance(given, Tensor):
        return given
    return _query_rows(given, read) if given.dim() == 4 else take(given, read)


LAST_BLOCK: Mapping[str, Callable[[Any, Tensor, Call, Tensor], Tensor]] = {
    "bert": _bert,
    "distilbert": _distilbert,
    "mpnet": _mpnet,
    "deberta": _deberta,
    "modernbert": _modernbert,
    "albert": _albert,
    "cached": _cached,
    "positionwise": _positionwise,
}
"""Functions by the name in ``Architecture.last_block``: (block, hidden [B, T, D], call, places [B, N]) -> [B, N, D]."""
