"""The experts of a block, whose matrices transformers holds in one tensor each, walked through one expert at a time.

What an expert's matrix makes of its tokens can be replaced: stored or packed weights are widened matrix by matrix, and
LoRA adds a low-rank change to each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor

from stratatune.methods.precision import product

MATRICES = ("gate_up_proj", "down_proj")
"""The attributes of a module of experts, in the order in which a token meets them."""
Through = Callable[[str, int, Tensor], Tensor]
"""``(name, number, x)``: ``x`` [n, in] through a matrix of an expert -> [n, out], its bias not added."""


def holds_experts(module: nn.Module) -> bool:
    """Whether a module holds all experts of a block, as transformers' classes do."""
    return set(MATRICES) <= module._parameters.keys() and hasattr(module, "is_transposed")


def through_of(experts: Any) -> Through:
    """How the matrices of ``experts`` are multiplied with: by its own ``through``, or in the precision of the input."""

    def through(name: str, number: int, x: Tensor) -> Tensor:
        weight = getattr(experts, name)[number]
        return product(x, weight.t() if experts.is_transposed else weight)

    return getattr(experts, "through", through)


def of_experts(experts: Any, hidden: Tensor, chosen: Tensor, weights: Tensor, through: Through) -> Tensor:
    """The sum of what the chosen experts make of each token, as transformers' own eager code computes it.

    Of fake tensors, which have no values and so choose no experts, the result has the shape alone; what is kept for the
    backward pass has its size, too.

    Args:
        experts: the module that holds them.
        hidden: [S, D].
        chosen: the numbers of each token's experts [S, K].
        weights: their weights [S, K].
        through: how a matrix is multiplied with.
    """

    def passed(name: str, number: int, x: Tensor) -> Tensor:
        made = through(name, number, x)
        return made + getattr(experts, f"{name}_bias")[number] if experts.has_bias else made

    found = torch.zeros_like(hidden)
    fake = isinstance(chosen, FakeTensor)
    for number in [0] if fake else chosen.unique().tolist():
        if fake:
            places, rows = torch.zeros_like(chosen).flatten(), torch.zeros_like(chosen).flatten()
        else:
            places, rows = (chosen.t() == number).nonzero(as_tuple=True)
        inner = experts._apply_gate(passed("gate_up_proj", number, hidden[rows]))
        made = passed("down_proj", number, inner) * weights[rows, places, None]
        found.index_add_(0, rows, made.to(found.dtype))
    return found
