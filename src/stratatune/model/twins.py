"""Models of one's own over tensors that others have too."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from stratatune.model.attached import Attached


def twin(model: PreTrainedModel) -> PreTrainedModel:
    """The same model with modules of its own and the same tensors."""
    tensors: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}
    tensors |= {id(p): nn.Parameter(p.data, requires_grad=p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, tensors)


def part(attached: Attached) -> None:
    """Give a twin's trained parameters memory of their own; the others stay shared."""
    for parameter in attached.trained().values():
        parameter.data = parameter.data.clone()
