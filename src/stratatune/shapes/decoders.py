"""Rows of the backbone table for decoders: GPT-2, Llama and its relatives. Data only, like the table itself.

Every block norms the input of its parts or, as in OLMo 2, their output; a final norm follows the last block and the
language-model head reads it. ``head(mlm=norm)`` is that final norm, ``head(mlm=decoder)`` the output matrix; a
decoder's head has no dense layer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from stratatune.shapes.architectures import Config, DecoderArchitecture, Fields, StateBlock, count_in

_LINEARS = ("q", "k", "v", "o", "up", "gate", "down")
_NORMS = ("norm_attn", "norm_q", "norm_k", "norm_post_attn", "norm_ffn", "norm_post_ffn", "final_norm")
_WINDOW = "sliding_window"
_NO_BIAS = dict.fromkeys((*_LINEARS, *_NORMS), False)

_GPT2 = DecoderArchitecture(
    name="gpt2",
    model_types=("gpt2",),
    base="transformer",
    embeddings="wte",
    more_embeddings=("wpe",),
    position_table="wpe",
    blocks="h",
    final_norm="ln_f",
    last_block="cached",
    roles={
        **dict.fromkeys("qkv", "attn.c_attn"),
        "o": "attn.c_proj",
        "up": "mlp.c_fc",
        "down": "mlp.c_proj",
        "norm_attn": "ln_1",
        "norm_ffn": "ln_2",
    },
    fused={"attn.c_attn": ("q", "k", "v")},
    lm_head="lm_head",
    window=None,
    classifier="score",
    classifier_bias=False,
    embedding_tables=("vocab", "positions"),
    ffn_multiple=4,
    fields=Fields(
        blocks="n_layer", hidden="n_embd", ffn="n_inner", heads="n_head", positions="n_positions", types=None
    ),
)

_LLAMA = replace(
    _GPT2,
    name="llama",
    model_types=("llama",),
    base="model",
    embeddings="embed_tokens",
    more_embeddings=(),
    position_table=None,
    blocks="layers",
    final_norm="norm",
    rotary="rotary_emb",
    roles={
        "q": "self_attn.q_proj",
        "k": "self_attn.k_proj",
        "v": "self_attn.v_proj",
        "o": "self_attn.o_proj",
        "up": "mlp.up_proj",
        "gate": "mlp.gate_proj",
        "down": "mlp.down_proj",
        "norm_attn": "input_layernorm",
        "norm_ffn": "post_attention_layernorm",
    },
    fused={},
    embedding_tables=("vocab",),
    biases=_NO_BIAS | dict.fromkeys("qkvo", "attention_bias") | dict.fromkeys(("up", "gate", "down"), "mlp_bias"),
    norms_read_by={"norm_attn": ("q", "k", "v"), "norm_ffn": ("up", "gate")},
    tied=False,
    ffn_multiple=0,
    fields=Fields(types=None, kv_heads="num_key_value_heads", head_dim="head_dim"),
)

# Mistral's code has no setting for biases, so none can be given a home in a saved config.
_MISTRAL = replace(_LLAMA, name="mistral", model_types=("mistral",), biases=_NO_BIAS, window=_WINDOW)

_MINISTRAL = replace(_MISTRAL, name="ministral", model_types=("ministral",))
_MINISTRAL3 = replace(_MISTRAL, name="ministral3", model_types=("ministral3",))
"""Queries grow with their position, by which each block scales them itself."""

_SMOLLM3 = replace(_LLAMA, name="smollm3", model_types=("smollm3",), tied=True, window=_WINDOW)
"""A Llama some of whose blocks do not rotate queries and keys; each block's own code decides that."""

# Qwen 2 has biases on q, k and v whatever its config says.
_QWEN2 = replace(
    _LLAMA,
    name="qwen2",
    model_types=("qwen2",),
    biases=_NO_BIAS | dict.fromkeys("qkv", True),
    window=_WINDOW,
)

_HEAD_NORMS = {"norm_q": "self_attn.q_norm", "norm_k": "self_attn.k_norm"}

_QWEN3 = replace(
    _LLAMA,
    name="qwen3",
    model_types=("qwen3",),
    roles={**_LLAMA.roles, **_HEAD_NORMS},
    biases=_NO_BIAS | dict.fromkeys("qkvo", "attention_bias"),
    window=_WINDOW,
)


def _gemma_refuses(config: Config) -> str:
    # The model's own forward would give a text other numbers in a batch than alone (transformers 5.24).
    both = config.get("use_bidirectional_attention")
    return "use_bidirectional_attention is set, and transformers ignores it in a batch with padding" if both else ""


_GEMMA = replace(
    _LLAMA,
    name="gemma",
    model_types=("gemma",),
    biases=_NO_BIAS | dict.fromkeys("qkvo", "attention_bias"),
    tied=True,
    refuses=_gemma_refuses,
)

_GEMMA2 = replace(
    _GEMMA,
    name="gemma2",
    model_types=("gemma2",),
    roles={
        **_LLAMA.roles,
        "norm_post_attn": "post_attention_layernorm",
        "norm_ffn": "pre_feedforward_layernorm",
        "norm_post_ffn": "post_feedforward_layernorm",
    },
    window=_WINDOW,
)

_GEMMA3 = replace(
    _GEMMA2,
    name="gemma3",
    model_types=("gemma3_text",),
    roles={**_GEMMA2.roles, **_HEAD_NORMS},
    rotary_by_type=True,
    both_ways="use_bidirectional_attention",
    refuses=_LLAMA.refuses,
)

_OLMO2 = replace(
    _LLAMA,
    name="olmo2",
    model_types=("olmo2",),
    roles={
        **{role: path for role, path in _LLAMA.roles.items() if role in _LINEARS},
        **_HEAD_NORMS,
        "norm_attn": "post_attention_layernorm",
        "norm_ffn": "post_feedforward_layernorm",
    },
    biases=_NO_BIAS | dict.fromkeys("qkvo", "attention_bias"),
    norms_first=False,
    norms_read_by={},
    wide_head_norms=True,
)
"""The output of attention and feed-forward part is normed, and nothing before them."""

_OLMO3 = replace(_OLMO2, name="olmo3", model_types=("olmo3",), rotary_by_type=True, window=_WINDOW)

_PHI3 = replace(
    _MISTRAL,
    name="phi3",
    model_types=("phi3",),
    roles={
        **_LLAMA.roles,
        **dict.fromkeys("qkv", "self_attn.qkv_proj"),
        **dict.fromkeys(("gate", "up"), "mlp.gate_up_proj"),
    },
    fused={"self_attn.qkv_proj": ("q", "k", "v"), "mlp.gate_up_proj": ("gate", "up")},
)
"""Phi-3, 3.5 and 4. One linear computes q, k and v, another gate and up."""


def _phi_refuses(config: Config) -> str:
    return "its config norms queries and keys (qk_layernorm)" if config.get("qk_layernorm") else ""


_PHI = replace(
    _LLAMA,
    name="phi",
    model_types=("phi",),
    final_norm="final_layernorm",
    roles={
        **{role: f"self_attn.{role}_proj" for role in "qkv"},
        "o": "self_attn.dense",
        "up": "mlp.fc1",
        "down": "mlp.fc2",
        "norm_attn": "input_layernorm",
    },
    biases={"decoder": True},
    norms_read_by={},
    parallel=True,
    refuses=_phi_refuses,
)
"""Phi-1, 1.5 and 2. Attention and feed-forward part read one norm, and everything has a bias, the output matrix too."""

_ARCEE = replace(
    _LLAMA,
    name="arcee",
    model_types=("arcee",),
    roles={role: path for role, path in _LLAMA.roles.items() if role != "gate"},
    norms_read_by={"norm_attn": ("q", "k", "v"), "norm_ffn": ("up",)},
)

_SEED = replace(_LLAMA, name="seed_oss", model_types=("seed_oss",), biases={**_LLAMA.biases, "o": "attention_out_bias"})

_HUNYUAN = replace(
    _QWEN3,
    name="hunyuan_v1_dense",
    model_types=("hunyuan_v1_dense",),
    roles={**_LLAMA.roles, "norm_q": "self_attn.query_layernorm", "norm_k": "self_attn.key_layernorm"},
    window=None,
)

_EXAONE4 = replace(
    _OLMO2, name="exaone4", model_types=("exaone4",), biases=_NO_BIAS, wide_head_norms=False, window=_WINDOW
)
"""Where some blocks have a window, the others do not rotate queries and keys; each block's own code decides that."""

_GLM4 = replace(
    _LLAMA,
    name="glm4",
    model_types=("glm4",),
    roles={
        **_LLAMA.roles,
        **dict.fromkeys(("gate", "up"), "mlp.gate_up_proj"),
        "norm_post_attn": "post_self_attn_layernorm",
        "norm_post_ffn": "post_mlp_layernorm",
    },
    fused={"mlp.gate_up_proj": ("gate", "up")},
    biases=_NO_BIAS | dict.fromkeys("qkv", "attention_bias"),
)

_GRANITE = replace(
    _LLAMA,
    name="granite",
    model_types=("granite",),
    embeddings_times="embedding_multiplier",
    logits_divided_by="logits_scaling",
)
"""A Llama that scales its embeddings, the output of each part, and its logits."""

_COHERE2 = replace(
    _LLAMA,
    name="cohere2",
    model_types=("cohere2",),
    roles={role: path for role, path in _LLAMA.roles.items() if role != "norm_ffn"},
    biases=_NO_BIAS | dict.fromkeys("qkvo", "attention_bias"),
    norms_read_by={"norm_attn": ("q", "k", "v", "up", "gate")},
    parallel=True,
    tied=True,
    window=_WINDOW,
    logits_times="logit_scale",
)
"""Command R7B and A. Attention and feed-forward part read one norm, a layer norm without a bias."""

_STARCODER2 = replace(
    _LLAMA,
    name="starcoder2",
    model_types=("starcoder2",),
    roles={
        **{role: path for role, path in _LLAMA.roles.items() if role != "gate"},
        "up": "mlp.c_fc",
        "down": "mlp.c_proj",
    },
    biases={**dict.fromkeys(_LINEARS, "use_bias"), "decoder": False},
    biases_by_default=True,
    norms_read_by={},
    tied=True,
    window=_WINDOW,
)


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


_QWEN35 = replace(
    _QWEN3,
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
                **{role: path for role, path in _LLAMA.roles.items() if role not in "qkvo"},
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


_LFM_FFN = {"gate": "feed_forward.w1", "up": "feed_forward.w3", "down": "feed_forward.w2"}
_LFM_NORMS = {"norm_attn": "operator_norm", "norm_ffn": "ffn_norm"}

_LFM2 = replace(
    _LLAMA,
    name="lfm2",
    model_types=("lfm2",),
    final_norm="embedding_norm",
    roles={
        **{role: f"self_attn.{role}_proj" for role in "qkv"},
        "o": "self_attn.out_proj",
        **_LFM_FFN,
        **_LFM_NORMS,
        "norm_q": "self_attn.q_layernorm",
        "norm_k": "self_attn.k_layernorm",
    },
    biases=_NO_BIAS,
    tied=True,
    ffn_of=_lfm_ffn,
    refuses=_lfm_refuses,
    completed=True,
    state_blocks={
        "conv": StateBlock(
            roles={**dict.fromkeys("qkv", "conv.in_proj"), "o": "conv.out_proj", **_LFM_FFN, **_LFM_NORMS},
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

DECODERS: tuple[DecoderArchitecture, ...] = (
    _GPT2,
    _LLAMA,
    _SMOLLM3,
    _MISTRAL,
    _QWEN2,
    _QWEN3,
    _GEMMA,
    _GEMMA2,
    _GEMMA3,
    _OLMO2,
    _OLMO3,
    _PHI3,
    _PHI,
    _MINISTRAL,
    _MINISTRAL3,
    _ARCEE,
    _SEED,
    _HUNYUAN,
    _EXAONE4,
    _GLM4,
    _GRANITE,
    _COHERE2,
    _STARCODER2,
    _QWEN35,
    _LFM2,
)
"""Rows of the table whose tokens see only what precedes them."""
