"""Models that share their tensors but have their own modules."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from stratatune.model.attached import Attached


def twin(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of the model with its own modules and the same tensors."""
    tensors: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}
    tensors |= {id(p): nn.Parameter(p.data, requires_grad=p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, tensors)


def share_frozen(attached: Attached, model: nn.Module) -> None:
    """Let a model share the frozen parameters of ``model`` that are equal; trained ones stay its own."""
    own = {id(parameter) for parameter in attached.trained().values()}
    theirs = dict(model.named_parameters())
    for name, parameter in attached.backbone.model.named_parameters():
        other = theirs.get(name)
        if other is None or id(parameter) in own or parameter.is_meta or other.shape != parameter.shape:
            continue
        if torch.equal(other, parameter):
            parameter.data = other.data


def part(attached: Attached) -> None:
    """Give a twin's trained parameters their own memory; the others stay shared."""
    for parameter in attached.trained().values():
        parameter.data = parameter.data.clone()
