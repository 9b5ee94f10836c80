"""Delta-bias: BitFit in vectors of its own, SPAFIT's remedy for forgetting (its section 7).

The paper trains the biases themselves and sees "minor" forgetting; it proposes, without trying it, to keep each change
in a separate vector added to the bias. The base is then untouched: taking the vectors away gives it back bit for bit,
and one base serves many tasks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stratatune.methods.beside import Beside, own_bias, own_weight, wrap
from stratatune.methods.site import Site
from stratatune.plan.treatments import DeltaBias


class AddedBias(Beside):
    """``y = f(x) + d``, d [out], which starts at zero; f is a linear or a norm, with a bias or without."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        weight = own_weight(base)
        self.vector = nn.Parameter(weight.new_zeros(weight.shape[0]))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [..., in] -> [..., out]."""
        y = self.base(x)
        return (y + self.vector).to(y.dtype)

    @torch.no_grad()
    def fold(self, own: nn.Module) -> None:
        """``b + d``."""
        bias = own_bias(own)
        assert bias is not None
        bias.add_(self.vector)


def attach(config: DeltaBias, site: Site) -> list[nn.Parameter]:
    """Wrap the modules of ``config.on``; the vectors train."""
    return wrap(site, config.roles(), lambda _, base: AddedBias(base))


def refuses_merge(config: DeltaBias, site: Site) -> str:
    """A linear without a bias cannot hold the vector: one made for it would be dropped on loading the model again."""
    without = [role for role, module in site.modules(config.roles()) if own_bias(module) is None]
    return f"{', '.join(without)} have no bias that could hold the vector" if without else ""
