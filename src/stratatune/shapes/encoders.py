"""Rows of the backbone table for encoders. Data only, like the table itself."""

from __future__ import annotations

from dataclasses import replace

from stratatune.shapes.architectures import Config, EncoderArchitecture, Fields, count_in


def _widening(config: Config) -> int:
    """Parameters of the linear E -> D after factorised embeddings."""
    width, hidden = count_in(config, "embedding_size"), count_in(config, "hidden_size")
    return width * hidden + hidden


def _electra_widening(config: Config) -> int:
    return 0 if config.get("embedding_size") == config.get("hidden_size") else _widening(config)


BERT = EncoderArchitecture(
    name="bert",
    model_types=("bert",),
    base="bert",
    embeddings="embeddings",
    blocks="encoder.layer",
    final_norm=None,
    roles={
        "q": "attention.self.query",
        "k": "attention.self.key",
        "v": "attention.self.value",
        "o": "attention.output.dense",
        "up": "intermediate.dense",
        "down": "output.dense",
        "norm_attn": "attention.output.LayerNorm",
        "norm_ffn": "output.LayerNorm",
    },
    mlm_head={
        "dense": "cls.predictions.transform.dense",
        "norm": "cls.predictions.transform.LayerNorm",
        "decoder": "cls.predictions.decoder",
    },
    pooler="bert.pooler",
    classifier="classifier",
    classifier_dense=False,
    token_types=True,
    last_block="bert",
)

ROBERTA = replace(
    BERT,
    name="roberta",
    model_types=("roberta", "xlm-roberta", "camembert"),
    base="roberta",
    mlm_head={"dense": "lm_head.dense", "norm": "lm_head.layer_norm", "decoder": "lm_head.decoder"},
    mlm_activation="gelu",
    pooler=None,  # the classification head reads the first token itself
    classifier_dense=True,
    position_offset=2,  # positions are counted from padding_idx + 1 = 2
    token_types=False,
)

_ELECTRA = replace(
    BERT,
    name="electra",
    model_types=("electra",),
    base="electra",
    mlm_head={
        "dense": "generator_predictions.dense",
        "norm": "generator_predictions.LayerNorm",
        "decoder": "generator_lm_head",
    },
    mlm_activation="gelu",
    pooler=None,
    classifier_dense=True,
    projection="embeddings_project",
    beside={"embeddings_project": _electra_widening},
    fields=Fields(embedding="embedding_size"),
)

_DISTILBERT = EncoderArchitecture(
    name="distilbert",
    model_types=("distilbert",),
    base="distilbert",
    embeddings="embeddings",
    blocks="transformer.layer",
    final_norm=None,
    roles={
        "q": "attention.q_lin",
        "k": "attention.k_lin",
        "v": "attention.v_lin",
        "o": "attention.out_lin",
        "up": "ffn.lin1",
        "down": "ffn.lin2",
        "norm_attn": "sa_layer_norm",
        "norm_ffn": "output_layer_norm",
    },
    mlm_head={"dense": "vocab_transform", "norm": "vocab_layer_norm", "decoder": "vocab_projector"},
    activation="activation",
    pooler=None,
    classifier="classifier",
    classifier_before="pre_classifier",
    classifier_dense=True,
    embedding_tables=("vocab", "positions"),
    fields=Fields(blocks="n_layers", hidden="dim", ffn="hidden_dim", heads="n_heads", types=None),
    last_block="distilbert",
)

_MPNET = replace(
    ROBERTA,
    name="mpnet",
    model_types=("mpnet",),
    base="mpnet",
    roles={
        **{role: f"attention.attn.{role}" for role in ("q", "k", "v", "o")},
        "up": "intermediate.dense",
        "down": "output.dense",
        "norm_attn": "attention.LayerNorm",
        "norm_ffn": "output.LayerNorm",
    },
    embedding_tables=("vocab", "positions"),
    beside={
        "encoder.relative_attention_bias": lambda config: (
            count_in(config, "relative_attention_num_buckets", 32) * count_in(config, "num_attention_heads")
        )
    },
    fields=Fields(types=None),
    tuple_blocks=True,
    last_block="mpnet",
)


def _deberta_positions(config: Config) -> int:
    """Parameters of the table of relative positions, which all blocks share: [2 K, D]."""
    if not config.get("relative_attention"):
        return 0
    distances = (count_in(config, name, -1) for name in ("position_buckets", "max_relative_positions"))
    span = next((distance for distance in distances if distance > 0), count_in(config, "max_position_embeddings"))
    return 2 * span * count_in(config, "hidden_size")


def _deberta_position_norm(config: Config) -> int:
    return 2 * count_in(config, "hidden_size") if "layer_norm" in str(config.get("norm_rel_ebd", "none")).lower() else 0


def _deberta_refuses(config: Config) -> str:
    if count_in(config, "conv_kernel_size") > 0:
        return "conv_kernel_size is set: there is a convolution between its first two blocks"
    if config.get("relative_attention") and config.get("pos_att_type") and not config.get("share_att_key"):
        return "share_att_key is off: its blocks have projections of positions that no role names"
    if config.get("embedding_size") not in (None, config.get("hidden_size")):
        return "embedding_size differs from hidden_size"
    return ""


_DEBERTA = replace(
    BERT,
    name="deberta-v2",
    model_types=("deberta-v2",),  # v3 has this type, too
    base="deberta",
    roles={
        **BERT.roles,
        "q": "attention.self.query_proj",
        "k": "attention.self.key_proj",
        "v": "attention.self.value_proj",
    },
    mlm_alternatives=(
        {  # config.legacy = False: the layout of the published v3 checkpoints
            "dense": "lm_predictions.lm_head.dense",
            "norm": "lm_predictions.lm_head.LayerNorm",
            "decoder": "deberta.embeddings.word_embeddings",
            "bias": "lm_predictions.lm_head",
        },
    ),
    mlm_setting=("lm_predictions.", "legacy", False),  # microsoft's own configs leave it out
    pooler=None,
    classifier_before="pooler",  # new in every checkpoint
    classifier_dense=True,
    table_if={"positions": "position_biased_input"},
    reused=("q", "k"),
    beside={"encoder.rel_embeddings": _deberta_positions, "encoder.LayerNorm": _deberta_position_norm},
    tuple_blocks=True,
    last_block="deberta",
    refuses=_deberta_refuses,
)

_MODERNBERT = EncoderArchitecture(
    name="modernbert",
    model_types=("modernbert",),
    base="model",
    embeddings="embeddings",
    blocks="layers",
    final_norm="final_norm",
    roles={
        **dict.fromkeys(("q", "k", "v"), "attn.Wqkv"),
        "o": "attn.Wo",
        **dict.fromkeys(("up", "gate"), "mlp.Wi"),
        "down": "mlp.Wo",
        "norm_attn": "attn_norm",
        "norm_ffn": "mlp_norm",
    },
    fused={"attn.Wqkv": ("q", "k", "v"), "mlp.Wi": ("gate", "up")},  # act(first half) * second half
    norms_first=True,
    lacks={0: ("norm_attn",)},
    mlm_head={"dense": "head.dense", "norm": "head.norm", "decoder": "decoder"},
    activation="classifier_activation",
    pooler="head",
    pooler_norm=True,
    pooling="classifier_pooling",
    classifier="classifier",
    classifier_dense=False,
    embedding_tables=("vocab",),  # positions are rotary
    biases={
        **dict.fromkeys(("q", "k", "v", "o"), "attention_bias"),
        **dict.fromkeys(("up", "gate", "down"), "mlp_bias"),
        **dict.fromkeys(("norm_attn", "norm_ffn", "final_norm", "embeddings", "norm"), "norm_bias"),
        **dict.fromkeys(("dense", "pooler"), "classifier_bias"),
        "decoder": "decoder_bias",
    },
    fields=Fields(types=None),
    last_block="modernbert",
)


def _albert_refuses(config: Config) -> str:
    return "inner_group_num is above 1: a block is several layers" if count_in(config, "inner_group_num", 1) > 1 else ""


_ALBERT = EncoderArchitecture(
    name="albert",
    model_types=("albert",),
    base="albert",
    embeddings="embeddings",
    blocks="encoder.albert_layer_groups",
    final_norm=None,
    roles={
        "q": "albert_layers.0.attention.query",
        "k": "albert_layers.0.attention.key",
        "v": "albert_layers.0.attention.value",
        "o": "albert_layers.0.attention.dense",
        "up": "albert_layers.0.ffn",
        "down": "albert_layers.0.ffn_output",
        "norm_attn": "albert_layers.0.attention.LayerNorm",
        "norm_ffn": "albert_layers.0.full_layer_layer_norm",
    },
    mlm_head={"dense": "predictions.dense", "norm": "predictions.LayerNorm", "decoder": "predictions.decoder"},
    pooler="albert.pooler",
    classifier="classifier",
    classifier_dense=False,
    token_types=True,
    projection="encoder.embedding_hidden_mapping_in",
    beside={"encoder.embedding_hidden_mapping_in": _widening},
    fields=Fields(embedding="embedding_size", distinct="num_hidden_groups"),
    last_block="albert",
    refuses=_albert_refuses,
)

_TOPS = {"norm_attn": "post_attention_layernorm", "norm_ffn": "post_mlp_layernorm"}
_LINEARS = {
    **{role: f"self_attn.{role}_proj" for role in "qkvo"},
    **{role: f"mlp.{role}_proj" for role in ("up", "gate", "down")},
}

_NOMIC = replace(
    BERT,
    name="nomic_bert",
    model_types=("nomic_bert",),
    base="nomic_bert",
    blocks="layers",
    roles={**_LINEARS, **_TOPS},
    biases=dict.fromkeys(_LINEARS, False),
    mlm_head={**BERT.mlm_head, "norm": "cls.predictions.transform.layer_norm"},
    pooler="nomic_bert.pooler",
    embedding_tables=("vocab", "types"),
    fields=Fields(head_dim="head_dim"),
    last_block=None,
)

_GTE = replace(
    _NOMIC,
    name="gte",
    model_types=("gte",),
    base="gte",
    biases=dict.fromkeys(("up", "gate"), False),
    mlm_head=ROBERTA.mlm_head,
    mlm_activation="gelu",
    pooler="gte.pooler",
    token_types=False,  # its table has one row
    fields=Fields(),
)

_EUROBERT = EncoderArchitecture(
    name="eurobert",
    model_types=("eurobert",),
    base="model",
    embeddings="embed_tokens",
    blocks="layers",
    final_norm="norm",
    roles={**_LINEARS, "norm_attn": "input_layernorm", "norm_ffn": "post_attention_layernorm"},
    biases={
        **dict.fromkeys("qkvo", "attention_bias"),
        **dict.fromkeys(("up", "gate", "down"), "mlp_bias"),
        **dict.fromkeys(("norm_attn", "norm_ffn", "final_norm"), False),
    },
    norms_first=True,
    norms_read_by={"norm_attn": ("q", "k", "v"), "norm_ffn": ("up", "gate")},
    mlm_head={},  # an output matrix alone, which no label words are read with here
    embedding_norm=False,
    embedding_tables=("vocab",),  # positions are rotary
    pooling="classifier_pooling",
    classifier="classifier",
    classifier_before="dense",
    classifier_dense=True,
    fields=Fields(types=None, kv_heads="num_key_value_heads", head_dim="head_dim"),
)

ENCODERS: tuple[EncoderArchitecture, ...] = (
    *(BERT, ROBERTA, _ELECTRA, _DISTILBERT),
    *(_MPNET, _DEBERTA, _MODERNBERT, _ALBERT),
    *(_NOMIC, _GTE, _EUROBERT),
)
"""Rows of the table whose blocks see the whole text."""
