"""Tensors that were trained with another plan than the model's own.

Names and shapes do not say everything of a plan: ``lora(alpha=16)`` and ``lora(alpha=64)`` have the same. Whoever loads
a checkpoint by ``load_state_dict`` hands over tensors alone, so the plan is written as one more of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stratatune.errors import PlanError, UserError
from stratatune.model.attached import Attached
from stratatune.model.makers import Makers
from stratatune.plan import Plan

PLAN = "stratatune.plan"
"""The name of the tensor that holds a plan's text, uint8 [bytes]."""
_HINT = "apply the plan of the checkpoint, which its adapter.json names, or begin a new run"


def plan_as_tensor(attached: Attached) -> Tensor:
    """The plan that is attached, as :data:`PLAN`."""
    return torch.tensor(list(str(attached.resolved.plan).encode()), dtype=torch.uint8)


def refuse_other_plan(attached: Attached, state: Mapping[str, Any], plan: Tensor | None = None) -> None:
    """Refuse the trained tensors of another plan.

    Some of them would not be loaded, others stay untrained, or they would mean something else here.

    Args:
        attached: the plan of the model.
        state: tensors by their names in the model. One that holds all of the frozen weights as well is not judged: it
            is a whole model's.
        plan: the plan that trained them, as :func:`plan_as_tensor` gives it; None: it is not known.

    Raises:
        PlanError: a trained tensor is missing, has another shape, or one is there that does not train here; or it was
            trained under other options, such as another ``alpha`` of LoRA. Rates and dropout may differ.
    """
    _refuse_other_names(attached, state)
    if plan is not None:
        _refuse_other_options(attached, plan)


def _refuse_other_options(attached: Attached, plan: Tensor) -> None:
    """Refuse a plan that gives tensors of the same names and shapes another meaning."""
    try:
        text = bytes(plan.tolist()).decode()
        if text == str(attached.resolved.plan):
            return
        made = Makers(attached, Plan.parse(text).resolve(attached.resolved.whole))
    except (UserError, UnicodeDecodeError, ValueError, TypeError) as error:
        raise PlanError("the plan of these tensors cannot be read: the checkpoint is damaged", _HINT) from error
    for name, parameter in attached.trained().items():
        made.factor(name, parameter)
    if notes := [*made.rescaled, *made.differing]:
        raise _another(attached, f"they were trained by {text}: {', '.join(notes)}")


def _refuse_other_names(attached: Attached, state: Mapping[str, Any]) -> None:
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
