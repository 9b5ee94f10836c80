"""What a row of the backbone table says: where the parts of an architecture live, and how its config names its sizes.

One row per architecture, data only. Everything else (shapes, attaching, the trunk, the head) asks the table
(``table.py``), so a new architecture is a new row and nothing more. BERT's and RoBERTa's rows stand here, the other
encoders' in ``encoders.py``, decoders' in ``decoders.py``, encoder-decoders' in ``seq2seq.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

Config = Mapping[str, object]


def _refuses_nothing(config: Config) -> str:
    return ""


@dataclass(frozen=True)
class Fields:
    """The config's own names for its sizes. ``None``: the architecture has no such size."""

    blocks: str = "num_hidden_layers"
    hidden: str = "hidden_size"
    ffn: str = "intermediate_size"
    heads: str = "num_attention_heads"
    vocab: str = "vocab_size"
    positions: str | None = "max_position_embeddings"
    types: str | None = "type_vocab_size"
    kv_heads: str | None = None  # grouped-query attention; None: as many as heads
    head_dim: str | None = None  # None: hidden / heads
    embedding: str | None = None  # width E of the embedding tables; None: hidden
    distinct: str | None = None  # sets of weights that the blocks share; None: each block has its own
    decoder_blocks: str | None = None  # of an encoder-decoder's second stack; None, or not said: as many
    decoder_ffn: str | None = None  # None: that of the first stack


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
    """The pretrained pooler that the classification model uses, from the ``...ForSequenceClassification`` model."""
    classifier: str
    """The new classification head, from the ``...ForSequenceClassification`` model."""
    classifier_dense: bool
    """Whether that head has a new dense layer D -> D before its output."""
    classifier_output: str
    """The output layer, from the ``...ForSequenceClassification`` model."""
    mlm_activation: str | None = None
    """Activation between dense and norm of the masked-LM head; None: what the config says in ``activation``."""
    activation: str = "hidden_act"
    """The config's field for that activation."""
    mlm_alternatives: tuple[Mapping[str, str], ...] = ()
    """Other layouts of the masked-LM head; the first whose modules the model has is its own. A part ``bias`` names the
    module that holds the decoder's bias where that is not the decoder."""
    mlm_setting: tuple[str, str, bool] | None = None
    """Prefix of a masked-LM head's weights, and the config field and value by which the model has a place for them.

    For checkpoints that hold such weights and whose config does not say so."""
    position_offset: int = 0
    """Rows of the position table that no token uses: max tokens = positions - offset."""
    token_types: bool = False
    """Whether the tokenizer's token types tell segments apart (a table of one row tells nothing)."""
    embedding_tables: tuple[str, ...] = ("vocab", "positions", "types")
    """Tables in the embeddings, of width E (D unless ``Fields`` says otherwise), by their name in ``Fields``."""
    table_if: Mapping[str, str] = field(default_factory=dict)
    """Table to the config field (true unless it says otherwise) without which it is not there."""
    embedding_norm: bool = True
    projection: str | None = None
    """The module below ``base`` that maps E to D where they differ; depth 0 is behind it."""
    beside: Mapping[str, Callable[[Config], int]] = field(default_factory=dict)
    """Modules below ``base`` that feed the blocks beside the embeddings (the projection, tables of relative positions),
    with their parameters from the config; 0: not in this model. They count and train as embeddings."""
    lacks: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    """Block number to the roles that this block, unlike the others, does not have."""
    reused: tuple[str, ...] = ()
    """Roles whose linear also maps the table of relative positions (DeBERTa)."""
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Path of a linear inside a block that plays several roles at once to these roles, in the order of its outputs.

    An encoder's ``roles`` name that path (``methods/fused.py`` takes the linear apart); a decoder's name the paths that
    the roles have once ``model/fused.py`` took it apart."""
    biases: Mapping[str, bool | str] = field(default_factory=dict)
    """Role to whether it has a bias: yes unless it says False here, or names a config field that does. Besides the
    roles of a block: ``embeddings`` (their norm), ``final_norm``, ``pooler``, and of the masked-LM head ``dense``,
    ``norm``, ``decoder``."""
    norms_read_by: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Norm to the linears that read what it puts out, where nothing else does: a vector added to the one is a bias of
    the others (``methods/delta_bias.py``). Said where norms have no bias of their own."""
    tied: bool = True
    """Whether the decoder shares the word embeddings when the config does not say."""
    fields: Fields = Fields()
    tuple_blocks: bool = False
    """Whether a block returns a tuple that the hidden state leads."""
    last_block: str | None = None
    """How the last block runs at one position alone (``model/families/last_block.py``); None: it runs in full."""
    pooler_norm: bool = False
    """Whether the pooler is a dense layer and a norm, not a dense layer alone."""
    classifier_before: str | None = None
    """The new dense layer that stands outside ``classifier``, where it does."""
    pooling: str | None = None
    """The config's field that may say ``mean``: the classification head then reads every token, not the first."""
    refuses: Callable[[Config], str] = _refuses_nothing
    """What of a config is not supported, in a line; empty when all is well."""
    measured: bool = False
    """Whether sizes are read off the live model (a row that a user added), not worked out from the config."""
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
    behind_blocks: tuple[str, ...] = ()
    """The modules that the output of an encoder-decoder's encoder goes through behind its last block, in order."""
    position_table: str | None = None
    """The table of positions, below ``base``, where it stands beside the embeddings (of two stacks: the encoder's)."""
    position_norm: str | None = None
    """The norm behind the encoder's words and positions, where an encoder-decoder has one beside the embeddings."""
    relative_bias: str | None = None
    """The module inside the encoder's first block whose ``compute_bias`` tells all blocks the relative positions."""
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

    def has_bias(self, role: str, config: Config) -> bool:
        """Whether ``role`` has a bias in a model of this config."""
        says = self.biases.get(role, True)
        return bool(config.get(says, False)) if isinstance(says, str) else says


BERT = Architecture(
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
    pooler="bert.pooler",
    classifier="classifier",
    classifier_dense=False,
    classifier_output="classifier",
    token_types=True,
    last_block="bert",
)

ROBERTA = replace(
    BERT,
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
