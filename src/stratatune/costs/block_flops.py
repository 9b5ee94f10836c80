"""The work of one block by formula, walked through role by role; ``cost/flops.py`` says what is counted. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from stratatune.plan import MethodConfig, Shape
from stratatune.plan.abstract import CROSS_ROLES, RoleMethod
from stratatune.shapes.table import architecture_of


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
_HEAD_NORMS = {"norm_q": "q", "norm_k": "k"}  # norm of every head, and the role that it follows


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


class Block:
    """The walk through one block; keys and values at every position, the rest at ``queries``.

    A decoder of which fewer queries are wanted computes them twice (``model/families/last_block.py``): with all keys
    and values, and again at those positions, where keys and values come out a second time, for nothing.

    ``arrives``, in every method: whether gradients are wanted of what comes in.
    """

    def __init__(
        self, shape: Shape, methods: tuple[MethodConfig, ...], length: int, queries: int, widths: Widths
    ) -> None:
        self.shape, self.methods, self.length, self.queries, self.widths = shape, methods, length, queries, widths
        self.claims = {claim for one in methods for claim in one.claims(shape)}
        self.touched = {place for place, _ in self.claims}
        self.work = Work()
        self.linears = shape.linears
        fused = architecture_of(shape.model_type).fused.values()
        self.joined = any("q" in roles for roles in fused)  # queries, keys and values are one tensor
        self.twice = shape.last_block == "cached" and queries < length
        self.rotary = shape.rotary

    def run(self, arrives: bool) -> bool:
        """Do it; tells whether gradients are wanted of what comes out."""
        before = self.shape.norms_first  # what they train wants gradients in front of the parts
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
        if self.twice and arrives:  # the first norm, in front of all keys and values
            self.work.kept += self.length * (self.shape.hidden * (4 if self.rotary else self.widths.norm) + 8)
        if self.rotary:
            self._keep_scaled()
        self._beside()
        return leaves

    def _kept(self, wanted: bool, width: int) -> None:
        """The mask of dropout and the input of a norm, with its mean and deviation; of an RMS norm the input alone."""
        if wanted and self.rotary:
            norms = 2 if "norm_post_ffn" in self.shape.norms else 1
            self.work.kept += norms * self.queries * (4 * width + 4)
        elif wanted:
            self.work.kept += self.queries * (width * (self.widths.most + self.widths.norm) + 8)

    def _keep_scaled(self) -> None:
        """What the weight of an RMS norm multiplies, where that trains."""
        for norm in self.shape.norms:
            if (norm, "weight") in self.claims and norm not in _HEAD_NORMS:
                positions = self.length if norm == "norm_attn" else self.queries
                self.work.kept += positions * self.widths.most * self.shape.hidden

    def _linear(self, role: str, arrives: bool) -> bool:
        """A role's own matrix and what methods put on it; tells whether gradients are wanted of what comes out."""
        for positions, used in self._passes(role):
            self._product(role, positions, arrives, used)
        return arrives or role in self.touched

    def _passes(self, role: str) -> list[tuple[int, bool]]:
        """At how many positions a role is computed, once or twice, and whether gradients come back there."""
        everywhere = role in ("k", "v")
        if not self.twice or role not in ("q", "k", "v"):
            return [(self.length if everywhere else self.queries, True)]
        return [(self.length, everywhere or self.joined), (self.queries, not everywhere or self.joined)]

    def _product(self, role: str, positions: int, arrives: bool, used: bool) -> None:
        linear, work = self.linears[role], Work()
        product, inputs, own = 2.0 * linear.weights * positions, 0, 0
        work.forward += product
        work.backward += product * arrives
        for one in self.methods:
            if not isinstance(one, RoleMethod) or role not in one.roles_in(self.shape):
                continue
            inputs, own = inputs + one.reads_input, own + one.role_values(self.shape, role)
            if not one.adds and "weight" in one.touches:
                work.backward += product
            for number, weights in enumerate(one.matrices(self.shape, role) if one.adds else ()):
                work.forward += 2.0 * weights * positions
                work.backward += 2.0 * weights * positions * (1 + (arrives or number > 0))
        sharing = ("k", "gate") if self.twice else ("k", "v", "gate")
        shared = role in sharing and not self.widths.copies
        work.kept += positions * self.widths.most * (own + (0 if shared else inputs * linear.inputs))
        self.work += work if used else Work(work.forward)

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
        for norm, role in _HEAD_NORMS.items():  # their inputs, and what their weights multiply where they train
            if norm in self.shape.norms:
                values = (self.length if role == "k" else self.queries) * self.linears[role].outputs
                self.work.kept += values * (4 + widths.most * ((norm, "weight") in self.claims))
        if widths.copies:
            self.work.kept += self.queries * width * widths.heads
        else:
            self.work.kept += maps * (4 * scores + 2 * (widths.most < 4))

    def _beside(self) -> None:
        """What stands on no single role: parallel adapters and prefixes, forward and both gradients."""
        positions = {role: self.length if role in ("k", "v") else self.queries for role in self.linears}
        for one in self.methods:
            if not isinstance(one, RoleMethod):
                added = 2.0 * one.multiplications(self.shape, positions)
                self.work += Work(added, 2 * added, one.values(self.shape, positions) * self.widths.most)


def block_work(
    shape: Shape, methods: tuple[MethodConfig, ...], length: int, queries: int, *, arrives: bool = True
) -> Work:
    """One block over ``length`` positions, ``queries`` of them wanted; ``arrives``: gradients pass it."""
    block = Block(shape, methods, length, queries, OURS)
    block.run(arrives)
    return block.work
