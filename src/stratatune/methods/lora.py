"""LoRA: a low-rank change added to a frozen linear (Hu et al., 2022, eq. 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stratatune.methods.experts import MATRICES, of_experts, through_of
from stratatune.methods.precision import as_trained, drawn, to_train
from stratatune.methods.site import Site
from stratatune.methods.wrapping import Wrapper, innermost, own_weight, widths, wrap
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


class LowRank(nn.Module):
    """``B A`` of one matrix of each of E experts: ``a`` [E, R, in], ``b`` [E, out, R], which starts at zero."""

    def __init__(self, weight: Tensor, experts: int, rank: int, ins: int, outs: int) -> None:
        super().__init__()
        self.a = nn.Parameter(to_train(weight, experts, rank, ins))
        self.b = nn.Parameter(to_train(weight, experts, outs, rank).zero_())
        bound = 1 / math.sqrt(ins)  # as of each linear by itself, above
        drawn(self.a, lambda a: nn.init.uniform_(a, -bound, bound))


class LoraExperts(Wrapper):
    """LoRA on each matrix of each expert of a block, whose router chooses some for each token.

    Args:
        base: the module of all experts, frozen.
        rank, alpha, dropout: as of :class:`LoraLinear`, for each matrix.
    """

    def __init__(self, base: nn.Module, rank: int, alpha: float, dropout: float) -> None:
        super().__init__(base)
        own: Any = innermost(base)
        for name in MATRICES:
            weight = getattr(own, name)  # [E, out, in], or [E, in, out]
            experts, outs, ins = weight.transpose(1, 2).shape if own.is_transposed else weight.shape
            self.add_module(name, LowRank(weight, experts, rank, ins, outs))
        self.scale = alpha / rank
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """``hidden`` [S, D], the K experts ``chosen`` for each token and their ``weights`` [S, K] -> [S, D]."""
        own = innermost(self)
        through = through_of(own)
        # Taken apart once: the gradient of one expert's alone would be as large as that of all.
        parts: dict[str, Any] = {name: self.get_submodule(name) for name in MATRICES}
        taken = {name: (one.a.unbind(), one.b.unbind()) for name, one in parts.items()}

        def changed(name: str, number: int, x: Tensor) -> Tensor:
            y = through(name, number, x)
            a, b = (one[number] for one in taken[name])
            low = nn.functional.linear(as_trained(self.dropout(x), a), a)
            return (y + nn.functional.linear(low, b) * self.scale).to(y.dtype)

        return of_experts(own, hidden, chosen, weights, changed)

    @torch.no_grad()
    def fold(self, own: nn.Module, readers: Sequence[nn.Module]) -> None:
        """``W + (alpha / R) B A``, of each expert."""
        experts: Any = own
        for name in MATRICES:
            low: Any = self.get_submodule(name)
            change = (low.b @ low.a) * self.scale
            getattr(experts, name).add_(change.transpose(1, 2) if experts.is_transposed else change)


def attach(config: Lora, site: Site) -> list[nn.Parameter]:
    """Wrap the linears of ``config.on``, and the experts; A and B train."""
    how = (config.rank, config.alpha, config.dropout)
    return wrap(site, config.roles(), lambda role, base: (LoraExperts if role == "experts" else LoraLinear)(base, *how))
