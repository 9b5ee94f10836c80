"""The run folder of an estimator: its own or the user's, its files as bytes, and further facts remembered in it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from stratatune.app.checks import KINDS_OF_CLASSES
from stratatune.errors import ConfigError, ModelError
from stratatune.files import make_folder, write_bytes, write_errors, write_text
from stratatune.hashing import fast_digest
from stratatune.outside import Unreadable, read_json
from stratatune.training.checkpoint import FILE as CHECKPOINT
from stratatune.training.result import RESULT, Result

MEMORY = "estimator.json"
_CLAIM = ".fit"
_FILES = (MEMORY, "config.yaml", RESULT, "metrics.jsonl", "env.json")


def claimed(out: str | Path) -> Path:
    """Claim ``out``, or if a run is in it ``out-2``, ``out-3``, ...: the first that no other fit has.

    A search clones an estimator with its ``out`` and fits the clones one by one or in several processes; a folder is
    taken by a file that can be created only once.

    Raises:
        ResourceError: it cannot be written.
    """
    base = Path(out).expanduser()
    for number in count(1):
        folder = base if number == 1 else base.with_name(f"{base.name}-{number}")
        make_folder(folder)
        if any(entry.name != _CLAIM for entry in folder.iterdir()):
            continue
        with write_errors(folder):
            try:
                (folder / _CLAIM).touch(exist_ok=False)
            except FileExistsError:
                continue
        return folder
    raise AssertionError("unreachable: numbers do not end")


def released(folder: Path) -> None:
    """Remove the claim: the files of the run now show that the folder is taken."""
    (folder / _CLAIM).unlink(missing_ok=True)


def remember(
    folder: Path,
    classes: np.ndarray | None,
    columns: Sequence[str],
    sets: str = "",
    learnt: str = "",
    class_weight: Mapping[Any, float] | str | None = None,
) -> None:
    """Record facts that a run folder lacks: the kind of the labels, and the columns' names.

    ``sets``: how several labels a text were given, ``matrix`` or ``lists``; empty where each has one. ``learnt``: the
    hash of the training data (:func:`hash_of`). ``class_weight``: that of the estimator, which the run sees as weights
    of its rows.

    Raises:
        ResourceError: it cannot be written.
    """
    data: dict[str, Any] = {"columns": list(columns), **({"sets": sets} if sets else {}), "learnt": learnt}
    if classes is not None and classes.dtype.kind in KINDS_OF_CLASSES:
        data |= {"classes": classes.tolist(), "dtype": classes.dtype.name if classes.dtype.kind != "U" else "str"}
    if isinstance(class_weight, Mapping):  # labels need not be strings, which JSON's keys are
        data["class_weight"] = [[_plain(label), float(weight)] for label, weight in class_weight.items()]
    elif class_weight is not None:
        data["class_weight"] = class_weight
    write_text(folder / MEMORY, json.dumps(data) + "\n")


def _plain(label: Any) -> Any:
    return label.item() if isinstance(label, np.generic) else label


def class_weight_in(folder: Path) -> dict[Any, float] | str | None:
    """The ``class_weight`` of the estimator whose run is in a folder; None if it had none."""
    path = beside(folder, MEMORY)
    data: Any = None
    with contextlib.suppress(Unreadable):
        data = read_json(path) if path else None
    found = data.get("class_weight") if isinstance(data, dict) else None
    if isinstance(found, list):
        with contextlib.suppress(TypeError, ValueError):
            return {label: float(weight) for label, weight in found}
    return found if isinstance(found, str) else None


def remembered(folder: Path) -> tuple[np.ndarray | None, tuple[str, ...], str]:
    """The classes, the columns' names and the form of label sets, if the folder has them.

    Raises:
        ModelError: its record of them is damaged.
    """
    path = beside(folder, MEMORY)
    if path is None:
        return None, (), ""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        columns = tuple(str(name) for name in data["columns"])
        sets = str(data.get("sets", ""))
        if "classes" not in data:
            return None, columns, sets
        kind = np.dtype(data["dtype"])
        if kind.kind not in KINDS_OF_CLASSES:
            raise ValueError(f"dtype {data['dtype']!r}")
        classes = np.array(data["classes"], None if kind.kind == "U" else kind)
        if classes.ndim != 1:
            raise ValueError("classes are not a list")
        return classes, columns, sets
    except (OSError, ValueError, TypeError, KeyError, OverflowError) as error:
        raise ModelError(f"{path} is damaged: {error}", "remove it: labels are then returned as text") from error


def hash_of(table: Any) -> str:
    """A hash of a data set or data frame: of its columns' names and all of their values."""
    names = table.column_names if hasattr(table, "column_names") else list(table.columns)
    return fast_digest(part for name in names for part in (f"{name}:", *(f"{value!r};" for value in table[name])))


def check_learnt(folder: Path, learnt: str) -> None:
    """Refuse to resume a finished run whose training data were not those of this hash.

    A run that was stopped compares its data itself, with those of its checkpoint.

    Raises:
        ConfigError: they were others, such as those of another fold, or the folder does not say which they were.
    """
    if not (folder / RESULT).exists() or (folder / CHECKPOINT).exists():
        return
    data: Any = None
    with contextlib.suppress(Unreadable):
        data = read_json(folder / MEMORY)
    if not isinstance(data, dict) or data.get("learnt") != learnt:
        fix = "choose another out, or leave out resume: then each fit has a folder of its own"
        known = isinstance(data, dict) and data.get("learnt")
        what = "on other data" if known else "that does not record its training data"
        raise ConfigError([f"out: {folder} holds a finished run {what}"], fix)


def beside(folder: Path, name: str) -> Path | None:
    """A file of a run, by its name: in the run's folder, or where that of its adapter was given, in the one above."""
    places = (folder, folder.parent) if folder.resolve().name == "adapter" else (folder,)
    return next((place / name for place in places if (place / name).is_file()), None)


def result_in(folder: Path) -> Result | None:
    """The result of the run in a folder; None where there is none, or one that another version wrote."""
    path = beside(folder, RESULT)
    if path is None:
        return None
    with contextlib.suppress(ValidationError, Unreadable):
        result = TypeAdapter(Result).validate_python(read_json(path))
        return replace(result, out=str(path.parent))
    return None


def as_bytes(folder: Path) -> dict[str, bytes]:
    """The files of a run, by their paths inside the folder: the adapter, and the records about it."""
    adapter = folder / "adapter"
    files = [path for path in adapter.rglob("*") if path.is_file()] if adapter.is_dir() else []
    if not files:  # an adapter folder by itself
        files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    found = {path.relative_to(folder).as_posix(): path for path in files}
    found |= {name: path for name in _FILES if (path := beside(folder, name)) is not None}
    return {name: path.read_bytes() for name, path in found.items()}


def from_bytes(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write such files into a folder.

    Raises:
        ModelError: a path that leads out of it.
        ResourceError: it cannot be written.
    """
    for name, content in files.items():
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts or not isinstance(content, bytes):
            raise ModelError(f"{name!r} is not a file of a run folder", "save the estimator again")
        make_folder((folder / inside).parent)
        write_bytes(folder / inside, content)
