"""Rows of the backbone table for decoders: GPT-2, Llama and its relatives. Data only, like the table itself.

Every block norms the input of its parts or, as in OLMo 2, their output; a final norm follows the last block and the
language-model head reads it. ``head(mlm=norm)`` is that final norm, ``head(mlm=decoder)`` the output matrix; a
decoder's head has no dense layer.
"""

from __future__ import annotations

from dataclasses import replace

from stratatune.shapes.architectures import Config, DecoderArchitecture, Fields

LINEARS = ("q", "k", "v", "o", "up", "gate", "down")
_NORMS = ("norm_attn", "norm_q", "norm_k", "norm_post_attn", "norm_ffn", "norm_post_ffn", "final_norm")
_WINDOW = "sliding_window"
NO_BIAS = dict.fromkeys((*LINEARS, *_NORMS), False)

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

LLAMA = replace(
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
    biases=NO_BIAS | dict.fromkeys("qkvo", "attention_bias") | dict.fromkeys(("up", "gate", "down"), "mlp_bias"),
    norms_read_by={"norm_attn": ("q", "k", "v"), "norm_ffn": ("up", "gate")},
    tied=False,
    ffn_multiple=0,
    fields=Fields(types=None, kv_heads="num_key_value_heads", head_dim="head_dim"),
)

# Mistral's code has no setting for biases, so none can be given a home in a saved config.
_MISTRAL = replace(LLAMA, name="mistral", model_types=("mistral",), biases=NO_BIAS, window=_WINDOW)

_MINISTRAL = replace(_MISTRAL, name="ministral", model_types=("ministral",))
_MINISTRAL3 = replace(_MISTRAL, name="ministral3", model_types=("ministral3",))
"""Queries grow with their position, by which each block scales them itself."""

_SMOLLM3 = replace(LLAMA, name="smollm3", model_types=("smollm3",), tied=True, window=_WINDOW)
"""A Llama some of whose blocks do not rotate queries and keys; each block's own code decides that."""

# Qwen 2 has biases on q, k and v whatever its config says.
_QWEN2 = replace(
    LLAMA,
    name="qwen2",
    model_types=("qwen2",),
    biases=NO_BIAS | dict.fromkeys("qkv", True),
    window=_WINDOW,
)

_HEAD_NORMS = {"norm_q": "self_attn.q_norm", "norm_k": "self_attn.k_norm"}

QWEN3 = replace(
    LLAMA,
    name="qwen3",
    model_types=("qwen3",),
    roles={**LLAMA.roles, **_HEAD_NORMS},
    biases=NO_BIAS | dict.fromkeys("qkvo", "attention_bias"),
    window=_WINDOW,
)


def _gemma_refuses(config: Config) -> str:
    # The model's own forward would give a text other numbers in a batch than alone (transformers 5.24).
    both = config.get("use_bidirectional_attention")
    return "use_bidirectional_attention is set, and transformers ignores it in a batch with padding" if both else ""


_GEMMA = replace(
    LLAMA,
    name="gemma",
    model_types=("gemma",),
    biases=NO_BIAS | dict.fromkeys("qkvo", "attention_bias"),
    tied=True,
    refuses=_gemma_refuses,
)

GEMMA2 = replace(
    _GEMMA,
    name="gemma2",
    model_types=("gemma2",),
    roles={
        **LLAMA.roles,
        "norm_post_attn": "post_attention_layernorm",
        "norm_ffn": "pre_feedforward_layernorm",
        "norm_post_ffn": "post_feedforward_layernorm",
    },
    window=_WINDOW,
)

GEMMA3 = replace(
    GEMMA2,
    name="gemma3",
    model_types=("gemma3_text",),
    roles={**GEMMA2.roles, **_HEAD_NORMS},
    rotary_by_type=True,
    both_ways="use_bidirectional_attention",
    refuses=LLAMA.refuses,
)

_OLMO2 = replace(
    LLAMA,
    name="olmo2",
    model_types=("olmo2",),
    roles={
        **{role: path for role, path in LLAMA.roles.items() if role in LINEARS},
        **_HEAD_NORMS,
        "norm_attn": "post_attention_layernorm",
        "norm_ffn": "post_feedforward_layernorm",
    },
    biases=NO_BIAS | dict.fromkeys("qkvo", "attention_bias"),
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
        **LLAMA.roles,
        **dict.fromkeys("qkv", "self_attn.qkv_proj"),
        **dict.fromkeys(("gate", "up"), "mlp.gate_up_proj"),
    },
    fused={"self_attn.qkv_proj": ("q", "k", "v"), "mlp.gate_up_proj": ("gate", "up")},
)
"""Phi-3, 3.5 and 4. One linear computes q, k and v, another gate and up."""


def _phi_refuses(config: Config) -> str:
    return "its config norms queries and keys (qk_layernorm)" if config.get("qk_layernorm") else ""


_PHI = replace(
    LLAMA,
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
    LLAMA,
    name="arcee",
    model_types=("arcee",),
    roles={role: path for role, path in LLAMA.roles.items() if role != "gate"},
    norms_read_by={"norm_attn": ("q", "k", "v"), "norm_ffn": ("up",)},
)

_SEED = replace(LLAMA, name="seed_oss", model_types=("seed_oss",), biases={**LLAMA.biases, "o": "attention_out_bias"})

_HUNYUAN = replace(
    QWEN3,
    name="hunyuan_v1_dense",
    model_types=("hunyuan_v1_dense",),
    roles={**LLAMA.roles, "norm_q": "self_attn.query_layernorm", "norm_k": "self_attn.key_layernorm"},
    window=None,
)

_EXAONE4 = replace(
    _OLMO2, name="exaone4", model_types=("exaone4",), biases=NO_BIAS, wide_head_norms=False, window=_WINDOW
)
"""Where some blocks have a window, the others do not rotate queries and keys; each block's own code decides that."""

GLM4 = replace(
    LLAMA,
    name="glm4",
    model_types=("glm4",),
    roles={
        **LLAMA.roles,
        **dict.fromkeys(("gate", "up"), "mlp.gate_up_proj"),
        "norm_post_attn": "post_self_attn_layernorm",
        "norm_post_ffn": "post_mlp_layernorm",
    },
    fused={"mlp.gate_up_proj": ("gate", "up")},
    biases=NO_BIAS | dict.fromkeys("qkv", "attention_bias"),
)

GRANITE = replace(
    LLAMA,
    name="granite",
    model_types=("granite",),
    embeddings_times="embedding_multiplier",
    logits_divided_by="logits_scaling",
)
"""A Llama that scales its embeddings, the output of each part, and its logits."""

COHERE2 = replace(
    LLAMA,
    name="cohere2",
    model_types=("cohere2",),
    roles={role: path for role, path in LLAMA.roles.items() if role != "norm_ffn"},
    biases=NO_BIAS | dict.fromkeys("qkvo", "attention_bias"),
    norms_read_by={"norm_attn": ("q", "k", "v", "up", "gate")},
    parallel=True,
    tied=True,
    window=_WINDOW,
    logits_times="logit_scale",
)
"""Command R7B and A. Attention and feed-forward part read one norm, a layer norm without a bias."""

_STARCODER2 = replace(
    LLAMA,
    name="starcoder2",
    model_types=("starcoder2",),
    roles={
        **{role: path for role, path in LLAMA.roles.items() if role != "gate"},
        "up": "mlp.c_fc",
        "down": "mlp.c_proj",
    },
    biases={**dict.fromkeys(LINEARS, "use_bias"), "decoder": False},
    biases_by_default=True,
    norms_read_by={},
    tied=True,
    window=_WINDOW,
)

_NEOX = replace(
    LLAMA,
    name="gpt_neox",
    model_types=("gpt_neox",),
    applies=("use_parallel_residual", "False"),
    base="gpt_neox",
    embeddings="embed_in",
    final_norm="final_layer_norm",
    roles={
        **dict.fromkeys("qkv", "attention.query_key_value"),
        "o": "attention.dense",
        "up": "mlp.dense_h_to_4h",
        "down": "mlp.dense_4h_to_h",
        "norm_attn": "input_layernorm",
        "norm_ffn": "post_attention_layernorm",
    },
    fused={"attention.query_key_value": ("q", "k", "v")},
    fused_by_head=True,
    biases=dict.fromkeys("qkvo", "attention_bias"),
    biases_by_default=True,
    norms_read_by={},
    window=None,
    fields=Fields(types=None),
)
_PYTHIA = replace(_NEOX, name="pythia", applies=None, parallel=True)
"""GPT-NeoX as nearly all have it: each by a norm of its own, attention and feed-forward part read the same state."""

DECODERS: tuple[DecoderArchitecture, ...] = (
    _GPT2,
    _NEOX,  # before the other one, which applies to every GPT-NeoX
    _PYTHIA,
    LLAMA,
    _SMOLLM3,
    _MISTRAL,
    _QWEN2,
    QWEN3,
    _GEMMA,
    GEMMA2,
    GEMMA3,
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
    GLM4,
    GRANITE,
    COHERE2,
    _STARCODER2,
)
"""Rows of the table whose tokens see only what precedes them."""
