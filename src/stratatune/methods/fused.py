"""A linear that plays several roles at once, taken apart so that each role can be treated by itself.

ModernBERT computes queries, keys and values with one matrix [3D, D]. Its rows for each role become a linear of their
own; the outputs are put side by side again, so the block's forward notices nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class FusedLinear(nn.Module):
    """``y = [W_1 x + b_1, ..., W_n x + b_n]``, one part [out / n, in] a role, each a submodule of its role's name.

    Args:
        base: the linear to take apart [out, in]; it is left as it is.
        roles: the roles in the order of its outputs, of equal size.
    """

    def __init__(self, base: nn.Linear, roles: tuple[str, ...]) -> None:
        super().__init__()
        self.roles = roles
        biases = [None] * len(roles) if base.bias is None else base.bias.data.chunk(len(roles))
        for role, weight, bias in zip(roles, base.weight.data.chunk(len(roles)), biases, strict=True):
            self.add_module(role, _linear(weight, bias, type(base)))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [..., in] -> [..., out]."""
        return torch.cat([self.get_submodule(role)(x) for role in self.roles], dim=-1)

    def joined(self) -> nn.Linear:
        """One linear again, once every part is a plain linear (methods merged); a part without a bias adds zeros."""
        parts: list[Any] = [self.get_submodule(role) for role in self.roles]
        weight = torch.cat([part.weight.data for part in parts])
        if all(part.bias is None for part in parts):
            return _linear(weight, None, type(parts[0]))
        rows = [part.weight.new_zeros(part.out_features) if part.bias is None else part.bias.data for part in parts]
        return _linear(weight, torch.cat(rows), type(parts[0]))


@torch.no_grad()
def _linear(weight: Tensor, bias: Tensor | None, kind: type[nn.Linear]) -> nn.Linear:
    """A frozen linear of a copy of ``weight`` [out, in], of the class ``kind``, which computes as the one it is of."""
    linear = nn.Linear(*reversed(weight.shape), bias=bias is not None, device=weight.device, dtype=weight.dtype)
    linear.weight.copy_(weight)
    if bias is not None:
        linear.bias.copy_(bias)
    linear.__class__ = kind
    return linear.requires_grad_(False)
