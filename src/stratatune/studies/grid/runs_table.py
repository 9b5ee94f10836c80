"""The runs of a grid as one table, a row a run: for spreadsheets, pandas and other tools."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from stratatune.files import make_folder, write_bytes
from stratatune.studies.grid.records import RunRecord

_HINT = "choose a file that you can write to"
FORMATS = ("csv", "parquet")
_FACTS = ("trainable", "total", "frozen_depth", "backprop_blocks", "epochs", "best_epoch")
_MEASURED = ("tokens_per_second", "peak_memory_bytes", "cache_hit")


def row_of(record: RunRecord) -> dict[str, Any]:
    """The row of a run: ``id``, ``status``, coordinates, ``best_*`` and ``test_*`` metrics, counts, times, error.

    A count with the name of a coordinate is called ``result_NAME``.
    """
    result: Mapping[str, Any] = record.result or {}
    counts = {name: result[name] for name in (*_FACTS, *_MEASURED) if name in result}
    return {
        "id": record.id,
        "status": record.status,
        **record.coordinates,
        **{f"{kind}_{name}": value for kind in ("best", "test") for name, value in result.get(kind, {}).items()},
        **{f"result_{name}" if name in record.coordinates else name: value for name, value in counts.items()},
        **{f"seconds_{kind}": value for kind, value in result.get("seconds", {}).items()},
        "error": record.error,
        "folder": str(record.folder),
    }


def export(records: Sequence[RunRecord], out: Path, form: Literal["csv", "parquet"]) -> None:
    """Write the table; a run without a value for a column has an empty cell there.

    Raises:
        ResourceError: ``out`` cannot be written.
    """
    rows = [row_of(record) for record in records]
    names = list(dict.fromkeys(name for row in rows for name in row))
    names = [name for name in names if name not in ("error", "folder")] + ["error", "folder"]
    make_folder(out.parent, _HINT)
    write_bytes(out, (_csv if form == "csv" else _parquet)(rows, names), _HINT)


def _csv(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> bytes:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, names)
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()


def _parquet(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    buffer = pyarrow.BufferOutputStream()
    columns = {name: _of_one_type([row.get(name) for row in rows]) for name in names}
    parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue().to_pybytes()


def _of_one_type(values: list[Any]) -> list[Any]:
    """Turn all values into text if an axis has both names and numbers; numbers alone stay numbers."""
    kinds = {type(value) for value in values if value is not None}
    return values if len(kinds) < 2 or kinds == {int, float} else [None if v is None else str(v) for v in values]
