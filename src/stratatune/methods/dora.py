"""DoRA: LoRA on a weight split into its rows' lengths and directions (Liu et al., 2024, eq. 5 and section 4.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stratatune.methods.precision import as_trained, at_least_fp32, drawn, product, to_train
from stratatune.methods.site import Site
from stratatune.methods.wrapping import Wrapper, own_weight, widths, wrap
from stratatune.plan.methods import Dora


class DoraLinear(Wrapper):
    """``y = g (W + (alpha / R) B A) x + b`` with ``g = magnitude / ||W + (alpha / R) B A||``, a number for each output.

    A [R, in], B [out, R], magnitude [out]; the norm is taken over a row and gets no gradient (section 4.3). B starts at
    zero and magnitude at the rows' norms, so ``y`` is unchanged.

    Args:
        base: the frozen linear [out, in].
        rank: R.
        alpha: scale of the change; the factor is ``alpha / rank``.
        dropout: probability on the input of all that is not the frozen output.
    """

    def __init__(self, base: nn.Module, rank: int, alpha: float, dropout: float) -> None:
        super().__init__(base)
        weight, (ins, outs) = own_weight(base), widths(base)
        self.a = nn.Parameter(to_train(weight, rank, ins))
        self.b = nn.Parameter(to_train(weight, outs, rank).zero_())
        self.magnitude = nn.Parameter(weight.detach().to(at_least_fp32(weight.dtype)).norm(dim=1))
        self.scale = alpha / rank
        self.dropout = nn.Dropout(dropout)
        drawn(self.a, lambda a: nn.init.kaiming_uniform_(a, a=math.sqrt(5)))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [..., in] -> [..., out]."""
        # The base's own output is kept as it is and only the rest added: where g is 1 and B is 0 nothing is rounded.
        dropped, gain, y = self.dropout(x), self._gain(), self.base(x)
        straight = product(dropped, self.weight)
        low = nn.functional.linear(nn.functional.linear(as_trained(dropped, self.a), self.a), self.b) * self.scale
        return (y + (gain - 1) * straight + gain * low).to(y.dtype)

    def _gain(self) -> Tensor:
        """The gain g [out], in the precision of the trained parameters: near 1, where bf16 has three digits."""
        # Autocast would take the norm of thousands of values in bf16.
        with torch.no_grad(), torch.autocast(self.a.device.type, enabled=False):
            norm = (self.weight.to(self.a.dtype) + self.scale * (self.b @ self.a)).norm(dim=1)
        return self.magnitude / norm

    @torch.no_grad()
    def fold(self, own: nn.Module, readers: Sequence[nn.Module]) -> None:
        """``g (W + (alpha / R) B A)``."""
        weight, gain = own_weight(own), self._gain()
        weight.add_((self.b @ self.a) * self.scale).mul_(gain.unsqueeze(1))


def attach(config: Dora, site: Site) -> list[nn.Parameter]:
    """Wrap the linears of ``config.on``; A, B and the magnitude train."""
    return wrap(site, config.roles(), lambda _, base: DoraLinear(base, config.rank, config.alpha, config.dropout))
