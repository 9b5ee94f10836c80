"""A plan: strata, insertions at depths, trained parts of the head. Pure data that parses, prints and compares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, Field, SerializeAsAny, ValidationError

from stratatune.errors import PlanError, did_you_mean, shown
from stratatune.plan import grammar, presets
from stratatune.plan.layers import canonical_layers, cut_depth
from stratatune.plan.methods import BLOCK_METHODS, INSERTIONS, Full, Head, Insertion, MethodConfig
from stratatune.plan.resolved import Resolved, resolve
from stratatune.shapes.shape import Shape

NOTHING = "frozen"
"""The text of a plan that trains nothing but the task's new output layer."""


def _by_kind(value: Any, legal: Mapping[str, type[MethodConfig]]) -> MethodConfig:
    """Make a method from data that names its kind; an existing method passes as it is."""
    if not isinstance(value, MethodConfig | Mapping):
        raise PlanError(f"{shown(value)} is not a method", "write it as {kind: bitfit, ...}")
    kind = value.kind if isinstance(value, MethodConfig) else str(value.get("kind", ""))
    if kind not in legal:
        raise PlanError(f"{shown(kind)} is not a method here", did_you_mean(kind, legal))
    return legal[kind].model_validate(value)


BlockMethod = Annotated[SerializeAsAny[MethodConfig], BeforeValidator(lambda value: _by_kind(value, BLOCK_METHODS))]
DepthMethod = Annotated[SerializeAsAny[Insertion], BeforeValidator(lambda value: _by_kind(value, INSERTIONS))]


class Stratum(BaseModel, frozen=True, extra="forbid", validate_by_name=True):
    """A run of blocks and the methods that change each of them."""

    stack: Literal["", "enc", "dec"] = ""
    """The stack of an encoder-decoder that ``layers`` counts in; empty: the slice applies to each stack."""
    layers: Annotated[str, BeforeValidator(canonical_layers)]
    """A slice of blocks: "5:10", "10:", "-1:", ":", "1/2:"."""
    methods: Annotated[
        tuple[BlockMethod, ...],
        Field(min_length=1, validation_alias=AliasChoices("methods", "treatments")),  # "treatments" until 0.1
    ]

    def __str__(self) -> str:
        where = f"{self.stack} {self.layers}" if self.stack else self.layers
        return f"{where} {' + '.join(map(str, self.methods))}"


def _whole(full: Full | None) -> Full | None:
    """Refuse roles of embeddings, which train as a whole or not at all."""
    if full is not None and full.on != ("all",):
        raise PlanError(f"embeddings {full}: embeddings have no roles", "write: embeddings full")
    return full


class Plan(BaseModel, frozen=True, extra="forbid"):
    """The methods to apply at each depth. Blocks that no stratum names are frozen.

    ``Plan.parse(str(plan)) == plan`` and ``Plan.from_data(plan.to_data()) == plan``.
    """

    strata: tuple[Stratum, ...] = ()
    insertions: tuple[DepthMethod, ...] = ()
    embeddings: Annotated[Full | None, AfterValidator(_whole)] = None
    head: Head = Head()
    cut: Annotated[int | str | None, BeforeValidator(lambda value: None if value is None else cut_depth(value))] = None
    """The depth at which the model ends: blocks above are not loaded, run, saved or served."""

    def __new__(cls, *texts: Any, **_: Any) -> Plan:
        """Refuse a plan's text, for which pydantic's own error has no fix."""
        if texts:
            raise PlanError("Plan(...) takes no text", "write st.Plan.parse('12: lora')")
        return super().__new__(cls)

    @classmethod
    def parse(cls, text: str) -> Plan:
        """Parse a preset's name (``bft-adapter+ln@18``) or a plan's text form.

        Raises:
            PlanError: the message names the place and the word, the hint what is legal there.
        """
        if not isinstance(text, str):
            raise _no_plan(text)
        text = text.strip()
        if not text:
            raise PlanError(
                "the plan is empty", f"write a preset ({', '.join(presets.PRESETS)}) or strata such as '10: bitfit'"
            )
        if text.startswith(("/", "./", "../", "~")):
            raise presets.model_for_plan(text)
        written = presets.preset_text(text) if presets.looks_like_preset(text) else text
        return cls._from_parts(grammar.read(written)) if written else cls()

    @classmethod
    def _from_parts(cls, parts: grammar.Parts) -> Plan:
        return cls(
            strata=tuple(
                Stratum(stack=stack, layers=layers, methods=tuple(found))  # pyright: ignore[reportArgumentType]
                for stack, layers, found in parts.strata
            ),
            insertions=tuple(parts.insertions),
            embeddings=parts.embeddings,
            head=parts.head or Head(),
            cut=parts.cut,
        )

    @classmethod
    def from_data(cls, data: Mapping[str, Any] | str) -> Plan:
        """Make a plan from its YAML or JSON form: a mapping as ``to_data`` gives it, or the text form.

        Raises:
            PlanError: names the place in the data and the legal values.
        """
        if isinstance(data, str):
            return cls.parse(data)
        if not isinstance(data, Mapping):
            raise _no_plan(data)
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise _data_error(error) from None

    def to_data(self) -> dict[str, Any]:
        """The plan as data for YAML or JSON, every option written out, so that it outlives a change of defaults."""
        return self.model_dump(mode="json", exclude_none=True)

    def __str__(self) -> str:
        """The canonical text form."""
        segments = [f"embeddings {self.embeddings}"] if self.embeddings else []
        segments += [str(part) for part in (*self.strata, *self.insertions)]
        if self.head != Head():
            segments.append(str(self.head))
        if self.cut is not None:
            segments.append(f"cut({self.cut})")
        return " | ".join(segments) or NOTHING

    @property
    def prompted(self) -> bool:
        """Whether its paper reads a label under a prompt (an insertion, or a trained LM head), not by a new layer."""
        return self.cut is None and bool(self.insertions or (self.head.mlm and not self.head.pooler))

    @property
    def objective(self) -> str:
        """The objective by which its paper reads labels: ``mlm`` under a prompt, else ``classification``."""
        return "mlm" if self.prompted else "classification"

    def resolve(self, shape: Shape) -> Resolved:
        """Apply the plan to a model of this shape.

        Raises:
            PlanError: a place lies outside the model (the legal range is named), or two methods clash.
        """
        return resolve(self, shape)


def _no_plan(given: Any) -> PlanError:
    return PlanError(
        f"a plan is a text or a mapping, not {type(given).__name__}",
        f"write it as '12: lora(rank=8, alpha=16, on=q,v)'; legal keys: {', '.join(Plan.model_fields)}",
    )


def _data_error(error: ValidationError) -> PlanError:
    """The first fault of a pydantic report, with its path in the data."""
    fault = error.errors(include_url=False)[0]
    place = ".".join(map(str, fault["loc"]))
    if fault["type"] == "extra_forbidden":
        legal = Stratum.model_fields if fault["loc"][0] == "strata" else Plan.model_fields
        return PlanError(f"plan: unknown key {place}", did_you_mean(str(fault["loc"][-1]), legal))
    return PlanError(f"plan: {place}: {fault['msg']}", f"got {shown(fault['input'])}")
