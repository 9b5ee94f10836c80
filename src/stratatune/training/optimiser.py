"""AdamW over the trained parameters: a rate per method, no decay on biases and norms, warm-up and linear decay."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stratatune.model.attached import Group
from stratatune.training.config import RunConfig

_CHUNK = 1 << 18
"""The number of values stepped at once, so that master, moments and gradient stay in the processor's cache."""


def build_optimiser(
    groups: Iterable[Group], config: RunConfig, copies: Mapping[nn.Parameter, Tensor] | None = None
) -> torch.optim.Optimizer:
    """One optimiser group for each pair of a rate and a decay.

    Vectors (biases, norms) are not decayed, matrices and tables are. Each group remembers its own rate as
    ``initial_lr``.

    Args:
        groups: the trained parameters.
        config: the settings.
        copies: copies of parameters, in the precision of the computation, that gather the gradients in their place;
            then the optimiser is :class:`ClippingAdamW`.
    """
    sorted_out: dict[tuple[float, float], list[nn.Parameter]] = {}
    for group in groups:
        for parameter in group.parameters:
            rate = config.lr if group.lr is None else group.lr
            # By shape and not by name: methods bring vectors (scales, gates) that no list of names knows.
            decay = config.weight_decay if parameter.ndim > 1 else 0.0
            sorted_out.setdefault((rate, decay), []).append(parameter)
    made: list[dict[str, Any]] = [
        {"params": parameters, "lr": rate, "initial_lr": rate, "weight_decay": decay}
        for (rate, decay), parameters in sorted_out.items()
    ]
    if copies:
        return ClippingAdamW(made, eps=config.adam_eps, copies=copies)
    # fused: one kernel for all tensors. An adapter has many small ones, and a loop over them is mostly overhead.
    return torch.optim.AdamW(made, eps=config.adam_eps, fused=True)


class ClippingAdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov & Hutter 2019) that clips in its own pass, and writes working copies as it writes masters.

    One pass over the gradients gives their norm, a second one, piece by piece, widens a piece of the gradient, scales
    it, steps, and rounds the master into its copy while all of them are in the processor's cache. The state has the
    names and shapes of :class:`torch.optim.AdamW`.

    Args:
        groups: groups of parameters, as torch's optimisers take them.
        eps: added to the denominator.
        copies: copies of masters; a master's gradient lies in its copy.
    """

    def __init__(self, groups: list[dict[str, Any]], *, eps: float, copies: Mapping[nn.Parameter, Tensor]) -> None:
        super().__init__(groups, {"betas": (0.9, 0.999), "eps": eps})
        self.copies = copies
        self.scale = 1.0
        """The factor of the gradients in the next step; reset to 1 after it."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Step by the gradients times :attr:`scale`; there is no loss, so a closure is never called."""
        for group in self.param_groups:
            for parameter in group["params"]:
                copy = self.copies.get(parameter)
                gradient = (parameter if copy is None else copy).grad
                if gradient is not None:
                    self._update(parameter, gradient, copy, group)
        self.scale = 1.0

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, those of the copies included."""
        super().zero_grad(set_to_none)
        for copy in self.copies.values():
            copy.grad = None

    def _update(self, parameter: nn.Parameter, gradient: Tensor, copy: Tensor | None, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.zeros_like(parameter, memory_format=torch.contiguous_format)
        state["step"] += 1
        # A weight that was transposed when it was taken apart (GPT-2's) is not contiguous: flat, it is a copy.
        flat = [one.detach().reshape(-1) for one in (parameter, gradient, state["exp_avg"], state["exp_avg_sq"])]
        pieces = zip(*(one.split(_CHUNK) for one in flat), strict=True)
        rounded = () if copy is None else copy.detach().view(-1).split(_CHUNK)
        for number, (master, raw, first, second) in enumerate(pieces):
            piece = raw.float() if raw.dtype != torch.float32 else raw
            if self.scale != 1.0:
                piece.mul_(self.scale)
            torch._fused_adamw_(  # pyright: ignore[reportPrivateImportUsage]
                [master], [piece], [first], [second], [], [state["step"]],
                lr=group["lr"], beta1=group["betas"][0], beta2=group["betas"][1], weight_decay=group["weight_decay"],
                eps=group["eps"], amsgrad=False, maximize=False,
            )  # fmt: skip
            if rounded:
                rounded[number].copy_(master)
        if not parameter.is_contiguous():
            parameter.copy_(flat[0].view(parameter.shape))


def clip_and_step(optimiser: torch.optim.Optimizer, gradients: Sequence[Tensor], clip: float, loss: float) -> float:
    """Clip all gradients to a norm and step, unless the norm or the loss is not finite; returns the norm before.

    Args:
        optimiser: the result of :func:`build_optimiser`.
        gradients: the gradients of its parameters, where they lie (:func:`gradients_of`).
        clip: the norm; 0: no clipping.
        loss: the loss of the step.
    """
    if not gradients:
        return 0.0
    norms = [torch.linalg.vector_norm(one, dtype=torch.float32) for one in gradients]
    # One number is read, not one per tensor: each reading waits for a GPU.
    norm = float(torch.linalg.vector_norm(torch.stack(norms)))
    if math.isfinite(norm) and math.isfinite(loss):
        scale = min(1.0, clip / (norm + 1e-6)) if clip else 1.0
        if isinstance(optimiser, ClippingAdamW):
            optimiser.scale = scale
        elif scale < 1.0:
            for gradient in gradients:
                gradient.mul_(scale)
        optimiser.step()
    optimiser.zero_grad()
    return norm


def gradients_of(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    """The gradients of an optimiser's parameters, each in the precision of the parameter or of its working copy."""
    copies = optimiser.copies if isinstance(optimiser, ClippingAdamW) else {}
    found = (copies.get(one, one).grad for group in optimiser.param_groups for one in group["params"])
    return [gradient for gradient in found if gradient is not None]


def rate_factor(step: int, total: int, config: RunConfig) -> float:
    """The factor of each group's rate at optimiser step ``step`` (0-based) of ``total``.

    After warm-up that of transformers' schedules of the same names. It depends on the step alone, so a run that is
    resumed, and trials that learn together, have nothing to keep.
    """
    warm = round(config.warmup * total)
    if step < warm:
        # From 1/warm, not from 0: a first step at rate 0 would be wasted.
        return (step + 1) / warm
    if config.schedule == "constant":
        return 1.0
    left = max(0.0, (total - step) / max(1, total - warm))
    return left if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * (1 - left)))


def set_rate(optimiser: torch.optim.Optimizer, factor: float) -> None:
    """Give every group its own rate times ``factor``."""
    for group in optimiser.param_groups:
        group["lr"] = group["initial_lr"] * factor
