"""Several files that are read as one: a pattern (``d/*.csv``), or names with a comma between them.

A list of files is written with commas wherever settings are text, so that a run's record names its data in one line.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stratatune.data.compressed import uncompressed
from stratatune.data.frames import Frame
from stratatune.errors import DataError, shown
from stratatune.outside import path_exists
from stratatune.spelling import on_command_line

_LONGEST = 80
"""Characters of a name of several files that messages show."""
_LOOKED_AT = 100
"""The most entries of a list that are looked for on the disk."""


def files_in(name: str) -> list[Path]:
    """The files that a pattern or a list with commas names, in its order, each once; empty for any other name.

    Raises:
        DataError: a pattern that no file matches, a list of which a file is missing, or files of several formats.
    """
    if "\0" in name or _is_there(name):
        return []
    parts = [part.strip() for part in name.split(",")]
    if len(parts) > 1 and not any(part and _is_there(part) for part in parts) and not any(map(glob.has_magic, parts)):
        return []
    if len(parts) == 1 and not glob.has_magic(name):
        return []
    found = dict.fromkeys(file for part in parts for file in _matches(part))
    formats = dict.fromkeys(uncompressed(file).suffix.lower() for file in found)
    if len(formats) > 1:
        raise DataError(
            f"{_short(name)}: files of several formats, {' and '.join(formats)}", "give files of one format at a time"
        )
    return list(found)


def _matches(part: str) -> list[Path]:
    """The files of one name or pattern, sorted."""
    path = os.path.expanduser(part)
    if _is_there(part) or not glob.has_magic(path):
        if _is_file(part):
            return [Path(path)]
        raise DataError(f"no file {shown(part)}", "each name between commas is a file, or a pattern such as 'd/*.csv'")
    if found := sorted(Path(one) for one in glob.glob(path, recursive=True) if Path(one).is_file()):
        return found
    raise DataError(f"no file matches {shown(part)}", "check the folder and the pattern")


def _is_there(name: str) -> bool:
    return path_exists(Path(os.path.expanduser(name)))  # where there is no such user, the name stays as it is


def _is_file(name: str) -> bool:
    return _is_there(name) and Path(os.path.expanduser(name)).is_file()


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}..."


def is_file(source: Any) -> bool:
    """Whether ``source`` names a file, or several that are read as one."""
    if not isinstance(source, str | Path):
        return False
    try:
        return _is_file(str(source)) or bool(files_in(str(source)))
    except DataError:  # a text with a question mark is a pattern that nothing matches
        return False


def are_files(source: Any) -> bool:
    """Whether ``source`` is a list of paths, of path objects or of texts.

    Texts are paths where there is a file at all of them, or at one and the others have the same ending: those may be
    misspelt.
    """
    if not isinstance(source, list | tuple) or not all(isinstance(one, str | os.PathLike) for one in source):
        return False
    # A list of texts may be long, and asking the disk for each takes time.
    there = [one for one in source[:_LOOKED_AT] if not isinstance(one, str) or _is_file(one)]
    endings = {uncompressed(Path(one)).suffix.lower() for one in there} - {""}
    return bool(there) and all(
        uncompressed(Path(one)).suffix.lower() in endings if endings else _is_file(one)
        for one in map(os.fspath, source)
    )


def names_of_files(files: Sequence[Any]) -> str:
    """One name for a list of files, as :func:`files_in` reads it.

    Raises:
        DataError: a name with a comma.
    """
    names = [os.fspath(one) for one in files]
    if comma := next((name for name in names if "," in name), None):
        raise DataError(f"{shown(comma)} has a comma in its name", "name such files by a pattern, such as 'd/*.csv'")
    return ",".join(names)


def below(name: str, folder: Path) -> str:
    """A pattern or a list with commas, in which each part that ``folder`` has files for is one below that folder.

    A part stays as it is where that folder is the current one, and where the folder's own name has a comma.
    """
    own = folder.resolve()
    if "\0" in name or _is_there(name) or own == Path.cwd() or "," in str(own):
        return name

    def moved(part: str) -> str:
        if path_exists(folder / part):
            return str(own / part)
        pattern = os.path.join(glob.escape(str(own)), part)
        return pattern if glob.has_magic(part) and glob.glob(pattern, recursive=True) else part

    return ",".join(moved(part.strip()) if part.strip() else part for part in name.split(","))


def without_folders(name: str) -> str:
    """The name of a source, or those of several files with commas, without the folders, which may be private."""
    parts = name.split(",") if files_in(name) else [name]
    return ", ".join(Path(part.strip()).name for part in parts)


def joined(frames: Sequence[Frame], name: str) -> Frame:
    """The rows of several frames one after another, numbered over all of them.

    Raises:
        DataError: their columns differ.
    """
    first, *others = frames
    for other in others:
        if set(other.names) != set(first.names):
            raise DataError(
                f"{other.place} has the columns {', '.join(other.names)}, and {first.place} has "
                f"{', '.join(first.names)}",
                "files that are read as one need the same columns",
            )

    def get(column: str) -> list[Any]:
        return [value for frame in frames for value in frame.get(column)]

    notices = tuple(dict.fromkeys(notice for frame in frames for notice in frame.notices))
    place = f"{_short(name)} ({len(frames)} files)"
    rows = range(1, sum(len(frame.rows) for frame in frames) + 1)
    return replace(first, place=place, get=get, rows=rows, notices=notices)


def refuse_paths(source: Any, readable: Sequence[str]) -> None:
    """Refuse names of data files in the place of texts: the names themselves would be read.

    Raises:
        DataError: every text is one.
    """
    if are_files(source) and all(uncompressed(Path(one)).suffix.lower() in readable for one in source):
        how = "--data FILE" if on_command_line() else "predict(FILE)"
        raise DataError(
            f"the texts given are names of files: {shown(os.fspath(source[0]))}",
            f"give one path by itself, not in a list: {how}; a pattern such as 'd/*.txt' reads several",
        )
