"""Expand a recipe to its runs: every combination of its axes, with its settings, its id and the trunk it shares.

Every mistake is found here, before anything runs and without torch: settings, files, and plans that do not fit a model.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stratatune.data.several import below
from stratatune.elsewhere import advice
from stratatune.errors import ConfigError, UserError, did_you_mean, shown
from stratatune.hashing import digest_of_json
from stratatune.outside import path_exists
from stratatune.plan import Plan, Resolved, shape_of
from stratatune.studies.grid.inherit import folder_of
from stratatune.studies.grid.recipe import Recipe
from stratatune.studies.grid.recipe_parts import HINT, PLACES, Item, Value, agrees
from stratatune.studies.grid.records import coordinates_of, run_id
from stratatune.training.config import AUTO, CHOSEN_BY_AUTO, RunConfig, validate
from stratatune.training.start import GIVEN_BY_START

MOST_RUNS = 5_000
"""The most runs of one recipe; each is checked before the first begins."""
_MOST_CROSSED = 100_000
_FEWER = "name fewer items on an axis, or write several recipes"
_OURS = ("out", "resume")  # the grid's own to give
_NO_DATA = ("model", "start_from")
_SHARED = ("model", "revision", "attention", "objective", "task", "text", "label", "template", "label_words")
_SHARED += (
    "train",
    "eval",
    "eval_split",
    "corpus",
    "corpus_column",
    "train_samples",
    "max_length",
    "precision",
    "cache",
    "cache_dtype",
    "device",
)
"""The settings that decide which trunk cache a run reads."""


@dataclass(frozen=True)
class Planned:
    """A run of a recipe.

    Attributes:
        id: the hash of its settings, see :func:`stratatune.studies.grid.records.run_id`.
        number: its place in the recipe's order.
        config: its settings; ``out`` and ``resume`` are left to the grid.
        coordinates: its place on each axis.
        trunk: the name of the trunk cache that it reads; runs of equal names share one. Empty: none on disk.
    """

    id: str
    number: int
    config: RunConfig
    coordinates: dict[str, Value]
    trunk: str

    @property
    def settings(self) -> dict[str, Any]:
        """The settings as plain data, by which the run is known."""
        return _plain(self.config)


def expand(
    recipe: Recipe,
    folder: Path,
    *,
    data: Mapping[str, str] | None = None,
    models: Mapping[str, str] | None = None,
    only: Mapping[str, tuple[str, ...]] | None = None,
    done: Iterable[Mapping[str, Any]] = (),
) -> list[Planned]:
    """The runs of a recipe, in its order.

    Args:
        recipe: the recipe.
        folder: the folder of its file, to which its ``data`` folders are relative.
        data: other folders for those under ``data``, by name; the name may be empty where there is one.
        models: other places for the models, by their names.
        only: leave out the runs that do not have one of these names on an axis.
        done: the settings of runs that are finished, which need the run that they started from no more.

    Raises:
        ConfigError: a folder that is not there, settings that are wrong, or no run at all; one line each.
    """
    roots = _roots(recipe, folder, data or {})
    recipe = _moved(recipe, models or {})
    errors = [*_wrong_keys(recipe), *_never_used(recipe), *_wrong_only(recipe, only or {})]
    if errors:
        raise ConfigError(errors, HINT)
    _check_size(recipe)
    making, asked = _Making(recipe, roots, folder, done), list(_combinations(recipe, only or {}))
    if len(asked) > MOST_RUNS:
        raise ConfigError([f"the recipe makes {len(asked):,} runs; legal: up to {MOST_RUNS:,}"], _FEWER)
    found = [run for one in asked if (run := making.run(*one)) is not None]
    if making.errors:
        raise ConfigError([f"{line}  ({place})" for line, place in making.errors.items()], HINT)
    if not found:
        raise ConfigError(["this recipe has no runs left"], "look at its pairs and exclude, and at --only")
    return found


def ids_at(
    recipe: Recipe,
    folder: Path,
    places: Iterable[Mapping[str, Value]],
    *,
    data: Mapping[str, str] | None = None,
    models: Mapping[str, str] | None = None,
    done: Iterable[Mapping[str, Any]] = (),
) -> set[str]:
    """The ids of those runs of a recipe that lie at one of ``places``, each the coordinates of a run.

    For a grid that ``only`` restricts: which of the runs done before are still the recipe's. A run with a mistake has
    no id; the other arguments are as for :func:`expand`, which has refused what is wrong with them.
    """
    roots, recipe = _roots(recipe, folder, data or {}), _moved(recipe, models or {})
    axes = [axis for axis, items in recipe.axes.items() if items]
    wanted = {tuple(str(place.get(axis)) for axis in axes) for place in places}
    making = _Making(recipe, roots, folder, done)
    found = [
        making.run(number, at)
        for number, at in _combinations(recipe, {})
        if tuple(str(at[axis].name) for axis in axes) in wanted
    ]
    return {run.id for run in found if run is not None}


def _check_size(recipe: Recipe) -> None:
    """Refuse axes with too many combinations to count through in seconds."""
    crossed = math.prod(len(items) for items in recipe.axes.values() if items)
    if crossed > _MOST_CROSSED or crossed * (len(recipe.pairs) + len(recipe.exclude)) > 20 * _MOST_CROSSED:
        raise ConfigError([f"the axes cross to {crossed:,} combinations; legal: up to {_MOST_CROSSED:,}"], _FEWER)


def _roots(recipe: Recipe, folder: Path, given: Mapping[str, str]) -> dict[str, str]:
    """The folders under ``data``, as absolute paths."""
    names = list(recipe.data)
    if "" in given and len(names) == 1:
        given = {**given, names[0]: given[""]}
    odd = [name for name in given if name not in names and not (name == "" and len(names) == 1)]
    if odd:
        said = f"--data: the recipe has no folder {odd[0]!r}" if odd[0] else "--data: the recipe has several folders"
        raise ConfigError([said], f"write --data NAME=DIR; names: {', '.join(names) or 'none'}")
    roots, errors = {}, []
    for name, default in recipe.data.items():
        path = Path(given[name]).expanduser() if name in given else folder_of(default, folder) if default else None
        if path is None or not path_exists(path) or not path.is_dir():
            errors.append(
                f"data: {name}: " + (f"there is no folder {shown(str(path))[1:-1]}" if path else "no folder is given")
            )
        roots[name] = str(path and path_exists(path) and path.resolve())
    if errors:
        raise ConfigError(errors, f"pass the folder with --data {'DIR' if len(names) == 1 else 'NAME=DIR'}")
    return roots


def _moved(recipe: Recipe, models: Mapping[str, str]) -> Recipe:
    """The recipe with other paths for its models."""
    known = {str(item.name): item for item in recipe.models}
    alone = str(recipe.base.get("model", ""))
    if not known and alone:
        known = {Path(alone).name: Item.of(alone, "model")}
    errors = [f"--model: the recipe has no model {name!r}" for name in models if name not in known]
    if errors:
        raise ConfigError(errors, f"write --model NAME=PLACE; names: {', '.join(known) or 'none'}")
    if not models:
        return recipe
    moved = {
        name: {**item.settings, "model": models.get(name, item.settings.get("model"))} for name, item in known.items()
    }
    if not recipe.models:
        return recipe.model_copy(update={"base": {**recipe.base, **next(iter(moved.values()))}})
    items = tuple(Item(name=item.name, settings=moved[str(item.name)]) for item in recipe.models)
    return recipe.model_copy(update={"models": items})


def _wrong_keys(recipe: Recipe) -> Iterator[str]:
    """Settings that do not exist, each with its place; an axis may have any name that a text uses."""
    legal = [name for name in RunConfig.model_fields if name not in _OURS]
    free = {axis for axis in recipe.settings if axis not in RunConfig.model_fields}
    places = [("base", recipe.base, set())]
    places += [(f"{axis} {item.name}", item.settings, free & {axis}) for axis, on in recipe.axes.items() for item in on]
    for place, settings, own in places:
        for name in settings:
            if name in _OURS:
                yield f"{place}: {name}: the grid sets it"
            elif name not in legal and name not in own:
                said = advice(name, legal)
                yield f"{place}: {name}: unknown setting" + (f"; {said}" if said else "")
    texts = json.dumps([settings for _, settings, _ in places])
    for axis in sorted(free):
        if any(axis in item.settings for item in recipe.settings[axis]) and f"{{{axis}}}" not in texts:
            said = advice(axis, legal)
            yield f"settings.{axis}: no such setting, and no text has {{{axis}}} in it" + (f"; {said}" if said else "")


def _never_used(recipe: Recipe) -> Iterator[str]:
    """Settings of models, tasks and plans that every value of a further axis replaces."""
    for axis, items in recipe.settings.items():
        always = set.intersection(*(set(item.settings) for item in items)) if items else set[str]()
        for kind, others in (("model", recipe.models), ("task", recipe.tasks), ("plan", recipe.plans)):
            for item in others:
                for name in sorted(always & item.settings.keys()):
                    yield f"{kind} {item.name}: {name} is never used, as settings.{axis} sets it in every run"


def _wrong_only(recipe: Recipe, only: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    for axis, names in only.items():
        if axis not in recipe.axes or not recipe.axes[axis]:
            there = [name for name, items in recipe.axes.items() if items]
            yield f"--only: the recipe has no axis {axis!r}; {did_you_mean(axis, there)}"
            continue
        there = [str(item.name) for item in recipe.axes[axis]]
        for name in names:
            several = [part.strip() for part in name.split(",")]
            if name not in there and len(several) > 1 and set(several) <= {*there}:
                repeated = " ".join(f"--only {axis}={part}" for part in several)
                yield f"--only: {axis} has no {name!r}; name several by repeating the option: {repeated}"
            elif name not in there:
                yield f"--only: {axis} has no {name!r}; {did_you_mean(name, there)}"


def _combinations(recipe: Recipe, only: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[int, dict[str, Item]]]:
    """The items of each run, and its place in the whole recipe's order, whatever ``only`` leaves out."""
    number = 0
    axes = {axis: items for axis, items in recipe.axes.items() if items}
    for items in itertools.product(*axes.values()):
        at = dict(zip(axes, items, strict=True))
        names = {axis: item.name for axis, item in at.items()}
        kept = not recipe.pairs or any(agrees(names, pair) for pair in recipe.pairs)
        kept = kept and not any(agrees(names, gone) for gone in recipe.exclude)
        if kept and all(str(names[axis]) in wanted for axis, wanted in only.items()):
            yield number, at
        number += kept


class _Making:
    """Makes runs one by one and collects the mistakes: each line with the first run that has it."""

    def __init__(
        self, recipe: Recipe, roots: Mapping[str, str], folder: Path, done: Iterable[Mapping[str, Any]]
    ) -> None:
        self._done = list(done)
        self.recipe, self.roots, self.folder = recipe, roots, folder
        self.errors: dict[str, str] = {}
        self._seen: dict[str, str] = {}
        self._shape = functools.cache(shape_of)

    def run(self, number: int, at: Mapping[str, Item]) -> Planned | None:
        names = {axis: item.name for axis, item in at.items()}
        place = " ".join(f"{axis}={name}" for axis, name in names.items()) or "its only run"
        try:
            config = self._validated(self._settings(at, names))
            shape = self._shape(config.model)
            resolved = None if config.plan == AUTO else Plan.parse(config.plan).resolve(shape)
        except UserError as error:
            lines = error.errors if isinstance(error, ConfigError) else [" ".join(str(error).split())]
            for line in lines:
                self.errors.setdefault(line, place)
            return None
        plain = _plain(config)
        found = Planned(run_id(plain), number, config, {**coordinates_of(plain), **names}, _trunk(config, resolved))
        twin = self._seen.setdefault(found.id, place)
        if twin != place:
            self.errors.setdefault(f"the same run as {twin}", place)
        return found

    def _validated(self, settings: dict[str, Any]) -> RunConfig:
        try:
            return validate(settings)
        except ConfigError as error:
            if all(line.startswith("start_from: ") for line in error.errors) and (found := self._finished(settings)):
                return found
            raise

    def _finished(self, settings: dict[str, Any]) -> RunConfig | None:
        """The settings of the finished run that these settings made while the run to start from was there."""
        start = str(settings["start_from"])
        places = (start, str((self.folder / start).resolve()))  # that of a folder which is gone is as it is written
        for one in self._done:
            if one.get("start_from") in places:
                given = {name: one[name] for name in GIVEN_BY_START}
                config = validate({**given, **settings, "start_from": one["start_from"]}, check_files=False)
                if run_id(_plain(config)) == run_id(one):
                    return config
        return None

    def _settings(self, at: Mapping[str, Item], names: Mapping[str, Value]) -> dict[str, Any]:
        merged = dict(self.recipe.base)
        for item in at.values():
            merged |= item.settings
        words = {**self.roots, **names}
        filled = {name: _filled(value, words) for name, value in merged.items() if name in RunConfig.model_fields}
        return {name: self._found(value, name) if name in PLACES else value for name, value in filled.items()}

    def _found(self, value: Any, setting: str) -> Any:
        """Resolve a path relative to the recipe's own folder if it exists there; else keep it as written.

        So are the patterns of data, and each name of a list of files.
        """
        if isinstance(value, list):
            return [self._found(one, setting) for one in value]
        if not isinstance(value, str) or not value:
            return value
        there, here = self.folder / value, Path(value)
        if not path_exists(there):
            return value if setting in _NO_DATA else below(value, self.folder)
        return value if path_exists(here) and here.samefile(there) else str(there.resolve())


def _plain(config: RunConfig) -> dict[str, Any]:
    """All settings as plain data, without those that ``auto`` is to choose: a run that gives them is another one."""
    left = [name for name in CHOSEN_BY_AUTO if config.plan == AUTO and name not in config.model_fields_set]
    return config.model_dump(mode="json", exclude=set(left))


def _filled(value: Any, words: Mapping[str, Value]) -> Any:
    """Replace ``{name}`` in every text of ``value`` if the name is known: a template's ``{a}`` stays."""
    if isinstance(value, str):
        return re.sub(r"\{(\w+)\}", lambda found: str(words.get(found[1], found[0])), value)
    if isinstance(value, Mapping):
        return {key: _filled(one, words) for key, one in value.items()}
    return [_filled(one, words) for one in value] if isinstance(value, list) else value


def _trunk(config: RunConfig, resolved: Resolved | None) -> str:
    """A hash of the settings that the cache's key will depend on; empty where no cache is written.

    Caches of a plan that is still to be chosen (None) are made as it is tried.
    """
    if resolved is None or config.cache in ("off", "ram") or resolved.trains_embeddings or resolved.frozen_depth == 0:
        return ""
    parts: list[Any] = [config.model_dump(mode="json", include=set(_SHARED))]
    parts += [resolved.frozen_depth, resolved.moved, resolved.plan.objective]
    if config.train_samples is not None or isinstance(config.eval_split, float):
        parts.append(config.seed)  # which draws the rows
    return digest_of_json(parts, size=8)
