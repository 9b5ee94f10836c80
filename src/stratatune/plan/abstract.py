"""The building blocks of methods: the roles of a block, the kinds of option values, and the three abstract methods.

The methods themselves are in ``methods.py`` (of a block) and ``insertions.py`` (at a depth).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field

from stratatune.errors import PlanError, did_you_mean, shown
from stratatune.plan.layers import Depth, depth_at, refusal
from stratatune.plan.options import NUMBER, Options, peft_word
from stratatune.shapes.shape import Shape

NORM_ROLES = ("norm_attn", "norm_q", "norm_k", "norm_post_attn", "norm_cross", "norm_ffn", "norm_post_ffn")
"""Norms of a block. Most blocks have one of the attention and one of the feed-forward part.

Some decoders norm queries and keys too (``norm_q``, ``norm_k``), or norm again what each part returns
(``norm_post_...``).
"""
CROSS_ROLES = ("cross_q", "cross_k", "cross_v", "cross_o")
"""The attention of an encoder-decoder's decoder to its encoder."""
ROUTED_ROLES = ("router", "experts")
"""The router of a mixture of experts, and the experts themselves: all of a block are one role."""
ROLES = ("q", "k", "v", "o", *CROSS_ROLES, "up", "gate", "down", *ROUTED_ROLES, *NORM_ROLES)
LINEAR_ROLES = tuple(role for role in ROLES if role not in (*ROUTED_ROLES, *NORM_ROLES))
GROUPS: dict[str, tuple[str, ...]] = {
    "attn": ("q", "k", "v", "o"),
    "cross": CROSS_ROLES,
    "ffn": ("up", "gate", "down"),
    "norms": ("norm_attn", "norm_ffn"),  # the two that every block has
    "all": ROLES,
}
HEAD_PARTS = ("dense", "norm", "bias", "decoder")


def _words(value: object) -> list[str]:
    """Parse a list of words from ``"q,v"`` or ``["q", "v"]``."""
    words = value.split(",") if isinstance(value, str) else list(value) if isinstance(value, Iterable) else [value]
    return [str(word).strip() for word in words]


def canonical_roles(value: object) -> tuple[str, ...]:
    """Spell a set of roles in its one canonical way, so that equal sets compare equal.

    Roles come in the block's own order; a complete ffn or norms is written as its group, the whole block as ``all``;
    attention is spelt ``q,k,v,o``, as the papers name its matrices.
    """
    words = _words(value)
    for word in words:
        if word not in ROLES and word not in GROUPS:
            raise refusal(f"{shown(word)} is not a role", peft_word(word, did_you_mean(word, (*ROLES, *GROUPS))))
    roles = {role for word in words for role in GROUPS.get(word, (word,))}
    if roles.issuperset(ROLES):
        return ("all",)
    spelt: dict[str, None] = {}
    for role in ROLES:
        if role in roles:
            spelt[next((g for g in ("ffn", "norms") if role in GROUPS[g] and roles.issuperset(GROUPS[g])), role)] = None
    return tuple(spelt)


def _linear_roles(roles: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse norms, routers and experts, for methods that adapt one weight matrix."""
    return _matrices(roles, f"legal: attn, ffn, {', '.join(LINEAR_ROLES)}")


def _low_rank_roles(roles: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse norms and routers, for methods that adapt each of an expert's matrices, too."""
    return _matrices(roles, f"legal: attn, ffn, {', '.join(LINEAR_ROLES)}, experts", frozenset({"experts"}))


def _matrices(roles: tuple[str, ...], legal: str, also: frozenset[str] = frozenset()) -> tuple[str, ...]:
    norms = [role for role in expand(roles) if role in NORM_ROLES]
    if norms:
        raise refusal("a norm has no weight matrix", legal)
    routed = {role for role in expand(roles) if role in ROUTED_ROLES} - also
    if "router" in routed:
        raise refusal("a router trains as a whole or not at all", f"full(on=router) trains it; {legal}")
    if routed:
        raise refusal("experts are not one matrix", f"lora(on=experts) and full(on=experts) train them; {legal}")
    return roles


def _canonical_parts(value: object) -> tuple[str, ...]:
    words = _words(value)
    for word in words:
        if word not in HEAD_PARTS:
            raise refusal(f"{shown(word)} is not a part of the masked-LM head", did_you_mean(word, HEAD_PARTS))
    return tuple(part for part in HEAD_PARTS if part in words)


Roles = Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(canonical_roles)]
LinearRoles = Annotated[
    tuple[str, ...], Field(min_length=1), BeforeValidator(lambda v: _linear_roles(canonical_roles(v)))
]
LowRankRoles = Annotated[
    tuple[str, ...], Field(min_length=1), BeforeValidator(lambda v: _low_rank_roles(canonical_roles(v)))
]
HeadParts = Annotated[tuple[str, ...], BeforeValidator(_canonical_parts)]
MOST = 2**16
"""The largest rank, bottleneck or prompt: wider than any model's hidden state."""
Count = Annotated[int, Field(ge=1, le=MOST), NUMBER]
Chance = Annotated[float, Field(ge=0, lt=1), NUMBER]


def expand(names: Iterable[str]) -> tuple[str, ...]:
    """Expand role and group names to roles, in the block's order."""
    roles = {role for name in names for role in GROUPS.get(name, (name,))}
    return tuple(role for role in ROLES if role in roles)


class MethodConfig(Options, frozen=True):
    """A change to a block, or at one depth. Abstract."""

    adds: ClassVar[bool] = False
    """Whether its parameters are new ones, in addition to the base model's."""
    attended: ClassVar[bool] = False
    """Whether it adds positions that tokens attend to, so that the model is changed before the first step."""
    factor: ClassVar[str] = ""
    """The option that its change is multiplied by, where it has one."""
    factored: ClassVar[tuple[str, ...]] = ()
    """The last parts of the names of the tensors in which its change is linear: ``factor`` may go into them."""

    @property
    def held_by(self) -> tuple[str, ...]:
        """The roles on whose modules its parameters are; empty: they belong to no role."""
        return ()

    def continues(self, other: MethodConfig) -> bool:
        """Whether tensors of ``other`` mean the same here, but for ``factor``; dropout and rate change no meaning."""
        left = {"on", "lr", "dropout", "depth", "stack", self.factor}
        return type(self) is type(other) and self.model_dump(exclude=left) == other.model_dump(exclude=left)

    @abstractmethod
    def parameters(self, shape: Shape) -> int:
        """Trained parameters in one block (or one insertion) of a model of this shape, by formula.

        Raises:
            PlanError: the shape cannot take it.
        """

    def claims(self, shape: Shape) -> frozenset[tuple[str, str]]:
        """(place, part) of a block that it changes; two methods of one block may not claim the same."""
        return frozenset()

    def multiplications(self, shape: Shape, positions: Mapping[str, int]) -> int:
        """Multiply-adds of one forward by matrices that it adds to a block; a linear role computes ``positions``."""
        return 0

    def first_product(self, shape: Shape, positions: Mapping[str, int]) -> tuple[str, int]:
        """What the first of these products reads, ``attn``, ``ffn`` or ``query``, and its multiply-adds."""
        return "", 0


class RoleMethod(MethodConfig, frozen=True):
    """A method of some roles of a block. Abstract."""

    touches: ClassVar[frozenset[str]]
    """Parts of a role (``weight``, ``bias``) that it changes; two methods of one role may not touch the same part."""
    in_front: ClassVar[frozenset[str]] = frozenset()
    """Roles whose linear has something trained before it: gradients then pass through that linear in any case."""

    on: Roles

    @property
    def held_by(self) -> tuple[str, ...]:
        return self.roles()

    @abstractmethod
    def role_parameters(self, shape: Shape, role: str) -> int:
        """Trained parameters on one role of one block."""

    def roles(self) -> tuple[str, ...]:
        """Every role that ``on`` names, groups written out, in the block's order."""
        return expand(self.on)

    def roles_in(self, shape: Shape) -> tuple[str, ...]:
        """The roles on which it trains something in a model of this shape; a group's absent roles are left out.

        Raises:
            PlanError: a role that was named outside a complete group does not exist in the model, or has no bias.
        """
        named = self.roles()
        for role in named:
            # Only a role that was named by itself must exist; a group takes what the architecture has of it.
            if not any(role in group and set(named).issuperset(group) for group in GROUPS.values()):
                self._check_role(shape, role)
        found = tuple(role for role in named if role in shape.roles and self.role_parameters(shape, role))
        self._check_experts(shape, named, found)
        return found

    def _check_experts(self, shape: Shape, named: tuple[str, ...], found: tuple[str, ...]) -> None:
        """Refuse the feed-forward part by name where experts stand in its place, which would stay frozen silently."""
        ffn = GROUPS["ffn"]
        if "all" in self.on or not shape.routed or not set(named).issuperset(ffn) or set(found) & {*ffn, "experts"}:
            return
        if any(role in lacking for role in ffn for lacking in shape.lacks.values()):
            return  # other blocks have one
        rest = f"{self.kind} leaves them frozen: give on={','.join(shape.linears)}; " if self.adds else ""
        raise PlanError(
            f"{self}: a block of {shape.model_type} has experts in place of up, gate and down",
            f"{rest}lora(on=experts) adapts them, full(on=experts) trains them whole",
        )

    def _check_role(self, shape: Shape, role: str) -> None:
        if any(role in lacking for lacking in shape.lacks.values()):
            return  # this block does not have it, and others do
        if role not in shape.roles:
            raise PlanError(f"{self}: a block of {shape.model_type} has no {role}", "legal: " + ", ".join(shape.roles))
        if not self.role_parameters(shape, role):
            having = [other for other in shape.roles if self.role_parameters(shape, other)]
            what = f"{role} of a block of {shape.model_type} has no {' or '.join(sorted(self.touches))}"
            raise PlanError(f"{self}: {what}", f"legal: {', '.join(having) or 'none'}; delta_bias works without one")

    def parameters(self, shape: Shape) -> int:
        return sum(self.role_parameters(shape, role) for role in self.roles_in(shape))

    def claims(self, shape: Shape) -> frozenset[tuple[str, str]]:
        return frozenset((role, part) for role in self.roles_in(shape) for part in self.touches)

    def matrices(self, shape: Shape, role: str) -> tuple[int, ...]:
        """Weights of each matrix that it adds to one role, in the order in which a token meets them."""
        return ()

    def multiplications(self, shape: Shape, positions: Mapping[str, int]) -> int:
        roles = self.roles_in(shape) if self.adds else ()
        return sum(sum(self.matrices(shape, role)) * positions.get(role, 0) for role in roles)


class Insertion(MethodConfig, frozen=True):
    """A module put between two blocks. Abstract."""

    adds: ClassVar[bool] = True
    needs_reader: ClassVar[bool] = False
    """Whether a block must follow that reads its insertion."""
    rereads: ClassVar[bool] = False
    """Whether it runs the model over the text once more."""

    depth: Depth
    """The number of blocks below it."""

    @property
    def prompt(self) -> int:
        """P, the number of positions that it puts before the tokens; every block above computes them too."""
        return 0

    @property
    def positions(self) -> int:
        """Rows of the model's position table that its prompt takes from the text."""
        return 0

    def multiplications_at(self, shape: Shape, length: int) -> int:
        """Multiply-adds of its matrices in one forward over ``length`` positions; by default all its parameters."""
        return self.parameters(shape) * length

    def entered(self, shape: Shape, length: int) -> tuple[int, int]:
        """Positions that its first matrix reads, and the weights of that matrix; 0 where a trained norm precedes it."""
        return 0, 0

    @property
    def in_decoder(self) -> bool:
        """Whether its depth counts the blocks of an encoder-decoder's decoder; else those of the first stack."""
        return False

    def depth_in(self, shape: Shape, whole: Shape | None = None) -> int:
        """The absolute depth in a model of this shape; PlanError when it lies outside.

        ``whole``: the shape before a cut, of whose blocks fractions are.
        """
        stacks = shape.stacks
        if self.in_decoder:
            if "dec" not in stacks:
                raise PlanError(f"{self}: {shape.model_type} has one stack of blocks", "leave stack= out")
            stack = stacks["dec"]
            return stack.start + depth_at(self.depth, len(stack), len(stack), str(self), first=1)
        last, blocks = shape.border, (whole or shape).border
        if not self.needs_reader or "dec" in stacks:  # a decoder reads what follows its encoder
            return depth_at(
                self.depth, blocks, last, str(self), "" if blocks == last else f"the plan cuts it at {last}"
            )
        return depth_at(self.depth, blocks, last - 1, str(self), "after the last block nothing reads a prompt")
