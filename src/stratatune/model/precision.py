"""Hold frozen weights in the precision that they are computed in.

Autocast converts every fp32 weight again at each step. Trained weights need their fp32 master copies; frozen ones do
not, so it is converted once. The numbers are the same: the same rounding of the same weight, made once instead of
every time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stratatune.model.attached import Attached
from stratatune.model.packing import PackedLinear

Casts = dict[tuple[int, tuple[int, ...]], Tensor]
"""Converted weights, by the address and the shape of the original ones."""


def cast_frozen(attached: Attached, dtype: torch.dtype, made: Casts | None = None) -> None:
    """Hold the frozen matrices of the blocks, and the decoder as the head reads it, in ``dtype``.

    Only for models that are run under autocast to ``dtype``; embeddings, norms and biases stay as they are. Models over
    the same tensors, which something must keep alive, share the tensors in ``made``.
    """
    for module in attached.backbone.blocks.modules():
        # A trained matrix stays fp32: updates smaller than bf16's spacing would be lost.
        if not isinstance(module, nn.Linear) or isinstance(module, PackedLinear):
            continue
        if not module.weight.requires_grad and module.weight.is_floating_point():
            module.weight.data = _cast(module.weight.data, dtype, made)
    attached.backbone.head.hold_decoder(lambda weight: _cast(weight, dtype, made))


def _cast(weight: Tensor, dtype: torch.dtype, made: Casts | None) -> Tensor:
    if made is None:
        return weight.to(dtype)
    # By address: the models of several trials hold the same tensors in different parameters.
    key = (weight.data_ptr(), tuple(weight.shape))
    if key not in made:
        made[key] = weight.to(dtype)
    return made[key]
