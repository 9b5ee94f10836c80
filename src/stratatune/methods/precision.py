"""The precision that a method's own numbers compute in, where the model around them is in half precision."""

from __future__ import annotations

import torch
from torch import Tensor

HALVES = (torch.bfloat16, torch.float16)


def as_trained(x: Tensor, trained: Tensor) -> Tensor:
    """``x`` in the dtype of what trains (fp32 beside a bf16 model), unless autocast chooses the precision anyway."""
    if x.dtype == trained.dtype or torch.is_autocast_enabled(x.device.type):
        return x
    return x.to(trained.dtype)


def at_least_fp32(dtype: torch.dtype) -> torch.dtype:
    """fp32 for half precision, else the dtype itself."""
    return torch.promote_types(dtype, torch.float32)
