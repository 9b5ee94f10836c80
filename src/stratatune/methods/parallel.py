"""The scaled parallel adapter: a bottleneck parallel to FFN or attention (He et al., 2022, table 3 and section 4.6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from stratatune.methods.precision import as_trained, linear_near
from stratatune.methods.site import Site
from stratatune.methods.wrapping import Wrapper, own_weight, widths
from stratatune.plan.methods import Parallel

REFUSES_MERGE = "a parallel adapter is a non-linear map of the input; no weight of the base can hold it"


@dataclass
class Handoff:
    """Carries the input from where it enters to where the result leaves, within one forward of the block."""

    x: Tensor | None = None

    def take(self) -> Tensor:
        """Return the input and forget it."""
        x, self.x = self.x, None
        assert x is not None, "the block computed its last projection before its first"
        return x


class Entry(Wrapper):
    """``f(x)``, which remembers x until the exit has used it."""

    def __init__(self, base: nn.Module, handoff: Handoff) -> None:
        super().__init__(base)
        self.handoff = handoff

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [..., in] -> [..., out]."""
        self.handoff.x = x
        return self.base(x)

    def fold(self, own: nn.Module, readers: Sequence[nn.Module]) -> None:
        """Never possible: see ``REFUSES_MERGE``."""
        raise NotImplementedError(REFUSES_MERGE)


class ParallelExit(Wrapper):
    """``f(z) + s (W2 relu(W1 x + b1) + b2)`` with x the part's input, W1 [M, in], W2 [D, M].

    W1 starts as LoRA's A, W2 and the biases at zero, as in the paper's code; so the model starts as the base model is.

    Args:
        base: the part's last projection [D, ..].
        handoff: brings x.
        ins: width of x.
        bottleneck: M.
        scale: s.
    """

    def __init__(self, base: nn.Module, handoff: Handoff, ins: int, bottleneck: int, scale: float) -> None:
        super().__init__(base)
        weight = own_weight(base)
        self.handoff, self.scale = handoff, scale
        self.down = linear_near(weight, ins, bottleneck)
        self.up = linear_near(weight, bottleneck, widths(base)[1])
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [..., inner], the last projection's own input -> [..., D]."""
        beside = self.up(nn.functional.relu(self.down(as_trained(self.handoff.take(), self.down.weight))))
        y = self.base(x)
        return (y + beside * self.scale).to(y.dtype)

    def fold(self, own: nn.Module, readers: Sequence[nn.Module]) -> None:
        """Never possible: see ``REFUSES_MERGE``."""
        raise NotImplementedError(REFUSES_MERGE)


def attach(config: Parallel, site: Site) -> list[nn.Parameter]:
    """Wrap the two ends of the part; both linears of the adapter train."""
    first, last = config.ENDS[config.on]
    handoff, ins = Handoff(), widths(site.get(first))[0]
    site.replace(first, Entry(site.get(first), handoff))
    leave = ParallelExit(site.get(last), handoff, ins, config.bottleneck, config.scale)
    site.replace(last, leave)
    return [*leave.down.parameters(), *leave.up.parameters()]
