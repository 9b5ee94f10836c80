"""Parts of a recipe from elsewhere: another recipe (``extends``), a package's folder, the keys in ``otherwise``."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stratatune.errors import ConfigError, shown
from stratatune.outside import path_exists, wrong_path
from stratatune.studies.grid.recipe_parts import HINT, PLACES, PLURALS, Published, several
from stratatune.training.config import load_config

_PACKAGE = "package:"
_DEEPEST = 20


def inherited(path: Path) -> dict[str, Any]:
    """The data of a recipe's file, merged over those of the recipe that it extends.

    Its own keys replace the other's; ``base`` is merged. Published numbers and claims are the other's,
    those whose coordinates this recipe has, so that no number is in two files.

    Raises:
        ConfigError: a file is missing or no YAML, or recipes extend each other in a circle.
    """
    return _inherited(path, ())


def _inherited(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    if not wrong_path(str(path)) and path.resolve() in above:
        raise ConfigError([f"{path}: extends itself"], HINT)
    if len(above) > _DEEPEST:
        raise ConfigError([f"{path}: the {_DEEPEST}th recipe in a chain of `extends`"], HINT)
    own = dict(load_config(path))
    name = own.pop("extends", None)
    if name is None:
        return own
    if not isinstance(name, str):
        raise ConfigError([f"{path}: extends: {shown(name)}; the name of a recipe's file, seen from this one"], HINT)
    parent = path.parent / name
    other = _inherited(parent, (*above, path.resolve()))
    if parent.parent.resolve() != path.parent.resolve():
        other = _at_home(other, parent.parent.resolve())
    both = {**other, **own}
    if all(isinstance(data.get("base", {}), Mapping) for data in (own, other)):
        both["base"] = {**other.get("base", {}), **own.get("base", {})}
    there = _names(both)
    for key in {"published", "claims", "exclude"} & other.keys() - own.keys():
        if isinstance(other[key], list):
            those = [_narrowed(one, there) for one in other[key]] if key == "exclude" else other[key]
            both[key] = [one for one in those if _fits(one, there)]
    return both


def _at_home(data: Any, folder: Path, key: str = "") -> Any:
    """A recipe's data in which paths that exist from its own ``folder`` are whole, for a recipe of another folder."""
    if isinstance(data, Mapping):
        # Each value under `data` is a folder, whatever its name.
        return {name: _at_home(value, folder, "data" if key == "data" else name) for name, value in data.items()}
    if isinstance(data, list):
        return [_at_home(one, folder, "model" if key == "models" else key) for one in data]
    if not isinstance(data, str) or not data or key not in ("data", *PLACES):
        return data
    return str(folder / data) if path_exists(folder / data) else data


def _names(data: Mapping[str, Any]) -> dict[str, set[str]]:
    """The names on every axis, as :class:`~stratatune.studies.grid.recipe_parts.Item` gives them."""
    further = data.get("settings")
    axes = {axis: data.get(key) for key, axis in PLURALS.items()}
    axes |= further if isinstance(further, Mapping) else {}
    return {
        axis: {str(one.get("name") if isinstance(one, Mapping) else _shown(one, axis)) for one in items}
        for axis, items in axes.items()
        if isinstance(items, list)
    }


def _shown(value: Any, axis: str) -> Any:
    return Path(value).name if axis == "model" and isinstance(value, str) else value


def _narrowed(one: Any, there: Mapping[str, set[str]]) -> Any:
    """An exclusion without those of several names that do not exist: what it leaves out is still left out."""
    if not isinstance(one, Mapping):
        return one
    return {
        axis: kept
        if isinstance(names, list) and (kept := [name for name in names if str(name) in there.get(axis, ())])
        else names
        for axis, names in one.items()
    }


def _fits(one: Any, there: Mapping[str, set[str]]) -> bool:
    """Whether all coordinates of a published number, a claim or an exclusion exist.

    What is none of these is left in: the recipe as a whole is checked next, and the error names its place.
    """
    if not isinstance(one, Mapping):
        return True
    places = [one[side] for side in ("better", "worse") if side in one] or [
        {axis: names for axis, names in one.items() if axis not in Published.model_fields}
    ]
    return all(
        axis in there
        and {str(name) for name in several(tuple(names) if isinstance(names, list) else names)} <= there[axis]
        for place in places
        if isinstance(place, Mapping)
        for axis, names in place.items()
    )


def folder_of(written: str, beside: Path) -> Path:
    """The folder for a recipe's ``package:MODULE/FOLDER``, or for a path relative to the recipe's own folder.

    Raises:
        ConfigError: no such package is installed.
    """
    if not written.startswith(_PACKAGE):
        return beside / Path(written).expanduser()
    module, _, inside = written.removeprefix(_PACKAGE).partition("/")
    place = _package_folder(module)
    if place is None:
        raise ConfigError(
            [f"data: {shown(written)}: the package {shown(module)} is not installed"], 'pip install "stratatune[demo]"'
        )
    return place / inside


def _package_folder(module: str) -> Path | None:
    """The folder of an installed package, found without running any of its code; None where there is none.

    Only the first name is looked up: to find ``a.b``, Python would import ``a``.
    """
    top, *inner = module.split(".")
    if not all(name.isidentifier() for name in (top, *inner)):
        return None
    try:
        spec = find_spec(top)
    except ValueError:  # a module that was made by hand, such as __main__
        return None
    for found in (spec.submodule_search_locations or ()) if spec else ():
        if (place := Path(found).joinpath(*inner)).is_dir():
            return place
    return None


def is_folder(path: Path) -> bool:
    """Whether ``path`` is a folder, for any text."""
    return path_exists(path) and path.is_dir()
