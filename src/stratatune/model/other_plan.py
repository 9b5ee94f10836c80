"""Tensors that were trained with another plan than the model's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stratatune.errors import PlanError
from stratatune.model.attached import Attached

_HINT = "apply the plan of the checkpoint, which its adapter.json names, or begin a new run"


def refuse_other_plan(attached: Attached, state: Mapping[str, Any]) -> None:
    """Refuse the trained tensors of another plan: some of them would not be loaded, and others stay untrained.

    Args:
        attached: the plan of the model.
        state: tensors by their names in the model. One that holds all of the frozen weights as well is not judged: it
            is a whole model's.

    Raises:
        PlanError: a trained tensor is missing, has another shape, or one is there that does not train here.
    """
    trained = attached.trained()
    for name, parameter in trained.items():
        if name in state and tuple(state[name].shape) != tuple(parameter.shape):
            shapes = f"the shape {list(state[name].shape)}, here {list(parameter.shape)}"
            raise _another(attached, f"{name} has {shapes}")
    if state.keys() == trained.keys() or _is_whole(attached, state):
        return
    if more := [name for name in state if name not in trained]:
        raise _another(attached, f"{more[0]}{_and_others(more)} does not train here")
    less = [name for name in trained if name not in state]
    raise _another(attached, f"{less[0]}{_and_others(less)} is missing")


def _another(attached: Attached, difference: str) -> PlanError:
    message = f"these tensors are not those that the model's plan trains, {attached.resolved.plan}: {difference}"
    return PlanError(message, _HINT)


def _and_others(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _is_whole(attached: Attached, state: Mapping[str, Any]) -> bool:
    """Whether every frozen parameter is in ``state``, by any of its names: a tied one has several."""
    model, trained = attached.backbone.model, {id(one) for one in attached.trained().values()}
    there = {id(one) for name, one in model.named_parameters(remove_duplicate=False) if name in state}
    return all(id(one) in there or id(one) in trained for one in model.parameters())
