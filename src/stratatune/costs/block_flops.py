"""The work of one block by formula, role by role; ``costs/flops.py`` describes what counts. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stratatune.plan import MethodConfig, Shape
from stratatune.plan.abstract import CROSS_ROLES, RoleMethod
from stratatune.shapes.table import architecture_of

_ATTENDS_IN_FULL = ("modernbert", "deberta", "albert")
"""Last blocks whose attention runs for all tokens, its output linear included (``model/families/last_block.py``)."""


@dataclass
class Work:
    """FLOPs forward and backward."""

    forward: float = 0.0
    backward: float = 0.0

    def __iadd__(self, other: Work) -> Work:
        self.forward += other.forward
        self.backward += other.backward
        return self

    def times(self, number: float) -> Work:
        """The work of ``number`` of these."""
        return Work(number * self.forward, number * self.backward)

    @property
    def flops(self) -> float:
        return self.forward + self.backward


class Block:
    """The walk through one block; keys and values at every position, the rest at ``queries``.

    Where a family's attention cannot be asked for few queries, it runs at every position, and its FFN at ``queries``.
    A decoder of which fewer queries are wanted computes them twice (``model/families/last_block.py``): with all keys
    and values, and again at those positions, where keys and values are made a second time and not used.

    ``arrives``, in every method: whether the input needs gradients. ``read``: the block whose keys and values this one
    attends to, where it makes none, which has run. ``parts_train``: whether what makes a part of each token trains.
    """

    def __init__(
        self,
        shape: Shape,
        methods: tuple[MethodConfig, ...],
        length: int,
        queries: int,
        read: Block | None = None,
        parts_train: bool = False,
    ) -> None:
        self.shape, self.methods, self.length, self.queries = shape, methods, length, queries
        self.read, self.parts_train = read, parts_train
        self.claims = {claim for one in methods for claim in one.claims(shape)}
        self.touched = {place for place, _ in self.claims}
        self.work, self.query, self.key, self.value = Work(), False, False, False
        self.linears = shape.linears
        fused = architecture_of(shape.model_type).fused.values()
        # Queries, keys and values are one tensor.
        self.joined = shape.state > 0 or any("q" in roles for roles in fused)
        self.twice = shape.last_block == "cached" and queries < length
        self.attending = length if shape.last_block in _ATTENDS_IN_FULL else queries

    def run(self, arrives: bool) -> bool:
        """Walk through the block; returns whether gradients are needed of its output."""
        before = self.shape.norms_first  # what they train wants gradients before the parts
        normed = arrives or (before and "norm_attn" in self.touched)
        context = self._attention(normed)
        norms = {"attn", "norm_attn", "norm_post_attn"}
        middle = self._linear("o", context) or arrives or not norms.isdisjoint(self.touched)
        for role in CROSS_ROLES:
            middle = (role in self.linears and self._linear(role, middle)) or middle
        beside = arrives if "norm_ffn" in self.shape.norms else normed  # behind a norm of its own, or behind the same
        inner = (beside if self.shape.parallel else middle) or (before and "norm_ffn" in self.touched)
        wide = [self._linear(role, inner) for role in ("up", "gate") if role in self.linears]
        routed = self._routed(inner, middle)
        leaves = (
            ("down" in self.linears and self._linear("down", any(wide)))
            or middle
            or routed
            or not {"norm_ffn", "norm_post_ffn", "ffn"}.isdisjoint(self.touched)
        )
        self._beside({"attn": normed, "ffn": inner, "query": self.query})
        if self.shape.token_part:
            self._token_part(leaves)
        return leaves

    def _routed(self, inner: bool, middle: bool) -> bool:
        """Count router and experts, of which each token meets a few; returns whether gradients come back from them."""
        arrives = inner
        for role, part in self.shape.routed.items():
            arrives = middle if part.apart else inner
            changed = [one for one in self.methods if isinstance(one, RoleMethod) and role in one.roles_in(self.shape)]
            trains = any("weight" in one.touches and not one.adds for one in changed)
            # Of an expert's two products the second is a third of the work, and its input has gradients where the
            # first trains; so has that of a router which scales what it reads.
            behind = 1 / 3 if role == "experts" else float(part.weights > part.products)
            product = 2.0 * part.products * self.queries
            self.work += Work(product, product * ((1.0 if arrives else behind * bool(changed)) + trains))
            for one in changed:
                for number, weights in enumerate(one.matrices(self.shape, role)):
                    added = 2.0 * weights * self.queries
                    self.work += Work(added, added * (1 + (arrives or number > 0)))
        if self.shape.routed and not self.shape.state and not self.shape.token_part:  # else counted with those
            beside = 2.0 * self.shape.unnamed_products * self.queries
            self.work += Work(beside, beside * arrives)
        return arrives or not self.touched.isdisjoint(self.shape.routed)

    def _token_part(self, arrives: bool) -> None:
        """Count a part of each token on its way into the block, and how all blocks' parts are made of the embeddings.

        The latter is what the model, and each step of a top, computes once for all blocks: a share of it counts here.
        """
        product = 2.0 * self.shape.unnamed_products
        made = product / 2 * self.length
        self.work += Work(product * self.queries + made, product * self.queries * arrives + 2 * made * self.parts_train)

    def _linear(self, role: str, arrives: bool) -> bool:
        """Count a role's own matrix and the methods on it; returns whether its input needs gradients."""
        for positions, used in self._passes(role):
            self._product(role, positions, arrives, used)
        return arrives or role in self.touched

    def _passes(self, role: str) -> list[tuple[int, bool]]:
        """Numbers of positions at which a role is computed, once or twice, and whether gradients come back there."""
        everywhere = role in ("k", "v")
        if not self.twice or role not in ("q", "k", "v"):
            return [(self._positions(role), True)]
        return [(self.length, everywhere or self.joined), (self.queries, not everywhere or self.joined)]

    def _positions(self, role: str) -> int:
        """The number of positions at which a role is computed in one pass."""
        if role in ("k", "v"):
            return self.length
        return self.attending if role in ("q", "o") else self.queries

    def _product(self, role: str, positions: int, arrives: bool, used: bool) -> None:
        product, work = 2.0 * self.linears[role].weights * positions, Work()
        enters = any(isinstance(one, RoleMethod) and role in {*one.in_front} & {*one.roles()} for one in self.methods)
        work.forward += product
        work.backward += product * (arrives or enters)
        for one in self.methods:
            if not isinstance(one, RoleMethod) or role not in one.roles_in(self.shape):
                continue
            if not one.adds and "weight" in one.touches:
                work.backward += product
            for number, weights in enumerate(one.matrices(self.shape, role) if one.adds else ()):
                work.forward += 2.0 * weights * positions
                work.backward += 2.0 * weights * positions * (1 + (arrives or number > 0))
        self.work += work if used else Work(work.forward)

    def _attention(self, arrives: bool) -> bool:
        prefix = ("attn", "prefix") in self.claims
        query, key, value = (role in self.linears and self._linear(role, arrives) for role in ("q", "k", "v"))
        if self.read is not None:
            key, value = self.read.key, self.read.value
        elif "v" not in self.linears:
            value = key  # one linear makes both
        if self.joined:
            query = key = value = query or key or value
        query, key = query or "norm_q" in self.touched, key or "norm_k" in self.touched
        self.query, self.key, self.value = query, key, value
        key, value = key or prefix, value or prefix
        if self.shape.state:
            product, beside = 2.0 * self.shape.state * self.length, 2.0 * self.shape.unnamed_products * self.length
            self.work += Work(product + beside, 2 * product * query + beside * arrives)
            return query
        product = 2.0 * self.length * self.attending * self.linears["q"].outputs
        scores = query or key
        self.work.forward += 2 * product
        self.work.backward += product * (scores + value + query + key)
        return scores or value

    def _beside(self, arrives: Mapping[str, bool]) -> None:
        """Count the work that belongs to no single role: parallel adapters and prefixes, forward and both gradients.

        ``arrives``: whether what their first product reads needs gradients.
        """
        positions = {role: self._positions(role) for role in self.linears}
        for one in self.methods:
            if not isinstance(one, RoleMethod):
                added = 2.0 * one.multiplications(self.shape, positions)
                read, first = one.first_product(self.shape, positions)
                self.work += Work(added, 2 * added - (0.0 if arrives.get(read) else 2.0 * first))


def block_work(
    shape: Shape, methods: tuple[MethodConfig, ...], length: int, queries: int, *, arrives: bool = True
) -> Work:
    """The work of one block over ``length`` positions, ``queries`` of them wanted; ``arrives``: gradients pass it."""
    block = Block(shape, methods, length, queries)
    block.run(arrives)
    return block.work
