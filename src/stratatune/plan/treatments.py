"""What can happen at a place of the model: one small frozen config per treatment, with its parameter count by formula.

Shape legend: ``D`` hidden, ``R`` rank, ``m`` bottleneck, ``P`` prompt tokens, ``L`` blocks.
A new treatment is one class here and one entry in ``BLOCK_TREATMENTS`` or ``INSERTIONS``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from stratatune.errors import PlanError, did_you_mean
from stratatune.plan.layers import Depth, depth_at, refusal
from stratatune.plan.options import Options
from stratatune.plan.shape import Shape

ROLES = ("q", "k", "v", "o", "up", "gate", "down", "norm_attn", "norm_ffn")
NORM_ROLES = ("norm_attn", "norm_ffn")
GROUPS: dict[str, tuple[str, ...]] = {
    "attn": ("q", "k", "v", "o"),
    "ffn": ("up", "gate", "down"),
    "norms": NORM_ROLES,
    "all": ROLES,
}
HEAD_PARTS = ("dense", "norm", "bias", "decoder")


def _words(value: object) -> list[str]:
    """A list of words from ``"q,v"`` or ``["q", "v"]``."""
    words = value.split(",") if isinstance(value, str) else list(value) if isinstance(value, Iterable) else [value]
    return [str(word).strip() for word in words]


def _canonical_roles(value: object) -> tuple[str, ...]:
    """A set of roles in its one spelling, so that equal sets compare equal.

    Roles come in the block's own order; a complete ffn or norms is written as its group, the whole block as ``all``;
    attention is spelt ``q,k,v,o``, as the papers name its matrices.
    """
    words = _words(value)
    for word in words:
        if word not in ROLES and word not in GROUPS:
            raise refusal(f"{word!r} is not a role", did_you_mean(word, (*ROLES, *GROUPS)))
    roles = {role for word in words for role in GROUPS.get(word, (word,))}
    if roles.issuperset(ROLES):
        return ("all",)
    spelt: dict[str, None] = {}
    for role in ROLES:
        if role in roles:
            spelt[next((g for g in ("ffn", "norms") if role in GROUPS[g] and roles.issuperset(GROUPS[g])), role)] = None
    return tuple(spelt)


def _linear_roles(roles: tuple[str, ...]) -> tuple[str, ...]:
    """Refuses norms, for treatments that stand beside a weight matrix."""
    norms = [role for role in expand(roles) if role in NORM_ROLES]
    if norms:
        raise refusal("a norm has no weight matrix", f"legal: attn, ffn, {', '.join(ROLES[: -len(NORM_ROLES)])}")
    return roles


def _canonical_parts(value: object) -> tuple[str, ...]:
    words = _words(value)
    for word in words:
        if word not in HEAD_PARTS:
            raise refusal(f"{word!r} is not a part of the masked-LM head", did_you_mean(word, HEAD_PARTS))
    return tuple(part for part in HEAD_PARTS if part in words)


Roles = Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(_canonical_roles)]
LinearRoles = Annotated[
    tuple[str, ...], Field(min_length=1), BeforeValidator(lambda v: _linear_roles(_canonical_roles(v)))
]
HeadParts = Annotated[tuple[str, ...], BeforeValidator(_canonical_parts)]
Count = Annotated[int, Field(ge=1)]
Chance = Annotated[float, Field(ge=0, lt=1)]


def expand(names: Iterable[str]) -> tuple[str, ...]:
    """Role and group names as roles, in the block's order."""
    roles = {role for name in names for role in GROUPS.get(name, (name,))}
    return tuple(role for role in ROLES if role in roles)


class Treatment(Options, frozen=True):
    """What happens to a block, or at one depth. Abstract."""

    adds: ClassVar[bool] = False
    """Whether its parameters are new ones, beside those of the base model."""

    @abstractmethod
    def parameters(self, shape: Shape) -> int:
        """Trained parameters in one block (or one insertion) of a model of this shape, by formula."""


class Frozen(Treatment, frozen=True):
    """Nothing trains. The same as not naming the blocks, said aloud."""

    kind: Literal["frozen"] = "frozen"

    def parameters(self, shape: Shape) -> int:
        return 0


class RoleTreatment(Treatment, frozen=True):
    """A treatment of some roles of a block. Abstract."""

    touches: ClassVar[frozenset[str]]
    """Which of a role's ``weight`` and ``bias`` it changes; two treatments of one role may not touch the same."""

    on: Roles

    @abstractmethod
    def role_parameters(self, shape: Shape, role: str) -> int:
        """Trained parameters on one role of one block."""

    def roles(self) -> tuple[str, ...]:
        """Every role that ``on`` names, groups written out, in the block's order."""
        return expand(self.on)

    def roles_in(self, shape: Shape) -> tuple[str, ...]:
        """The roles on which it trains something in a model of this shape; a group's absent roles are left out.

        Raises:
            PlanError: a role that was named outside a complete group does not exist in the model.
        """
        named = self.roles()
        missing = [role for role in named if role not in shape.roles]
        for role in missing:
            if not any(role in group and set(named).issuperset(group) for group in GROUPS.values()):
                raise PlanError(f"{self}: a {shape.model_type} block has no {role}", "legal: " + ", ".join(shape.roles))
        return tuple(role for role in named if role in shape.roles and self.role_parameters(shape, role))

    def parameters(self, shape: Shape) -> int:
        return sum(self.role_parameters(shape, role) for role in self.roles_in(shape))


class BitFit(RoleTreatment, frozen=True):
    """Trains the biases of the roles, the norms' included (Ben Zaken et al. 2022; SPAFIT's group 2)."""

    touches: ClassVar[frozenset[str]] = frozenset({"bias"})

    kind: Literal["bitfit"] = "bitfit"
    on: Roles = ("all",)

    def role_parameters(self, shape: Shape, role: str) -> int:
        return shape.part(role).biases


class Lora(RoleTreatment, frozen=True):
    """``W x + (alpha / R) B A x`` with A [R, in], B [out, R] trained (Hu et al. 2022): R * (in + out) per role."""

    adds: ClassVar[bool] = True
    touches: ClassVar[frozenset[str]] = frozenset({"weight"})
    printed_always: ClassVar[tuple[str, ...]] = ("rank", "alpha")

    kind: Literal["lora"] = "lora"
    rank: Count = 8
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 16.0
    dropout: Chance = 0.0
    on: LinearRoles = ("q", "v")

    def role_parameters(self, shape: Shape, role: str) -> int:
        linear = shape.linears[role]
        return self.rank * (linear.inputs + linear.outputs)


class Full(RoleTreatment, frozen=True):
    """Trains weights and biases of the roles."""

    touches: ClassVar[frozenset[str]] = frozenset({"weight", "bias"})

    kind: Literal["full"] = "full"
    on: Roles = ("all",)

    def role_parameters(self, shape: Shape, role: str) -> int:
        part = shape.part(role)
        return part.weights + part.biases


class Insertion(Treatment, frozen=True):
    """A module put between two blocks. Abstract."""

    adds: ClassVar[bool] = True
    needs_reader: ClassVar[bool] = False
    """Whether a block must follow that reads what it inserts."""

    depth: Depth
    """After how many blocks."""

    @property
    def prompt(self) -> int:
        """P, the positions that it puts before the tokens; every block above computes them too."""
        return 0

    def depth_in(self, blocks: int) -> int:
        """The absolute depth in a model of ``blocks`` blocks; PlanError when it lies outside."""
        if not self.needs_reader:
            return depth_at(self.depth, blocks, blocks, str(self))
        return depth_at(self.depth, blocks, blocks - 1, str(self), "after the last block nothing reads a prompt")


class Adapter(Insertion, frozen=True):
    """``h + W2 relu(W1 LayerNorm(h) + b1) + b2`` at one depth (BFT eq. 3-5): 2 D + D m + m + m D + D."""

    kind: Literal["adapter"] = "adapter"
    bottleneck: Count = 16

    def parameters(self, shape: Shape) -> int:
        width, narrow = shape.hidden, self.bottleneck
        return 2 * width + (width * narrow + narrow) + (narrow * width + width)


class LatePrompt(Insertion, frozen=True):
    """P prompt vectors made from the hidden state and put before it, at one depth (BFT eq. 1-2, LPT's naive generator).

    ``reshape(W2 relu(W1 h + b1) + b2)`` with W1 [m, D], W2 [P D, m]: D m + m + m P D + P D.
    """

    needs_reader: ClassVar[bool] = True

    kind: Literal["late_prompt"] = "late_prompt"
    tokens: Count = 5
    bottleneck: Count = 128
    generator: Literal["naive"] = "naive"
    dropout: Chance = 0.1

    @property
    def prompt(self) -> int:
        return self.tokens

    def parameters(self, shape: Shape) -> int:
        width, narrow, prompt = shape.hidden, self.bottleneck, self.tokens * shape.hidden
        return (width * narrow + narrow) + (narrow * prompt + prompt)


class Head(Options, frozen=True):
    """What trains of the pretrained head. (A task's own new output layer always trains, and is not named.)"""

    kind: Literal["head"] = "head"
    mlm: HeadParts = ()
    pooler: bool = False

    def parameters(self, shape: Shape, objective: str) -> int:
        """Trained parameters of the parts that the head has under ``objective``."""
        if objective == "mlm":
            return sum(shape.head_parts[part] for part in self.mlm)
        return shape.pooler if self.pooler else 0


BLOCK_TREATMENTS: dict[str, type[Treatment]] = {"frozen": Frozen, "bitfit": BitFit, "lora": Lora, "full": Full}
"""Treatments that stand in a stratum, by kind."""
INSERTIONS: dict[str, type[Insertion]] = {"adapter": Adapter, "late_prompt": LatePrompt}
"""Treatments that name a depth, by kind."""
