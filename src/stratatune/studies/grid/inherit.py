"""What a recipe takes from elsewhere: another recipe (``extends``), a package's folder, the keys in ``otherwise``."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from stratatune.errors import ConfigError
from stratatune.studies.grid.recipe_parts import HINT, PLURALS, Published, several
from stratatune.training.config import load_config

_PACKAGE = "package:"


def inherited(path: Path) -> dict[str, Any]:
    """The data of a recipe's file over those of the recipe that it extends.

    A key of its own takes the place of the other's; ``base`` is merged. Published numbers and claims are the other's,
    those whose coordinates this recipe has, so that no number stands in two files.

    Raises:
        ConfigError: a file is missing or no YAML, or recipes extend each other in a circle.
    """
    return _inherited(path, ())


def _inherited(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in above:
        raise ConfigError([f"{path}: extends itself"], HINT)
    own = dict(load_config(path))
    name = own.pop("extends", None)
    if name is None:
        return own
    if not isinstance(name, str):
        raise ConfigError([f"{path}: extends: {name!r}; the name of a recipe's file beside this one"], HINT)
    other = _inherited(path.parent / name, (*above, path.resolve()))
    both = {**other, **own}
    if all(isinstance(data.get("base", {}), Mapping) for data in (own, other)):
        both["base"] = {**other.get("base", {}), **own.get("base", {})}
    there = _names(both)
    for key in {"published", "claims", "exclude"} & other.keys() - own.keys():
        both[key] = [one for one in other[key] if _fits(one, there)]
    return both


def _names(data: Mapping[str, Any]) -> dict[str, set[str]]:
    """The names on every axis, as :class:`~stratatune.studies.grid.recipe_parts.Item` gives them."""
    axes = {axis: data.get(key) or () for key, axis in PLURALS.items()}
    axes |= data.get("settings") or {}
    return {
        axis: {str(one.get("name") if isinstance(one, Mapping) else _shown(one, axis)) for one in items}
        for axis, items in axes.items()
    }


def _shown(value: Any, axis: str) -> Any:
    return Path(value).name if axis == "model" and isinstance(value, str) else value


def _fits(one: Mapping[str, Any], there: Mapping[str, set[str]]) -> bool:
    """Whether all coordinates of a published number, a claim or an exclusion exist."""
    places = [one[side] for side in ("better", "worse") if side in one] or [
        {axis: names for axis, names in one.items() if axis not in Published.model_fields}
    ]
    return all(
        axis in there
        and {str(name) for name in several(tuple(names) if isinstance(names, list) else names)} <= there[axis]
        for place in places
        for axis, names in place.items()
    )


def folder_of(written: str, beside: Path) -> Path:
    """The folder that a recipe means: ``package:MODULE/FOLDER``, or a path seen from the recipe's own folder.

    Raises:
        ConfigError: no such package is installed.
    """
    if not written.startswith(_PACKAGE):
        return beside / Path(written).expanduser()
    module, _, inside = written.removeprefix(_PACKAGE).partition("/")
    try:
        return Path(str(files(module))) / inside
    except ModuleNotFoundError as error:
        raise ConfigError(
            [f"data: {written}: no package {module!r} is installed"], 'pip install "stratatune[demo]"'
        ) from error
