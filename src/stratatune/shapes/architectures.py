"""Rows of the backbone table: where the parts of an architecture are, and how its config names its sizes.

One row per architecture, data only. Everything else (shapes, attaching, the trunk, the head) reads the table
(``table.py``), so a new architecture is a new row and nothing more. A row is of its family's type; the rows are in
``encoders.py``, ``decoders.py`` and ``encoder_decoders.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

Config = Mapping[str, object]


def count_in(config: Config, name: str, default: int = 0) -> int:
    """A size in a config; ``default`` where it is not given."""
    value = config.get(name)
    return value if isinstance(value, int) else default


def _factor_in(config: Config, name: str | None) -> float:
    """A factor in a config; 1 where it is not given."""
    value = config.get(name) if name else None
    return value if isinstance(value, int | float) and value else 1.0


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
    decoder_blocks: str | None = None  # of an encoder-decoder's second stack; None, or not in the config: as many
    decoder_ffn: str | None = None  # None: that of the first stack


@dataclass(frozen=True)
class Stack:
    """One list of blocks.

    Attributes:
        name: the user's name for it.
        path: below ``base``.
        roles: role to path inside a block of it.
        more: other named parts inside a block, and their paths.
    """

    name: str
    path: str
    roles: Mapping[str, str]
    more: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def named(self) -> Mapping[str, str | None]:
        """The name and path of every part inside a block."""
        return {**self.roles, **self.more}


@dataclass(frozen=True, kw_only=True)
class StateBlock:
    """Blocks that carry a state from token to token in place of attention, among blocks that attend.

    Attributes:
        roles: role to path inside such a block; q, k and v are what the state is made and read by.
        fused: as in :class:`Architecture`.
        norms_read_by: likewise.
        linears: inputs and outputs of the roles q, k, v and o, from the config.
        unnamed: parameters of such a block that no role names, from the config.
        unnamed_products: multiplications of a token by them.
        products: multiplications of a token with the state and within its chunk, from the config.
    """

    roles: Mapping[str, str]
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    norms_read_by: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    linears: Callable[[Config], Mapping[str, tuple[int, int]]]
    unnamed: Callable[[Config], int]
    unnamed_products: Callable[[Config], int]
    products: Callable[[Config], int]


def _no_blocks(config: Config) -> Collection[int]:
    return ()


def _no_parameters(config: Config) -> int:
    return 0


@dataclass(frozen=True, kw_only=True)
class Experts:
    """Experts in place of a block's feed-forward part: a router chooses some of them for each token.

    Attributes:
        router: its path inside a block.
        path: the path of the module that holds all experts, their matrices in tensors of three dimensions.
        count: the config's names for the number of experts; the first that it has counts.
        used: its name for how many of them compute a token.
        width: its name for the inner width of one.
        biased: whether router and experts have biases.
        router_scales: parameters of the router that multiply single values, from the config.
        apart: whether they read the attention's output through a norm that no role names, beside a feed-forward part.
        shared: paths of the roles up, gate and down of an expert that computes every token; empty: there is none.
        shared_width: the inner width of that expert, from the config.
        unnamed: parameters beside them that no role names, from the config.
        unnamed_products: multiplications of a token by those.
        dense: the numbers of the blocks that have a feed-forward part and no experts, from the config.
        dense_roles: paths of its roles.
    """

    router: str = "mlp.gate"
    path: str = "mlp.experts"
    count: tuple[str, ...] = ("num_experts", "num_local_experts")
    used: str = "num_experts_per_tok"
    width: str = "moe_intermediate_size"
    biased: bool = False
    router_scales: Callable[[Config], int] = _no_parameters
    apart: bool = False
    shared: Mapping[str, str] = field(default_factory=dict)
    shared_width: Callable[[Config], int] = _no_parameters
    unnamed: Callable[[Config], int] = _no_parameters
    unnamed_products: Callable[[Config], int] = _no_parameters
    dense: Callable[[Config], Collection[int]] = _no_blocks
    dense_roles: Mapping[str, str] = field(default_factory=dict)

    @property
    def roles(self) -> Mapping[str, str]:
        """Role to path inside a block that has experts."""
        return {**self.shared, "router": self.router, "experts": self.path}


@dataclass(frozen=True, kw_only=True)
class OwnBlock:
    """A block that differs from most in its sizes or in the roles that it has.

    Attributes:
        sizes: those that differ, by our names in :class:`Fields`.
        lacks: the roles that it does not have.
        reads: the number of the block whose keys and values it attends to; None: it makes its own.
    """

    sizes: Mapping[str, int] = field(default_factory=dict)
    lacks: tuple[str, ...] = ()
    reads: int | None = None


def _no_own_blocks(config: Config) -> Mapping[int, OwnBlock]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One row. Abstract: the three types below are finished.

    Paths are dotted attributes; ``base`` is the attribute of a ``...ForX`` model that holds the encoder (the stacks).
    """

    family: ClassVar[str]
    """``encoder``, ``decoder`` or ``encoder-decoder``: the families that heads and objectives name."""
    heads: ClassVar[str]
    """The heads that such a model can have, as people name them."""
    name: str
    model_types: tuple[str, ...]
    """``config.model_type`` of every model with this layout."""
    walked_by: str
    """The entry of ``model/families/registry.py`` that runs such a model."""
    base: str = ""
    """Empty in a user's row: the model itself knows its own."""
    embeddings: str
    """The module, below ``base``, whose output is depth 0."""
    more_embeddings: tuple[str, ...] = ()
    """Further modules of the embeddings, where no single module holds them all."""
    position_table: str | None = None
    """The table of positions, below ``base``, where it is outside the embeddings (of two stacks: the encoder's)."""
    beside: Mapping[str, Callable[[Config], int]] = field(default_factory=dict)
    """Modules below ``base`` that feed the blocks besides the embeddings (the projection, tables of relative
    positions), with their parameters from the config; 0: not in this model. They count and train as embeddings."""
    embedding_tables: tuple[str, ...] = ("vocab", "positions", "types")
    """Tables in the embeddings, of width E (D unless ``Fields`` says otherwise), by their name in ``Fields``."""
    token_types: bool = False
    """Whether the tokenizer's token types distinguish segments (a table of one row cannot)."""
    blocks: str
    """The list of blocks, below ``base``."""
    final_norm: str | None
    """The norm after the last block, below ``base``; None where every block ends in its own."""
    roles: Mapping[str, str]
    """Role to its path inside a block. A role that is not here does not exist in the architecture."""
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The roles that each linear inside a block plays at once, in the order of its outputs, by its path.

    ``roles`` name that path for each of them; ``model/fused.py`` takes the linear apart.
    """
    fused_by_head: bool = False
    """Whether such a linear's outputs go head by head, with all its roles of one head next to each other."""
    experts: Experts | None = None
    """The experts of its blocks; None: they have none."""
    biases: Mapping[str, bool | str] = field(default_factory=dict)
    """Role to whether it has a bias: yes unless it says False here, or names a config field that does. Besides the
    roles of a block: ``embeddings`` (their norm), ``final_norm``, ``pooler``, and of the masked-LM head ``dense``,
    ``norm``, ``decoder``; the output matrix of a decoder (``decoder``) has one only where it says so."""
    biases_by_default: bool = False
    """Whether there is a bias where the config leaves out the field that decides it."""
    norms_first: bool = False
    """Whether ``norm_attn`` and ``norm_ffn`` norm the input of their parts, not the output."""
    norms_read_by: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The linears that read each norm's output, where nothing else does.

    A vector added to that output is then a bias of the linears (``methods/delta_bias.py``). Given for norms without a
    bias.
    """
    wide_head_norms: bool = False
    """Whether ``norm_q`` and ``norm_k`` norm the features of all heads together, not those of one head."""
    tuple_blocks: bool = False
    """Whether a block returns a tuple that the hidden state leads."""
    last_block: str | None = None
    """Function in ``model/families/last_block.py`` that runs the last block at a few positions; None: runs in full."""
    classifier: str
    """The new classification head, from the ``...ForSequenceClassification`` model."""
    classifier_before: str | None = None
    """The new dense layer outside ``classifier``, where there is one."""
    classifier_dense: bool = False
    """Whether that head has a new dense layer D -> D before its output."""
    classifier_bias: bool = True
    """Whether the new classification output has a bias."""
    pooler: str | None = None
    """The pretrained pooler that the classification model uses, from the ``...ForSequenceClassification`` model."""
    pooling: str | None = None
    """The config's field that may be ``mean`` or ``late``: the classification head then reads every token, not the
    first."""
    tied: bool = True
    """Whether the decoder shares the word embeddings when the config does not say."""
    fields: Fields = Fields()
    applies: tuple[str, str] | None = None
    """A config field and the beginning of its value, where one model type has rows of several layouts."""
    refuses: Callable[[Config], str] = _refuses_nothing
    """A reason why a config is not supported, in a line; empty when it is."""
    completed: bool = False
    """Whether published configs leave fields out, or have older names for them, so that transformers completes them."""
    measured: bool = False
    """Whether sizes are read off the live model (a row that a user added), not worked out from the config."""

    def has_bias(self, role: str, config: Config) -> bool:
        """Whether ``role`` has a bias in a model of this config."""
        says = self.biases.get(role, True)
        return bool(config.get(says, self.biases_by_default)) if isinstance(says, str) else says

    @property
    def reads_words(self) -> bool:
        """Whether label words can be read with the pretrained language-model head."""
        return True

    token_tables: tuple[str, ...] = ()
    """Tables of ``beside`` that have a row for each word, as the word embeddings have."""

    def rows_of(self, config: Config) -> dict[int, Architecture]:
        """The row as it describes each block of another layout than most in a model of this config, by its number."""
        return {}

    def pools_all(self, config: Config) -> bool:
        """Whether the classification head of a model of this config reads every token."""
        return self.pooling is not None and config.get(self.pooling) in ("mean", "late")

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """The lists of blocks, in the order in which they run."""
        return (Stack("blocks", self.blocks, self.roles),)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The modules whose outputs make the hidden state at depth 0: one, unless no single one makes it."""
        return (self.embeddings, *self.more_embeddings)

    @property
    def named(self) -> tuple[tuple[str, str | None], ...]:
        """The name that users know each path below ``base`` by, and the path itself."""
        paths = (("embeddings", self.embeddings), ("blocks", self.blocks), ("final_norm", self.final_norm))
        beside = (("beside", path) for path in self.more_embeddings)
        return (*paths, ("position_table", self.position_table), *beside)


@dataclass(frozen=True, kw_only=True)
class EncoderArchitecture(Architecture):
    """A row of an encoder: every token sees the whole text."""

    family: ClassVar[str] = "encoder"
    heads: ClassVar[str] = "masked-LM, classification, token and span heads"
    walked_by: str = "encoder"
    mlm_head: Mapping[str, str]
    """The path of each part of the masked-LM head (dense, norm, decoder) in ``...ForMaskedLM``; empty: no head.

    A part ``bias`` names the module that holds the decoder's bias where that is not the decoder.
    """
    mlm_alternatives: tuple[Mapping[str, str], ...] = ()
    """Other layouts of the masked-LM head; the first whose modules the model has is its own."""
    mlm_setting: tuple[str, str, bool] | None = None
    """Prefix of a masked-LM head's weights, and the config field and value by which the model has a place for them.

    For checkpoints that hold such weights and whose config does not say so."""
    mlm_activation: str | None = None
    """Activation between dense and norm of the masked-LM head; None: the config's ``activation``."""
    activation: str = "hidden_act"
    """The config's field for that activation."""
    position_offset: int = 0
    """Rows of the position table that no token uses: max tokens = positions - offset."""
    embedding_norm: bool = True
    """Whether the embeddings end in a norm."""
    table_if: Mapping[str, str] = field(default_factory=dict)
    """The config field (true by default) without which a table is missing, by the table."""
    projection: str | None = None
    """The module below ``base`` that maps E to D where they differ; depth 0 is its output."""
    lacks: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    """The roles that a block, unlike the others, does not have, by its number."""
    reused: tuple[str, ...] = ()
    """Roles whose linear also maps the table of relative positions (DeBERTa)."""
    pooler_norm: bool = False
    """Whether the pooler is a dense layer and a norm, not a dense layer alone."""

    @property
    def reads_words(self) -> bool:
        return bool(self.mlm_head)


@dataclass(frozen=True, kw_only=True)
class DecoderArchitecture(Architecture):
    """A row of a decoder: a token sees only what precedes it, unless the config says otherwise (:meth:`sees_ahead`). A
    final norm follows its blocks."""

    family: ClassVar[str] = "decoder"
    heads: ClassVar[str] = "language-model, classification, token and span heads"
    walked_by: str = "decoder"
    lm_head: str
    """The output matrix, from the ``...ForCausalLM`` model."""
    rotary: str | None = None
    """The module, below ``base``, that makes rotary position embeddings for the blocks."""
    rotary_by_type: bool = False
    """Whether that module also takes the type of attention of the block."""
    norms_first: bool = True
    parallel: bool = False
    """Whether attention and feed-forward part of a block read the same input, rather than one the other's output."""
    window: str | None = "sliding_window"
    """The config's field with the number of positions that a block looks back, where the model's code reads one."""
    ffn_multiple: int = 0
    """The feed-forward size as a multiple of D if the config leaves it open; 0: the config must give it."""
    embeddings_times: str | None = None
    """The config's field by which the model multiplies the output of its embeddings."""
    logits_times: str | None = None
    """The config's field by which the model multiplies its logits."""
    logits_divided_by: str | None = None
    """The config's field by which it divides them."""
    ffn_of: Callable[[Config], int] | None = None
    """The feed-forward size of a config, where it is not the one that it names."""
    wide_queries: int = 1
    """How many times as wide as all heads the output of ``q`` is: 2 where it also makes a gate."""
    state_blocks: Mapping[str, StateBlock] = field(default_factory=dict)
    """Blocks of another layout, by their type in the config's ``layer_types``."""
    both_ways: str | None = None
    """The config's field by which every token sees the whole text, besides ``is_causal``, which all decoders have."""
    own_blocks: Callable[[Config], Mapping[int, OwnBlock]] = _no_own_blocks
    """Blocks of other sizes or fewer roles than most, by their number, from the config."""
    unnamed: Callable[[Config], int] = _no_parameters
    """Parameters of every block that no role names, from the config."""
    unnamed_products: Callable[[Config], int] = _no_parameters
    """Multiplications of a token by them."""
    token_part: Callable[[Config], int] = _no_parameters
    """The width of what every block reads of a token's id besides the hidden state, from the config."""
    without_ids: Mapping[str, int] = field(default_factory=dict)
    """Attributes of the model below ``base`` by which a copy of it runs without ids; for the check of its masks."""
    ends_in: str | None = None
    """The entry of ``layer_types`` that the last block must have, where the model's code insists on one."""

    def _lacking(self, block: OwnBlock) -> Architecture:
        roles = {role: path for role, path in self.roles.items() if role not in block.lacks}
        norms = {norm: tuple(role for role in read if role in roles) for norm, read in self.norms_read_by.items()}
        return replace(self, roles=roles, norms_read_by=norms, last_block=self.last_of(block))

    def last_of(self, block: OwnBlock) -> str | None:
        """The function that runs such a block at a few positions alone."""
        return self.last_block if block.reads is None else "positionwise"

    def rows_of(self, config: Config) -> dict[int, Architecture]:
        states, dense = self.state_blocks_of(config), self.dense_blocks_of(config)
        found: dict[int, Architecture] = {number: self._lacking(one) for number, one in self.own_blocks(config).items()}
        for number in sorted({*states, *dense}):
            row = self._with_state(states[number]) if number in states else self
            found[number] = row._without_experts() if number in dense else row
        return found

    def _with_state(self, block: StateBlock) -> DecoderArchitecture:
        fused, norms = block.fused, block.norms_read_by
        return replace(self, roles=block.roles, fused=fused, norms_read_by=norms, last_block=None)

    def _without_experts(self) -> DecoderArchitecture:
        if self.experts is None:
            return self
        roles = {role: path for role, path in self.roles.items() if role not in self.experts.roles}
        norms = {**self.norms_read_by, "norm_ffn": ("up", "gate")}
        return replace(self, roles={**roles, **self.experts.dense_roles}, norms_read_by=norms)

    def dense_blocks_of(self, config: Config) -> Collection[int]:
        """The numbers of the blocks that have no experts, in a model whose other blocks have them."""
        return () if self.experts is None else self.experts.dense(config)

    def state_blocks_of(self, config: Config) -> dict[int, StateBlock]:
        """The blocks that carry a state in a model of this config, by their number."""
        types = config.get("layer_types")
        types = types if isinstance(types, list | tuple) else ()
        return {number: self.state_blocks[one] for number, one in enumerate(types) if one in self.state_blocks}

    def logit_scale(self, config: Config) -> float:
        """The factor between the output matrix's product and the logits."""
        return _factor_in(config, self.logits_times) / _factor_in(config, self.logits_divided_by)

    def sees_ahead(self, config: Config) -> bool:
        """Whether every token of a model of this config sees the whole text, as in an encoder."""
        return config.get("is_causal") is False or bool(self.both_ways and config.get(self.both_ways))


@dataclass(frozen=True, kw_only=True)
class EncoderDecoderArchitecture(Architecture):
    """A row of an encoder-decoder. Its stacks are ``encoder`` and ``decoder`` of ``base``; ``blocks`` and ``roles`` are
    the encoder's."""

    family: ClassVar[str] = "encoder-decoder"
    heads: ClassVar[str] = "language-model and classification heads"
    walked_by: str = "encoder-decoder"
    lm_head: str
    """The output matrix, from the ``...ForConditionalGeneration`` model."""
    decoder_blocks: str
    """The list of the decoder's blocks, below ``base``."""
    decoder_roles: Mapping[str, str]
    """Role to its path inside a decoder block."""
    behind_blocks: tuple[str, ...] = ()
    """The modules that the output of the encoder goes through after its last block, in order."""
    position_norm: str | None = None
    """The norm after the encoder's words and positions, where it is outside the embeddings."""
    relative_bias: str | None = None
    """The module inside the encoder's first block whose ``compute_bias`` makes the position bias of all blocks."""

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """The encoder's blocks, then the decoder's."""
        encoder = Stack("blocks", self.blocks, self.roles, {"position_bias": self.relative_bias})
        return encoder, Stack("decoder_blocks", self.decoder_blocks, self.decoder_roles)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The modules that make depth 0, without those after the encoder's blocks, which count with the embeddings."""
        return tuple(path for path in super().inputs if path not in self.behind_blocks)

    @property
    def named(self) -> tuple[tuple[str, str | None], ...]:
        """The names and paths of a row, with both stacks and the modules around the encoder's blocks."""
        stacks = (("encoder", "encoder"), ("decoder", "decoder"), ("decoder_blocks", self.decoder_blocks))
        behind = (("behind_encoder", path) for path in self.behind_blocks)
        return (*stacks, *behind, ("position_norm", self.position_norm), *super().named)
