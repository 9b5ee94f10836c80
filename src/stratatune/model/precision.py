"""Frozen weights held in the precision that they are computed in.

Autocast converts every fp32 weight again at each step. What trains needs its fp32 master copy; what is frozen does
not, so it is converted once. The numbers are the same: the same rounding of the same weight, made once instead of
every time.
"""

from __future__ import annotations

import torch
from torch import nn

from stratatune.model.strata import Strata


def cast_frozen(strata: Strata, dtype: torch.dtype) -> None:
    """Hold the frozen matrices of the blocks, and the decoder as the head reads it, in ``dtype``.

    Only for models that are run under autocast to ``dtype``; embeddings, norms and biases stay as they are.
    """
    for module in strata.backbone.blocks.modules():
        if isinstance(module, nn.Linear) and not module.weight.requires_grad:
            module.weight.data = module.weight.data.to(dtype)
    strata.backbone.hold_decoder(dtype)
