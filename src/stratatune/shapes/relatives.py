"""Rows of the backbone table for decoders that differ from another row in a name, a bias or a norm."""

from __future__ import annotations

from dataclasses import replace

from stratatune.shapes.architectures import Config, DecoderArchitecture
from stratatune.shapes.decoders import COHERE2, GEMMA2, GLM4, LINEARS, LLAMA, NO_BIAS

_UNGATED = {role: path for role, path in LLAMA.roles.items() if role != "gate"}
_ATTENTION = dict.fromkeys("qkvo", "attention_bias")
_FFN = dict.fromkeys(("up", "gate", "down"), "mlp_bias")

# transformers runs these by Llama's own class.
_LLAMAS = replace(LLAMA, name="internlm3", model_types=("internlm3", "iquestcoder", "exaone"))

_HELIUM = replace(LLAMA, name="helium", model_types=("helium",), biases=NO_BIAS | {**_ATTENTION, "o": False} | _FFN)

_ERNIE = replace(
    LLAMA, name="ernie4_5", model_types=("ernie4_5",), biases=NO_BIAS | dict.fromkeys(LINEARS, "use_bias"), tied=True
)


def _stablelm_refuses(config: Config) -> str:
    if config.get("use_parallel_residual"):
        return "its attention and feed-forward part run side by side (use_parallel_residual)"
    return "its config norms queries and keys (qk_layernorm)" if config.get("qk_layernorm") else ""


_STABLELM = replace(
    LLAMA,
    name="stablelm",
    model_types=("stablelm",),
    biases=dict.fromkeys(LINEARS, False) | dict.fromkeys("qkv", "use_qkv_bias"),
    norms_read_by={},
    refuses=_stablelm_refuses,
)

_NEMOTRON = replace(
    LLAMA,
    name="nemotron",
    model_types=("nemotron",),
    roles=_UNGATED,
    biases={**_ATTENTION, **_FFN},
    norms_read_by={},
)
"""The weights of its norms are kept as their distance from one."""

_JAIS = replace(_NEMOTRON, name="jais2", model_types=("jais2",), biases_by_default=True)


def _cohere_refuses(config: Config) -> str:
    return "its config norms queries and keys (use_qk_norm)" if config.get("use_qk_norm") else ""


_COHERE = replace(COHERE2, name="cohere", model_types=("cohere",), window=None, refuses=_cohere_refuses)
"""Command R."""

_VAULTGEMMA = replace(
    GEMMA2,
    name="vaultgemma",
    model_types=("vaultgemma",),
    roles={**LLAMA.roles, "norm_ffn": "pre_feedforward_layernorm"},
    refuses=LLAMA.refuses,
)

_GLM = replace(
    GLM4,
    name="glm",
    model_types=("glm",),
    roles={role: path for role, path in GLM4.roles.items() if not role.startswith("norm_post")},
    biases_by_default=True,
)

RELATIVES: tuple[DecoderArchitecture, ...] = (
    _LLAMAS,
    _HELIUM,
    _ERNIE,
    _STABLELM,
    _NEMOTRON,
    _JAIS,
    _COHERE,
    _VAULTGEMMA,
    _GLM,
)
