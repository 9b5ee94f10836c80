"""Recipes: the runs of a table or a figure, published numbers and claims about them, in one YAML file.

Nothing here imports torch or looks at a model or at data: :mod:`stratatune.studies.grid.expand` makes the runs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from stratatune.errors import ConfigError, did_you_mean, nearest, shown
from stratatune.objectives.registry import metric_names
from stratatune.studies.grid.inherit import folder_of, inherited, is_folder
from stratatune.studies.grid.recipe_parts import (
    HINT,
    LOSS,
    PLURALS,
    TIMES,
    Claim,
    Closed,
    Coordinates,
    Item,
    Published,
    ReportLayout,
    Value,
    several,
)

_MOST_ERRORS, _MOST_NAMES = 40, 30
_TEMPLATES = frozenset({"a", "b", "mask"})
"""Names in braces that a template has of its own."""


class Recipe(Closed):
    """The data from which a grid is made. :func:`load_recipe` reads it and reports every mistake.

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
    report: ReportLayout = Field(default_factory=lambda: ReportLayout.model_validate({}))
    published: tuple[Published, ...] = ()
    claims: tuple[Claim, ...] = ()
    otherwise: dict[str, Any] = Field(default_factory=dict)

    @property
    def axes(self) -> dict[str, tuple[Item, ...]]:
        """Every axis by the name of its coordinate, in the order in which their settings override each other."""
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
        raise ValueError(f"{axis}: {shown(written)} is not a list")
    return [item if isinstance(item, Item) else Item.of(item, axis) for item in written]


def load_recipe(path: str | Path) -> Recipe:
    """Load the recipe in a YAML file, with its inherited parts (``extends``) filled in.

    Raises:
        ConfigError: no such file, no YAML, or mistakes, each in a line that names its place.
    """
    data = inherited(Path(path))
    axes = {key: data.get(key) for key in PLURALS}
    if isinstance(further := data.get("settings"), Mapping):
        axes |= {f"settings.{axis}": items for axis, items in further.items()}
    if empty := [f"{path}: {key}: an empty list: no run is left" for key, items in axes.items() if items == []]:
        raise ConfigError(empty, "put something on the axis, or leave the key out")
    recipe = recipe_of(data, str(path))
    # Only of a recipe that is yet to run: the report of a grid that ran with them says that there is no pair.
    if errors := [f"{path}: {line}" for line in (*_hiding(recipe), *_without_pairs(recipe))][:_MOST_ERRORS]:
        raise ConfigError(errors, HINT)
    return recipe


def recipe_of(data: Mapping[str, Any], source: str) -> Recipe:
    """Make a recipe from plain data; ``source`` names them in errors.

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


_KEYS: dict[str, type[BaseModel]] = {"report": ReportLayout, "published": Published, "claims": Claim}


def _line(item: Mapping[str, Any]) -> str:
    """One line for one of pydantic's errors, such as ``claims.0.on: ...``."""
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
    """Find names that occur twice on one axis, and axes that would hide another."""
    for axis in recipe.settings.keys() & {*PLURALS.values(), "name", *_TEMPLATES}:
        yield f"settings.{axis}: this name cannot be used for an axis; " + (
            f"write it under `{axis}s`" if axis in PLURALS.values() else "give it another name"
        )
    for axis, items in recipe.axes.items():
        seen = set[Any]()
        for name in (item.name for item in items):
            if seen & {name, str(name)}:  # 0, 0.0 and "0" are one coordinate, and one run
                yield f"{axis}: {shown(name)} occurs twice"
            seen |= {name, str(name)}


def _wrong_coordinates(recipe: Recipe) -> Iterator[str]:
    """Find coordinates of axes or items that the recipe does not have."""
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


def _hiding(recipe: Recipe) -> Iterator[str]:
    """Find folders whose name means something else in a text: a template's ``{a}``, a run's place on an axis."""
    for name in recipe.data:
        if name in _TEMPLATES:
            yield f"data.{name}: {{{name}}} is a field of templates; give the folder another name"
        elif recipe.axes.get(name):
            yield f"data.{name}: {{{name}}} is the place on the axis {name!r}; give the folder another name"


def _without_pairs(recipe: Recipe) -> Iterator[str]:
    """Claims whose sides lie at different places of the very axis along which they are paired."""
    for number, claim in enumerate(recipe.claims):
        sides = [side[claim.on] for side in (claim.better, claim.worse) if claim.on in side]
        if len(sides) == 2 and not set(several(sides[0])) & set(several(sides[1])):
            others = [axis for axis, items in recipe.axes.items() if items and axis != claim.on]
            yield (
                f"claims.{number}.on: {claim.on!r} pairs nothing, as `better` and `worse` are at different places of "
                f"it; name another axis{f', such as {others[-1]}' if others else ''}"
            )


def _wrong_curves(recipe: Recipe) -> Iterator[str]:
    """Axes along which no curve can be drawn, and metrics that do not exist."""
    x, axes = recipe.report.x, recipe.axes
    if x is not None and x not in TIMES:
        if x not in axes:
            yield f"report.x: there is no {x!r}; {did_you_mean(x, [*TIMES, *axes])}"
        elif odd := [item.name for item in axes[x] if isinstance(item.name, str)]:
            yield f"report.x: {odd[0]!r} of the axis {x!r} is not a number"
    legal = metric_names()
    asked = [("report.y", recipe.report.y, [LOSS, *legal]), ("report.metric", recipe.report.metric, legal)]
    asked += [(f"claims.{number}.metric", claim.metric, legal) for number, claim in enumerate(recipe.claims)]
    for place, name, known in asked:
        if name is not None and name.rpartition(".")[2] not in known:  # of several heads: column.metric
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


def settled(recipe: Recipe, source: Path, given: Mapping[str, str]) -> tuple[Recipe, str]:
    """The recipe as it can run here, and a notice: with its ``otherwise`` where a folder is missing.

    Args:
        recipe: as :func:`load_recipe` gives it.
        source: its file.
        given: folders that the user names, by name.
    """
    needed = {name: place for name, place in recipe.data.items() if name not in given and "" not in given}
    missing = [str(place) for place in needed.values() if not place or not is_folder(folder_of(place, source.parent))]
    if not missing or not recipe.otherwise:
        return recipe, ""
    data = recipe.model_dump(mode="json", exclude={"otherwise"})
    other = recipe_of({**data, **recipe.otherwise}, f"{source}: otherwise")
    return (
        other,
        f"the folder {missing[0]} is missing, so the recipe's fallback runs instead (--data DIR sets the folder)",
    )
