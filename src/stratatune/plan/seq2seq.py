"""Rows of the backbone table for encoder-decoders, T5 and BART, and the shape of such a model.

Blocks are numbered through both stacks, the encoder's first. So the frozen depth is one number: up to the encoder's
length only that many of its blocks are frozen; beyond it the whole encoder is, and so many blocks of the decoder. A
trained encoder block is read by every block of the decoder, so the backward pass goes through all of those: again
what one number says.

What belongs to no block (T5's position biases, which its first blocks keep for all, and the encoder's last norm; BART's
position tables and embedding norms) counts with the embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from stratatune.errors import ModelError
from stratatune.plan.architectures import Architecture
from stratatune.plan.shape import Linear, Norm, Shape

_LINEARS = ("q", "k", "v", "o", "cross_q", "cross_k", "cross_v", "cross_o", "up", "gate", "down")
_NO_BIAS: dict[str, bool | str] = dict.fromkeys((*_LINEARS, "norm_attn", "norm_cross", "norm_ffn"), False)


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


_T5 = Architecture(
    name="t5",
    model_types=("t5",),
    kind="encoder-decoder",
    base="",
    embeddings="shared",
    more_embeddings=(
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
        "decoder.block.0.layer.0.SelfAttention.relative_attention_bias",
        "encoder.final_layer_norm",
    ),
    blocks="encoder.block",
    decoder_blocks="decoder.block",
    final_norm="decoder.final_layer_norm",
    roles=_t5(cross=False, gated=False),
    decoder_roles=_t5(cross=True, gated=False),
    mlm_head={"norm": "decoder.final_layer_norm", "decoder": "lm_head"},
    mlm_module="lm_head",
    pooler=None,
    classifier="classification_head",
    classifier_dense=True,
    classifier_output="classification_head.out_proj",
    biases=_NO_BIAS,
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
    final_norm=None,
    roles=_bart(cross=False),
    decoder_roles=_bart(cross=True),
    mlm_head={"decoder": "lm_head"},
    biases={},
)

ENCODER_DECODERS: tuple[Architecture, ...] = (_T5_GATED, _T5, _BART)
"""Rows of the table with two stacks."""

_POSITION_OFFSET = 2  # rows of BART's position tables that no token uses
_NO_LIMIT = 1 << 20  # relative positions reach as far as one likes


def encoder_decoder_shape(name: str, row: Architecture, config: Mapping[str, object]) -> Shape:
    """The shape of an encoder-decoder of this config.

    Raises:
        ModelError: the config lacks a size.
    """
    is_t5 = "t5" in row.model_types
    size = _Sizes(name, config)
    width, vocab = size("d_model"), size("vocab_size")
    encoder = size("num_layers" if is_t5 else "encoder_layers")
    decoder = size("num_decoder_layers", encoder) if is_t5 else size("decoder_layers")
    heads = size("num_heads" if is_t5 else "encoder_attention_heads")
    inner = heads * size("d_kv") if is_t5 else width
    ffn = size("d_ff" if is_t5 else "encoder_ffn_dim"), size("d_ff" if is_t5 else "decoder_ffn_dim")
    positions = _NO_LIMIT if is_t5 else size("max_position_embeddings")
    if is_t5:
        extra = 2 * size("relative_attention_num_buckets", 32) * heads + width
    else:
        extra = 2 * (positions + _POSITION_OFFSET) * width + 2 * 2 * width
    tied = bool(config.get("tie_word_embeddings", row.tied))
    if not is_t5 and not tied:
        raise ModelError(f"{name} does not tie its word embeddings", "a BART has one table of words for both stacks")
    final_norm = width if row.final_norm else 0

    def stack(blocks: int, roles: Mapping[str, str], ffn: int, inside: Shape | None) -> Shape:
        return Shape(
            name=name,
            model_type=row.model_types[0],
            blocks=blocks,
            hidden=width,
            ffn=ffn,
            heads=heads,
            vocab=vocab,
            max_tokens=positions,
            linears={r: _linear(r, width, inner, ffn, row.has_bias(r, config)) for r in _LINEARS if r in roles},
            norms={r: Norm(width, row.has_bias(r, config)) for r in roles if r.startswith("norm")},
            embeddings=vocab * width + extra,
            head_parts={"dense": 0, "norm": final_norm, "bias": 0, "decoder": vocab * width},
            pooler=0,
            decoder_tied=tied,
            final_norm=final_norm,
            decoder=inside,
        )

    return stack(encoder + decoder, row.roles, ffn[0], stack(decoder, row.decoder_roles, ffn[1], None))


def _linear(role: str, width: int, inner: int, ffn: int, bias: bool) -> Linear:
    kind = role.removeprefix("cross_")
    if kind in ("q", "k", "v"):
        return Linear(width, inner, bias)
    ends = {"o": (inner, width), "up": (width, ffn), "gate": (width, ffn), "down": (ffn, width)}[kind]
    return Linear(*ends, bias)


class _Sizes:
    """Reads counts out of a config; raises ModelError where one is missing."""

    def __init__(self, name: str, config: Mapping[str, object]) -> None:
        self.name, self.config = name, config

    def __call__(self, field: str, default: int | None = None) -> int:
        value = self.config.get(field)
        found = default if value is None else value
        if not isinstance(found, int) or found < 1:
            raise ModelError(f"the config of {self.name} lacks {field}", "it is a count of an encoder-decoder")
        return found
