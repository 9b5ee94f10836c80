"""(IA)3: a trained vector that scales an activation (Liu et al., 2022, "Few-shot PEFT ... better")."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stratatune.methods.precision import to_train
from stratatune.methods.site import Site
from stratatune.methods.wrapping import Wrapper, own_bias, own_weight, widths, wrap
from stratatune.plan.methods import Ia3


class ScaledOutput(Wrapper):
    """``y = s * (W x + b)``, s [out], which starts at one (keys and values: eq. of section 3.3)."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self.vector = nn.Parameter(to_train(own_weight(base), widths(base)[1]).fill_(1))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [..., in] -> [..., out]."""
        y = self.base(x)
        return (y * self.vector).to(y.dtype)

    @torch.no_grad()
    def fold(self, own: nn.Module, readers: Sequence[nn.Module]) -> None:
        """Scale the rows of W, and b."""
        own_weight(own).mul_(self.vector.unsqueeze(1))
        bias = own_bias(own)
        if bias is not None:
            bias.mul_(self.vector)


class ScaledInput(Wrapper):
    """``y = W (s * x) + b``, s [in], which starts at one (the FFN's inner activation)."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self.vector = nn.Parameter(to_train(own_weight(base), widths(base)[0]).fill_(1))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [..., in] -> [..., out]."""
        return self.base((x * self.vector).to(x.dtype))

    @torch.no_grad()
    def fold(self, own: nn.Module, readers: Sequence[nn.Module]) -> None:
        """Scale the columns of W."""
        own_weight(own).mul_(self.vector)


def attach(config: Ia3, site: Site) -> list[nn.Parameter]:
    """Wrap the linears of ``config.on``; the vectors train."""
    inputs = config.in_front
    return wrap(site, config.roles(), lambda role, base: (ScaledInput if role in inputs else ScaledOutput)(base))
