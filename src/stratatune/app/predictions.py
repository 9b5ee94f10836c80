"""Predictions as a table: the text columns, the label (or the value), a probability for each class."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stratatune.errors import ConfigError, ResourceError, did_you_mean

if TYPE_CHECKING:
    from stratatune.training.predict import Prediction

Columns = dict[str, Sequence[Any]]

FORMATS = {".csv": "csv", ".jsonl": "jsonl", ".parquet": "parquet"}
_DIGITS = 6  # of a probability as text; parquet keeps every bit


def format_of(out: str) -> str:
    """The format that a file's suffix stands for.

    Raises:
        ConfigError: none that is written.
    """
    suffix = Path(out).suffix.lower()
    if suffix not in FORMATS:
        raise ConfigError([f"out: {out!r} has no known format"], did_you_mean(suffix, FORMATS))
    return FORMATS[suffix]


def columns_of(prediction: Prediction) -> Columns:
    """Columns of N rows in input order: the texts, then the answer: ``label``, ``p_<class>``, ``value``, ..."""
    columns: Columns = dict(zip(prediction.table.columns, prediction.table.texts, strict=True))
    return columns | {_free(name, columns): values for name, values in prediction.columns.items()}


def _free(name: str, taken: Columns) -> str:
    """``name``, or one beside it where a text column is called so."""
    return f"predicted_{name}" if name in taken else name


def rows_of(columns: Columns) -> Iterator[dict[str, Any]]:
    """The rows, numbers rounded as text shows them."""
    for values in zip(*columns.values(), strict=True):
        yield {
            name: round(value, _DIGITS) if isinstance(value, float) else value
            for name, value in zip(columns, values, strict=True)
        }


def as_text(columns: Columns, form: str) -> str:
    """The whole table as csv or jsonl."""
    if form == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows_of(columns))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows_of(columns))
    return buffer.getvalue()


def write(columns: Columns, out: str) -> None:
    """Writes the table into a file, which is there whole or not at all.

    Raises:
        ResourceError: it cannot be written.
    """
    path, form = Path(out).expanduser(), format_of(out)
    partial = path.with_name(f".{path.name}.part")
    try:
        if form == "parquet":
            _write_parquet(columns, partial)
        else:
            partial.write_text(as_text(columns, form), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise cannot_write(out, error) from error


def _write_parquet(columns: Columns, path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({name: list(values) for name, values in columns.items()}), path)


def check_writable(out: str) -> None:
    """Refuses a file that could not be written, before the work is done.

    Raises:
        ConfigError: a format that is not written.
        ResourceError: its folder is missing or may not be written.
    """
    format_of(out)
    path = Path(out).expanduser()
    probe = path.with_name(f".{path.name}.part")
    try:
        if path.is_dir():
            raise IsADirectoryError(None, "it is a folder")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise cannot_write(out, error) from error


def cannot_write(out: str, error: OSError) -> ResourceError:
    """The failure to write ``out``, in one line."""
    reason = error.strerror or str(error)
    return ResourceError(f"cannot write {out}: {reason}", "give --out a file in a folder that is there and has room")
