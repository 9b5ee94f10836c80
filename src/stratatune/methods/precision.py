"""The precision in which a method's own parameters compute, where the model around them is in half precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

HALVES = (torch.bfloat16, torch.float16)


def as_trained(x: Tensor, trained: Tensor) -> Tensor:
    """``x`` in the dtype of the trained parameters (fp32 in a bf16 model), unless autocast chooses the precision."""
    if x.dtype == trained.dtype or torch.is_autocast_enabled(x.device.type):
        return x
    return x.to(trained.dtype)


def at_least_fp32(dtype: torch.dtype) -> torch.dtype:
    """fp32 for half precision, else the dtype itself."""
    return torch.promote_types(dtype, torch.float32)


def to_train(weight: Tensor, *shape: int) -> Tensor:
    """New memory for parameters that train next to ``weight``: on its device, in fp32 at least."""
    return weight.new_empty(shape, dtype=at_least_fp32(weight.dtype))


def drawn(tensor: Tensor, fill: Callable[[Tensor], object]) -> None:
    """Give ``tensor`` the random values that ``fill`` draws on the CPU, on whatever device it is.

    A GPU draws others from the same seed, and trials that share a model attach their plans when it is there already.
    """
    if tensor.device.type in ("cpu", "meta"):
        fill(tensor)
        return
    here = torch.empty(tensor.shape, dtype=tensor.dtype)
    fill(here)
    with torch.no_grad():
        tensor.copy_(here)


def linear_near(weight: Tensor, ins: int, outs: int) -> nn.Linear:
    """A new linear that trains next to ``weight``: on its device, in fp32 at least, with values drawn on the CPU."""
    dtype = at_least_fp32(weight.dtype)
    made = nn.Linear(ins, outs, device="meta" if weight.is_meta else "cpu", dtype=dtype)
    convert(made, weight.device, dtype)
    return made


def convert(module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """``module.to(device, dtype)``, for modules of fake tensors too.

    On those torch 2.13's own fails in the first calls of a process and works later
    (findings/torch-module-of-fake-tensors-cannot-be-moved-at-first.sh).
    """
    for one in (*module.parameters(), *module.buffers()):
        one.data = one.data.to(device, dtype if one.is_floating_point() else one.dtype)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x W^T + b`` in the precision of ``x`` [..., in], in which ``weight`` [out, in] may not be stored."""
    if torch.is_autocast_enabled(x.device.type):
        return nn.functional.linear(x, weight, bias)
    if x.dtype in HALVES:
        # What trains is an fp32 master (model/masters.py), which hooks round for a module's own forward alone.
        weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
    if x.dtype == weight.dtype or weight.dtype not in HALVES:
        return nn.functional.linear(x, weight, bias)
    return _Widened.apply(x, weight, bias)  # pyright: ignore[reportReturnType]


class _Widened(torch.autograd.Function):
    """A linear that keeps its weight as stored for the backward pass, not a wide copy of it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return nn.functional.linear(x, weight.to(x.dtype), bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        # Neither x, which no gradient of a frozen weight needs, nor the wide copy, which is made again.
        x, weight, _ = inputs
        ctx.save_for_backward(weight)
        ctx.wide = x.dtype

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (weight,) = ctx.saved_tensors
        back = grad @ weight.to(ctx.wide) if ctx.needs_input_grad[0] else None
        return back, None, grad.flatten(0, -2).sum(0) if ctx.needs_input_grad[2] else None
