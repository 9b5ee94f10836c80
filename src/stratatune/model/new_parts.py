"""The parts of a loaded model that its checkpoint did not bring, and which models cannot be tuned as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from stratatune._compat import came_with_checkpoint
from stratatune.errors import ModelError
from stratatune.model.backbone import Backbone
from stratatune.model.origin import Origin
from stratatune.model.unread import Unread

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def check_weights(model: PreTrainedModel) -> None:
    """Refuse a model whose weights cannot be read as numbers: a quantised one, or one that is not in memory.

    Raises:
        ModelError: names the first weight that cannot be used, before anything is changed.
    """
    name = type(model).__name__
    quantiser = getattr(model.config, "quantization_config", None)
    # Either is enough: packed weights need not show in the config, nor a configured quantiser in the weights.
    odd = next((n for n, p in model.named_parameters() if not _plain(p)), None)
    if quantiser is not None or odd is not None:
        method = getattr(quantiser, "quant_method", None) or (quantiser or {}).get("quant_method")  # pyright: ignore[reportAttributeAccessIssue]
        how = f" ({getattr(method, 'value', method)})" if method else f": {odd} holds no plain floating-point numbers"
        raise ModelError(f"this {name} is quantised{how}", "load it without quantization_config, in bf16 or fp32")
    known = Unread.of(model) is not None
    gone = next((n for n, p in model.named_parameters() if p.is_meta and not known), None)
    if gone is not None:
        raise ModelError(
            f"{gone} of this {name} is not in memory", "load it without offloading: no device_map, or one device"
        )
    # torch's own quantised linears have no parameters at all: their weight is a method, which unpacks it.
    packed = next(
        (n for n, m in model.named_modules() if not isinstance(getattr(m, "weight", None), torch.Tensor | None)), None
    )
    if packed is not None:
        kind = type(model.get_submodule(packed)).__name__
        raise ModelError(
            f"this {name} is quantised: {packed} is a {kind}", "apply the plan first, or load it in bf16 or fp32"
        )


def _plain(parameter: nn.Parameter) -> bool:
    """Whether these are numbers that torch computes with itself: no integers, no packed or distributed tensor."""
    return type(parameter.data) is torch.Tensor and parameter.dtype in _FLOATS


RESIZED = "save the whole model with save_pretrained, load it from that folder, and apply the plan to that"
"""What to do about a vocabulary that is to have other rows than the checkpoint's."""


def check_vocabulary(model: PreTrainedModel, origin: Origin) -> None:
    """Refuse a model whose vocabulary was resized after loading: no saved adapter would find its rows again.

    Raises:
        ModelError: the checkpoint's config has another ``vocab_size``.
    """
    was, now = origin.config().get("vocab_size"), getattr(model.config, "vocab_size", None)
    if was is not None and now is not None and was != now:
        raise ModelError(
            f"the vocabulary of this {type(model).__name__} was resized from {was} to {now} rows, "
            f"which are not in {origin.name!r}",
            RESIZED,
        )


def new_parts(backbone: Backbone) -> list[str]:
    """Names of the parameters outside the encoder that train whatever the plan says, since no base model brings them.

    transformers marks what it loads. A parameter without a mark, in a model where others have one, is new: a pooler
    over a masked-LM checkpoint, a head for question answering. A head of a kind that the table does not know trains
    whole, as a classifier does. A model that was made from a config, or copied, has no marks.
    """
    model, named = backbone.model, dict(backbone.model.named_parameters())
    marked = any(map(came_with_checkpoint, named.values()))
    inside = {id(parameter) for parameter in model.base_model.parameters()}
    encoder = backbone.encoder_ids()
    return [
        name
        for name, one in named.items()
        if id(one) not in encoder
        and ((marked and not came_with_checkpoint(one)) or (backbone.head.name == "none" and id(one) not in inside))
    ]
