"""Sizes read off a live model, for a row that a user added; the table's own rows work them out from the config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stratatune.errors import ModelError, nearest
from stratatune.model.decoders import lm_logits, run_plain
from stratatune.plan.architectures import Architecture
from stratatune.plan.shape import Linear, Norm, Shape

if TYPE_CHECKING:
    from stratatune.model.backbones import Backbone

_HINT = (
    "a block is called with attention_mask, position_ids and, where rotary= is named, position_embeddings; "
    "a decoder of another kind needs code of its own"
)


def measured(shape: Shape, backbone: Backbone) -> Shape:
    """``shape`` with every count as it is in the live model."""
    block, row = backbone.blocks[-1], backbone.row
    parts = {role: block.get_submodule(path) for role, path in row.roles.items()}
    share = {role: len(roles) for roles in row.fused.values() for role in roles}
    counted = {id(p): p.numel() for part in parts.values() for p in part.parameters()}
    head = {part: backbone.model.get_submodule(path) for part, path in backbone.mlm_parts.items()}
    return replace(
        shape,
        blocks=len(backbone.blocks),
        linears={
            role: _linear(role, part, share.get(role, 1)) for role, part in parts.items() if not role.startswith("norm")
        },
        norms={role: _norm(part) for role, part in parts.items() if role.startswith("norm")},
        unnamed=_count(block) - sum(counted.values()),
        embeddings=sum(_count(module) for module in backbone.embedding_modules()),
        head_parts=_lm_head(shape, backbone) if row.causal else _head_parts(head) or shape.head_parts,
        decoder_tied=_tied(backbone) if backbone.output == "causal" else shape.decoder_tied,
        pooler=_pooler(backbone) if backbone.output == "classification" else shape.pooler,
        final_norm=sum(_count(norm) for norm in backbone.final_norms()),
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
    bias = getattr(backbone.model.get_output_embeddings(), "bias", None) if backbone.output == "causal" else None
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


@torch.no_grad()
def check_forward(backbone: Backbone) -> None:
    """Refuses a decoder that does more around its blocks than the row's names say.

    A few tokens go through the model's own forward and through its blocks as the row has them called.

    Raises:
        ModelError: they differ, or a block does not take what the row says.
    """
    model, training = backbone.model, backbone.model.training
    try:
        model.eval()
        wanted, found = _both_ways(backbone)
    except (TypeError, AttributeError, RuntimeError, KeyError) as error:
        raise ModelError(
            f"{type(model).__name__}: its blocks cannot be run as the names say: {error}", _HINT
        ) from error
    finally:
        model.train(training)
    if not torch.allclose(found, wanted, rtol=0, atol=0.01 * wanted.abs().max().item()):
        raise ModelError(f"{type(model).__name__} does more around its blocks than the names say", _HINT)


def _both_ways(backbone: Backbone) -> tuple[Tensor, Tensor]:
    """Logits, or without a language-model head the last hidden states: by the model, and by its blocks."""
    model, seen = backbone.model, list[Tensor]()
    ids = torch.arange(1, 6, device=next(model.parameters()).device)[None] % backbone.shape.vocab

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(args[0] if args else kwargs["hidden_states"])

    handle = backbone.blocks[0].register_forward_pre_hook(note, with_kwargs=True)
    try:
        speaks = backbone.output == "causal"
        wanted = (model if speaks else backbone.base)(input_ids=ids, use_cache=False)[0]
    finally:
        handle.remove()
    hidden = run_plain(backbone, seen[0], torch.ones_like(ids).bool())
    return wanted, lm_logits(backbone, hidden) if speaks else backbone.final_norms()[0](hidden)


def check_names(row: Architecture, model: nn.Module, prefix: str) -> None:
    """Refuses a row that names a module which the model does not have.

    Args:
        row: the row.
        model: the whole model.
        prefix: what leads to the encoder in it: ``"bert."``, or empty.

    Raises:
        ModelError: names what the path stands for, the path, and the nearest there is.
    """
    modules = dict(model.named_modules())
    inside = [name[len(prefix) :] for name in modules if name.startswith(prefix)]
    named = {"embeddings": row.embeddings, "blocks": row.blocks, "final_norm": row.final_norm}
    _check(f"{type(model).__name__} has no", {k: v for k, v in named.items() if v}, inside)
    blocks = modules[prefix + row.blocks]
    if not isinstance(blocks, nn.ModuleList) or not len(blocks):
        raise ModelError(f"blocks: {row.blocks!r} is no list of blocks", "name the nn.ModuleList that holds them")
    _check("a block has no", row.roles, [name for name, _ in blocks[0].named_modules()])


def _check(what: str, named: Mapping[str, str], there: list[str]) -> None:
    for role, path in named.items():
        if path not in there:
            listed = ", ".join(name for name in there if name)
            near = nearest(path, there)
            raise ModelError(
                f"{role}: {what} module {path!r}", f"did you mean {near!r}?" if near else f"there are: {listed[:400]}"
            )
