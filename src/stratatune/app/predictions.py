"""Predictions as a table: the columns of the source, the label (or the value), a probability for each class."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stratatune.data.labels import is_missing
from stratatune.errors import ConfigError, did_you_mean
from stratatune.files import make_folder, write_bytes, write_errors
from stratatune.training.answered import Columns, plain, rows_of
from stratatune.training.settings import check_folder

if TYPE_CHECKING:
    from stratatune.data.readers import Table
    from stratatune.training.prediction import Prediction

FORMATS = {".csv": "csv", ".jsonl": "jsonl", ".parquet": "parquet", ".npy": "npy"}
_HINT = "point --out to a place that has free space and that you can write to"


def format_of(out: str) -> str:
    """The format that a file's suffix stands for.

    Raises:
        ConfigError: none that is written.
    """
    suffix = Path(out).suffix.lower()
    if suffix not in FORMATS:
        raise ConfigError([f"out: {out!r} has no known format"], did_you_mean(suffix, FORMATS))
    return FORMATS[suffix]


@dataclass(frozen=True)
class Output:
    """Predictions with their inputs, N rows in input order.

    Attributes:
        given: the columns of the input by name.
        predicted: the objective's answers: ``label`` and ``p_<class>``, ``value``, ``generated``, ...
        chances: those of ``predicted`` that are probabilities, and the class or label of each.
    """

    given: Columns
    predicted: Columns
    chances: Mapping[str, str] = field(default_factory=dict)

    @property
    def columns(self) -> Columns:
        """All of them, the given columns first, then the predicted ones."""
        return {**self.given, **self.predicted}

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every row, its predicted numbers rounded as text shows them; those of a row without prediction are None."""
        return rows_of(self.given, self.predicted)

    def answers(self) -> Iterator[dict[str, Any]]:
        """The rows of :meth:`rows`, without the given columns."""
        return rows_of({}, self.predicted)


def output_of(prediction: Prediction) -> Output:
    """A prediction as columns, those of its source kept.

    What is predicted keeps its names (``label``, ``p_<class>``, ``value``, ``generated``), so that a column of the
    source with such a name is called ``given_<name>``; only where it is a text column is the prediction renamed instead
    (``predicted_label``).
    """
    table = prediction.table
    texts: Columns = dict(zip(table.columns, table.texts, strict=True))
    predicted = {_beside(name, texts): values for name, values in prediction.columns.items()}
    given: Columns = {}
    for name in table.whole.names if table.whole else table.columns:
        own = table.whole.original.get(name, name) if table.whole else name
        free = name if name in texts and own == name else _given(own, {*predicted, *given, *({*texts} - {name})})
        given[free] = texts[name] if name in texts and not _is_listed(table, name) else table.whole.get(name)  # pyright: ignore[reportOptionalMemberAccess]
    return Output(given, predicted, {_beside(name, texts): label for name, label in prediction.chances.items()})


def _is_listed(table: Table, name: str) -> bool:
    """Whether a text column holds lists of words in the source, in JSON too, of which the reader made texts."""
    values = table.whole.get(name) if table.whole else []
    if any(isinstance(value, list) for value in values):
        return True
    in_json = any(isinstance(value, str) and value.lstrip().startswith("[") for value in values)
    return in_json and values != table.texts[table.columns.index(name)]


def _beside(name: str, texts: Columns) -> str:
    return f"predicted_{name}" if name in texts else name


def _given(name: str, taken: Container[str]) -> str:
    while name in taken:
        name = f"given_{name}"
    return name


def as_text(output: Output, form: str) -> str:
    """The whole table as csv or jsonl."""
    if form == "jsonl":
        return "".join(json.dumps(plain(row), ensure_ascii=False, default=str) + "\n" for row in output.rows())
    lines = _Lines()
    writer = csv.DictWriter(lines, list(output.columns), lineterminator=_Lines.end)
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in output.rows())
    return "".join(lines.lines)


def _cell(value: Any) -> Any:
    """A cell of csv, which has no lists: these are JSON in it."""
    return json.dumps(plain(value), ensure_ascii=False, default=str) if isinstance(value, list | dict) else value


class _Lines:
    r"""Collects what a csv writer writes, each line ended by a line feed.

    The writer is set to end lines in ``\r\n``: until Python 3.13 it quotes a cell with a lone ``\r`` only then, and
    unquoted it would be read as the end of a row.
    """

    end = "\r\n"

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, line: str) -> None:
        self.lines.append(line.removesuffix(self.end) + "\n")


def write(output: Output, out: str) -> None:
    """Writes the table into a file, which is there whole or not at all; a missing folder is made.

    Raises:
        ResourceError: it cannot be written.
    """
    path, form = Path(out).expanduser(), format_of(out)
    binary = {"parquet": _parquet, "npy": _array_of_vectors}.get(form)
    content = binary(output) if binary else as_text(output, form).encode()
    make_folder(path.parent, _HINT)
    write_bytes(path, content, _HINT)


def _array_of_vectors(output: Output) -> bytes:
    """The one column of vectors as numpy's float32 [N, E]; of rows that were left out, NaN."""
    import numpy as np

    columns = {name: values for name, values in output.predicted.items() if any(map(_is_vector, values))}
    if len(columns) != 1:
        said = f"{len(columns)} columns of vectors" if columns else "none"
        raise ConfigError(
            [f"out: a .npy file holds one column of vectors, and there are {said}"], "write jsonl or parquet"
        )
    (values,) = columns.values()
    width = len(next(filter(_is_vector, values)))
    rows = [value if _is_vector(value) else [math.nan] * width for value in values]
    buffer = io.BytesIO()
    np.save(buffer, np.array(rows, np.float32), allow_pickle=False)
    return buffer.getvalue()


def _is_vector(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, float) for one in value)


def _parquet(output: Output) -> bytes:
    import pyarrow
    import pyarrow.parquet

    buffer = pyarrow.BufferOutputStream()
    arrays = {name: _array(values) for name, values in output.columns.items()}
    pyarrow.parquet.write_table(pyarrow.table(arrays), buffer)
    return buffer.getvalue().to_pybytes()


def _array(values: Sequence[Any]) -> Any:
    """An arrow array, NaN as null; as text where a column of the source mixes types."""
    import pyarrow

    plain = [None if is_missing(value) else value for value in values]
    try:
        return pyarrow.array(plain)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, pyarrow.ArrowNotImplementedError, OverflowError):
        return pyarrow.array([None if value is None else str(value) for value in plain])


def check_writable(out: str) -> None:
    """Refuses a file that could not be written, before the work is done.

    Raises:
        ConfigError: a format that is not written, or a folder that could not be made.
        ResourceError: its folder may not be written.
    """
    format_of(out)
    path = Path(out).expanduser()
    if not path.parent.is_dir():  # it is made when the file is written
        if wrong := check_folder("out", str(path.parent)):
            raise ConfigError([wrong], _HINT)
        return
    with write_errors(out, _HINT):
        if path.is_dir():
            raise IsADirectoryError(None, "it is a folder")
        if path.is_file() or not path.exists():
            probe = path.with_name(f".{path.name[:200]}.probe")
            probe.touch()
            probe.unlink()
