"""Modules that replace a role's own module and hold it: the parts that a method adds to frozen weights.

Several may wrap one role, one inside the other; the innermost holds the model's own module.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from stratatune.methods.precision import HALVES
from stratatune.methods.site import Site
from stratatune.plan.methods import NORM_ROLES


class Wrapper(nn.Module):
    """Holds ``base`` and adds to its output. Abstract.

    Blocks and other methods may ask it what they would ask the module that it holds.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    @property
    def weight(self) -> nn.Parameter:
        """The model's own weight; some blocks look at its dtype."""
        return own_weight(self)

    @property
    def bias(self) -> nn.Parameter | None:
        """The model's own bias [out]."""
        return own_bias(self)

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """``x`` [..., in] -> [..., out]."""

    @abstractmethod
    def fold(self, own: nn.Module, readers: Sequence[nn.Module]) -> None:
        """Change ``own`` (the innermost module, with every wrapper inside this one folded in) so that it computes this.

        Asked only where the method's ``refuses_merge`` has nothing to say, and once the biases are there that its
        ``makes_biases`` asks for. ``readers``: of a norm the linears that alone read it, with all of theirs folded in.
        """


def standing(module: nn.Module) -> Iterator[Wrapper]:
    """The wrappers around the model's own module, outermost first."""
    while isinstance(module, Wrapper):
        yield module
        module = module.base


def innermost(module: nn.Module) -> nn.Module:
    """The model's own module."""
    while isinstance(module, Wrapper):
        module = module.base
    return module


def own_weight(module: nn.Module) -> nn.Parameter:
    """The weight of the model's own module: [out, in] of a linear, [D] of a norm."""
    weight = innermost(module).weight
    assert isinstance(weight, nn.Parameter)
    return weight


def own_bias(module: nn.Module) -> nn.Parameter | None:
    """The bias of the model's own module, or None where it has none (an RMS norm has not even the name)."""
    return dict(innermost(module).named_parameters(recurse=False)).get("bias")


def can_hold_bias(module: nn.Module) -> bool:
    """Whether the model's own module can have a bias: a linear and a layer norm can, an RMS norm cannot."""
    own: nn.Module = innermost(module)
    return "bias" in own._parameters


@torch.no_grad()
def give_bias(module: nn.Module) -> None:
    """Give the model's own linear or layer norm a bias of zeros, where it has none."""
    own = innermost(module)
    if own_bias(own) is None:
        weight = own_weight(own)
        own.bias = nn.Parameter(weight.new_zeros(weight.shape[0]), requires_grad=False)


def widths(module: nn.Module) -> tuple[int, int]:
    """(in, out) of the linear that ``module`` is or holds."""
    out, ins = own_weight(module).shape
    return ins, out


def wrap(site: Site, roles: Iterable[str], make: Callable[[str, nn.Module], Wrapper]) -> list[nn.Parameter]:
    """Put ``make(role, module)`` in the place of each role's module; returns the parameters that it adds."""
    trained: list[nn.Parameter] = []
    for role, module in site.modules(roles):
        held = {id(parameter) for parameter in module.parameters()}
        wrapped = make(role, module)
        site.replace(role, wrapped)
        trained += [parameter for parameter in wrapped.parameters() if id(parameter) not in held]
    return trained


def unwrap(site: Site, *, fold: bool) -> None:
    """Put every role's own module back, with its wrappers folded in from the inside out, or dropped.

    Norms come last: a norm's wrappers may be folded into the linears that read it. Weights in half precision are
    folded into in fp32 and rounded once, whatever is folded into them.
    """
    with _in_fp32(site) if fold else contextlib.nullcontext():
        for role, module in sorted(site.modules(site.roles), key=lambda found: found[0] in NORM_ROLES):
            own = innermost(module)
            # Each once: several roles may be one linear, as Phi's queries, keys and values are.
            readers = list(dict.fromkeys(reader for _, reader in site.modules(site.read_by.get(role, ()))))
            for one in reversed(list(standing(module))) if fold else ():
                one.fold(own, readers)
            site.replace(role, own)


@contextlib.contextmanager
def _in_fp32(site: Site) -> Iterator[None]:
    """Hold the weights that are folded into in fp32 while this is open, where they are in half precision."""
    changed = {role for role, module in site.modules(site.roles) if isinstance(module, Wrapper)}
    changed |= {reader for role in changed for reader in site.read_by.get(role, ())}
    owners = dict.fromkeys(innermost(module) for _, module in site.modules(changed))
    halves = [(one, one.dtype) for own in owners for one in own.parameters() if one.dtype in HALVES]
    for parameter, _ in halves:
        parameter.data = parameter.data.float()
    try:
        yield
    finally:
        for parameter, dtype in halves:
            parameter.data = parameter.data.to(dtype)


def as_unwrapped(name: str) -> str:
    """A parameter's name without the steps into wrappers, for one of a wrapped module that was unfrozen by hand."""
    return ".".join(part for part in name.split(".") if part != "base")
