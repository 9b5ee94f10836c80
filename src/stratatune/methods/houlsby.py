"""Houlsby's adapter: a bottleneck after the last projection of the attention and of the FFN (Houlsby et al., 2019)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from stratatune.methods.precision import as_trained, linear_near
from stratatune.methods.site import Site
from stratatune.methods.wrapping import Wrapper, own_weight, widths, wrap
from stratatune.plan.methods import Houlsby

REFUSES_MERGE = "an adapter after a projection is a non-linear map; no weight of the base can hold it"


class HoulsbyAdapter(Wrapper):
    """``y + W2 gelu(W1 y + b1) + b2`` with ``y = f(x)``, W1 [M, D], W2 [D, M] (Houlsby et al., figure 2, with GELU).

    It comes before the block's dropout, skip connection and norm. W2 and b2 start at zero, so that the model starts as
    the base model is (the paper: nearly so).

    Args:
        base: the projection, [.., D] its output.
        bottleneck: M.
    """

    def __init__(self, base: nn.Module, bottleneck: int) -> None:
        super().__init__(base)
        weight, width = own_weight(base), widths(base)[1]
        self.down = linear_near(weight, width, bottleneck)
        self.up = linear_near(weight, bottleneck, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [..., in] -> [..., D]."""
        y = self.base(x)
        return (y + self.up(nn.functional.gelu(self.down(as_trained(y, self.down.weight))))).to(y.dtype)

    def fold(self, own: nn.Module, readers: Sequence[nn.Module]) -> None:
        """Never possible: see ``REFUSES_MERGE``."""
        raise NotImplementedError(REFUSES_MERGE)


def attach(config: Houlsby, site: Site) -> list[nn.Parameter]:
    """Wrap the projections; both linears of each adapter train."""
    return wrap(site, config.roles(), lambda _, base: HoulsbyAdapter(base, config.bottleneck))
