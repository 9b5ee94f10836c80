"""Read paths and JSON from outside within bounds. The caller turns a refusal into its own error."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from stratatune.errors import shown

_LONGEST_NAME, _LONGEST_PATH = 255, 4095  # bytes, as Linux and macOS have it
_LARGEST_JSON = 64 * 2**20


def refuse_switch(value: Any, annotation: Any) -> Any:
    """``value``, unless it is true or false in the place of a number, which pydantic would read as 1 or 0.

    Raises:
        ValueError: it is.
    """
    kinds = {annotation, *get_args(annotation)}
    if isinstance(value, bool) and kinds & {int, float} and not kinds & {bool, str}:
        raise ValueError("a number, not yes, no, true or false")
    return value


class Written(BaseModel):
    """The content of a file of ours, checked when it is read: strict types; keys of later versions are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, protected_namespaces=())


class Unreadable(ValueError):
    """A file that cannot be read, or has the wrong content; one line, without the file's name."""


def wrong_path(text: str) -> str:
    """The reason why no file system can have ``text`` as a path; empty where one can."""
    if not text:
        return "the path is empty"
    if "\0" in text:
        return "a path cannot contain a NUL character"
    try:
        encoded = os.fsencode(text)
    except UnicodeEncodeError:
        return "a path cannot contain half of a surrogate pair"
    longest = max(map(len, encoded.split(b"/")))
    if longest > _LONGEST_NAME or len(encoded) > _LONGEST_PATH:
        return f"the path is too long ({max(longest, len(encoded)):,} bytes)"
    return ""


def path_exists(path: Path) -> bool:
    """Whether ``path`` exists; False also for a path that no file system could have."""
    return not wrong_path(str(path)) and path.exists()


def regular_file(path: Path) -> str:
    """Why ``path`` cannot be read as a file; empty where it can. A folder, a device or a pipe is not a file."""
    if wrong := wrong_path(str(path)):
        return wrong
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return f"{error.strerror}"
    if stat.S_ISDIR(mode):
        return "it is a folder, and a file is needed"
    if not stat.S_ISREG(mode):
        return "it is not a regular file"
    # Asked, since libraries in other languages say of such a file that it does not exist, or is damaged.
    return "" if os.access(path, os.R_OK) else "you have no permission to read it"


def read_json(path: Path) -> Any:
    """The JSON value in a file.

    Raises:
        Unreadable: no file, no UTF-8, no JSON, or one that is larger or nests deeper than any of ours.
    """
    if wrong := regular_file(path):
        raise Unreadable(wrong)
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise Unreadable(f"it is larger than {_LARGEST_JSON // 2**20} MiB")
        text = path.read_text(encoding="utf-8")
        if not text.strip():
            raise Unreadable("it is empty")
        return parse_json(text)
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise Unreadable("it is not UTF-8") from error


def parse_json(text: str) -> Any:
    """The JSON value in a text.

    Raises:
        Unreadable: it is not JSON, it nests too deep, or a text in it cannot be written as UTF-8.
    """
    try:
        value = json.loads(text)
        if "\\ud" in text.lower():  # JSON can spell half a surrogate pair, which no file or terminal takes
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError as error:
        raise Unreadable(f"it holds half of a surrogate pair ({error.object[error.start]!a})") from error
    except RecursionError as error:
        raise Unreadable("it is nested too deeply") from error
    except ValueError as error:
        raise Unreadable(f"not valid JSON: {error}") from error


def first_mistake(error: ValidationError) -> str:
    """The first fault of a pydantic report, in one line: where, the value, and the legal values."""
    fault = error.errors(include_url=False)[0]
    place = ".".join(map(str, fault["loc"]))
    said = fault["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if fault["type"] == "missing":
        return f"{shown(place)} is missing"
    return f"{place}: {shown(fault['input'])}; legal: {said}" if place else said
