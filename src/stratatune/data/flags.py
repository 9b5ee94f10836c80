"""Labels as columns of 0 and 1 (or true and false), one for each label."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from stratatune.data.frames import Frame
from stratatune.data.labels import is_missing, label_text, listed, value_of
from stratatune.errors import DataError, MissingColumn, nearest, shown

_FLAGS = {"0": False, "1": True, "false": False, "true": True}


def is_flags(values: Iterable[Any]) -> bool:
    """Whether all values of a column are 0 or 1."""
    return all(_flag(value) is not None for value in values)


def _flag(value: Any) -> bool | None:
    return None if is_missing(value) or isinstance(value, list | Mapping) else _FLAGS.get(value_of(label_text(value)))


def flags(frame: Frame, name: str) -> list[bool]:
    """The values of a column of 0 and 1.

    Raises:
        DataError: another value; it names the row.
    """
    found = []
    for row, value in zip(frame.rows, frame.get(name), strict=True):
        flag = _flag(value)
        if flag is None:
            said = "is empty" if is_missing(value) or value == "" else f"holds {shown(value)}"
            raise DataError(
                f"{frame.place}, row {row}: label column {name!r} {said}",
                "several label columns hold 0 or 1 each; one column of labels is named alone",
            )
        found.append(flag)
    return found


def sets_of(frame: Frame, names: Sequence[str]) -> list[list[str]]:
    """The labels of each row: the names of the columns that hold a 1."""
    rows = zip(*(flags(frame, name) for name in names), strict=True)
    return [[name for name, flag in zip(names, row, strict=True) if flag] for row in rows]


def columns_of(frame: Frame, labels: Sequence[str], texts: Sequence[str]) -> tuple[str, ...]:
    """The columns named by the labels of a run; empty where a label has no column, or its column holds texts."""
    return tuple(labels) if labels and set(labels) <= set(frame.names) - set(texts) else ()


def noting_columns(frame: Frame, names: Sequence[str]) -> Frame:
    """Return the frame with a notice that labels are read from these columns."""
    return frame.noting(f"the labels are the columns of 0 and 1: {listed(names)}")


def with_classes(frame: Frame, labels: Sequence[str]) -> tuple[Frame, str]:
    """Return the frame with a column of classes, made from a column of 0 and 1 for each class, and its name.

    A row without a 1 has no class.

    Raises:
        DataError: a row with several; it names the row.
    """
    rows = sets_of(frame, labels)
    if odd := next(((number, row) for number, row in zip(frame.rows, rows, strict=True) if len(row) > 1), None):
        number, row = odd
        said = f"columns {' and '.join(map(repr, row[:2]))} are both 1"
        raise DataError(f"{frame.place}, row {number}: {said}", "this run gives one class per text: leave one 1")
    name, read = ", ".join(labels), frame.get
    classes = [next(iter(row), None) for row in rows]
    made = replace(
        frame, names=[*frame.names, name], get=lambda column: list(classes) if column == name else read(column)
    )
    return noting_columns(made, labels), name


def no_labels(frame: Frame, column: str, labels: Sequence[str]) -> DataError:
    """The error for data with neither the label column of a run nor a column of 0 and 1 for each of its labels."""
    there = [label for label in labels if label in frame.names]
    lacking = [label for label in labels if label not in there]
    what = f"{frame.place} has no column {column!r}"
    if there and lacking:
        some = "" if column in labels else "columns of 0 and 1 for some of its labels alone: "
        return DataError(f"{what}, but {some}{listed(there)}", f"add {listed(lacking)}, 0 where no text has the label")
    near = nearest(column, frame.names)
    fix = (f"did you mean {near!r}? " if near else "") + f"columns: {listed(frame.names)}"
    return MissingColumn(what, f"{fix}; one of 0 and 1 for each label is read too: {listed(labels)}", column)
