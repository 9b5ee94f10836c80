"""Rows of the backbone table for decoders whose blocks differ in size, or read more than the hidden state: Gemma 4."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from stratatune.shapes.architectures import Config, DecoderArchitecture, Experts, OwnBlock, count_in
from stratatune.shapes.decoders import GEMMA3

_FULL, _SLIDING = "full_attention", "sliding_attention"
_UNIFIED = "gemma4_unified_text"
"""The same blocks, which never read a part of a token."""
_PART, _PART_WORDS = "hidden_size_per_layer_input", "vocab_size_per_layer_input"


@dataclass(frozen=True)
class _Layers:
    """What the config says of each block: its kind of attention, its own sizes, and whose keys and values it reads."""

    types: tuple[str, ...]
    sizes: tuple[Mapping[str, int], ...]
    reads: Mapping[int, int]

    @classmethod
    def of(cls, config: Config) -> _Layers:
        types, own = _types(config), _own_sizes(config)
        first = len(types) - count_in(config, "num_kv_shared_layers")
        # As transformers' kv_sharing_modes: the last block of a kind that makes its own serves all that follow.
        makers = {kind: number for number, kind in enumerate(types[:first])}
        reads = {number: makers[types[number]] for number in range(first, len(types)) if types[number] in makers}
        return cls(types, tuple(own.get(number, {}) for number in range(len(types))), reads)


def _types(config: Config) -> tuple[str, ...]:
    """The kinds of attention; by default every sixth is full, and the last in any case."""
    blocks, given = count_in(config, "num_hidden_layers"), config.get("layer_types")
    if isinstance(given, list | tuple):
        return tuple(map(str, given))
    return tuple(_FULL if (number + 1) % 6 == 0 or number + 1 == blocks else _SLIDING for number in range(blocks))


def _own_sizes(config: Config) -> dict[int, dict[str, int]]:
    """The sizes in which blocks differ, by our names and the blocks' numbers."""
    own = config.get("per_layer_config")
    if not isinstance(own, Mapping):
        heads = config.get("num_global_key_value_heads") if config.get("attention_k_eq_v") else None
        wide = {"head_dim": count_in(config, "global_head_dim", 512), "num_key_value_heads": heads}
        own = {number: wide for number, kind in enumerate(_types(config)) if kind == _FULL}
    names = {"head_dim": "head_dim", "kv_heads": "num_key_value_heads"}
    # transformers completes a config so; the numbers are text in a file, of two digits in a model of ten blocks.
    return {
        int(number): {ours: sizes[theirs] for ours, theirs in names.items() if isinstance(sizes.get(theirs), int)}
        for number, sizes in own.items()
        if str(number).isdigit() and isinstance(sizes, Mapping)
    }


def _own_blocks(config: Config) -> dict[int, OwnBlock]:
    layers, found = _Layers.of(config), dict[int, OwnBlock]()
    wide = 2 * count_in(config, "intermediate_size") if config.get("use_double_wide_mlp") else 0
    for number, (kind, sizes) in enumerate(zip(layers.types, layers.sizes, strict=True)):
        reads = layers.reads.get(number)
        lacks = ("v",) if config.get("attention_k_eq_v") and kind == _FULL else ()
        if reads is not None:
            lacks, sizes = ("k", "v", "norm_k"), {**sizes, **({"ffn": wide} if wide else {})}
        if sizes or lacks:
            found[number] = OwnBlock(sizes=sizes, lacks=lacks, reads=reads)
    return found


def _part(config: Config) -> int:
    return count_in(config, _PART, 0 if config.get("model_type") == _UNIFIED else 256)


def _parts(config: Config) -> int:
    """The width of what all blocks together read of a token."""
    return count_in(config, "num_hidden_layers") * _part(config)


def _unnamed_products(config: Config) -> int:
    """The gate of a token's part in a block, and its way back."""
    return 2 * count_in(config, "hidden_size") * _part(config)


def _unnamed(config: Config) -> int:
    """Those, and their norm."""
    return _unnamed_products(config) + (count_in(config, "hidden_size") if _part(config) else 0)


def _refuses(config: Config) -> str:
    if config.get("use_bidirectional_attention") == "all":
        return "its tokens see the whole text (use_bidirectional_attention: all)"
    if count_in(config, "num_kv_shared_layers") and not _part(config) and config.get("model_type") != _UNIFIED:
        return f"num_kv_shared_layers without {_PART} is a model that transformers cannot run"
    return ""


_GEMMA4 = replace(
    GEMMA3,
    name="gemma4",
    model_types=("gemma4_text", _UNIFIED),
    both_ways=None,
    refuses=_refuses,
    completed=True,
    own_blocks=_own_blocks,
    unnamed=_unnamed,
    unnamed_products=_unnamed_products,
    token_part=_part,
    token_tables=("embed_tokens_per_layer",),
    beside={
        "embed_tokens_per_layer": lambda config: count_in(config, _PART_WORDS, 262_144) * _parts(config),
        "per_layer_model_projection": lambda config: count_in(config, "hidden_size") * _parts(config),
        "per_layer_projection_norm": _part,
    },
    without_ids={_PART: 0, "first_kv_shared_layer_idx": -1},
    ends_in=_FULL,
)
"""Full attention has wider heads than sliding attention. In E2B and E4B every block also reads a part of each token,
and the last ones attend to the keys and values of an earlier block of their kind."""


def _scales(config: Config) -> int:
    """The router's, of each value that it reads and of each expert."""
    return count_in(config, "hidden_size") + count_in(config, "num_experts")


_MIXTURE = Experts(
    router="router",
    path="experts",
    count=("num_experts",),
    used="top_k_experts",
    router_scales=_scales,
    apart=True,
    shared={role: GEMMA3.roles[role] for role in ("up", "gate", "down")},
    shared_width=lambda config: count_in(config, "intermediate_size"),
    unnamed=lambda config: 3 * count_in(config, "hidden_size"),  # norms around the experts
)

_GEMMA4_MOE = replace(
    _GEMMA4,
    name="gemma4_moe",
    applies=("enable_moe_block", "True"),
    roles={**_GEMMA4.roles, **_MIXTURE.roles},
    experts=_MIXTURE,
)
"""Experts beside the feed-forward part of every block, whose outputs are added."""

# The one with experts comes first: the other one applies to every Gemma 4.
UNEVEN_DECODERS: tuple[DecoderArchitecture, ...] = (_GEMMA4_MOE, _GEMMA4)
