"""The work of one example by formula: operations of matrix products, and bytes kept for backward. No torch.

With ``M`` the weights of a block's linears (12 D^2 for a standard block) and ``A`` the width of its attention (D), a
block over ``T`` positions takes

    forward              2 M T + 4 T^2 A
    activation gradient  2 M T + 8 T^2 A      for every block above the frozen depth
    weight gradient      2 M' T               for the weights M' that train (``full``)
    added matrices       2 p T each way       for the p weights of LoRA and adapters: forward and both gradients
    prompts              P positions more     in every block above; their generator, forward and both gradients
    prefixes             4 P T A each way     P keys and values more to attend to in a block
    IDPG                 one forward more     of all blocks over the text

In the first block that trains, gradients flow only behind what trains in it: the walk below follows them role by role,
so that its count is that of ``torch.utils.flop_counter``, to the last operation, for blocks whose norms stand behind
their parts (BERT, RoBERTa and their kin) and for those of decoders, whose norms stand before them. Elementwise work
(biases, norms, dropout), the optimiser and the look-up of embeddings are left out, and so is DoRA's norm (R in out a
role, but once a step and not for each token).

Kept for backward are, for each position of a block that gradients pass: queries, keys, values (3 A), three maps of
attention (H T each), the inputs of two norms, three masks of dropout (as wide as what they drop, as a CPU keeps them),
what goes into the activation; the inputs of matrices that train, and what an added module keeps of its own; but not
what DoRA and IDPG keep once a step. Llama and its kin have no dropout, their norms keep their inputs in fp32, and their
keys and values are as wide as the queries by then. GPT-2's activation, which is written out in torch's functions, keeps
four values in place of one. What Gemma 2's soft caps of the scores keep is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from stratatune.plan import Resolved, Shape, Treatment
from stratatune.plan.abstract import CROSS_ROLES, RoleTreatment
from stratatune.plan.shape import LM_OBJECTIVES
from stratatune.plan.table import architecture_of
from stratatune.plan.treatments import Insertion


@dataclass(frozen=True)
class Widths:
    """Bytes of a kept value: of most, of the inputs of norms, of attention's maps, of its queries, keys and values."""

    most: int = 2
    norm: int = 2
    scores: int = 2
    heads: int = 2
    copies: bool = False
    """Whether each matrix that trains keeps a cast copy of its input, not one that it shares."""


OURS = Widths()
"""Our loop in bf16: hidden states come from the cache in bf16 and stay so."""
STOCK = Widths(norm=4, scores=4, heads=4, copies=True)
"""A stock model under autocast to bf16 on a CPU: norms and torch's fused attention with dropout work in fp32."""
FP32 = Widths(4, 4, 4, 4)


@dataclass
class Work:
    """FLOPs forward and backward, and bytes kept between the two."""

    forward: float = 0.0
    backward: float = 0.0
    kept: float = 0.0

    def __iadd__(self, other: Work) -> Work:
        self.forward += other.forward
        self.backward += other.backward
        self.kept += other.kept
        return self

    def times(self, number: int) -> Work:
        """So many of it."""
        return Work(number * self.forward, number * self.backward, number * self.kept)

    @property
    def flops(self) -> float:
        return self.forward + self.backward


def example(
    resolved: Resolved,
    tokens: int,
    objective: str,
    *,
    read_last: bool = False,
    labels: int = 0,
    words: int = 0,
    widths: Widths = OURS,
    everywhere: bool = False,
) -> tuple[Work, Work]:
    """One example of ``tokens`` positions, padding included: (trunk, top).

    Args:
        resolved: the plan on its model.
        tokens: T.
        objective: whose head runs, at one position unless ``everywhere`` says otherwise.
        read_last: whether the last block computes queries, output and FFN only at the position that the head reads.
        labels: outputs of a classification head; 0 leaves its last layer out.
        words: label words whose rows alone a language-model head computes (``loss: words``); 0: the whole vocabulary.
        widths: how values are kept for backward.
        everywhere: the head runs at every position, as transformers' own heads of decoders do.
    """
    shape = resolved.shape
    trunk, top, length, arrives = Work(), Work(), tokens, resolved.trains_embeddings
    for number, treatments in enumerate(resolved.blocks):
        for one in (one for depth, one in resolved.insertions if depth == number):
            top += _inserted(one, shape, length, arrives, widths)
            top.forward += one.rereads * reread(shape, tokens)
            length, arrives = length + one.prompt, True
        if number == shape.border:  # a decoder reads the prompts of its encoder, and computes nothing at them
            length = tokens
        queries = 1 if read_last and number == shape.blocks - 1 else length
        block = _Block(shape.of_block(number), treatments, length, queries, widths)
        arrives = block.run(arrives)
        if number < resolved.frozen_depth:
            trunk += block.work
        else:
            top += block.work
    for one in (one for depth, one in resolved.insertions if depth == shape.blocks):
        behind = length if shape.causal and resolved.frozen_depth < shape.blocks else 1  # else the position read alone
        top += _inserted(one, shape, behind, arrives, widths)
        arrives = True
    head = head_work(resolved, objective, arrives, labels, words, widths)
    top += head.times(tokens if everywhere else 1)
    return trunk, top


def reads_one(shape: Shape) -> bool:
    """Whether our loop runs the last block of this model only at the position that the head reads."""
    return not shape.causal and architecture_of(shape.model_type).last_block is not None


def reread(shape: Shape, tokens: int) -> float:
    """A forward of all blocks (of two stacks: the encoder's) over ``tokens`` positions."""
    one = _Block(shape, (), tokens, tokens, OURS)
    one.run(False)
    return shape.border * one.work.forward


def block_work(
    shape: Shape, treatments: tuple[Treatment, ...], length: int, queries: int, *, arrives: bool = True
) -> Work:
    """One block over ``length`` positions, ``queries`` of them wanted; ``arrives``: gradients pass it."""
    block = _Block(shape, treatments, length, queries, OURS)
    block.run(arrives)
    return block.work


class _Block:
    """The walk through one block; keys and values at every position, the rest at ``queries``.

    ``arrives``, in every method: whether gradients are wanted of what comes in.
    """

    def __init__(
        self, shape: Shape, treatments: tuple[Treatment, ...], length: int, queries: int, widths: Widths
    ) -> None:
        self.shape, self.treatments, self.length, self.queries, self.widths = shape, treatments, length, queries, widths
        self.claims = {claim for one in treatments for claim in one.claims(shape)}
        self.touched = {place for place, _ in self.claims}
        self.work = Work()
        self.linears = shape.linears
        fused = architecture_of(shape.model_type).fused.values()
        self.joined = any("q" in roles for roles in fused)  # queries, keys and values are one tensor
        self.rotary = shape.causal and architecture_of(shape.model_type).rotary is not None  # Llama and its kin

    def run(self, arrives: bool) -> bool:
        """Do it; tells whether gradients are wanted of what comes out."""
        before = self.shape.causal  # a decoder's norms stand before its parts: what they train wants gradients there
        context = self._attention(arrives or (before and "norm_attn" in self.touched))
        norms = {"attn", "norm_attn", "norm_post_attn"}
        middle = self._linear("o", context) or arrives or not norms.isdisjoint(self.touched)
        for role in CROSS_ROLES:
            middle = (role in self.linears and self._linear(role, middle)) or middle
        self._kept(middle, self.shape.hidden)
        inner = middle or (before and "norm_ffn" in self.touched)
        wide = [self._linear(role, inner) for role in ("up", "gate") if role in self.linears]
        if any(wide):
            values = 4 if before and len(wide) == 1 else 2 * len(wide) - 1
            self.work.kept += self.queries * self.widths.most * self.linears["up"].outputs * values
        leaves = (
            self._linear("down", any(wide))
            or middle
            or not {"norm_ffn", "norm_post_ffn", "ffn"}.isdisjoint(self.touched)
        )
        self._kept(leaves, self.shape.hidden)
        self._beside()
        return leaves

    def _kept(self, wanted: bool, width: int) -> None:
        """The mask of dropout and the input of a norm, with its mean and deviation; of an RMS norm the input alone."""
        if wanted and self.rotary:
            norms = 2 if "norm_post_ffn" in self.shape.norms else 1
            self.work.kept += norms * self.queries * (4 * width + 4)
        elif wanted:
            self.work.kept += self.queries * (width * (self.widths.most + self.widths.norm) + 8)

    def _linear(self, role: str, arrives: bool) -> bool:
        """A role's own matrix and what treatments put on it; tells whether gradients are wanted of what comes out."""
        linear, work = self.linears[role], self.work
        positions = self.length if role in ("k", "v") else self.queries
        product, inputs, own = 2.0 * linear.weights * positions, 0, 0
        work.forward += product
        work.backward += product * arrives
        for one in self.treatments:
            if not isinstance(one, RoleTreatment) or role not in one.roles_in(self.shape):
                continue
            inputs, own = inputs + one.reads_input, own + one.role_values(self.shape, role)
            if not one.adds and "weight" in one.touches:
                work.backward += product
            for number, weights in enumerate(one.matrices(self.shape, role) if one.adds else ()):
                work.forward += 2.0 * weights * positions
                work.backward += 2.0 * weights * positions * (1 + (arrives or number > 0))
        shared = role in ("k", "v", "gate") and not self.widths.copies
        work.kept += positions * self.widths.most * (own + (0 if shared else inputs * linear.inputs))
        return arrives or role in self.touched

    def _attention(self, arrives: bool) -> bool:
        prefix = ("attn", "prefix") in self.claims
        query, key, value = (self._linear(role, arrives) for role in ("q", "k", "v"))
        if self.joined:
            query = key = value = query or key or value
        query, key = query or "norm_q" in self.touched, key or "norm_k" in self.touched
        key, value = key or prefix, value or prefix
        product = 2.0 * self.length * self.queries * self.linears["q"].outputs
        scores = query or key
        self.work.forward += 2 * product
        self.work.backward += product * (scores + value + query + key)
        if scores or value:
            self._keep_attention(scores)
        return scores or value

    def _keep_attention(self, scores: bool) -> None:
        widths, maps = self.widths, self.shape.heads * self.length * self.queries
        if self.rotary:
            return self._keep_rotary(scores, maps)
        heads = self.queries * self.linears["q"].outputs + self.length * (
            self.linears["k"].outputs + self.linears["v"].outputs
        )
        self.work.kept += heads * widths.heads + maps * (widths.heads + 2 * widths.scores * scores)

    def _keep_rotary(self, scores: bool, maps: int) -> None:
        """Attention without dropout: one map in fp32 and, where that is another, in the computation's own precision.

        Stock models run it fused, which keeps its output and no map.
        """
        widths, width = self.widths, self.linears["q"].outputs
        self.work.kept += (self.queries + 2 * self.length) * width * widths.heads
        if widths.copies:
            self.work.kept += self.queries * width * widths.heads
        else:
            self.work.kept += maps * (4 * scores + 2 * (widths.most < 4))

    def _beside(self) -> None:
        """What stands on no single role: parallel adapters and prefixes, forward and both gradients."""
        positions = {role: self.length if role in ("k", "v") else self.queries for role in self.linears}
        for one in self.treatments:
            if not isinstance(one, RoleTreatment):
                added = 2.0 * one.multiplications(self.shape, positions)
                self.work += Work(added, 2 * added, one.values(self.shape, positions) * self.widths.most)


def _inserted(one: Insertion, shape: Shape, length: int, arrives: bool, widths: Widths) -> Work:
    """An insertion's matrices; of the first no input gradient is wanted where nothing below trains."""
    product, (read, weights) = 2.0 * one.multiplications_at(shape, length), one.entered(shape, length)
    spared = 0.0 if arrives else 2.0 * read * weights
    return Work(product, 2 * product - spared, read * shape.hidden * (widths.most + widths.norm))


def head_work(resolved: Resolved, objective: str, arrives: bool, labels: int, words: int, widths: Widths) -> Work:
    """The pretrained head at one position, and a classifier's output layer, which always trains."""
    shape, head = resolved.shape, resolved.plan.head
    if objective in LM_OBJECTIVES:
        has_dense = shape.head_parts["dense"] > 0
        stages = [("dense", shape.hidden * shape.word)] if has_dense else []
        stages.append(("decoder", (words or shape.vocab) * shape.word))
        trained = set(head.mlm)
        kept = 4.0 * (words or shape.vocab)
    else:
        layers = {"pooler": (shape.pooler, head.pooler), "dense": (shape.classifier_dense, True)}
        stages = [(name, shape.hidden**2) for name, (size, _) in layers.items() if size]
        stages += [("output", shape.hidden * labels)]
        trained, kept = {name for name, (_, trains) in layers.items() if trains} | {"output"}, 0.0
    final = head.final_norm or (shape.causal and "norm" in head.mlm)
    arrives = arrives or bool(shape.final_norm and final)
    work = Work(kept=kept + 4 * widths.norm * shape.hidden)
    for name, weights in stages:
        work += Work(2.0 * weights, 2.0 * weights * (arrives + (name in trained)))
        arrives = arrives or name in trained or (name == "dense" and "norm" in trained)
    return work
