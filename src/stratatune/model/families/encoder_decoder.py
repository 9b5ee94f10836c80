"""Trunk and top of encoder-decoders.

The trunk is the encoder's frozen part, and what the cache holds: where all of it is frozen, the encoder's whole output.
The top runs the encoder's other blocks and then the model's own forward from there, the decoder as it is: its frozen
blocks run again in each step, since they read the encoder.

Depths run through both stacks. Up to the encoder's length an insertion stands in the encoder; at that very depth it
changes the encoder's output, behind its last norm. A prompt stays in front of that output: the decoder reads it too
(``model/families/encoder_decoder_hooks.py``). Above it, an adapter stands in the decoder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutput

from stratatune.errors import StratatuneError
from stratatune.model.question import Question
from stratatune.model.skeleton import Call

if TYPE_CHECKING:
    from stratatune.model.attached import Attached
    from stratatune.model.backbone import Backbone


def encode_whole(backbone: Backbone, input_ids: Tensor, mask: Tensor) -> Tensor:
    """The encoder's output [B, T, D], without what is inserted behind it (its ``forward``, not the module)."""
    base: Any = backbone.base
    return base.encoder.forward(input_ids=input_ids, attention_mask=mask.long()).last_hidden_state


def encoder_calls(backbone: Backbone, hidden: Tensor, mask: Tensor) -> list[Call]:
    """What each block of the encoder is called with beside ``hidden`` [B, T, D], given ``mask`` [B, T] bool."""
    base: Any = backbone.base
    seen = create_bidirectional_mask(config=base.encoder.config, inputs_embeds=hidden, attention_mask=mask)
    return [Call((seen, *_position_bias(backbone, hidden.shape[1])))] * backbone.encoder_blocks


def embed_vectors(backbone: Backbone, vectors: Tensor) -> Tensor:
    """The hidden state at depth 0 of vectors in place of the encoder's first words: [P, D] -> [1, P, D]."""
    row, hidden = backbone.row, vectors[None]
    if row.position_table is not None:
        places = torch.arange(len(vectors), device=vectors.device)
        hidden = hidden + backbone.base.get_submodule(row.position_table).forward(hidden, position_ids=places)
    return hidden if row.position_norm is None else backbone.base.get_submodule(row.position_norm).forward(hidden)


def _rest_of_encoder(attached: Attached, hidden: Tensor, mask: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """The encoder from depth ``start`` on with its insertions: [B, T, D], [B, T] -> [B, P + T, D], [B, P + T]."""
    backbone, last = attached.backbone, attached.backbone.encoder_blocks
    calls = encoder_calls(backbone, hidden, mask)
    for depth in range(start, last):
        for insertion in attached.insertions_at(depth):
            hidden, mask = insertion(hidden, mask)
            calls = encoder_calls(backbone, hidden, mask) if insertion.tokens else calls
        hidden = backbone.run_block(depth, hidden, calls[depth])
    if start < last:
        hidden = _behind(backbone, hidden)
    for insertion in attached.insertions_at(last):
        hidden, mask = insertion(hidden, mask)
    return hidden, mask


def run_encoder(backbone: Backbone, hidden: Tensor, mask: Tensor) -> Tensor:
    """Every block of the encoder over [B, T, D] at depth 0, nothing inserted, and what stands behind the last one."""
    for number, call in enumerate(encoder_calls(backbone, hidden, mask)):
        hidden = backbone.run_block(number, hidden, call)
    return _behind(backbone, hidden)


def _behind(backbone: Backbone, hidden: Tensor) -> Tensor:
    """What the encoder does behind its last block: T5 norms there."""
    for path in backbone.row.behind_blocks:
        hidden = backbone.base.get_submodule(path)(hidden)
    return hidden


def _position_bias(backbone: Backbone, length: int) -> list[Tensor]:
    """T5's bias of relative positions, which its first block keeps for all: [1, heads, T, T]; nothing elsewhere."""
    if backbone.row.relative_bias is None:
        return []
    first: Any = backbone.blocks[0].get_submodule(backbone.row.relative_bias)
    return [first.compute_bias(length, length)]


def answer(attached: Attached, hidden: Tensor, mask: Tensor, question: Question) -> Tensor:
    """From the frozen depth to the logits, by the model's own decoder.

    Args:
        hidden: [B, T, D] at the frozen depth, or the encoder's output where all of the encoder is frozen.
        mask: [B, T] bool, real tokens of the source.
        question: its ``targets`` are what the decoder is to say, teacher-forced; where classes are asked, the source's
            own tokens, which the decoder reads over again.

    Returns:
        Logits at every target [B, U, V], or of the classes [B, C].
    """
    targets = question.targets
    if targets is None:
        raise StratatuneError("an encoder-decoder is asked without targets")
    hidden, mask = _rest_of_encoder(attached, hidden, mask, attached.resolved.frozen_depth)
    model: Any = attached.backbone.model
    if attached.backbone.output == "classification":
        given = {"input_ids": targets}  # the model's own head finds the source's end in them
    else:
        given = {"decoder_input_ids": model.prepare_decoder_input_ids_from_labels(labels=targets)}
    encoded = BaseModelOutput(last_hidden_state=hidden)  # pyright: ignore[reportArgumentType]
    return model(encoder_outputs=encoded, attention_mask=mask.long(), use_cache=False, **given).logits
