"""Cut a model at a depth: the blocks above are removed, from the model and from its config."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from stratatune.errors import PlanError
from stratatune.model.backbone import Backbone

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from stratatune.plan import Resolved
    from stratatune.shapes.shape import Shape

_ATTRIBUTE = "_blocks_before_cut"


def cut_config(config: Any, field: str, depth: int) -> None:
    """Let a model's config have ``depth`` blocks.

    Lists with an entry for each block (attention kinds) become as long, and of sizes by the block's number the others
    go; ``field`` is the config's name for the number of blocks.
    """
    blocks = getattr(config, field)
    for name, value in config.to_dict().items():
        if "layer" in name and isinstance(value, list) and len(value) == blocks:
            setattr(config, name, value[:depth])
        elif "layer" in name and isinstance(value, dict) and all(str(number).isdigit() for number in value):
            setattr(config, name, {int(number): sizes for number, sizes in value.items() if int(number) < depth})
    setattr(config, field, depth)


def note_cut(model: PreTrainedModel, blocks: int) -> None:
    """Remember how many ``blocks`` a model had before it was cut."""
    setattr(model, _ATTRIBUTE, blocks)


def whole_shape(backbone: Backbone) -> Shape:
    """The shape of a model before it was cut."""
    blocks = vars(backbone.model).get(_ATTRIBUTE, backbone.shape.blocks)
    return backbone.shape.cut_at(blocks)


def cut_to(backbone: Backbone, resolved: Resolved) -> Backbone:
    """The backbone with as many blocks as the plan leaves: cut in place, unless it was loaded so.

    Raises:
        PlanError: it was cut for another plan, or its blocks share their weights.
    """
    wanted, there = resolved.shape.blocks, backbone.shape.blocks
    if wanted == there:
        return backbone
    # The blocks that another plan took are gone: a model can be cut once.
    if there != resolved.whole.blocks:
        raise PlanError(
            f"this model was cut to {there} of its {resolved.whole.blocks} blocks, and the plan wants {wanted}",
            "load it again",
        )
    model, (stack,) = backbone.model, backbone.row.stacks
    *parents, name = stack.path.split(".")
    blocks: Any = backbone.base.get_submodule(stack.path)
    if backbone.shape.distinct == 0:  # else the blocks are the same weights, and fewer run
        setattr(backbone.base.get_submodule(".".join(parents)), name, nn.ModuleList(list(blocks)[:wanted]))
    cut_config(model.config, str(backbone.row.fields.blocks), wanted)
    # The plan is resolved against the whole model, whose depths its numbers mean.
    note_cut(model, there)
    # A new one: the old one still counts the blocks that are gone.
    return Backbone(model)
