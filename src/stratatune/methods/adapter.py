"""A bottleneck adapter between two blocks: BFT's second information component (BFT eq. 3-5)."""

from __future__ import annotations

from torch import Tensor, nn

from stratatune.methods.precision import as_trained
from stratatune.methods.site import Place
from stratatune.plan.methods import Adapter

REFUSES_MERGE = (
    "an adapter between two blocks is a non-linear map of the hidden state; no weight of the base can hold it"
)


class BottleneckAdapter(nn.Module):
    """``h_new = h + W2 relu(W1 LayerNorm(h) + b1) + b2`` (BFT eq. 3-5), W1 [M, D], W2 [D, M].

    W2 and b2 start at zero, so that the model starts as the base model is; the paper leaves the initialisation open.

    Args:
        hidden: D.
        bottleneck: M.
    """

    tokens = 0

    def __init__(self, hidden: int, bottleneck: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.down = nn.Linear(hidden, bottleneck)
        self.up = nn.Linear(bottleneck, hidden)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Change ``hidden`` [B, T, D] and return it with ``mask`` [B, T]."""
        own = self.norm(as_trained(hidden, self.down.weight))
        return (hidden + self.up(nn.functional.relu(self.down(own)))).to(hidden.dtype), mask


def build(config: Adapter, place: Place) -> BottleneckAdapter:
    """The adapter of ``config`` for the hidden size of ``place``."""
    return BottleneckAdapter(place.hidden, config.bottleneck)
