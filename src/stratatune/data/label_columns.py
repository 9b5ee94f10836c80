"""Texts with several label columns as one `Table`, their values as written in ``Table.further``."""

from __future__ import annotations

from typing import Any

from stratatune.data.frames import Frame
from stratatune.data.label_sets import cell, columns_named, joined
from stratatune.data.labels import label_text, listed
from stratatune.data.read_options import DEFAULTS, ReadOptions
from stratatune.data.readers import Table, is_list, plain, text_columns, texts_of, without_bad
from stratatune.data.sources import open_source
from stratatune.errors import DataError

EMPTY = ""
"""The value of a row that has no label in a column."""

Value = list[str] | str | float


def read_columns(source: Any, options: ReadOptions = DEFAULTS) -> Table:
    """Read ``source`` into a Table without labels whose ``further`` holds the values of each label column.

    A value is a text or a number, a list of labels, or :data:`EMPTY`.

    Args:
        source: a source of :func:`stratatune.data.readers.read`.
        options: ``label`` names the label columns, as ``"a,b,c"`` (a name with a comma in quotes). A row may lack
            labels, whatever ``written`` says.

    Raises:
        DataError: whatever is wrong with the source, in one line.
    """
    frame = whole = open_source(source, None, options.split, options.written)
    if not frame.rows:
        raise DataError(f"{frame.place}: there are no rows", "give at least one example")
    frame, columns = text_columns(frame, options.text if frame.named else None, None)
    names: tuple[str, ...] = ()
    if options.need_labels:
        names = _named(frame, columns, options.label)
    if options.written.bad_rows == "skip":
        frame = without_bad(frame, [*columns])
    return Table(
        texts=tuple(texts_of(frame, name, options.written.bad_rows) for name in columns),
        columns=columns,
        label_column=joined(names) if names else None,
        source=frame.place,
        rows=frame.rows,
        notices=frame.notices,
        whole=whole if options.keep_whole else None,
        further={name: _values(frame, name) for name in names},
    )


def _named(frame: Frame, texts: tuple[str, ...], label: str | None) -> tuple[str, ...]:
    if label is None:
        raise DataError(
            f"{frame.place}: which columns hold the labels? columns: {listed(frame.names)}",
            "name them with --label A,B,C",
        )
    names = columns_named(frame, label)
    if odd := next((name for name in names if name in texts), None):
        raise DataError(f"{frame.place}: column {odd!r} is text and label at once", "name others with --label")
    return names


def _values(frame: Frame, name: str) -> list[Value]:
    values = [_value(frame, row, name, value) for row, value in zip(frame.rows, frame.get(name), strict=True)]
    if all(isinstance(value, float) for value in values if value != EMPTY):
        return values
    return [label_text(value) if isinstance(value, float) else value for value in values]


def _value(frame: Frame, row: int, name: str, value: Any) -> Value:
    if is_list(value) or (isinstance(value, str) and value.lstrip().startswith("[")):
        return cell(frame, row, name, value)
    found = plain(value, frame.place, name)
    if found is None:
        return EMPTY
    return found.strip() if isinstance(found, str) else found
