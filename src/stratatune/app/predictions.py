"""Predictions as a table: the text columns, the label (or the value), a probability for each class."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stratatune.errors import ConfigError, did_you_mean
from stratatune.files import write_bytes, write_errors

if TYPE_CHECKING:
    from stratatune.training.predict import Prediction

Columns = dict[str, Sequence[Any]]

FORMATS = {".csv": "csv", ".jsonl": "jsonl", ".parquet": "parquet"}
_HINT = "give --out a file in a folder that is there and has room"
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
    write_bytes(path, _parquet(columns) if form == "parquet" else as_text(columns, form).encode(), _HINT)


def _parquet(columns: Columns) -> bytes:
    import pyarrow
    import pyarrow.parquet

    buffer = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table({name: list(values) for name, values in columns.items()}), buffer)
    return buffer.getvalue().to_pybytes()


def check_writable(out: str) -> None:
    """Refuses a file that could not be written, before the work is done.

    Raises:
        ConfigError: a format that is not written.
        ResourceError: its folder is missing or may not be written.
    """
    format_of(out)
    path = Path(out).expanduser()
    with write_errors(out, _HINT):
        if path.is_dir():
            raise IsADirectoryError(None, "it is a folder")
        if path.is_file() or not path.exists():
            probe = path.with_name(f".{path.name[:200]}.probe")
            probe.touch()
            probe.unlink()
