"""The backbone table: where the parts of each supported architecture live, and how its config names its sizes.

One row per architecture, data only. Everything else (shapes, attaching, the trunk, the head) asks this table, so a new
architecture is a new row and nothing more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from stratatune.errors import ModelError, did_you_mean


@dataclass(frozen=True)
class Fields:
    """The config's own names for its sizes. ``None``: the architecture has no such size."""

    blocks: str = "num_hidden_layers"
    hidden: str = "hidden_size"
    ffn: str = "intermediate_size"
    heads: str = "num_attention_heads"
    vocab: str = "vocab_size"
    positions: str = "max_position_embeddings"
    types: str | None = "type_vocab_size"
    kv_heads: str | None = None  # grouped-query attention; None: as many as heads
    head_dim: str | None = None  # None: hidden / heads


@dataclass(frozen=True)
class Architecture:
    """One row. Paths are dotted attributes; ``base`` is the attribute of a ``...ForX`` model that holds the encoder."""

    name: str
    model_types: tuple[str, ...]
    """``config.model_type`` of every family with this layout."""
    base: str
    embeddings: str
    """The module, below ``base``, whose output is depth 0."""
    blocks: str
    """The list of blocks, below ``base``."""
    final_norm: str | None
    """The norm after the last block, below ``base``; None where every block ends in its own."""
    roles: Mapping[str, str]
    """Role to its path inside a block. A role that is not here does not exist in the architecture."""
    mlm_head: Mapping[str, str]
    """Part of the masked-LM head (dense, norm, decoder) to its path in the ``...ForMaskedLM`` model.

    The part ``bias`` is the decoder's bias.
    """
    mlm_module: str
    """The whole masked-LM head, from the ``...ForMaskedLM`` model."""
    pooler: str | None
    """The pooler that the classification model uses, below ``base``."""
    classifier: str
    """The new classification head, from the ``...ForSequenceClassification`` model."""
    classifier_dense: bool
    """Whether that head has a new dense layer D -> D before its output."""
    classifier_output: str
    """The output layer, from the ``...ForSequenceClassification`` model."""
    mlm_activation: str | None = None
    """Activation between dense and norm of the masked-LM head; None: the config's ``hidden_act``."""
    position_offset: int = 0
    """Rows of the position table that no token uses: max tokens = positions - offset."""
    token_types: bool = False
    """Whether the tokenizer's token types tell segments apart (a table of one row tells nothing)."""
    embedding_tables: tuple[str, ...] = ("vocab", "positions", "types")
    """Tables of width D in the embeddings, by their name in ``Fields``."""
    embedding_norm: bool = True
    biases: Mapping[str, bool | str] = field(default_factory=dict)
    """Role to whether it has a bias: yes unless it says False here, or names a config field that does."""
    tied: bool = True
    """Whether the decoder shares the word embeddings when the config does not say."""
    fields: Fields = Fields()
    kind: Literal["encoder", "decoder", "encoder-decoder"] = "encoder"
    """Whether a token sees the whole text, or only what stands before it."""
    decoder_blocks: str | None = None
    """The list of an encoder-decoder's decoder blocks, below ``base``."""
    decoder_roles: Mapping[str, str] = field(default_factory=dict)
    """Role to its path inside a decoder block."""
    applies: tuple[str, str] | None = None
    """A config field and how its value must begin, where one model type has rows of several layouts."""
    more_embeddings: tuple[str, ...] = ()
    """Further modules of the embeddings, where no single module holds them all."""
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Path inside a block of a linear that holds several roles side by side, and those roles in its order.

    ``model/fused.py`` takes it apart in the blocks that train; then each role is a linear of its own below that path.
    """
    rotary: str | None = None
    """The module, below ``base``, that makes rotary position embeddings for the blocks."""
    rotary_by_type: bool = False
    """Whether that module is also told the type of attention of the block."""
    classifier_bias: bool = True
    """Whether the new classification output has a bias."""
    ffn_multiple: int = 0
    """The feed-forward size as a multiple of D where the config leaves it open; 0: the config must say it."""

    @property
    def causal(self) -> bool:
        """Whether a token sees only what stands before it."""
        return self.kind == "decoder"

    def has_bias(self, role: str, config: Mapping[str, object]) -> bool:
        """Whether ``role`` has a bias in a model of this config."""
        says = self.biases.get(role, True)
        return bool(config.get(says, False)) if isinstance(says, str) else says


_BERT = Architecture(
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
    mlm_module="cls",
    pooler="pooler",
    classifier="classifier",
    classifier_dense=False,
    classifier_output="classifier",
    token_types=True,
)

_ROBERTA = replace(
    _BERT,
    name="roberta",
    model_types=("roberta", "xlm-roberta", "camembert"),
    base="roberta",
    mlm_head={"dense": "lm_head.dense", "norm": "lm_head.layer_norm", "decoder": "lm_head.decoder"},
    mlm_module="lm_head",
    mlm_activation="gelu",
    pooler=None,  # the classification head reads the first token itself
    classifier_dense=True,
    classifier_output="classifier.out_proj",
    position_offset=2,  # positions are counted from padding_idx + 1 = 2
    token_types=False,
)

ARCHITECTURES: tuple[Architecture, ...] = (_BERT, _ROBERTA)
"""The encoders of the table. A new architecture is one more row."""


def every_row() -> tuple[Architecture, ...]:
    """The whole table: encoders, decoders, encoder-decoders."""
    from stratatune.plan.decoders import DECODERS
    from stratatune.plan.seq2seq import ENCODER_DECODERS

    return (*ARCHITECTURES, *DECODERS, *ENCODER_DECODERS)


def architecture_of(model_type: str, config: Mapping[str, object] | None = None) -> Architecture:
    """The row for a config's ``model_type``; of several layouts the one that the config has.

    Raises:
        ModelError: no row lists that type.
    """
    for row in every_row():
        if model_type in row.model_types and _applies(row, config or {}):
            return row
    legal = [name for row in every_row() for name in row.model_types]
    raise ModelError(f"model type {model_type!r} is not in the table of architectures", did_you_mean(model_type, legal))


def _applies(row: Architecture, config: Mapping[str, object]) -> bool:
    return row.applies is None or str(config.get(row.applies[0], "")).startswith(row.applies[1])
