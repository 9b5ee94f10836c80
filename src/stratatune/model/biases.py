"""Biases that merging adds where the base model has none, and the config fields by which a saved model keeps them.

A Llama's linears have no bias, unless its config says ``attention_bias`` or ``mlp_bias``: then all of that kind have
one, in every block. What a config gives a bias to is not written down here: a model without weights is built from it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch

from stratatune.methods.registry import METHODS
from stratatune.methods.wrapping import give_bias
from stratatune.model.attached import Attached
from stratatune.plan.methods import MethodConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def made(attached: Attached) -> Iterator[tuple[MethodConfig, int, str]]:
    """Find every (method, block, role) whose module must be given a bias before the plan is folded in."""
    for number in attached.resolved.shape.owners:
        for one in attached.resolved.blocks[number]:
            roles = METHODS[one.kind].makes_biases(one, attached.backbone.site(number))
            yield from ((one, number, role) for role in roles)


def fields_for(attached: Attached) -> list[str]:
    """The config's fields that give these roles a bias, where it has such fields."""
    says = (attached.backbone.row.biases.get(role) for _, _, role in made(attached))
    return sorted({field for field in says if isinstance(field, str)})


def unsaved(attached: Attached) -> dict[str, str]:
    """MethodConfig, as text -> why a saved model would lose the biases that merging makes for it."""
    found: dict[MethodConfig, dict[str, list[int]]] = {}
    needed = list(made(attached))
    built = _biases_of(attached.backbone.model, fields_for(attached)) if needed else {}
    for one, number, role in needed:
        if _bias_name(attached, number, role) not in built:
            found.setdefault(one, {}).setdefault(f"{role} ({_path(attached, number, role)})", []).append(number)
    return {str(one): _refusal(attached, roles) for one, roles in found.items()}


def make(attached: Attached) -> None:
    """Give each role that needs one a bias of zeros, so that the plan can be folded in."""
    for _, number, role in list(made(attached)):
        give_bias(attached.backbone.site(number).get(role))


def settle(model: PreTrainedModel, fields: Iterable[str]) -> None:
    """Set the config's fields, and give a zero bias to every other module that has one under that config."""
    built = _biases_of(model, fields)
    there = dict(model.named_parameters())
    for name in built:
        if name not in there:
            give_bias(model.get_submodule(name.rpartition(".")[0]))
    for field in fields:
        setattr(model.config, field, True)


def _biases_of(model: PreTrainedModel, fields: Iterable[str]) -> set[str]:
    """The names of every bias in a model of this class, with these fields of its config set."""
    config = copy.deepcopy(model.config)
    for field in fields:
        setattr(config, field, True)
    with torch.device("meta"):
        bare = type(model)(config)
    return {name for name, _ in bare.named_parameters() if name.endswith(".bias")}


def _path(attached: Attached, number: int, role: str) -> str:
    """The path of the role in a block as the model's own code makes it."""
    return attached.backbone.stack(number).roles[role]


def _bias_name(attached: Attached, number: int, role: str) -> str:
    block = attached.backbone.blocks[number]
    name = next(name for name, module in attached.backbone.model.named_modules() if module is block)
    return f"{name}.{_path(attached, number, role)}.bias"


def _refusal(attached: Attached, roles: dict[str, list[int]]) -> str:
    numbers = sorted({number for listed in roles.values() for number in listed})
    blocks = ", ".join(attached.backbone.site(number).name for number in numbers)
    return (
        f"no field of a {attached.resolved.shape.model_type} config gives a bias to {', '.join(roles)} in {blocks}, "
        "so a saved model would be loaded without them"
    )
