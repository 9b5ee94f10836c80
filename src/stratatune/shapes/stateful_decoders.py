"""Rows of the backbone table for decoders of which some blocks carry a state or a convolution in place of attention."""

from __future__ import annotations

from dataclasses import dataclass, replace

from stratatune.shapes.architectures import Config, DecoderArchitecture, StateBlock, count_in
from stratatune.shapes.decoders import LLAMA, NO_BIAS, QWEN3


@dataclass(frozen=True)
class _Delta:
    """Sizes of a gated delta rule: widths of one key and one value, and the numbers of heads of both."""

    key: int
    value: int
    keys: int
    values: int

    @classmethod
    def of(cls, config: Config) -> _Delta:
        key, value = (count_in(config, f"linear_{one}_head_dim", 128) for one in ("key", "value"))
        keys, values = count_in(config, "linear_num_key_heads", 16), count_in(config, "linear_num_value_heads", 32)
        return cls(key, value, keys, values)


def _delta_linears(config: Config) -> dict[str, tuple[int, int]]:
    hidden, one = count_in(config, "hidden_size"), _Delta.of(config)
    keys, values = one.keys * one.key, one.values * one.value
    return {"q": (hidden, keys), "k": (hidden, keys), "v": (hidden, values), "o": (values, hidden)}


def _delta_unnamed_products(config: Config) -> int:
    """Its gates and its convolution."""
    one = _Delta.of(config)
    gates = count_in(config, "hidden_size") * one.values * (one.value + 2)
    return gates + (2 * one.keys * one.key + one.values * one.value) * count_in(config, "linear_conv_kernel_dim", 4)


def _delta_unnamed(config: Config) -> int:
    """Those, the decay of its state and its norm."""
    one = _Delta.of(config)
    return _delta_unnamed_products(config) + 2 * one.values + one.value


def _delta_products(config: Config) -> int:
    """Its products in chunks of 64 tokens, as transformers' own code makes them, and its solving of triangles."""
    one = _Delta.of(config)
    chunk, solved = 64 * (2 * one.key + one.value), 32 * (one.key + one.value)
    return one.values * (chunk + solved + 3 * one.key * one.value)


QWEN35 = replace(
    QWEN3,
    name="qwen3_5",
    model_types=("qwen3_5_text",),
    window=None,
    completed=True,
    wide_queries=2,
    state_blocks={
        "linear_attention": StateBlock(
            roles={
                **dict.fromkeys("qkv", "linear_attn.in_proj_qkv"),
                "o": "linear_attn.out_proj",
                **{role: path for role, path in LLAMA.roles.items() if role not in "qkvo"},
            },
            fused={"linear_attn.in_proj_qkv": ("q", "k", "v")},
            norms_read_by={"norm_ffn": ("up", "gate")},  # the gates read `norm_attn`, too
            linears=_delta_linears,
            unnamed=_delta_unnamed,
            unnamed_products=_delta_unnamed_products,
            products=_delta_products,
        )
    },
)
"""Three of four blocks carry a state by a gated delta rule; in the others ``q`` makes a gate for the output, too."""


def _lfm_ffn(config: Config) -> int:
    """As in transformers' Lfm2MLP: two thirds of the config's size, rounded up to a multiple."""
    size = count_in(config, "intermediate_size")
    if not config.get("block_auto_adjust_ff_dim", True):
        return size
    size, factor = int(2 * size / 3), config.get("block_ffn_dim_multiplier", 1.0)
    if not isinstance(factor, int | float):
        return size
    multiple = count_in(config, "block_multiple_of", 256)
    return -(-int(factor * size) // multiple) * multiple


def _lfm_linears(config: Config) -> dict[str, tuple[int, int]]:
    hidden = count_in(config, "hidden_size")
    return dict.fromkeys("qkvo", (hidden, hidden))


def _lfm_convolved(config: Config) -> int:
    """Its convolution over the last few tokens, by channel."""
    return count_in(config, "hidden_size") * count_in(config, "conv_L_cache", 3)


def _lfm_gated(config: Config) -> int:
    """Its two gates; what it carries is the last tokens themselves."""
    return 2 * count_in(config, "hidden_size")


def _lfm_refuses(config: Config) -> str:
    return "conv_bias is set: the convolutions of its blocks have biases" if config.get("conv_bias") else ""


LFM_FFN = {"gate": "feed_forward.w1", "up": "feed_forward.w3", "down": "feed_forward.w2"}
_LFM_NORMS = {"norm_attn": "operator_norm", "norm_ffn": "ffn_norm"}

LFM2 = replace(
    LLAMA,
    name="lfm2",
    model_types=("lfm2",),
    final_norm="embedding_norm",
    roles={
        **{role: f"self_attn.{role}_proj" for role in "qkv"},
        "o": "self_attn.out_proj",
        **LFM_FFN,
        **_LFM_NORMS,
        "norm_q": "self_attn.q_layernorm",
        "norm_k": "self_attn.k_layernorm",
    },
    biases=NO_BIAS,
    tied=True,
    ffn_of=_lfm_ffn,
    refuses=_lfm_refuses,
    completed=True,
    state_blocks={
        "conv": StateBlock(
            roles={**dict.fromkeys("qkv", "conv.in_proj"), "o": "conv.out_proj", **LFM_FFN, **_LFM_NORMS},
            fused={"conv.in_proj": ("k", "q", "v")},  # what opens the convolution, what closes it, and its input
            norms_read_by={"norm_attn": ("q", "k", "v"), "norm_ffn": ("up", "gate")},
            linears=_lfm_linears,
            unnamed=_lfm_convolved,
            unnamed_products=_lfm_convolved,
            products=_lfm_gated,
        )
    },
)
"""Most blocks are a gated convolution over the last tokens; ``k`` and ``q`` make its gates, ``v`` what it is over."""

STATEFUL_DECODERS: tuple[DecoderArchitecture, ...] = (QWEN35, LFM2)
