"""Save several tops over one trunk as one artefact: a folder of run folders, and a file that names them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from stratatune.errors import ModelError
from stratatune.files import write_text
from stratatune.outside import Unreadable, path_exists, read_json

FILE = "tops.json"
_FORMAT = 1
_AGAIN = "train again, or restore the folder from a backup"


def write_tops(folder: Path, names: Sequence[str]) -> None:
    """Record which folders in ``folder`` are the runs of its tops; call it when all of them are complete.

    Raises:
        ResourceError: it cannot be written.
    """
    write_text(folder / FILE, json.dumps({"format": _FORMAT, "tops": list(names)}, indent=2) + "\n")


def tops_in(folder: str | Path) -> tuple[Path, ...]:
    """The run folders of the tops in a run's folder, or in its adapter folder; none where it has one top.

    Raises:
        ModelError: the file that names them is damaged.
    """
    place = Path(folder)
    place = place / "adapter" if path_exists(place / "adapter") else place
    path = place / FILE
    if not path_exists(path):
        return ()
    try:
        data = read_json(path)
    except Unreadable as error:
        raise ModelError(f"{path} is damaged: {error}", _AGAIN) from error
    names = data.get("tops") if isinstance(data, dict) and data.get("format") == _FORMAT else None
    # Names and no paths: nothing outside of the folder is read.
    if not isinstance(names, list) or not names or any(not isinstance(n, str) or Path(n).name != n for n in names):
        raise ModelError(f"{path} is damaged: it names no folders", _AGAIN)
    return tuple(place / name for name in names)


def refuse_tops(folder: str | Path) -> None:
    """Refuse a run with several tops where one model is wanted.

    Raises:
        ModelError: it is one; the hint names the first of its tops.
    """
    if tops := tops_in(folder):
        names = ", ".join(top.name for top in tops)
        raise ModelError(
            f"{folder} has several tops, and this takes one model: {names}", f"give one of them: {tops[0]}"
        )
