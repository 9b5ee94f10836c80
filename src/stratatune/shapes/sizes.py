"""Work out a shape from a config: no weights are read and no torch is imported."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import singledispatch

from stratatune.errors import ModelError, with_article
from stratatune.shapes.architectures import (
    Architecture,
    Config,
    DecoderArchitecture,
    EncoderArchitecture,
    EncoderDecoderArchitecture,
    Experts,
    OwnBlock,
    StateBlock,
    count_in,
)
from stratatune.shapes.configs import config_of
from stratatune.shapes.shape import Linear, Norm, Routed, Shape
from stratatune.shapes.stacks import encoder_decoder_shape
from stratatune.shapes.table import architecture_of

HEAD_NORMS = {"norm_q": "heads", "norm_k": "kv_heads"}
"""Norms over the features of one head, or of all heads together, and the size that counts those heads."""

_LONGROPE = ("longrope", "su")  # the latter in Microsoft's older configs


def shape_of(model: str | os.PathLike[str] | Config, revision: str | None = None) -> Shape:
    """The shape of a model.

    Args:
        model: a folder with config.json, a built-in name (``roberta-large``), a hub id (only its config.json is
            downloaded), or a config as a mapping.
        revision: a hub id's branch, tag or commit.

    Raises:
        ModelError: there is no such model, or its architecture is not in the table.
    """
    model = os.fspath(model) if isinstance(model, os.PathLike) else model
    if not isinstance(model, str | Mapping):
        said = f"{with_article(type(model).__name__)} is neither the name of a model nor a config"
        raise ModelError(said, "give a hub id, a folder, or a config as a mapping")
    if not isinstance(model, str):
        return _from_config(str(model.get("_name_or_path") or model.get("model_type", "")), model)
    return _from_config(model, config_of(model, revision))


def _from_config(name: str, config: Config) -> Shape:
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise ModelError(
            f"the config of {name or 'this model'} names no model_type", "give the config.json that transformers saves"
        )
    row = architecture_of(model_type, config)
    reason = row.refuses(config)
    if reason:
        raise ModelError(f"{name or row.name} cannot be tuned here: {reason}", f"other {row.name} models can")
    return replace(_shaped(row, name, config), config=config)


@singledispatch
def _shaped(row: Architecture, name: str, config: Config) -> Shape:
    """The shape of a model of this config, by its family's row."""
    raise TypeError(f"{type(row).__name__} has no sizes")


@_shaped.register
def _of_encoder(row: EncoderArchitecture, name: str, config: Config) -> Shape:
    sizes = _sizes(name, row, config)
    width, hidden, vocab = sizes["embedding"], sizes["hidden"], sizes["vocab"]
    # A config that does not mention the field has the table: the default is true, as in DeBERTa's own code.
    tables = [table for table in row.embedding_tables if config.get(row.table_if.get(table, ""), True)]
    found = _one_stack(row, name, sizes, tables, config)
    return replace(
        found,
        max_tokens=sizes["positions"] - row.position_offset,
        embeddings=found.embeddings + (_norm(row, width, "embeddings", config) if row.embedding_norm else 0),
        head_parts={
            "dense": hidden * width + (width if row.has_bias("dense", config) else 0),
            "norm": _norm(row, width, "norm", config),
            "bias": vocab if row.has_bias("decoder", config) else 0,
            "decoder": vocab * width,
        },
        pooler=_pooler(row, sizes, config),
        classifier_dense=hidden * hidden + hidden if row.classifier_dense else 0,
        pools_all=row.pools_all(config),
        reused=row.reused,
        lacks=row.lacks,
    )


@_shaped.register
def _of_decoder(row: DecoderArchitecture, name: str, config: Config) -> Shape:
    """The shape of a decoder; its head consists of the final norm and the decoder."""
    sizes = _sizes(name, row, config, row.ffn_multiple)
    sizes |= {} if row.ffn_of is None else {"ffn": row.ffn_of(config)}
    bias = sizes["vocab"] if row.biases.get("decoder", False) else 0
    found = _one_stack(row, name, sizes, row.embedding_tables, config)
    if row.wide_queries > 1:
        query = found.linears["q"]
        found = replace(found, linears={**found.linears, "q": replace(query, outputs=row.wide_queries * query.outputs)})
    own = row.own_blocks(config)
    found = replace(
        found,
        unnamed=row.unnamed(config),
        unnamed_products=row.unnamed_products(config),
        reads={number: block.reads for number, block in own.items() if block.reads is not None},
        token_part=row.token_part(config),
        cuts=_cuts(row, config),
    )
    dense, states = row.dense_blocks_of(config), row.state_blocks_of(config)
    found = found if row.experts is None else _with_experts(found, row.experts, config)
    others = {number: _of_own_block(row, found, sizes, block, config) for number, block in own.items()}
    for number in sorted({*dense, *states}):
        one = _with_state(found, states[number], config) if number in states else found
        others[number] = _with_dense(one, row, sizes, config) if number in dense else one
    if dense:
        # The shape of the whole has every role that some block has.
        others = {number: others.get(number, found) for number in range(found.blocks)}
        found = replace(found, linears={**_with_dense(found, row, sizes, config).linears, **found.linears})
    lacks = {number: tuple(role for role in found.roles if role not in one.roles) for number, one in others.items()}
    return replace(
        found,
        others={number: replace(one, lacks=lacks) for number, one in others.items()},
        lacks=lacks,
        head_parts={"dense": 0, "norm": found.final_norm, "bias": bias, "decoder": sizes["vocab"] * sizes["embedding"]},
        max_tokens=min(found.max_tokens, turned_alike(config)),
        causal=not row.sees_ahead(config),
        sees_ahead=row.sees_ahead(config),
        read_at_end=True,
        parallel=row.parallel,
        normed_by_final=True,
    )


def _with_experts(shape: Shape, experts: Experts, config: Config) -> Shape:
    """The shape of a block with experts: ``shape`` has only the linears that are not of a feed-forward part."""
    hidden, shared = shape.hidden, experts.shared_width(config)
    count = next((found for name in experts.count if (found := count_in(config, name))), 0)
    used, width = count_in(config, experts.used), count_in(config, experts.width)
    for name, value in ((experts.count[0], count), (experts.used, used), (experts.width, width)):
        if value < 1:
            raise ModelError(f"the config of {shape.name} lacks {name}", "a config of a model with experts holds it")
    each, biases = 3 * hidden * width, 2 * width + hidden if experts.biased else 0
    used, matrices = min(used, count), ((hidden, 2 * width), (width, hidden))
    ends = {"up": (hidden, shared), "gate": (hidden, shared), "down": (shared, hidden)}
    return replace(
        shape,
        linears={
            **{role: one for role, one in shape.linears.items() if role not in ends},
            **{role: Linear(*ends[role], bias=False) for role in ends if role in experts.shared},
        },
        routed={
            "router": Routed(
                count * hidden + experts.router_scales(config),
                count * hidden,
                count if experts.biased else 0,
                apart=experts.apart,
            ),
            "experts": Routed(
                count * (each + biases),
                used * each,
                matrices=matrices,
                count=count,
                used=used,
                apart=experts.apart,
            ),
        },
        unnamed=shape.unnamed + experts.unnamed(config),
        unnamed_products=shape.unnamed_products + experts.unnamed_products(config),
    )


def _with_dense(shape: Shape, row: Architecture, sizes: Mapping[str, int], config: Config) -> Shape:
    """The shape of a block that has a feed-forward part in place of the experts of ``shape``."""
    if row.experts is None:
        return shape
    hidden, ffn, roles = sizes["hidden"], sizes["ffn"], row.experts.dense_roles
    ends = {"up": (hidden, ffn), "gate": (hidden, ffn), "down": (ffn, hidden)}
    linears = {role: one for role, one in shape.linears.items() if role not in ends}
    linears |= {role: Linear(*ends[role], bias=False) for role in ends if role in roles}
    return replace(
        shape,
        linears=linears,
        routed={},
        unnamed=shape.unnamed - row.experts.unnamed(config),
        unnamed_products=shape.unnamed_products - row.experts.unnamed_products(config),
    )


def _of_own_block(
    row: DecoderArchitecture, shape: Shape, sizes: Mapping[str, int], block: OwnBlock, config: Config
) -> Shape:
    """The shape of a block of other sizes, or without some roles, from that of the others."""
    own = {**sizes, **block.sizes}
    linears = {role: one for role, one in _linears(row, own, config).items() if role not in block.lacks}
    norms = {role: one for role, one in _norms(row, own, config).items() if role not in block.lacks}
    return replace(shape, linears=linears, norms=norms, ffn=own["ffn"], last_block=row.last_of(block))


def _cuts(row: DecoderArchitecture, config: Config) -> tuple[int, ...] | None:
    """The depths at which a model may be cut, where that is not everywhere."""
    types = config.get("layer_types")
    if row.ends_in is None or not isinstance(types, list | tuple):
        return None
    # What a table holds for each block of a token would have another size, and shared keys another owner.
    if row.token_part(config) or any(one.reads is not None for one in row.own_blocks(config).values()):
        return ()
    return tuple(depth for depth, one in enumerate(types[:-1], start=1) if one == row.ends_in)


def _with_state(shape: Shape, block: StateBlock, config: Config) -> Shape:
    """The shape of a block that carries a state, from that of a block that attends."""
    linears = {role: linear for role, linear in shape.linears.items() if role in block.roles}
    linears |= {role: Linear(*ends, bias=False) for role, ends in block.linears(config).items()}
    return replace(
        shape,
        linears=linears,
        norms={role: norm for role, norm in shape.norms.items() if role in block.roles},
        unnamed=shape.unnamed + block.unnamed(config),
        unnamed_products=shape.unnamed_products + block.unnamed_products(config),
        state=block.products(config),
        last_block=None,
    )


def turned_alike(config: Config) -> float:
    """The number of tokens up to which a text's angles do not depend on the rest of its batch.

    LongRoPE has two tables of angles, and a text of more than ``original_max_position_embeddings`` switches its whole
    batch from the one to the other: the hidden states of the others would depend on their company, cached or not.
    """
    rope = config.get("rope_parameters") or config.get("rope_scaling")
    if not isinstance(rope, Mapping):
        return math.inf
    found = [
        one.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
        for one in (rope, *rope.values())  # one for all blocks, or one for each kind of attention
        if isinstance(one, Mapping) and one.get("rope_type", one.get("type")) in _LONGROPE
    ]
    return min((limit for limit in found if isinstance(limit, int)), default=math.inf)


_shaped.register(EncoderDecoderArchitecture)(encoder_decoder_shape)


def _one_stack(row: Architecture, name: str, sizes: Mapping[str, int], tables: Sequence[str], config: Config) -> Shape:
    """The common part of the shapes of encoders and decoders: no head, and only the tables of the embeddings."""
    hidden, width = sizes["hidden"], sizes["embedding"]
    return Shape(
        name=name,
        model_type=str(config["model_type"]),
        family=row.family,
        blocks=sizes["blocks"],
        hidden=hidden,
        ffn=sizes["ffn"],
        heads=sizes["heads"],
        vocab=sizes["vocab"],
        max_tokens=sizes["positions"],
        linears=_linears(row, sizes, config),
        norms=_norms(row, sizes, config),
        embeddings=sum(sizes[table] for table in tables) * width + sum(count(config) for count in row.beside.values()),
        head_parts={},
        pooler=0,
        # A saved config leaves out what equals its class's default, which differs from family to family.
        decoder_tied=bool(config.get("tie_word_embeddings", row.tied)),
        final_norm=_norm(row, hidden, "final_norm", config) if row.final_norm else 0,
        classifier_bias=row.classifier_bias,
        distinct=sizes["distinct"],
        embedding_width=0 if width == hidden else width,
        norms_first=row.norms_first,
        last_block=row.last_block,
    )


def _norm(row: Architecture, size: int, role: str, config: Config) -> int:
    """Parameters of a norm."""
    return 2 * size if row.has_bias(role, config) else size


def _norms(row: Architecture, sizes: Mapping[str, int], config: Config) -> dict[str, Norm]:
    """Every norm of one block."""
    return {
        role: Norm(_normed(role, row, sizes), row.has_bias(role, config))
        for role in row.roles
        if role.startswith("norm")
    }


def _normed(role: str, row: Architecture, sizes: Mapping[str, int]) -> int:
    """The number of features that a norm of a block is over."""
    if role not in HEAD_NORMS:
        return sizes["hidden"]
    return sizes["head_dim"] * (sizes[HEAD_NORMS[role]] if row.wide_head_norms else 1)


def _pooler(row: EncoderArchitecture, sizes: Mapping[str, int], config: Config) -> int:
    """Parameters of the pretrained pooler: dense D -> D and, in some models, a norm."""
    if not row.pooler:
        return 0
    hidden = sizes["hidden"]
    dense = hidden * hidden + (hidden if row.has_bias("pooler", config) else 0)
    return dense + (_norm(row, hidden, "norm", config) if row.pooler_norm else 0)


def _sizes(name: str, row: Architecture, config: Config, ffn_multiple: int = 0) -> dict[str, int]:
    """The config's sizes under our names; raises ModelError that lists every one that is missing or not a count."""
    wanted = {ours: theirs for ours, theirs in vars(row.fields).items() if theirs is not None}
    optional = {"kv_heads", "head_dim", "distinct", *(["ffn"] if ffn_multiple else [])}
    sizes = {ours: config.get(theirs) for ours, theirs in wanted.items()}
    wrong = [
        wanted[k]
        for k, v in sizes.items()
        # DeBERTa has 0 token types, which is a size like any other.
        if not (isinstance(v, int) and (v > 0 or (k == "types" and v == 0))) and not (k in optional and v is None)
    ]
    if wrong:
        raise ModelError(
            f"the config of {name or row.name} lacks {', '.join(wrong)}", f"a {row.name} config holds them as counts"
        )
    found = {ours: value for ours, value in sizes.items() if isinstance(value, int)}
    found.setdefault("ffn", ffn_multiple * found["hidden"])
    found.setdefault("kv_heads", found["heads"])
    found.setdefault("head_dim", found["hidden"] // found["heads"])
    found.setdefault("embedding", found["hidden"])
    # In a family that shares weights, a config without the field has one shared set: ALBERT's default.
    found.setdefault("distinct", 1 if row.fields.distinct else 0)
    return found


def _linears(row: Architecture, sizes: Mapping[str, int], config: Config) -> dict[str, Linear]:
    """Every linear role of one block, from the sizes of attention and of the feed-forward part."""
    # Not D: Gemma's heads together are wider or narrower than the hidden state.
    hidden, ffn, width = sizes["hidden"], sizes["ffn"], sizes["heads"] * sizes["head_dim"]
    keys = sizes["kv_heads"] * sizes["head_dim"]
    ends = {
        "q": (hidden, width),
        "k": (hidden, keys),
        "v": (hidden, keys),
        "o": (width, hidden),
        "up": (hidden, ffn),
        "gate": (hidden, ffn),
        "down": (ffn, hidden),
    }
    return {role: Linear(*ends[role], row.has_bias(role, config)) for role in ends if role in row.roles}
