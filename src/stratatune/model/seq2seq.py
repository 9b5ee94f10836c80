"""Trunk and top of encoder-decoders.

The trunk is the encoder's frozen part, and what the cache holds: where all of it is frozen, the encoder's whole output.
The top runs the encoder's other blocks and then the model's own forward from there, the decoder as it is: its frozen
blocks run again in each step, since they read the encoder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutput

if TYPE_CHECKING:
    from stratatune.model.backbones import Backbone
    from stratatune.model.strata import Strata

_IGNORED = -100


def encode_whole(backbone: Backbone, input_ids: Tensor, mask: Tensor) -> Tensor:
    """The encoder's output [B, T, D]."""
    base: Any = backbone.base
    return base.encoder(input_ids=input_ids, attention_mask=mask.long()).last_hidden_state


def _rest_of_encoder(backbone: Backbone, hidden: Tensor, mask: Tensor, start: int) -> Tensor:
    """The encoder's blocks from ``start`` on and what stands behind them: [B, T, D] -> [B, T, D]."""
    base: Any = backbone.base
    encoder = base.encoder
    attention_mask = create_bidirectional_mask(config=encoder.config, inputs_embeds=hidden, attention_mask=mask)
    relative = _position_bias(backbone, hidden.shape[1])
    for block in backbone.blocks[start : backbone.encoder_blocks]:
        output: Any = block.forward(hidden, attention_mask, *relative)
        hidden = output[0] if relative else output
    if relative:
        hidden = encoder.dropout(encoder.final_layer_norm(hidden))
    return hidden


def _position_bias(backbone: Backbone, length: int) -> list[Tensor]:
    """T5's bias of relative positions, which its first block keeps for all: [1, heads, T, T]; nothing elsewhere."""
    if "t5" not in backbone.row.model_types:
        return []
    first: Any = backbone.blocks[0].get_submodule("layer.0.SelfAttention")
    return [first.compute_bias(length, length)]


def target_scores(strata: Strata, hidden: Tensor, mask: Tensor, targets: Tensor) -> Tensor:
    """The summed log-probability of the targets, teacher-forced, and how many tokens they are.

    Args:
        hidden: [B, T, D] at the frozen depth, or the encoder's output where all of the encoder is frozen.
        mask: [B, T] bool, real tokens of the source.
        targets: [B, U], -100 behind the end.

    Returns:
        [B, 2].
    """
    backbone, depth = strata.backbone, strata.resolved.frozen_depth
    model: Any = backbone.model
    if depth < backbone.encoder_blocks:
        hidden = _rest_of_encoder(backbone, hidden, mask, depth)
    given = model.prepare_decoder_input_ids_from_labels(labels=targets)
    logits = model(
        encoder_outputs=BaseModelOutput(last_hidden_state=hidden),  # pyright: ignore[reportArgumentType]
        attention_mask=mask.long(),
        decoder_input_ids=given,
        use_cache=False,
    ).logits
    loss = nn.functional.cross_entropy(logits.float().mT, targets, ignore_index=_IGNORED, reduction="none")  # [B, U]
    return torch.stack([-loss.sum(dim=1), (targets != _IGNORED).sum(dim=1).to(loss.dtype)], dim=1)
