"""Sizes read off a live model, for a row that a user added; the table's own rows work them out from the config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import nn

from stratatune.errors import ModelError
from stratatune.shapes.shape import Linear, Norm, Shape

if TYPE_CHECKING:
    from stratatune.model.backbone import Backbone


def measured(shape: Shape, backbone: Backbone) -> Shape:
    """``shape`` with every count as it is in the live model."""
    row, speaks = backbone.row, backbone.output in ("causal", "seq2seq")
    paths = {} if backbone.mlm is None else backbone.mlm.paths
    head = {part: backbone.model.get_submodule(path) for part, path in paths.items()}
    decoder = shape.decoder
    if row.decoder_blocks is not None and decoder is not None:
        above = len(list(backbone.base.get_submodule(row.decoder_blocks).children()))
        decoder = replace(_stack(decoder, backbone, backbone.blocks[-1], row.decoder_roles), blocks=above)
    last = len(backbone.blocks) - 1 - (0 if decoder is None else decoder.blocks)
    own_head = _lm_head(shape, backbone) if row.kind != "encoder" else _head_parts(head) or shape.head_parts
    return replace(
        _stack(shape, backbone, backbone.blocks[last], row.roles),
        blocks=len(backbone.blocks),
        embeddings=_count(nn.ModuleList(backbone.embedding_modules())),
        head_parts=own_head,
        decoder_tied=_tied(backbone) if speaks else shape.decoder_tied,
        pooler=_pooler(backbone) if backbone.output == "classification" else shape.pooler,
        final_norm=sum(_count(norm) for norm in backbone.final_norms()),
        decoder=decoder,
    )


def _stack(shape: Shape, backbone: Backbone, block: nn.Module, roles: Mapping[str, str]) -> Shape:
    """The sizes of one stack, read off a block of it; what feeds its blocks counts with the embeddings."""
    parts = {role: block.get_submodule(path) for role, path in roles.items()}
    share = {role: len(fused) for fused in backbone.row.fused.values() for role in fused}
    named = [*parts.values(), *backbone.embedding_modules()]
    counted = {id(p) for module in named for p in module.parameters()}
    return replace(
        shape,
        linears={
            role: _linear(role, part, share.get(role, 1)) for role, part in parts.items() if not role.startswith("norm")
        },
        norms={role: _norm(part) for role, part in parts.items() if role.startswith("norm")},
        unnamed=sum(p.numel() for p in block.parameters() if id(p) not in counted),
    )


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _pooler(backbone: Backbone) -> int:
    return _count(backbone.model.get_submodule(backbone.row.pooler)) if backbone.row.pooler else 0


def _linear(role: str, module: nn.Module, share: int) -> Linear:
    """The sizes of a linear, or of one role's share of it."""
    if not isinstance(module, nn.Linear):
        raise ModelError(f"the module named for {role} is a {type(module).__name__}", "name the nn.Linear itself")
    return Linear(module.in_features, module.out_features // share, module.bias is not None)


def _norm(module: nn.Module) -> Norm:
    sizes = {name: parameter.numel() for name, parameter in module.named_parameters()}
    return Norm(sizes.get("weight", 0), "bias" in sizes)


def _head_parts(head: dict[str, nn.Module]) -> dict[str, int]:
    if not head:
        return {}
    sizes = {part: dict(module.named_parameters()) for part, module in head.items()}
    return {
        "dense": _count(head["dense"]),
        "norm": _count(head["norm"]),
        "bias": sizes["bias"]["bias"].numel() if "bias" in sizes["bias"] else 0,
        "decoder": sizes["decoder"]["weight"].numel(),
    }


def _lm_head(shape: Shape, backbone: Backbone) -> dict[str, int]:
    norm = sum(_count(norm) for norm in backbone.final_norms())
    bias = (
        getattr(backbone.model.get_output_embeddings(), "bias", None)
        if backbone.output in ("causal", "seq2seq")
        else None
    )
    return {
        "dense": 0,
        "norm": norm,
        "bias": 0 if bias is None else bias.numel(),
        "decoder": shape.vocab * shape.word,
    }


def _tied(backbone: Backbone) -> bool:
    decoder: Any = backbone.model.get_submodule(backbone.row.mlm_head["decoder"])
    words: Any = backbone.model.get_input_embeddings()
    return decoder.weight is words.weight
