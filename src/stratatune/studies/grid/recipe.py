"""A recipe: the runs of a table or a figure, what was published of them and what they should show, in one YAML file.

Nothing here imports torch or looks at a model or at data: :mod:`stratatune.studies.grid.expand` makes the runs.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_serializer, model_validator

from stratatune.errors import ConfigError, did_you_mean, nearest, shown
from stratatune.objectives.registry import metric_names

Value = str | int | float
Coordinates = dict[str, Value | tuple[Value, ...]]
"""Axis to the name of an item on it, or to several names: every combination that agrees is meant."""

_MOST_ERRORS, _MOST_NAMES = 40, 30
HINT = "docs/grid.md says what a recipe holds"
PLURALS = {"models": "model", "plans": "plan", "tasks": "task", "seeds": "seed"}
"""The axes that every recipe may have, and the setting that a plain value on each gives."""
TIMES = {"step": "optimiser step", "epoch": "epoch", "seconds": "seconds of training"}
"""What a learning curve may run along, and its label."""
LOSS = "train_loss"


class _Closed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Item(_Closed):
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
        """From what a recipe has on ``axis``; ValueError where that is no item."""
        if isinstance(written, Mapping):
            settings = {str(key): value for key, value in written.items() if key != "name"}
            if not isinstance(written.get("name"), Value):
                raise ValueError(f"{shown(written)} has no name")
            return cls(name=written["name"], settings=settings)
        if not isinstance(written, Value):
            raise ValueError(f"{shown(written)} is neither a value nor a mapping with a name")
        name = Path(written).name if axis == "model" and isinstance(written, str) else written
        return cls(name=name, settings={axis: written})


class Layout(_Closed):
    """What the report makes of the runs."""

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


class Published(_Closed):
    """A number of the paper; in a recipe its coordinates stand beside it: ``{plan: LPT, task: RTE, value: 76.17}``."""

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


class Claim(_Closed):
    """That the runs at ``better`` score above those at ``worse``, compared pair by pair along the axis ``on``."""

    text: str
    better: Coordinates
    worse: Coordinates
    on: str = "task"
    metric: str | None = None
    margin: float = Field(0.0, ge=0, description="By how many points `better` may fall behind: 'at least as good'.")


class Recipe(_Closed):
    """Everything a grid is made from. :func:`load_recipe` reads one and reports every mistake in it.

    A run takes ``base``, over it the settings of its model, task, plan, the items on its further axes and its seed; the
    later wins. In any text ``{name}`` stands for the folder of that name under ``data``, or for the run's place on that
    axis. A folder is a path from the recipe's own, or ``package:MODULE/FOLDER`` inside an installed package. The keys
    in ``otherwise`` take the place of the recipe's own where one of its folders is not there.
    """

    title: str
    about: str = ""
    paper: str = ""
    data: dict[str, str | None] = Field(default_factory=dict)
    base: dict[str, Any] = Field(default_factory=dict)
    models: tuple[Item, ...] = ()
    plans: tuple[Item, ...] = ()
    tasks: tuple[Item, ...] = ()
    seeds: tuple[Item, ...] = ()
    settings: dict[str, tuple[Item, ...]] = Field(default_factory=dict)
    pairs: tuple[Coordinates, ...] = ()
    exclude: tuple[Coordinates, ...] = ()
    report: Layout = Field(default_factory=lambda: Layout.model_validate({}))
    published: tuple[Published, ...] = ()
    claims: tuple[Claim, ...] = ()
    otherwise: dict[str, Any] = Field(default_factory=dict)

    @property
    def axes(self) -> dict[str, tuple[Item, ...]]:
        """Every axis by the name of its coordinate, in the order in which their settings are put over each other."""
        return {
            **{"model": self.models, "task": self.tasks, "plan": self.plans},
            **self.settings,
            "seed": self.seeds,
        }

    @field_validator("data", mode="before")
    @classmethod
    def _one_root(cls, value: Any) -> Any:
        return {"data": value} if isinstance(value, str) else value

    @model_validator(mode="before")
    @classmethod
    def _items(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        made = {key: _items(data[key], axis) for key, axis in PLURALS.items() if key in data}
        if isinstance(data.get("settings"), Mapping):
            made["settings"] = {axis: _items(written, axis) for axis, written in data["settings"].items()}
        return {**data, **made}


def _items(written: Any, axis: str) -> Any:
    if not isinstance(written, Sequence) or isinstance(written, str):
        raise ValueError(f"{axis}: {shown(written)} is no list")
    return [item if isinstance(item, Item) else Item.of(item, axis) for item in written]


def load_recipe(path: str | Path) -> Recipe:
    """The recipe in a YAML file, what it takes from another (``extends``) put in.

    Raises:
        ConfigError: no such file, no YAML, or mistakes, each in a line that names its place.
    """
    from stratatune.studies.grid.inherit import inherited

    data = inherited(Path(path))
    axes = {key: data.get(key) for key in PLURALS}
    if isinstance(further := data.get("settings"), Mapping):
        axes |= {f"settings.{axis}": items for axis, items in further.items()}
    if empty := [f"{path}: {key}: an empty list: no run is left" for key, items in axes.items() if items == []]:
        raise ConfigError(empty, "put something on the axis, or leave the key out")
    return recipe_of(data, str(path))


def recipe_of(data: Mapping[str, Any], source: str) -> Recipe:
    """The recipe that plain data describe; ``source`` names them in errors.

    Raises:
        ConfigError: as :func:`load_recipe`.
    """
    try:
        recipe = Recipe.model_validate(dict(data))
    except ValidationError as error:
        wrong = error.errors(include_url=False)[:_MOST_ERRORS]
        raise ConfigError([f"{source}: {_line(item)}" for item in wrong], HINT) from error
    mistakes = itertools.chain(_repeated(recipe), _wrong_coordinates(recipe), _wrong_curves(recipe))
    errors = list(itertools.islice(mistakes, _MOST_ERRORS))
    if errors:
        raise ConfigError([f"{source}: {line}" for line in errors], HINT)
    return recipe


_KEYS: dict[str, type[BaseModel]] = {"report": Layout, "published": Published, "claims": Claim}


def _line(item: Mapping[str, Any]) -> str:
    """One line for one of pydantic's errors: ``claims.0.on: what is wrong``."""
    where = [str(part) for part in item["loc"]]
    path = ".".join(where)
    if item["type"] == "extra_forbidden":
        near = nearest(where[-1], _KEYS.get(where[0], Recipe).model_fields)
        return f"{path}: unknown key" + (f"; did you mean {near!r}?" if near else "")
    if item["type"] == "missing":
        return f"{path}: missing"
    said = item["msg"].removeprefix("Value error, ")
    return f"{path}: {shown(item['input'])}; {said}" if path else said


def _repeated(recipe: Recipe) -> Iterator[str]:
    """Names that stand on one axis twice, and axes that would hide another."""
    for axis in recipe.settings.keys() & {*PLURALS.values(), "name", "a", "b", "mask"}:
        yield f"settings.{axis}: an axis cannot be called so; " + (
            f"write it under `{axis}s`" if axis in PLURALS.values() else "give it another name"
        )
    for axis, items in recipe.axes.items():
        times = Counter(item.name for item in items)
        yield from (f"{axis}: {shown(name)} is there twice" for name, count in times.items() if count > 1)


def _wrong_coordinates(recipe: Recipe) -> Iterator[str]:
    """Coordinates of axes or items that the recipe does not have."""
    axes = recipe.axes
    for place, where in _all_coordinates(recipe):
        for axis, wanted in where.items():
            if axis not in axes:
                near = nearest(axis, axes)
                yield (
                    f"{place}: there is no axis {axis!r}; "
                    + (f"did you mean {near!r}? " if near else "")
                    + _legal(axes)
                )
            elif axes[axis]:
                names = {item.name: None for item in axes[axis]}
                odd = [name for name in several(wanted) if name not in names]
                yield from (f"{place}: {axis} has no {shown(name)}; {_legal(names)}" for name in odd)
    for place, named in (*(("report", (*recipe.report.rows, *recipe.report.columns)),), *_claimed(recipe)):
        yield from (f"{place}: there is no axis {axis!r}; {_legal(axes)}" for axis in named if axis not in axes)


def _wrong_curves(recipe: Recipe) -> Iterator[str]:
    """What no curve can be drawn along, and metrics that do not exist."""
    x, axes = recipe.report.x, recipe.axes
    if x is not None and x not in TIMES:
        if x not in axes:
            yield f"report.x: there is no {x!r}; {did_you_mean(x, [*TIMES, *axes])}"
        elif odd := [item.name for item in axes[x] if isinstance(item.name, str)]:
            yield f"report.x: {odd[0]!r} of the axis {x!r} is no number"
    legal = metric_names()
    asked = [("report.y", recipe.report.y, [LOSS, *legal]), ("report.metric", recipe.report.metric, legal)]
    asked += [(f"claims.{number}.metric", claim.metric, legal) for number, claim in enumerate(recipe.claims)]
    for place, name, known in asked:
        if name is not None and name not in known:
            yield f"{place}: there is no metric {name!r}; {did_you_mean(name, known)}"


def _claimed(recipe: Recipe) -> Iterator[tuple[str, tuple[str, ...]]]:
    for number, claim in enumerate(recipe.claims):
        yield f"claims.{number}.on", (claim.on,)


def _all_coordinates(recipe: Recipe) -> Iterator[tuple[str, Coordinates]]:
    for key in ("pairs", "exclude"):
        yield from ((f"{key}.{number}", where) for number, where in enumerate(getattr(recipe, key)))
    yield from ((f"published.{number}", one.where) for number, one in enumerate(recipe.published))
    for number, claim in enumerate(recipe.claims):
        yield f"claims.{number}.better", claim.better
        yield f"claims.{number}.worse", claim.worse


def _legal(names: Iterable[Value]) -> str:
    first = list(itertools.islice(names, _MOST_NAMES + 1))
    return "legal: " + ", ".join(map(str, first[:_MOST_NAMES])) + (", ..." if len(first) > _MOST_NAMES else "")


def several(wanted: Value | tuple[Value, ...]) -> tuple[Value, ...]:
    """One name or several, as several."""
    return wanted if isinstance(wanted, tuple) else (wanted,)


def agrees(coordinates: Mapping[str, Value], where: Mapping[str, Value | tuple[Value, ...]]) -> bool:
    """Whether a run at ``coordinates`` is one of those that ``where`` means."""
    return all(coordinates.get(axis) in several(wanted) for axis, wanted in where.items())
