"""What a decoder's blocks read besides the hidden state: a part of each token, and keys and values of earlier blocks.

The part of a token follows from its id and its embedding, so a top makes it again from the ids. Keys and values do not
follow from anything above the block that makes them: where a cut lies between it and the blocks that read them, they
are the trunk's output too, behind the hidden state: D numbers of a token, then the keys and the values of each such
block, in the blocks' order.
"""

from __future__ import annotations

import sys
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stratatune.model.body import Body

Shared = MutableMapping[str, tuple[Tensor, Tensor]]
"""Keys and values [B, H, T, W] that later blocks read, by the kind of attention; the blocks themselves write it."""
SHARED = "shared_kv_states"
"""The argument of the model and of its blocks."""


@dataclass(frozen=True)
class Given:
    """What the blocks of one run read besides the hidden state.

    Attributes:
        shared: keys and values, as far as they are known.
        parts: [B, T, L, W], a part of each token for each block.
    """

    shared: Shared | None = None
    parts: Tensor | None = None

    def of(self, number: int) -> dict[str, object]:
        """The arguments of block ``number``."""
        shared: dict[str, object] = {} if self.shared is None else {SHARED: self.shared}
        return shared if self.parts is None else {**shared, "per_layer_input": self.parts[:, :, number]}


def empty(body: Body) -> Shared | None:
    """A place for keys and values that blocks share; None: those of this model do not."""
    # The model takes an instance of its own class as it is, and copies any other mapping.
    made: Any = getattr(sys.modules[type(body.base).__module__], "KVSharingDict", None)
    return None if made is None else made()


def with_shared(body: Body, depth: int, hidden: Tensor, shared: Shared | None) -> Tensor:
    """``hidden`` [B, T, D] at ``depth`` with the ``shared`` keys and values behind it that blocks above read."""
    found = [hidden]
    for number in body.shape.carried(depth):
        assert shared is not None
        found += [each.transpose(1, 2).flatten(2) for each in shared[_kind(body, number)]]
    return hidden if len(found) == 1 else torch.cat([one.to(hidden.dtype) for one in found], dim=-1)


def without_shared(body: Body, depth: int, hidden: Tensor) -> tuple[Tensor, Shared | None]:
    """The inverse of :func:`with_shared`: the hidden state [B, T, D], and a place that holds the keys and values."""
    shape, shared = body.shape, empty(body)
    numbers = shape.carried(depth)
    widths = [width for number in numbers for width in shape.keys_and_values(number)]
    hidden, *found = hidden.split([shape.hidden, *widths], dim=-1)
    for number, key, value in zip(numbers, found[::2], found[1::2], strict=True):
        assert shared is not None
        size = shape.of_block(number).norms["norm_k"].size
        shared[_kind(body, number)] = _heads(key, size), _heads(value, size)
    return hidden, shared


def _heads(states: Tensor, size: int) -> Tensor:
    return states.unflatten(-1, (-1, size)).transpose(1, 2)


def _kind(body: Body, number: int) -> str:
    return body.model.config.layer_types[number]


def parts_of(body: Body, ids: Tensor | None, hidden: Tensor) -> Tensor | None:
    """The part of each token for each block [B, T, L, W]: from ``ids`` [B, T], as the model itself makes it.

    Zeros for hidden states [B, T, D] that belong to no tokens. None: the blocks of this model read none.
    """
    if not body.shape.token_part:
        return None
    if ids is None:
        return hidden.new_zeros(*hidden.shape[:2], len(body.blocks), body.shape.token_part)
    base: Any = body.base
    words = body.embeddings.forward(ids)
    return base.project_per_layer_inputs(words, base.get_per_layer_inputs(ids, words))
