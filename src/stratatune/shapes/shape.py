"""The sizes of a model, without the model: the source of every count and every cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

LM_HEADS = ("masked_lm", "lm", "seq2seq_lm")
"""Heads that read the pretrained language-model head."""
LM_OBJECTIVES = ("mlm", "causal", "completion", "seq2seq", *LM_HEADS)
"""Objectives that read the pretrained language-model head, and those heads."""
_PRETRAINED = {"encoder": "mlm", "decoder": "causal", "encoder-decoder": "seq2seq"}
POOLED = ("sequence", "classification", "regression")
"""The head, and the objectives, that read a pretrained pooler where the model has one."""


def top_depth(blocks: int) -> int:
    """The depth above which the top quarter of the blocks lies: three blocks at least, and never all."""
    return max(min(1, blocks - 1), blocks - max(3, -(-blocks // 4)))


@dataclass(frozen=True)
class Linear:
    """A linear layer: ``inputs -> outputs``."""

    inputs: int
    outputs: int
    bias: bool = True

    @property
    def weights(self) -> int:
        return self.inputs * self.outputs

    @property
    def biases(self) -> int:
        return self.outputs if self.bias else 0


@dataclass(frozen=True)
class Norm:
    """A layer norm (``bias=False``: an RMS norm) over ``size`` features."""

    size: int
    bias: bool = True

    @property
    def weights(self) -> int:
        return self.size

    @property
    def biases(self) -> int:
        return self.size if self.bias else 0


@dataclass(frozen=True)
class Routed:
    """A router, or the experts of a block of which it chooses some for each token.

    Attributes:
        weights: parameters, those of all experts; biases of experts are among them.
        products: multiplications of a token, by the chosen experts alone.
        biases: those of a router.
        matrices: the (inputs, outputs) of each matrix of one expert, in the order in which a token meets them.
        count: the number of experts.
        used: the number of experts that compute a token.
        apart: whether it reads the attention's output through a norm of its own, not the output of ``norm_ffn``.
    """

    weights: int
    products: int
    biases: int = 0
    matrices: tuple[tuple[int, int], ...] = ()
    count: int = 0
    used: int = 0
    apart: bool = False


@dataclass(frozen=True)
class Shape:
    """The sizes of one model. Counts are parameters; ``blocks`` is L, ``hidden`` is D, ``vocab`` is V."""

    name: str
    model_type: str
    blocks: int
    hidden: int
    ffn: int
    heads: int
    vocab: int
    max_tokens: int
    linears: Mapping[str, Linear]
    """The linear layer of each role, in one block."""
    norms: Mapping[str, Norm]
    """The norm of each role, in one block."""
    routed: Mapping[str, Routed] = field(default_factory=dict, kw_only=True)
    """The router and the experts of one block, by their role; none in most models."""
    embeddings: int
    head_parts: Mapping[str, int]
    """Parts of the masked-LM head: dense, norm, bias, decoder (V*D, the word embeddings themselves when tied)."""
    pooler: int
    """Pooler of the classification model; 0 where it has none."""
    decoder_tied: bool
    final_norm: int = 0
    """The norm after the last block; the head's ``norm`` where the blocks end without a norm."""
    family: str = "encoder"
    """``encoder``, ``decoder`` or ``encoder-decoder``."""
    causal: bool = False
    """Whether a token sees only what precedes it: of decoders, but those whose config says otherwise."""
    sees_ahead: bool = False
    """Whether this is a decoder whose tokens see the whole text, so that it cannot predict the next one."""
    read_at_end: bool = False
    """Whether a text is read at its last token, as by a decoder."""
    norms_first: bool = False
    """Whether the norms of a block precede the parts that read them, so that training them needs gradients there."""
    parallel: bool = False
    """Whether attention and feed-forward part of a block read the same input, rather than one the other's output; by a
    norm each where the block has ``norm_ffn``."""
    last_block: str | None = None
    """The function that runs the last block at a few positions alone; None: it runs in full."""
    normed_by_final: bool = False
    """Whether the final norm is the norm of the LM head: then ``head_parts`` counts it as ``norm``."""
    decoder: Shape | None = None
    """The decoder of an encoder-decoder, as a shape; ``linears`` and ``norms`` are then the encoder's.

    ``blocks`` then counts both stacks: the encoder's blocks come first, the decoder's go on from there.
    """
    classifier_bias: bool = True
    classifier_dense: int = 0
    """A new dense layer that the classification head brings, before its output layer; 0 where it has none."""
    pools_all: bool = False
    """Whether the classification head reads every token, as ModernBERT's does with ``classifier_pooling: mean``."""
    distinct: int = 0
    """The number of weight sets that neighbouring blocks share: ALBERT runs one L times. 0: each block has its own."""
    embedding_width: int = 0
    """E, the width of a word's vector, where it is not D."""
    reused: tuple[str, ...] = ()
    """Roles whose linear also reads something other than the hidden state in a block's forward."""
    unnamed: int = 0
    """Parameters of a block that no role names."""
    unnamed_products: int = 0
    """Multiplications of a token by weights of a block that no role names."""
    lacks: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    """The roles that a block, unlike the others, does not have, by its number."""
    others: Mapping[int, Shape] = field(default_factory=dict)
    """The shapes of blocks with other linears than most, by their number."""
    reads: Mapping[int, int] = field(default_factory=dict)
    """The block whose keys and values another attends to in place of its own, by the number of the latter."""
    token_part: int = 0
    """The width of what every block reads of a token's id besides the hidden state; 0: it reads nothing else."""
    cuts: tuple[int, ...] | None = None
    """The depths at which a cut may end the model; None: any."""
    state: int = 0
    """Multiplications of a token with the state that a block carries in place of attention; 0: it attends."""
    config: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """The model's config as transformers has it, where the sizes were worked out from one."""

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that one block of this model has."""
        return (*self.linears, *self.routed, *self.norms)

    def part(self, role: str) -> Linear | Norm | Routed:
        """The linear, norm, router or experts that play ``role``."""
        return {**self.linears, **self.routed, **self.norms}[role]

    @property
    def word(self) -> int:
        """E, the width of a word's vector: D in most models."""
        return self.embedding_width or self.hidden

    @property
    def stacks(self) -> dict[str, range]:
        """The numbers of each stack's blocks: ``enc`` and ``dec``, or one stack without a name."""
        if self.decoder is None:
            return {"": range(self.blocks)}
        border = self.blocks - self.decoder.blocks
        return {"enc": range(border), "dec": range(border, self.blocks)}

    @property
    def border(self) -> int:
        """The number of blocks of the first stack: L, in most models."""
        return len(next(iter(self.stacks.values())))

    def at(self, number: int) -> Shape:
        """The shape of the stack that block ``number`` is in."""
        if number < self.border:
            return self
        assert self.decoder is not None
        return self.decoder

    @property
    def block_parameters(self) -> int:
        """Parameters of one block."""
        return self.unnamed + sum(self.part(role).weights + self.part(role).biases for role in self.roles)

    def owner(self, block: int) -> int:
        """The first block with the weights of ``block``: itself, where blocks do not share weights."""
        if not self.distinct:
            return block
        return -(-self.weights_of(block) * self.blocks // self.distinct)  # rounded up

    def weights_of(self, block: int) -> int:
        """The number of the set of weights of ``block``: its own, where blocks do not share weights."""
        # The same rule as Body._listed_blocks: runs of equal length, as ALBERT lays its groups out.
        return block * self.distinct // self.blocks if self.distinct else block

    @property
    def owners(self) -> tuple[int, ...]:
        """The first block of each set of weights: every block, where blocks do not share weights."""
        return tuple(number for number in range(self.blocks) if self.owner(number) == number)

    def of_block(self, number: int) -> Shape:
        """This shape with only the roles that block ``number`` has."""
        missing = self.lacks.get(number, ())
        if number in self.others:
            return self.others[number]
        if not missing:
            return self.at(number)
        linears = {role: linear for role, linear in self.linears.items() if role not in missing}
        norms = {role: norm for role, norm in self.norms.items() if role not in missing}
        return replace(self, linears=linears, norms=norms)

    def cut_at(self, depth: int) -> Shape:
        """This shape with its lowest ``depth`` blocks alone."""
        lacks = {number: roles for number, roles in self.lacks.items() if number < depth}
        others = {number: replace(one, blocks=depth) for number, one in self.others.items() if number < depth}
        reads = {number: read for number, read in self.reads.items() if number < depth}
        return replace(self, blocks=depth, lacks=lacks, others=others, reads=reads)

    def carried(self, depth: int) -> tuple[int, ...]:
        """The blocks below ``depth`` whose keys and values are read at or above it, in their order."""
        return tuple(sorted({read for number, read in self.reads.items() if read < depth <= number}))

    def keys_and_values(self, number: int) -> tuple[int, int]:
        """The widths of the keys and of the values that block ``number`` makes; one linear may make both."""
        linears = self.of_block(number).linears
        return linears["k"].outputs, linears.get("v", linears["k"]).outputs

    def width(self, depth: int) -> int:
        """The numbers of a token at ``depth`` that everything above follows from: D, and keys and values read there."""
        return self.hidden + sum(sum(self.keys_and_values(number)) for number in self.carried(depth))

    def head_parameters(self, objective: str) -> int:
        """Parameters of the pretrained head under ``objective`` or a head of that name.

        A tied decoder is counted with the embeddings.
        """
        if objective not in LM_OBJECTIVES:
            return self.pooler if objective in POOLED else 0
        # A tied decoder is in `embeddings` already, and the final norm in `final_norm`.
        tied = self.head_parts["decoder"] if self.decoder_tied else 0
        return sum(self.head_parts.values()) - tied - (self.final_norm if self.normed_by_final else 0)

    @property
    def carries_state(self) -> bool:
        """Whether some blocks carry a state from token to token in place of attention."""
        return any(one.state for one in self.others.values())

    def reads_all(self, head: str) -> bool:
        """Whether a head of this name reads every token, whatever an objective asks it."""
        return self.pools_all and head in POOLED

    @property
    def lm_objective(self) -> str:
        """The objective of the language-model head that this model was pretrained with."""
        return _PRETRAINED[self.family]

    def parameters(self, objective: str) -> int:
        """Parameters of the whole model under ``objective``, without a task's new output layer."""
        blocks = sum(self.of_block(number).block_parameters for number in self.owners)
        trunk = self.embeddings + blocks + self.final_norm
        return trunk + self.head_parameters(objective)
