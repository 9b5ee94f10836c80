"""Free the weights below the frozen depth while nothing reads them, and fetch them again from the base model.

Once the trunk has run for everything that will be needed, its blocks and the embeddings are dead weight. An offloaded
parameter stays where it is, without values: code that computes with it fails at once instead of computing something
else. What the top needs as well stays in memory: embeddings tied to a head that reads them whole, blocks that also run
above the depth, tables of relative positions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from stratatune.errors import ModelError
from stratatune.model.attached import Attached, Offloaded
from stratatune.model.backbone import Backbone
from stratatune.model.below import only_below
from stratatune.model.cutting import cut_to
from stratatune.model.fingerprint import Fingerprint, hash_of


def offload_trunk(attached: Attached, reload: Callable[[], nn.Module], words: Tensor | None = None) -> int:
    """Free the weights that only the trunk reads; returns the bytes freed, 0 when there are none or they are gone.

    Args:
        attached: a tuned model whose trunk has run for everything that will be needed.
        reload: gives the base model once more, for when the trunk must run after all.
        words: the label words [C], where an MLM head is used for nothing else: then it keeps only their rows.
    """
    if attached.offloaded is not None:
        return 0
    if words is not None:
        # Before the parameters are counted: a head that holds its own rows no longer needs the embeddings it is tied
        # to.
        attached.backbone.head.hold_rows(words)
    parameters = _only_below(attached)
    count = sum(parameter.numel() for parameter in parameters.values())
    size = sum(parameter.nbytes for parameter in parameters.values())
    if parameters:
        digest = hash_of(_unknown(attached, parameters).items())
        attached.offloaded = Offloaded(parameters, count, size, digest, reload)
    for parameter in parameters.values():
        # Device and dtype stay, so reload_trunk can restore them.
        parameter.data = parameter.data.new_empty(0)
    return size


def reload_trunk(attached: Attached) -> None:
    """Fetch the offloaded weights from the base model; do nothing if there are none.

    Raises:
        ModelError: the base model is gone, or is another one by now.
    """
    offloaded = attached.offloaded
    if offloaded is None:
        return
    model = offloaded.reload()
    # It is loaded again much later, perhaps from a folder that somebody has changed; unchecked, the trunk would
    # silently become another one.
    same = _is_its_base(attached, model)
    base = dict(model.named_parameters())
    # In the dtype that it had here: cast_frozen may have lowered it.
    fetched = {name: base[name].data.to(own.device, own.dtype) for name, own in offloaded.parameters.items() if same}
    if not same or hash_of(_unknown(attached, fetched).items()) != offloaded.digest:
        raise ModelError(
            f"the base model {attached.backbone.model.config._name_or_path!r} has changed since this run began",
            "restore it, and continue with --resume",
        )
    for name, parameter in offloaded.parameters.items():
        parameter.data = fetched[name]
    # The word table is back, and another question may want other rows of it.
    attached.backbone.head.hold_rows(None)
    attached.offloaded = None


def _is_its_base(attached: Attached, model: nn.Module) -> bool:
    """Whether the encoder of ``model`` has the weights that it had before the plan was attached.

    The fingerprint was taken then, and is not taken again as weights leave: it reads each of them, on a GPU over a bus.
    """
    if not attached.base.weights:
        return True
    backbone = Backbone(model)  # pyright: ignore[reportArgumentType]
    if backbone.shape.blocks == attached.resolved.whole.blocks:
        backbone = cut_to(backbone, attached.resolved)
    return Fingerprint.of(backbone).weights == attached.base.weights


def _unknown(attached: Attached, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of the model's ``tensors``, by their names, that the fingerprint of its base does not cover."""
    known = attached.backbone.encoder_ids() if attached.base.weights else set[int]()
    own = dict(attached.backbone.model.named_parameters())
    return {name: one for name, one in tensors.items() if id(own[name]) not in known}


def _only_below(attached: Attached) -> dict[str, nn.Parameter]:
    """The parameters that nothing at or above the frozen depth reads, by name."""
    depth, backbone = attached.resolved.frozen_depth, attached.backbone
    if depth == 0 or attached.resolved.trains_embeddings:
        return {}
    found = only_below(attached, backbone.family.offloadable(depth))
    return {name: one for name, one in found.items() if not one.requires_grad}
