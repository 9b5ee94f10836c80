"""LoRA: a low-rank change added to a frozen linear (Hu et al., 2022, eq. 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stratatune.methods.precision import as_trained, drawn, to_train
from stratatune.methods.site import Site
from stratatune.methods.wrapping import Wrapper, own_weight, widths, wrap
from stratatune.plan.methods import Lora


class LoraLinear(Wrapper):
    """``y = W x + b + (alpha / R) B A dropout(x)``, A [R, in], B [out, R]; B starts at zero, so ``y`` is unchanged.

    Args:
        base: the frozen linear [out, in]; its bias may also be trained by BitFit.
        rank: R.
        alpha: scale of the change; the factor is ``alpha / rank``.
        dropout: probability on the input of A.
    """

    def __init__(self, base: nn.Module, rank: int, alpha: float, dropout: float) -> None:
        super().__init__(base)
        ins, outs = widths(base)
        self.a = nn.Parameter(to_train(own_weight(base), rank, ins))
        self.b = nn.Parameter(to_train(own_weight(base), outs, rank).zero_())
        self.scale = alpha / rank
        self.dropout = nn.Dropout(dropout)
        # The start of `nn.Linear` and stock peft, so that runs can be compared. Both at zero would have no gradient.
        drawn(self.a, lambda a: nn.init.kaiming_uniform_(a, a=math.sqrt(5)))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [..., in] -> [..., out]."""
        low = nn.functional.linear(as_trained(self.dropout(x), self.a), self.a)  # [..., R]
        # Two thin products: B A is [out, in], as large as the weight that stays.
        y = self.base(x)
        return (y + nn.functional.linear(low, self.b) * self.scale).to(y.dtype)

    @torch.no_grad()
    def fold(self, own: nn.Module, readers: Sequence[nn.Module]) -> None:
        """``W + (alpha / R) B A``."""
        own_weight(own).add_((self.b @ self.a) * self.scale)


def attach(config: Lora, site: Site) -> list[nn.Parameter]:
    """Wrap the linears of ``config.on``; A and B train."""
    return wrap(site, config.roles(), lambda _, base: LoraLinear(base, config.rank, config.alpha, config.dropout))
