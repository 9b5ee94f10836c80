"""Find the weight that holds NaN or infinite values: one in the base spoils all that a run computes."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from stratatune.errors import NotFiniteError

OTHERWISE = "the frozen part of the model gives values that are not finite: try --precision fp32, or another base"
"""The hint where no weight is at fault."""


def first_not_finite(named: Iterable[tuple[str, Tensor]]) -> str:
    """The name of the first tensor that holds NaN or infinite values; empty where all are finite."""
    for name, tensor in named:
        # Weights on meta are still in the checkpoint only: they have no values here.
        known = tensor.device.type != "meta" and tensor.is_floating_point()
        if known and not tensor.isfinite().all():
            return name
    return ""


def damage(named: Iterable[tuple[str, Tensor]]) -> str:
    """What is wrong with a base that has these weights; empty where all of them are finite."""
    name = first_not_finite(named)
    return f"the base model is damaged: its weight {name} holds NaN or infinite values" if name else ""


def check_hidden(hidden: Tensor, model: nn.Module, place: str) -> None:
    """Refuse hidden states of an untuned ``model`` that are not finite.

    Raises:
        NotFiniteError: names ``place``, and the weight at fault where there is one.
    """
    if not hidden.isfinite().all():
        hint = damage(model.named_parameters()) or OTHERWISE
        raise NotFiniteError(f"the hidden states of {place} are NaN or infinite", hint)
