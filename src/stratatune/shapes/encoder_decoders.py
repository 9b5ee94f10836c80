"""Rows of the backbone table for encoder-decoders, T5 and BART (``stacks.py``: the shape of such a model).

Blocks are numbered through both stacks, the encoder's first. So the frozen depth is one number: up to the encoder's
length that many of its blocks are frozen; beyond it the whole encoder is, and the remaining number of decoder blocks.
Every block of the decoder reads a trained encoder block, so the backward pass goes through all of them: one number
describes that too.

Parameters outside the blocks (T5's position biases, which its first blocks keep for all, and the encoder's last norm;
BART's position tables and embedding norms) count with the embeddings.
"""

from __future__ import annotations

from dataclasses import replace

from stratatune.shapes.architectures import EncoderDecoderArchitecture, Fields

CROSSED_LINEARS = ("q", "k", "v", "o", "cross_q", "cross_k", "cross_v", "cross_o", "up", "gate", "down")
_NO_BIAS: dict[str, bool | str] = dict.fromkeys((*CROSSED_LINEARS, "norm_attn", "norm_cross", "norm_ffn"), False)

T5_FIELDS = Fields(
    blocks="num_layers",
    decoder_blocks="num_decoder_layers",
    hidden="d_model",
    ffn="d_ff",
    heads="num_heads",
    head_dim="d_kv",
    positions=None,  # relative ones
    types=None,
)
BART_FIELDS = Fields(
    blocks="encoder_layers",
    decoder_blocks="decoder_layers",
    hidden="d_model",
    ffn="encoder_ffn_dim",
    decoder_ffn="decoder_ffn_dim",
    heads="encoder_attention_heads",
    types=None,
)


def _t5(cross: bool, gated: bool) -> dict[str, str]:
    """Roles of a T5 block."""
    attention = "layer.0.SelfAttention"
    last = 2 if cross else 1
    roles = {role: f"{attention}.{role}" for role in "qkvo"}
    if cross:
        roles |= {f"cross_{role}": f"layer.1.EncDecAttention.{role}" for role in "qkvo"}
    feed = {"gate": "wi_0", "up": "wi_1", "down": "wo"} if gated else {"up": "wi", "down": "wo"}
    roles |= {role: f"layer.{last}.DenseReluDense.{name}" for role, name in feed.items()}
    roles["norm_attn"] = "layer.0.layer_norm"
    if cross:
        roles["norm_cross"] = "layer.1.layer_norm"
    return {**roles, "norm_ffn": f"layer.{last}.layer_norm"}


def _bart(cross: bool) -> dict[str, str]:
    """Roles of a BART block."""
    ends = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "out_proj"}
    roles = {role: f"self_attn.{end}" for role, end in ends.items()}
    if cross:
        roles |= {f"cross_{role}": f"encoder_attn.{end}" for role, end in ends.items()}
        roles["norm_cross"] = "encoder_attn_layer_norm"
    norms = {"norm_attn": "self_attn_layer_norm", "norm_ffn": "final_layer_norm"}
    return {**roles, "up": "fc1", "down": "fc2", **norms}


_T5 = EncoderDecoderArchitecture(
    name="t5",
    model_types=("t5",),
    base="",
    embeddings="shared",
    more_embeddings=(
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
        "decoder.block.0.layer.0.SelfAttention.relative_attention_bias",
        "encoder.final_layer_norm",
    ),
    behind_blocks=("encoder.final_layer_norm", "encoder.dropout"),
    relative_bias="layer.0.SelfAttention",
    fields=T5_FIELDS,
    tuple_blocks=True,
    blocks="encoder.block",
    decoder_blocks="decoder.block",
    final_norm="decoder.final_layer_norm",
    roles=_t5(cross=False, gated=False),
    decoder_roles=_t5(cross=True, gated=False),
    lm_head="lm_head",
    classifier="classification_head",
    classifier_dense=True,
    norms_first=True,
    biases=_NO_BIAS,
    norms_read_by={"norm_attn": ("q", "k", "v"), "norm_cross": ("cross_q",), "norm_ffn": ("up", "gate")},
)

_T5_GATED = replace(
    _T5,
    name="t5-gated",
    applies=("feed_forward_proj", "gated"),
    roles=_t5(cross=False, gated=True),
    decoder_roles=_t5(cross=True, gated=True),
)

_BART = replace(
    _T5,
    name="bart",
    model_types=("bart",),
    base="model",
    more_embeddings=(
        "encoder.embed_positions",
        "decoder.embed_positions",
        "encoder.layernorm_embedding",
        "decoder.layernorm_embedding",
    ),
    blocks="encoder.layers",
    decoder_blocks="decoder.layers",
    position_table="encoder.embed_positions",
    position_norm="encoder.layernorm_embedding",
    relative_bias=None,
    fields=BART_FIELDS,
    behind_blocks=(),
    tuple_blocks=False,
    final_norm=None,
    roles=_bart(cross=False),
    decoder_roles=_bart(cross=True),
    biases={},
    norms_read_by={},  # they come after the skip connection
)

# The gated row comes first: the plain one applies to every T5.
ENCODER_DECODERS: tuple[EncoderDecoderArchitecture, ...] = (_T5_GATED, _T5, _BART)
"""Rows of the table with two stacks."""
