"""The parts of a recipe: places on axes, published numbers, claims, and the layout of the report. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_serializer, model_validator

from stratatune.errors import shown
from stratatune.outside import refuse_switch

Value = str | int | float
Coordinates = dict[str, Value | tuple[Value, ...]]
"""The name of an item on each axis, or several names: every combination that agrees is meant."""

PLACES = ("model", "start_from", "train", "eval", "test", "corpus")
"""The settings that may be paths."""
HINT = "docs/grid.md lists the keys of a recipe"
PLURALS = {"models": "model", "plans": "plan", "tasks": "task", "seeds": "seed"}
"""The axes that every recipe may have, and the setting that a plain value on each gives."""
TIMES = {"step": "optimiser step", "epoch": "epoch", "seconds": "seconds of training"}
"""Quantities along which a learning curve may run, and their labels."""
LOSS = "train_loss"


class Closed(BaseModel):
    """Frozen data, with no keys but those declared."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        return refuse_switch(value, cls.model_fields[str(info.field_name)].annotation)


class Item(Closed):
    """One place on an axis: its name in tables, and the settings that it gives to a run.

    In a recipe it is a plain value, or a mapping of ``name`` and the settings, each by its own name.
    """

    name: Value
    settings: dict[str, Any] = Field(default_factory=dict)

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        return {"name": self.name, **self.settings}

    @classmethod
    def of(cls, written: Any, axis: str) -> Item:
        """An item from a recipe's data on ``axis``; ValueError where that is not an item."""
        if isinstance(written, Mapping):
            settings = {str(key): value for key, value in written.items() if key != "name"}
            if not isinstance(written.get("name"), Value):
                raise ValueError(f"{shown(written)} has no name")
            return cls(name=written["name"], settings=settings)
        if not isinstance(written, Value):
            raise ValueError(f"{shown(written)} is neither a value nor a mapping with a name")
        name = Path(written).name if axis == "model" and isinstance(written, str) else written
        return cls(name=name, settings={axis: written})


class ReportLayout(Closed):
    """The layout of the report."""

    rows: tuple[str, ...] = Field((), description="The axes that make a row of the table; empty: the plan.")
    columns: tuple[str, ...] = Field((), description="The axes that make a column; empty: the task.")
    metric: str | None = Field(None, description="The score shown; null: each task's own.")
    x: str | None = Field(
        None, description="Learning curves: step, epoch or seconds. Depth curves: an axis of numbers."
    )
    y: str | None = Field(None, description="Of a curve: a metric, or train_loss; null: the loss and the task's own.")
    figures: tuple[Literal["table", "curves", "depth", "cost"], ...] = Field(
        (), description="The figures shown; empty: all that the runs allow."
    )

    @field_validator("rows", "columns", "figures", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class Published(Closed):
    """A number of the paper; a recipe gives its coordinates with it: ``{plan: LPT, task: RTE, value: 76.17}``."""

    where: Coordinates
    value: float
    deviation: float | None = None
    metric: str | None = None
    note: str = ""

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or "where" in data:
            return data
        own = {key: value for key, value in data.items() if key in cls.model_fields}
        return {**own, "where": {key: value for key, value in data.items() if key not in own}}


class Claim(Closed):
    """A claim: the runs at ``better`` score above those at ``worse``, compared pair by pair along the axis ``on``."""

    text: str
    better: Coordinates
    worse: Coordinates
    on: str = "task"
    metric: str | None = None
    margin: float = Field(0.0, ge=0, description="By how many points `better` may fall behind: 'at least as good'.")


def several(wanted: Value | tuple[Value, ...]) -> tuple[Value, ...]:
    """A tuple of one name or several."""
    return wanted if isinstance(wanted, tuple) else (wanted,)


def agrees(coordinates: Mapping[str, Value], where: Mapping[str, Value | tuple[Value, ...]]) -> bool:
    """Whether a run at ``coordinates`` matches ``where``."""
    return all(coordinates.get(axis) in several(wanted) for axis, wanted in where.items())
