"""Rows of the backbone table for decoders whose blocks have experts, of which a router chooses some for each token."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from stratatune.shapes.architectures import Config, DecoderArchitecture, Experts, StateBlock, count_in
from stratatune.shapes.decoders import GRANITE, LLAMA, NO_BIAS, QWEN3
from stratatune.shapes.stateful_decoders import LFM2, LFM_FFN, QWEN35

_ATTENTION = {role: path for role, path in LLAMA.roles.items() if role not in ("up", "gate", "down")}
_HEAD_NORMS = {role: path for role, path in QWEN3.roles.items() if role in ("norm_q", "norm_k")}
_FFN = {role: path for role, path in LLAMA.roles.items() if role in ("up", "gate", "down")}
_READ_BY = {"norm_attn": ("q", "k", "v")}
"""Of the norms; the other one's output is read by the router, too."""


def _dense_of_qwen(config: Config) -> Collection[int]:
    """As transformers' Qwen3MoeDecoderLayer decides it."""
    step, listed = count_in(config, "decoder_sparse_step", 1), config.get("mlp_only_layers")
    named = listed if isinstance(listed, list | tuple) else ()
    numbers = range(count_in(config, "num_hidden_layers"))
    return [number for number in numbers if number in named or (number + 1) % step]


_OF_QWEN = Experts(dense=_dense_of_qwen, dense_roles=_FFN)

_QWEN3_MOE = replace(
    QWEN3,
    name="qwen3_moe",
    model_types=("qwen3_moe",),
    roles={**_ATTENTION, **_HEAD_NORMS, **_OF_QWEN.roles},
    norms_read_by=_READ_BY,
    experts=_OF_QWEN,
)

_OF_MIXTRAL = Experts(count=("num_local_experts",), width="intermediate_size")

_MIXTRAL = replace(
    LLAMA,
    name="mixtral",
    model_types=("mixtral",),
    roles={**_ATTENTION, **_OF_MIXTRAL.roles},
    biases=NO_BIAS,
    norms_read_by=_READ_BY,
    window="sliding_window",
    experts=_OF_MIXTRAL,
)

_OF_OLMOE = Experts(width="intermediate_size")

_OLMOE = replace(
    LLAMA,
    name="olmoe",
    model_types=("olmoe",),
    roles={**_ATTENTION, **_HEAD_NORMS, **_OF_OLMOE.roles},
    biases=NO_BIAS | dict.fromkeys("qkvo", "attention_bias"),
    norms_read_by=_READ_BY,
    wide_head_norms=True,
    experts=_OF_OLMOE,
)


def _sinks(config: Config) -> int:
    """A score for each head that no token has, beside those of the tokens."""
    return count_in(config, "num_attention_heads")


_OF_GPT_OSS = Experts(
    router="mlp.router", count=("num_local_experts",), width="intermediate_size", biased=True, unnamed=_sinks
)

_GPT_OSS = replace(
    LLAMA,
    name="gpt_oss",
    model_types=("gpt_oss",),
    roles={**_ATTENTION, **_OF_GPT_OSS.roles},
    biases=NO_BIAS | dict.fromkeys("qkvo", "attention_bias"),
    biases_by_default=True,
    norms_read_by=_READ_BY,
    window="sliding_window",
    experts=_OF_GPT_OSS,
)

_OF_GRANITE = replace(_OF_MIXTRAL, router="block_sparse_moe.router", path="block_sparse_moe.experts")

_GRANITE_MOE = replace(
    GRANITE,
    name="granitemoe",
    model_types=("granitemoe",),
    roles={**_ATTENTION, **_OF_GRANITE.roles},
    biases=NO_BIAS | dict.fromkeys("qkvo", "attention_bias"),
    norms_read_by=_READ_BY,
    experts=_OF_GRANITE,
)


def _shared_of_qwen(config: Config) -> int:
    return count_in(config, "shared_expert_intermediate_size", 512)


def _gate_of_qwen(config: Config) -> int:
    """The gate of the expert that computes every token: one value."""
    return count_in(config, "hidden_size")


def _routing(block: StateBlock, experts: Experts) -> StateBlock:
    """Blocks that carry a state as ``block``'s do, with experts in place of their feed-forward part."""
    roles = {role: path for role, path in block.roles.items() if role not in ("up", "gate", "down")}
    norms = {role: readers for role, readers in block.norms_read_by.items() if role != "norm_ffn"}
    return replace(block, roles={**roles, **experts.roles}, norms_read_by=norms)


_OF_QWEN35 = Experts(
    shared={role: f"mlp.shared_expert.{role}_proj" for role in ("up", "gate", "down")},
    shared_width=_shared_of_qwen,
    unnamed=_gate_of_qwen,
    unnamed_products=_gate_of_qwen,
)

_QWEN35_MOE = replace(
    QWEN35,
    name="qwen3_5_moe",
    model_types=("qwen3_5_moe_text",),
    roles={**_ATTENTION, **_HEAD_NORMS, **_OF_QWEN35.roles},
    norms_read_by=_READ_BY,
    fields=replace(QWEN35.fields, ffn="moe_intermediate_size"),
    state_blocks={kind: _routing(block, _OF_QWEN35) for kind, block in QWEN35.state_blocks.items()},
    experts=_OF_QWEN35,
)
"""Qwen 3.5 whose blocks have experts; ``up``, ``gate`` and ``down`` are the one that computes every token."""


def _dense_of_lfm(config: Config) -> Collection[int]:
    return range(count_in(config, "num_dense_layers", 2))


_OF_LFM2 = Experts(router="feed_forward.gate", path="feed_forward.experts", dense=_dense_of_lfm, dense_roles=LFM_FFN)

_LFM2_MOE = replace(
    LFM2,
    name="lfm2_moe",
    model_types=("lfm2_moe",),
    roles={**{role: path for role, path in LFM2.roles.items() if role not in LFM_FFN}, **_OF_LFM2.roles},
    norms_read_by=_READ_BY,
    rotary="pos_emb",
    ffn_of=None,
    state_blocks={kind: _routing(block, _OF_LFM2) for kind, block in LFM2.state_blocks.items()},
    experts=_OF_LFM2,
)

EXPERT_DECODERS: tuple[DecoderArchitecture, ...] = (
    _QWEN3_MOE,
    _MIXTRAL,
    _OLMOE,
    _GPT_OSS,
    _GRANITE_MOE,
    _QWEN35_MOE,
    _LFM2_MOE,
)
