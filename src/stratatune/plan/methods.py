"""Methods that change a block: one small frozen config per method, with its parameter count by formula.

Shape legend: ``D`` hidden, ``R`` rank, ``m`` bottleneck, ``P`` prompt tokens, ``L`` blocks.
A new method is one class here (or in ``insertions.py``) and one entry in ``BLOCK_METHODS`` or ``INSERTIONS``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from stratatune.errors import PlanError
from stratatune.plan.abstract import (
    GROUPS,
    HEAD_PARTS,
    NORM_ROLES,
    ROLES,
    ROUTED_ROLES,
    Chance,
    Count,
    HeadParts,
    Insertion,
    LinearRoles,
    LowRankRoles,
    MethodConfig,
    RoleMethod,
    Roles,
    canonical_roles,
    expand,
)
from stratatune.plan.insertions import Adapter, Idpg, LatePrompt, Prompt
from stratatune.plan.layers import refusal
from stratatune.plan.options import NUMBER, Options
from stratatune.shapes.shape import LM_OBJECTIVES, POOLED, Shape

__all__ = [
    "BLOCK_METHODS", "GROUPS", "HEAD_PARTS", "INSERTIONS", "NORM_ROLES", "ROLES", "ROUTED_ROLES", "Adapter", "BitFit",
    "DeltaBias", "Dora", "Frozen", "Full", "Head", "Houlsby", "Ia3", "Idpg", "Insertion", "LatePrompt", "Lora",
    "Options", "Parallel", "Prefix", "Prompt", "RoleMethod", "MethodConfig", "expand",
]  # fmt: skip

Scale = Annotated[float, Field(gt=0, allow_inf_nan=False), NUMBER]


def _adapted_roles(value: object) -> tuple[str, ...]:
    """The two places of a Houlsby adapter."""
    roles = canonical_roles(value)
    if not set(expand(roles)) <= {"o", "down"}:
        raise refusal("a Houlsby adapter goes after a projection into the hidden state", "legal: o, down")
    return roles


class Frozen(MethodConfig, frozen=True):
    """Trains nothing. The same as not naming the blocks, but explicit."""

    kind: Literal["frozen"] = "frozen"

    def parameters(self, shape: Shape) -> int:
        return 0


class BitFit(RoleMethod, frozen=True):
    """Trains the biases of the roles, the norms' included (Ben Zaken et al. 2022; SPAFIT's group 2)."""

    touches: ClassVar[frozenset[str]] = frozenset({"bias"})

    kind: Literal["bitfit"] = "bitfit"
    on: Roles = ("all",)

    def role_parameters(self, shape: Shape, role: str) -> int:
        return shape.part(role).biases


class Lora(RoleMethod, frozen=True):
    """``W x + (alpha / R) B A x`` with A [R, in], B [out, R] trained (Hu et al. 2022): R * (in + out) per role.

    Of ``experts`` each has an A and a B of its own for each of its matrices.
    """

    adds: ClassVar[bool] = True
    touches: ClassVar[frozenset[str]] = frozenset({"weight"})
    printed_always: ClassVar[tuple[str, ...]] = ("rank", "alpha")
    factor: ClassVar[str] = "alpha"
    factored: ClassVar[tuple[str, ...]] = ("b",)

    kind: Literal["lora"] = "lora"
    rank: Count = 8
    alpha: Scale = 16.0
    dropout: Chance = 0.0
    on: LowRankRoles = ("q", "v")

    def role_parameters(self, shape: Shape, role: str) -> int:
        return (shape.routed[role].count if role in shape.routed else 1) * self.rank * sum(self._ends(shape, role))

    def matrices(self, shape: Shape, role: str) -> tuple[int, ...]:
        used = shape.routed[role].used if role in shape.routed else 1
        return tuple(used * self.rank * width for width in self._ends(shape, role))

    @staticmethod
    def _ends(shape: Shape, role: str) -> tuple[int, ...]:
        """The widths that enter and leave each matrix of the role, in order."""
        if role in shape.routed:
            return tuple(width for ends in shape.routed[role].matrices for width in ends)
        return shape.linears[role].inputs, shape.linears[role].outputs


class Full(RoleMethod, frozen=True):
    """Trains weights and biases of the roles."""

    touches: ClassVar[frozenset[str]] = frozenset({"weight", "bias", "scale"})

    kind: Literal["full"] = "full"
    on: Roles = ("all",)

    def role_parameters(self, shape: Shape, role: str) -> int:
        part = shape.part(role)
        return part.weights + part.biases


class Dora(RoleMethod, frozen=True):
    """``g (W + (alpha / R) B A) x + b``, g = magnitude / row norms of it (Liu et al. 2024): R (in + out) + out."""

    adds: ClassVar[bool] = True
    touches: ClassVar[frozenset[str]] = frozenset({"weight", "scale"})
    printed_always: ClassVar[tuple[str, ...]] = ("rank", "alpha")
    factor: ClassVar[str] = "alpha"
    factored: ClassVar[tuple[str, ...]] = ("b",)

    kind: Literal["dora"] = "dora"
    rank: Count = 8
    alpha: Scale = 16.0
    dropout: Chance = 0.0
    on: LinearRoles = ("q", "v")

    def role_parameters(self, shape: Shape, role: str) -> int:
        linear = shape.linears[role]
        return self.rank * (linear.inputs + linear.outputs) + linear.outputs

    def matrices(self, shape: Shape, role: str) -> tuple[int, ...]:
        return self.rank * shape.linears[role].inputs, self.rank * shape.linears[role].outputs


class Ia3(RoleMethod, frozen=True):
    """A vector that scales the output of a role, or for ``down`` its input ((IA)3, Liu et al. 2022)."""

    adds: ClassVar[bool] = True
    touches: ClassVar[frozenset[str]] = frozenset({"scale"})
    in_front: ClassVar[frozenset[str]] = frozenset({"down"})

    kind: Literal["ia3"] = "ia3"
    on: LinearRoles = ("k", "v", "down")

    def role_parameters(self, shape: Shape, role: str) -> int:
        linear = shape.linears[role]
        return linear.inputs if role in self.in_front else linear.outputs


class DeltaBias(RoleMethod, frozen=True):
    """A vector added to a role's output, with or without a frozen bias there (SPAFIT section 7)."""

    adds: ClassVar[bool] = True
    touches: ClassVar[frozenset[str]] = frozenset({"bias"})

    kind: Literal["delta_bias"] = "delta_bias"
    on: Roles = ("all",)

    def role_parameters(self, shape: Shape, role: str) -> int:
        if role in ROUTED_ROLES:  # a router returns several tensors, and what each expert returns has its own weight
            return 0
        return shape.linears[role].outputs if role in shape.linears else shape.norms[role].size


class Houlsby(RoleMethod, frozen=True):
    """``y + W2 gelu(W1 y + b1) + b2`` after the attention's and the FFN's last projection, before the skip connection.

    Twice a block (Houlsby et al. 2019); D m + m + m D + D each. On ``down`` alone: Pfeiffer's adapter.
    """

    adds: ClassVar[bool] = True
    touches: ClassVar[frozenset[str]] = frozenset({"output"})

    kind: Literal["houlsby"] = "houlsby"
    bottleneck: Count = 16
    on: Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(_adapted_roles)] = ("o", "down")

    def role_parameters(self, shape: Shape, role: str) -> int:
        width, narrow = shape.linears[role].outputs, self.bottleneck
        return 2 * width * narrow + narrow + width

    def matrices(self, shape: Shape, role: str) -> tuple[int, ...]:
        return (shape.linears[role].outputs * self.bottleneck,) * 2


class Parallel(MethodConfig, frozen=True):
    """``f(x) + s (W2 relu(W1 x + b1) + b2)`` with f the block's FFN or attention (He et al. 2022, parallel adapter).

    D m + m + m D + D.
    """

    adds: ClassVar[bool] = True
    ENDS: ClassVar[Mapping[str, tuple[str, str]]] = {"ffn": ("up", "down"), "attn": ("q", "o")}
    """The role that receives f's input, and the role that returns its result."""
    factor: ClassVar[str] = "scale"
    factored: ClassVar[tuple[str, ...]] = ("up.weight", "up.bias")

    kind: Literal["parallel"] = "parallel"
    bottleneck: Count = 16
    scale: Scale = 4.0
    on: Literal["ffn", "attn"] = "ffn"

    @property
    def held_by(self) -> tuple[str, ...]:
        return (self.ENDS[self.on][1],)

    def parameters(self, shape: Shape) -> int:
        enter, leave = self.ENDS[self.on]
        # DeBERTa's q and k also project the table of positions; a parallel path would change that, too.
        if enter in shape.reused:
            raise PlanError(
                f"{self}: in {shape.model_type}, {enter} reads a table of positions besides the hidden state, "
                "so it is no entry to the attention",
                "use parallel on the ffn, or lora on q,k,v,o",
            )
        if enter not in shape.linears:
            there = "experts" if shape.routed else "nothing"
            raise PlanError(
                f"{self}: a block of {shape.model_type} has {there} in place of {enter}",
                "use parallel(on=attn), or an adapter between the blocks",
            )
        ins, outs, narrow = shape.linears[enter].inputs, shape.linears[leave].outputs, self.bottleneck
        return ins * narrow + narrow + narrow * outs + outs

    def claims(self, shape: Shape) -> frozenset[tuple[str, str]]:
        return frozenset({(self.on, "beside")})

    def multiplications(self, shape: Shape, positions: Mapping[str, int]) -> int:
        enter, leave = (shape.linears[role] for role in self.ENDS[self.on])
        return self.bottleneck * (enter.inputs + leave.outputs) * positions[self.ENDS[self.on][1]]

    def first_product(self, shape: Shape, positions: Mapping[str, int]) -> tuple[str, int]:
        enter, leave = self.ENDS[self.on]
        return self.on, self.bottleneck * shape.linears[enter].inputs * positions[leave]


class Prefix(MethodConfig, frozen=True):
    """P trained keys and P trained values that every token of the block attends to besides the tokens (P-tuning v2).

    P (width of the keys + width of the values): 2 P D where every head has its own.
    """

    adds: ClassVar[bool] = True
    attended: ClassVar[bool] = True

    kind: Literal["prefix"] = "prefix"
    tokens: Count = 20

    def parameters(self, shape: Shape) -> int:
        if "k" not in shape.linears:
            raise PlanError(
                f"{self}: a block of this {shape.model_type} that attends to the keys and values of an earlier one "
                "cannot have a prefix of its own",
                f"put it in blocks below {min(shape.reads, default=0)}, or use lora",
            )
        # Not 2 P D: with grouped queries (Llama 3) keys and values are narrower than the hidden state.
        return self.tokens * (shape.linears["k"].outputs + shape.linears.get("v", shape.linears["k"]).outputs)

    def claims(self, shape: Shape) -> frozenset[tuple[str, str]]:
        return frozenset({("attn", "prefix")})

    def multiplications(self, shape: Shape, positions: Mapping[str, int]) -> int:
        return 2 * self.tokens * shape.linears["q"].outputs * positions["q"]

    def first_product(self, shape: Shape, positions: Mapping[str, int]) -> tuple[str, int]:
        return "query", self.tokens * shape.linears["q"].outputs * positions["q"]


class Head(Options, frozen=True):
    """The trained parts of the pretrained head. (A task's own new output layer always trains, and is not named.)"""

    kind: Literal["head"] = "head"
    mlm: HeadParts = ()
    pooler: bool = False
    final_norm: bool = False
    """The norm after the last block, where the architecture has one. (A decoder's ``mlm=norm`` is the same one.)"""
    untie: bool = False
    """Train a copy of a decoder that is tied to the embeddings, which stay as they are."""

    def parameters(self, shape: Shape, objective: str) -> int:
        """Trained parameters of the parts that the head has under ``objective``."""
        final = shape.final_norm if self.final_norm else 0
        parts: tuple[str, ...] = self.mlm
        # `mlm=norm` and `final_norm` name one tensor there, which must count once.
        if shape.normed_by_final and "norm" in parts:
            final, parts = shape.final_norm, tuple(part for part in parts if part != "norm")
        if objective in LM_OBJECTIVES:
            return final + sum(shape.head_parts[part] for part in parts)
        return final + (shape.pooler if self.pooler and objective in POOLED else 0)


BLOCK_METHODS: dict[str, type[MethodConfig]] = {
    "frozen": Frozen,
    "bitfit": BitFit,
    "delta_bias": DeltaBias,
    "lora": Lora,
    "dora": Dora,
    "ia3": Ia3,
    "houlsby": Houlsby,
    "parallel": Parallel,
    "prefix": Prefix,
    "full": Full,
}
"""Methods of a stratum, by kind."""
INSERTIONS: dict[str, type[Insertion]] = {
    "adapter": Adapter,
    "late_prompt": LatePrompt,
    "prompt": Prompt,
    "idpg": Idpg,
}
"""Methods that name a depth (or are at the input), by kind."""
