"""AdamW over what the plan trains: a rate per method, no decay on biases and norms, warm-up and linear decay."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from stratatune.model.attached import Group
from stratatune.training.config import RunConfig


def build_optimiser(groups: Iterable[Group], config: RunConfig) -> torch.optim.AdamW:
    """One optimiser group for each pair of a rate and a decay.

    Vectors (biases, norms) are not decayed, matrices and tables are. Each group remembers its own rate as
    ``initial_lr``.
    """
    sorted_out: dict[tuple[float, float], list[nn.Parameter]] = {}
    for group in groups:
        for parameter in group.parameters:
            rate = config.lr if group.lr is None else group.lr
            # By shape and not by name: methods bring vectors (scales, gates) that no list of names knows.
            decay = config.weight_decay if parameter.ndim > 1 else 0.0
            sorted_out.setdefault((rate, decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": rate, "initial_lr": rate, "weight_decay": decay}
            for (rate, decay), parameters in sorted_out.items()
        ],
        eps=config.adam_eps,
        # One kernel for all tensors: an adapter has many small ones, and a loop over them is mostly overhead.
        fused=True,
    )


def rate_factor(step: int, total: int, config: RunConfig) -> float:
    """What each group's rate is multiplied with at optimiser step ``step`` (0-based) of ``total``."""
    warm = round(config.warmup * total)
    if step < warm:
        # From 1/warm, not from 0: a first step at rate 0 would be wasted.
        return (step + 1) / warm
    if config.schedule == "constant":
        return 1.0
    return max(0.0, (total - step) / max(1, total - warm))


def set_rate(optimiser: torch.optim.Optimizer, factor: float) -> None:
    """Give every group its own rate times ``factor``."""
    for group in optimiser.param_groups:
        group["lr"] = group["initial_lr"] * factor
