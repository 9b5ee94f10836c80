"""Read JSON and JSON Lines, every value as the file has it.

The `datasets` library reads them by pyarrow, which guesses a type for each column from the beginning of the file: dates
become timestamps, a column that changes its type late is an error even if nobody reads it, and a file that is no JSON
at all can end the process (``findings/``). A label's text must not hang on such guesses, so Python's own parser reads.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from stratatune.data.frames import Frame, of_spacy
from stratatune.data.lines import decode, encoding_of_file, not_in
from stratatune.data.loading import line_of
from stratatune.data.written import Written
from stratatune.errors import DataError

_LEGAL = 'a file is a list of objects, or has one on each line: {"text": ..., "label": ...}'

_TEXT_IN_LIST = re.compile(r'\s*\[\s*"')
_ROWS = ("data", "rows", "examples", "records")
"""Keys of a single object under which its rows may be."""


def open_json(path: Path, written: Written) -> Frame:
    """The columns of a JSON or JSON Lines file: the union of its objects' keys; a missing key is None.

    A file is a list of objects or of texts, an object a line, or one object of columns (as pandas writes one).

    Raises:
        DataError: it is no JSON, or is none of these.
    """
    encoding = written.encoding or encoding_of_file(path)
    with path.open("rb") as file:
        start = file.read(1024)
    shown = start.decode(encoding, errors="replace").lstrip("\ufeff").lstrip()
    if shown[:1] not in ("{", "["):
        if not shown and len(start) < 1024:
            raise DataError(f"{path}: there are no rows", "give at least one example")
        raise DataError(f"{path}: is not valid JSON: it begins with {shown[:20]!r}", _LEGAL)
    if shown.startswith("[") and not _has_lists_a_line(path, encoding):
        return _of_rows(path, _listed(path, encoding))
    if encoding in ("utf-8", "utf-8-sig"):
        with path.open("rb") as file:  # lines in bytes: nothing but a line feed ends one
            return _of_lines(path, file, encoding)
    return _of_lines(path, _whole(path, encoding).split("\n"), encoding)


def _has_lists_a_line(path: Path, encoding: str) -> bool:
    """Whether the first line by itself is one of spaCy's rows, a text and its entities in a list."""
    with path.open(encoding=encoding, errors="replace") as file:
        first = next((line for line in file if line.strip()), "").lstrip("\ufeff")
    if not _TEXT_IN_LIST.match(first):  # else it may be a whole file, which is long to parse twice
        return False
    with contextlib.suppress(ValueError, RecursionError):
        return isinstance(of_spacy(json.loads(first)), Mapping)
    return False


def _of_lines(path: Path, lines: Iterable[bytes | str], encoding: str) -> Frame:
    columns, count, only = _Columns(path), 0, None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = _parse(line)
        except (ValueError, RecursionError) as error:
            if count == 0:  # not a whole object: the one that the file is may run over several lines
                return _of_object(path, _parsed(path, _whole(path, encoding)))
            if isinstance(error, UnicodeDecodeError):
                raise not_in(f"{path}, line {number}", error) from error
            raise DataError(f"{path}, line {number}: is not valid JSON: {line_of(error)}", _LEGAL) from error
        columns.add(row, f"line {number}")
        count += 1
        only = row
    if count == 1 and path.suffix.lower() == ".json":
        return _of_object(path, only)
    return columns.frame()


def _of_rows(path: Path, rows: list[Any]) -> Frame:
    columns = _Columns(path)
    texts = bool(rows) and all(isinstance(row, str) for row in rows)
    for number, row in enumerate(rows, start=1):
        columns.add({"text": row} if texts else row, f"row {number}")
    return columns.frame()


def _of_object(path: Path, whole: Any) -> Frame:
    """Read one object: a table by columns, or with its rows under one key."""
    if isinstance(whole, Mapping):
        if _is_of_columns(whole):
            columns = {name: list(v.values()) if isinstance(v, Mapping) else list(v) for name, v in whole.items()}
            return Frame(str(path), list(columns), columns.__getitem__, range(1, len(next(iter(columns.values()))) + 1))
        rows = [
            (name, value)
            for name, value in whole.items()
            if name in _ROWS and isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value)
        ]
        if len(rows) == 1:
            return _of_rows(path, rows[0][1]).noting(f"rows are read from {rows[0][0]!r}")
        return _of_rows(path, [whole])
    raise DataError(f"{path}: is not a table", _LEGAL)


def _is_of_columns(whole: Mapping[str, Any]) -> bool:
    """Whether these are columns of one length: lists of cells, or pandas' cells by row."""
    values = list(whole.values())
    for kind in (list, dict):
        if values and all(isinstance(value, kind) for value in values):
            cells = [list(value.values()) if isinstance(value, dict) else value for value in values]
            plain = not any(isinstance(cell, list | dict) for column in cells for cell in column)
            return plain and len({len(column) for column in cells}) == 1
    return False


class _Columns:
    """Columns that grow by rows with any keys."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns: dict[str, list[Any]] = {}
        self.count = 0

    def add(self, row: Any, where: str) -> None:
        row = of_spacy(row)
        if not isinstance(row, Mapping):
            raise DataError(f"{self.path}, {where}: holds {_kind(row)}, not an object", _LEGAL)
        for name, value in row.items():
            column = self.columns.setdefault(name, [])
            column.extend([None] * (self.count - len(column)))
            column.append(value)
        self.count += 1

    def frame(self) -> Frame:
        for column in self.columns.values():
            column.extend([None] * (self.count - len(column)))
        return Frame(str(self.path), list(self.columns), self.columns.__getitem__, range(1, self.count + 1))


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _listed(path: Path, encoding: str) -> list[Any]:
    return _parsed(path, _whole(path, encoding))


def _whole(path: Path, encoding: str) -> str:
    return decode(path.read_bytes(), str(path), encoding)


def _parsed(path: Path, text: str) -> Any:
    try:
        return _parse(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as {path.suffix[1:]}: {line_of(error)}", _LEGAL) from error


def _parse(text: str | bytes) -> Any:
    return json.loads(text.decode("utf-8-sig") if isinstance(text, bytes) else text)
