"""LoRA: a low-rank change beside a frozen linear (Hu et al., 2022, eq. 3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from stratatune.methods.site import Site
from stratatune.plan.treatments import Lora


class LoraLinear(nn.Module):
    """``y = W x + b + (alpha / R) B A dropout(x)``, with A [R, in] and B [out, R]; B starts at zero.

    Args:
        base: the frozen linear [out, in]; its bias may be trained by BitFit beside this.
        rank: R.
        alpha: scale of the change; the factor is ``alpha / rank``.
        dropout: probability on the input of A.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float) -> None:
        super().__init__()
        self.base = base
        self.a = nn.Parameter(base.weight.new_empty(rank, base.in_features))
        self.b = nn.Parameter(base.weight.new_zeros(base.out_features, rank))
        self.scale = alpha / rank
        self.dropout = nn.Dropout(dropout)
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    @property
    def weight(self) -> Tensor:
        """The frozen weight [out, in]; some blocks look at its dtype."""
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        """The base linear's bias [out]."""
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [..., in] -> [..., out]."""
        low = nn.functional.linear(self.dropout(x), self.a)  # [..., R]
        return self.base(x) + nn.functional.linear(low, self.b) * self.scale

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The base linear with the change added to its weight, in place."""
        self.base.weight += (self.b @ self.a) * self.scale
        return self.base


def attach(config: Lora, site: Site) -> list[nn.Parameter]:
    """Wrap the linears of ``config.on``; A and B train."""
    trained: list[nn.Parameter] = []
    for role, linear in site.modules(config.roles()):
        wrapped = LoraLinear(linear, config.rank, config.alpha, config.dropout)
        site.replace(role, wrapped)
        trained += [wrapped.a, wrapped.b]
    return trained


def merge(config: Lora, site: Site) -> None:
    """Fold each change into its weight and put the plain linear back."""
    for role, wrapped in site.modules(config.roles()):
        if isinstance(wrapped, LoraLinear):
            site.replace(role, wrapped.merged())
