"""Delta-bias: BitFit in separate vectors, SPAFIT's remedy for forgetting (its section 7).

The paper trains the biases themselves and sees "minor" forgetting; it proposes, without trying it, to keep each change
in a separate vector added to the bias. The base is then untouched: taking the vectors away gives it back bit for bit,
and one base serves many tasks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stratatune.methods.precision import to_train
from stratatune.methods.site import Site
from stratatune.methods.wrapping import Wrapper, can_hold_bias, own_bias, own_weight, wrap
from stratatune.plan.methods import ROUTED_ROLES, DeltaBias


class AddedBias(Wrapper):
    """``y = f(x) + d``, d [out], which starts at zero; f is a linear or a norm, with a bias or without."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        weight = own_weight(base)
        self.vector = nn.Parameter(to_train(weight, weight.shape[0]).zero_())

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [..., in] -> [..., out]."""
        y = self.base(x)
        return (y + self.vector).to(y.dtype)

    @torch.no_grad()
    def fold(self, own: nn.Module, readers: Sequence[nn.Module]) -> None:
        """``b + d``; for an RMS norm ``b + W d`` in its linears, since W (f(x) + d) + b = W f(x) + (W d + b)."""
        bias = own_bias(own)
        if bias is not None:
            bias.add_(self.vector)
            return
        for reader in readers:
            weight, bias = own_weight(reader), own_bias(reader)
            assert bias is not None
            bias.add_(weight.to(self.vector.dtype) @ self.vector)


def attach(config: DeltaBias, site: Site) -> list[nn.Parameter]:
    """Wrap the modules of ``config.on``, but for router and experts; the vectors train."""
    return wrap(site, _roles(config), lambda _, base: AddedBias(base))


def _roles(config: DeltaBias) -> tuple[str, ...]:
    return tuple(role for role in config.roles() if role not in ROUTED_ROLES)


def makes_biases(config: DeltaBias, site: Site) -> tuple[str, ...]:
    """The roles that need a bias first: those without one; in place of an RMS norm the linears that read it."""
    made: dict[str, None] = {}
    for role, module in site.modules(_roles(config)):
        if own_bias(module) is None:
            holders = (role,) if can_hold_bias(module) else site.read_by.get(role, ())
            made |= {holder: None for holder, linear in site.modules(holders) if own_bias(linear) is None}
    return tuple(made)


def refuses_merge(config: DeltaBias, site: Site) -> str:
    """The reason why an RMS norm's vector cannot go into the linears that read it: something else reads it too."""
    stuck = [
        role
        for role, module in site.modules(_roles(config))
        if own_bias(module) is None and not can_hold_bias(module) and role not in site.read_by
    ]
    if not stuck:
        return ""
    return f"no bias can hold the vector of {', '.join(stuck)}: an RMS norm has none, and not linears alone read it"
