"""Sizes read off a live model, for a row that a user added; the table's own rows work them out from the config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from stratatune.errors import ModelError
from stratatune.model.body import Body
from stratatune.model.heads.head import Head
from stratatune.shapes.shape import Linear, Norm, Shape


def measured(body: Body, head: Head) -> Shape:
    """The body's shape with every count as it is in the live model."""
    shape, (first, *more) = body.shape, body.row.stacks
    counts = [len(list(body.base.get_submodule(stack.path).children())) for stack in more]
    above = [
        # The last block represents its stack, since a first one may differ: T5's holds the position bias of all blocks,
        # ModernBERT's has no norm before its attention.
        replace(_stack(one, body, body.blocks[-1], stack.roles), blocks=count)
        for one, stack, count in zip(filter(None, [shape.decoder]), more, counts, strict=True)
    ]
    speaks = head.speaks and shape.normed_by_final
    return replace(
        _stack(shape, body, body.blocks[len(body.blocks) - 1 - sum(counts)], first.roles),
        blocks=len(body.blocks),
        embeddings=_count(nn.ModuleList(body.embedding_modules())),
        head_parts=_lm_head(shape, body, speaks) if shape.normed_by_final else _masked_lm_head(body, head),
        decoder_tied=_tied(body, head) if speaks else shape.decoder_tied,
        pooler=_pooler(body) if head.parts == "pooler" else shape.pooler,
        final_norm=sum(_count(norm) for norm in body.final_norms()),
        decoder=next(iter(above), None),
    )


def _stack(shape: Shape, body: Body, block: nn.Module, roles: Mapping[str, str]) -> Shape:
    """Read the sizes of one stack off a block of it; modules that feed its blocks count with the embeddings."""
    parts = {role: block.get_submodule(path) for role, path in roles.items()}
    linears = {role: _linear(role, part) for role, part in parts.items() if not role.startswith("norm")}
    for fused in body.row.fused.values():
        linears |= _shares({role: linears[role] for role in fused}, shape)
    named = [*parts.values(), *body.embedding_modules()]
    counted = {id(p) for module in named for p in module.parameters()}
    return replace(
        shape,
        linears=linears,
        norms={role: _norm(part) for role, part in parts.items() if role.startswith("norm")},
        unnamed=sum(p.numel() for p in block.parameters() if id(p) not in counted),
    )


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _pooler(body: Body) -> int:
    return _count(body.part(body.row.pooler)) if body.row.pooler else 0


def _linear(role: str, module: nn.Module) -> Linear:
    if not isinstance(module, nn.Linear):
        raise ModelError(f"the module named for {role} is a {type(module).__name__}", "name the nn.Linear itself")
    return Linear(module.in_features, module.out_features, module.bias is not None)


def _shares(linears: Mapping[str, Linear], shape: Shape) -> dict[str, Linear]:
    """The share of each role in one linear: its width in the config, or an equal part if those do not add up.

    Keys are narrower than queries where they are shared.
    """
    whole = next(iter(linears.values())).outputs
    widths = [shape.linears[role].outputs for role in linears]
    if sum(widths) != whole:
        widths = [whole // len(linears)] * len(linears)
    if sum(widths) != whole:
        raise ModelError(
            f"fused: a linear of {whole} outputs is not {', '.join(linears)} side by side", "name the roles in it"
        )
    return {role: replace(one, outputs=width) for (role, one), width in zip(linears.items(), widths, strict=True)}


def _norm(module: nn.Module) -> Norm:
    sizes = {name: parameter.numel() for name, parameter in module.named_parameters()}
    return Norm(sizes.get("weight", 0), "bias" in sizes)


def _masked_lm_head(body: Body, head: Head) -> Mapping[str, int]:
    """The sizes of the masked-LM head, measured where the model has one, else from its config."""
    if not head.speaks:
        return body.shape.head_parts
    modules = {part: body.part(path) for part, path in head.paths.items()}
    bias = dict(modules["bias"].named_parameters()).get("bias")
    return {
        "dense": _count(modules["dense"]),
        "norm": _count(modules["norm"]),
        "bias": 0 if bias is None else bias.numel(),
        "decoder": modules["decoder"].weight.numel(),
    }


def _lm_head(shape: Shape, body: Body, speaks: bool) -> dict[str, int]:
    norm = sum(_count(norm) for norm in body.final_norms())
    bias = getattr(body.model.get_output_embeddings(), "bias", None) if speaks else None
    decoder = shape.vocab * shape.word
    return {"dense": 0, "norm": norm, "bias": 0 if bias is None else bias.numel(), "decoder": decoder}


def _tied(body: Body, head: Head) -> bool:
    words: Any = body.model.get_input_embeddings()
    return body.part(head.paths["decoder"]).weight is words.weight
