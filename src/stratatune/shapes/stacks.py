"""The shape of an encoder-decoder: two stacks of blocks, numbered through, the encoder's first."""

from __future__ import annotations

from collections.abc import Mapping

from stratatune.errors import ModelError
from stratatune.shapes.architectures import EncoderDecoderArchitecture
from stratatune.shapes.encoder_decoders import CROSSED_LINEARS
from stratatune.shapes.shape import Linear, Norm, Shape

_POSITION_OFFSET = 2  # rows of BART's position tables that no token uses
_HINT = "it is a count of an encoder-decoder; backbone_from_names(..., fields={...}) says what a config calls it"
_NO_LIMIT = 1 << 20  # relative positions have no limit


def encoder_decoder_shape(row: EncoderDecoderArchitecture, name: str, config: Mapping[str, object]) -> Shape:
    """The shape of an encoder-decoder of this config.

    Raises:
        ModelError: the config lacks a size.
    """
    size, fields = _Sizes(name, config), row.fields
    width, vocab = size(fields.hidden), size(fields.vocab)
    encoder = size(fields.blocks)
    decoder = size(fields.decoder_blocks or fields.blocks, encoder)
    heads = size(fields.heads)
    # T5's heads together may be wider or narrower than D (d_kv is a separate setting).
    inner = heads * size(fields.head_dim) if fields.head_dim else width
    ffn = size(fields.ffn), size(fields.decoder_ffn or fields.ffn)
    positions = size(fields.positions) if fields.positions else _NO_LIMIT
    if fields.positions is None:
        # Two tables of buckets x heads, one a stack, and the encoder's final norm; the decoder's is final_norm.
        extra = 2 * size("relative_attention_num_buckets", 32) * heads + width
    else:
        # Two position tables, and two embedding norms with weight and bias.
        extra = 2 * (positions + _POSITION_OFFSET) * width + 2 * 2 * width
    tied = bool(config.get("tie_word_embeddings", row.tied))
    if fields.positions and not tied and not row.measured:
        raise ModelError(f"{name} does not tie its word embeddings", "a BART has one table of words for both stacks")
    final_norm = width if row.final_norm else 0

    def stack(blocks: int, roles: Mapping[str, str], ffn: int, inside: Shape | None) -> Shape:
        return Shape(
            name=name,
            model_type=row.model_types[0],
            family=row.family,
            blocks=blocks,
            hidden=width,
            ffn=ffn,
            heads=heads,
            vocab=vocab,
            max_tokens=positions,
            linears={r: _linear(r, width, inner, ffn, row.has_bias(r, config)) for r in CROSSED_LINEARS if r in roles},
            norms={r: Norm(width, row.has_bias(r, config)) for r in roles if r.startswith("norm")},
            embeddings=vocab * width + extra,
            head_parts={"dense": 0, "norm": final_norm, "bias": 0, "decoder": vocab * width},
            pooler=0,
            decoder_tied=tied,
            final_norm=final_norm,
            norms_first=row.norms_first,
            decoder=inside,
            normed_by_final=True,
            classifier_dense=width * width + width,
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
            raise ModelError(f"the config of {self.name} lacks {field}", _HINT)
        return found
