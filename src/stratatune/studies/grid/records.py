"""The results of runs, read back from the folders of runs and grids: the basis of reports, exports and listings."""

from __future__ import annotations

import glob
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from stratatune.data.compressed import uncompressed
from stratatune.errors import ConfigError, counted, shown
from stratatune.hashing import digest_of_json
from stratatune.locks import is_held
from stratatune.studies.grid.book import FILE, LOCK, Store
from stratatune.studies.grid.recipe import Recipe, recipe_of
from stratatune.studies.grid.recipe_parts import PLURALS, Value
from stratatune.studies.grid.rows import AGAIN, Environment, Outcome, Settings, checked, column, file_of, lines_of
from stratatune.training.config import NO_NUMBER, load_config
from stratatune.training.folder import is_running
from stratatune.training.seal import broken, opened

Status = Literal["waiting", "running", "stopped", "done", "failed"]
_DATA = ("train", "eval", "test", "corpus")
_ADDED_LATER = (("start_from", None), ("corpus", None), ("corpus_column", None), ("max_steps", None))
"""Settings at their defaults that ids do not hold: grids of earlier versions have none of them."""
RUNS = "runs"
"""The folder inside a grid folder that holds its run folders."""


@dataclass(frozen=True)
class RunRecord:
    """One run.

    Attributes:
        id: the hash of its settings, see :func:`run_id`.
        config: its settings, as in ``config.yaml``.
        status: ``stopped``: begun, and no living process is at it.
        coordinates: ``model``, ``plan``, ``task``, ``seed`` and every other axis of the recipe, by name.
        result: ``Result.to_json()`` of a finished run.
        history: the lines of ``metrics.jsonl``.
        environment: ``env.json``.
        error: the error of a failed run, one line.
        folder: the run folder.
        command: the command that trains this run again.
        current: whether the recipe of its grid still makes it; False for a run of earlier settings.
    """

    id: str
    config: dict[str, Any]
    status: Status
    coordinates: dict[str, Value]
    result: dict[str, Any] | None
    history: list[dict[str, Any]]
    environment: dict[str, Any]
    error: str | None
    folder: Path
    command: str
    current: bool = True


def run_id(config: Mapping[str, Any]) -> str:
    """16 hex characters from all settings that a number may depend on: not ``out`` or the cache's place."""
    said = {
        name: value for name, value in config.items() if name not in NO_NUMBER and (name, value) not in _ADDED_LATER
    }
    return digest_of_json(said, size=8, separators=(",", ":"), ascii=False)


def read_records(path: str | Path, *, earlier: bool = False) -> tuple[Recipe | None, list[RunRecord]]:
    """The runs in a run folder, in a folder of run folders, or in a grid folder (with the recipe it was made from).

    Runs that a grid's recipe made before it was changed are left out, since they have the same coordinates as those
    that it makes now; with ``earlier`` they are there too, not ``current``.

    Raises:
        ConfigError: none of these is there, a file is damaged, or the grid is of another version.
    """
    path = Path(path).expanduser()
    if (path / FILE).is_file():
        with Store.open(path) as store:
            recipe = store.about("recipe")
            rows, current = store.runs(), store.current()
        alive = is_held(path / LOCK)
        belongs = {row["id"]: current is None or row["id"] in current for row in rows}
        records = [_of_grid(path, row, alive, belongs[row["id"]]) for row in rows if earlier or belongs[row["id"]]]
        return _recipe(recipe, path / FILE) if recipe else None, records
    if (path / "config.yaml").is_file():
        return None, [_of_folder(path)]
    if found := sorted(one.parent for one in path.glob("*/config.yaml")):
        return None, compared([_of_folder(one) for one in found])
    raise ConfigError([f"{path}: neither a run folder nor a grid folder"], "use a folder that `train` or `grid` wrote")


def compared(records: Sequence[RunRecord]) -> list[RunRecord]:
    """Runs that no recipe put side by side, with every setting in which they differ as a coordinate.

    Files of data are a coordinate only where runs of one task differ in them.
    """
    differs = [
        name for name in _names(records) if name not in (*NO_NUMBER, *PLURALS.values()) and _differs(name, records)
    ]
    of_task: dict[Value, list[RunRecord]] = {}
    for record in records:
        of_task.setdefault(record.coordinates["task"], []).append(record)
    axes = [one for one in differs if one not in _DATA or any(_differs(one, found) for found in of_task.values())]
    found = [{**record.coordinates, **{name: _short(record.config.get(name)) for name in axes}} for record in records]
    for name in ("model", *(one for one in _DATA if one in axes)):
        for own, place in zip(found, _apart([str(record.config.get(name)) for record in records]), strict=True):
            own[name] = place
    return [replace(record, coordinates=own) for record, own in zip(records, found, strict=True)]


def _apart(paths: Sequence[str]) -> list[str]:
    """Each path by as many of its last parts as distinguish those that differ."""
    parts = [path.rstrip("/").split("/") for path in paths]
    for count in range(1, max(map(len, parts))):
        names = ["/".join(one[-count:]) for one in parts]
        if len(set(names)) == len({tuple(one) for one in parts}):
            return names
    return ["/".join(one) for one in parts]


def _names(records: Sequence[RunRecord]) -> list[str]:
    return list(dict.fromkeys(name for record in records for name in record.config))


def _differs(name: str, records: Sequence[RunRecord]) -> bool:
    return len({str(record.config.get(name)) for record in records}) > 1


def earlier_said(count: int) -> str:
    """A sentence about runs of a grid that were left out; empty if there are none."""
    there = "is" if count == 1 else "are"
    return f"{counted(count, 'run')} of earlier settings {there} left out; grid ls lists them." if count else ""


def _short(value: Any) -> Value:
    if isinstance(value, list):
        return ",".join(map(str, value)) or "none"
    return value if isinstance(value, int | float | str) else "none" if value is None else str(value)


def _recipe(text: str, place: Path) -> Recipe:
    data = column(text, f"{place}: recipe")
    if not isinstance(data, dict):
        raise ConfigError([f"{place}: recipe: {shown(data)}"], AGAIN)
    return recipe_of(data, str(place.parent))


def read_caches(path: str | Path) -> list[dict[str, Any]]:
    """The trunk caches that a grid built, as ``train.building.build_cache`` reports them; none for a run.

    Raises:
        ConfigError: as :func:`read_records`.
    """
    path = Path(path).expanduser()
    if not (path / FILE).is_file():
        return []
    with Store.open(path) as store:
        return [row["result"] for row in store.caches().values() if row["status"] == "done" and row["result"]]


def _of_grid(grid: Path, row: Mapping[str, Any], alive: bool, current: bool) -> RunRecord:
    """A run of the book; one that is ``running`` may have been killed since."""
    folder = grid / RUNS / row["id"]
    environment = file_of(folder / "env.json", Environment) or {}
    _check_row(grid, row, folder)
    return RunRecord(
        id=row["id"],
        config=row["config"],
        status="stopped" if row["status"] == "running" and not alive else row["status"],
        coordinates=row["coordinates"],
        result=row["result"],
        history=lines_of(folder / "metrics.jsonl"),
        environment=environment,
        error=row["error"],
        folder=folder,
        command=_command(folder, environment),
        current=current,
    )


def _of_folder(folder: Path) -> RunRecord:
    config = checked(Settings, load_config(folder / "config.yaml"), str(folder / "config.yaml"))
    result = _result(folder)
    environment = file_of(folder / "env.json", Environment) or {}
    return RunRecord(
        id=run_id(config),
        config=config,
        status="done" if result else "running" if is_running(folder) else "stopped",
        coordinates=coordinates_of(config),
        result=result,
        history=lines_of(folder / "metrics.jsonl"),
        environment=environment,
        error=None,
        folder=folder,
        command=_command(folder, environment),
    )


def _result(folder: Path) -> dict[str, Any] | None:
    """``result.json`` without its checksums.

    Raises:
        ConfigError: it, or a file that is read with it, is not as the run left it.
    """
    result = file_of(folder / "result.json", Outcome)
    if result is None:
        return None
    if odd := broken(result, folder):
        raise ConfigError([f"{folder / odd} is not as the run left it: its checksum differs"], AGAIN)
    return opened(result)


def _check_row(grid: Path, row: Mapping[str, Any], folder: Path) -> None:
    """Compare a row of the book with the files in the run's own folder, and its settings with its id.

    Raises:
        ConfigError: they disagree.
    """
    own = _result(folder) if row["status"] == "done" else None
    named_by_settings = len(row["id"]) == len(run_id({}))
    if (own is not None and own != row["result"]) or (named_by_settings and run_id(row["config"]) != row["id"]):
        raise ConfigError([f"{grid / FILE}: {row['id']} is not as its run left it"], AGAIN)


def coordinates_of(config: Mapping[str, Any]) -> dict[str, Value]:
    """The coordinates that every run has; the data's name replaces a missing task."""
    named = {axis: config.get(axis) for axis in PLURALS.values()}
    named["model"] = Path(str(config["model"])).name
    named["task"] = named["task"] or _data_of(str(config["train"]))
    return {axis: value for axis, value in named.items() if value is not None}


def _data_of(source: str) -> str:
    """The name of a run's data: of its files without their suffixes, or of the folder of a pattern."""
    files = [Path(part.strip()) for part in source.split(",")]
    names = [one.parent.name or one.name if glob.has_magic(one.name) else one.name for one in files]
    return ",".join(uncompressed(Path(name)).stem for name in names)


def _command(folder: Path, environment: Mapping[str, Any]) -> str:
    """A command that trains a run again from any folder.

    Its settings may name files as seen from where it was trained.
    """
    command = f"stratatune train {shlex.quote(str(folder.resolve() / 'config.yaml'))} --out NEW"
    place = environment.get("directory")
    return f"cd {shlex.quote(place)} && {command}" if place else command
