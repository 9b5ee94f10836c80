"""Rows of the backbone table for decoders whose blocks have experts, of which a router chooses some for each token."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from stratatune.shapes.architectures import Config, DecoderArchitecture, Experts, count_in
from stratatune.shapes.decoders import LLAMA, NO_BIAS, QWEN3

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

EXPERT_DECODERS: tuple[DecoderArchitecture, ...] = (_QWEN3_MOE, _MIXTRAL, _OLMOE, _GPT_OSS)
