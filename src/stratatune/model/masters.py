"""fp32 master weights for the trained part of a model in half precision, which computes in its own dtype.

transformers 5 loads a checkpoint in the dtype that it was saved in. A step of 1e-4 is lost on a bf16 weight of 1, which
has three digits, so trained parameters are held in fp32, as peft does (``autocast_adapter_dtype``). Modules that a
method adds compute in fp32 and return the dtype they were given. The base's own modules (BitFit's biases, wholly
trained modules) keep computing in theirs: each forward rounds the master once. Where weights are only stored in half
precision (``model/stored.py``), the model computes in fp32, and so do the masters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from stratatune.methods.precision import HALVES
from stratatune.model.attached import Attached
from stratatune.model.stored import computes_in

_OWN = ("bitfit", "full", "head", "output")
"""Groups that train parameters of the base model itself; all others train added ones."""


def hold_masters(attached: Attached) -> list[RemovableHandle]:
    """Make every trained half-precision parameter an fp32 one, in place; returns the hooks that round it for a forward.

    ``attached.rounded`` remembers the dtypes of the base's own.
    """
    own: dict[int, torch.dtype] = {}
    widened = computes_in(attached.backbone.model) == torch.float32
    for group in attached.groups:
        for parameter in group.parameters:
            if parameter.dtype in HALVES:
                if group.method in _OWN and not widened:
                    attached.rounded.append((parameter, parameter.dtype))
                    own[id(parameter)] = parameter.dtype
                # The parameter stays the same object: groups, tied modules and optimisers refer to it by identity.
                parameter.data = parameter.data.float()
    handles: list[RemovableHandle] = []
    for module in attached.backbone.model.modules() if own else ():
        held = {name: own[id(one)] for name, one in module.named_parameters(recurse=False) if id(one) in own}
        if held:
            handles.append(module.register_forward_pre_hook(_Round(held), with_kwargs=True))
            # always_call: after a forward that failed, a rounded tensor left behind would hide the master from every
            # later step.
            handles.append(module.register_forward_hook(_Forget(held), always_call=True))
    return handles


def round_masters(attached: Attached) -> None:
    """Give the masters of the base's own parameters their dtypes back: each is rounded once."""
    for parameter, dtype in attached.rounded:
        parameter.data = parameter.data.to(dtype)
    attached.rounded.clear()


def follow(attached: Attached, convert: Callable[[Tensor], Tensor]) -> None:
    """Round the masters to the dtype that ``convert``, applied to every tensor of the model, gives the others.

    After ``model.float()`` nothing is rounded any more.
    """
    attached.rounded[:] = [(parameter, _converted(dtype, convert)) for parameter, dtype in attached.rounded]
    for module in attached.backbone.model.modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, _Round):
                hook.held.update({name: _converted(dtype, convert) for name, dtype in hook.held.items()})


def _converted(dtype: torch.dtype, convert: Callable[[Tensor], Tensor]) -> torch.dtype:
    return convert(torch.empty(1, dtype=dtype)).dtype


class _Round:
    """Hook before a module's forward: its masters, rounded, hide the parameters of the same name.

    Attributes of an instance come before ``nn.Module``'s parameters, so the module's own code reads the rounded ones,
    and gradients go to the masters.
    """

    def __init__(self, held: dict[str, torch.dtype]) -> None:
        self.held = held

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        dtype = next(iter(self.held.values()))
        for name, own in self.held.items():
            vars(module)[name] = module.get_parameter(name).to(own)
        # T5 gives its last projection the dtype of the weight that it sees: the master's.
        return tuple(_in(dtype, one) for one in args), {name: _in(dtype, one) for name, one in kwargs.items()}


class _Forget:
    """Hook after the forward, also after one that failed: the module has its parameters again."""

    def __init__(self, held: dict[str, torch.dtype]) -> None:
        self.held = held

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        for name in self.held:
            vars(module).pop(name, None)


def _in(dtype: torch.dtype, one: Any) -> Any:
    return one.to(dtype) if isinstance(one, Tensor) and one.dtype == torch.float32 else one
