"""Conversion of scikit-learn users' data: texts and labels as lists, arrays, Series and DataFrames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from stratatune.app.checks import (
    KINDS_OF_CLASSES,
    LISTED,
    class_weights,
    one_type,
    plain_rows,
    rows_of,
    sample_weights,
)
from stratatune.data.labels import is_missing, label_text, value_of
from stratatune.errors import DataError, counted, shown

Texts = Any
"""N texts, N pairs of texts, or an array or DataFrame of N rows with one or two columns."""


_TABLES = ("polars", "pyarrow", "datasets")


def as_known(given: Any) -> Any:
    """Convert tables and columns of polars, pyarrow and datasets to pandas; everything else stays as it is.

    Raises:
        DataError: a data frame that is none of these, such as a lazy one.
    """
    # Asked by name: the library is not imported for data that is not of it.
    library = type(given).__module__.partition(".")[0]
    known = given.to_pandas() if library in _TABLES and hasattr(given, "to_pandas") else given
    if hasattr(known, "columns") and not hasattr(known, "iloc"):
        kind = f"{library}'s {type(known).__name__}"
        raise DataError(f"cannot read {kind}", "give a DataFrame of pandas or polars, a table of pyarrow or a Dataset")
    return known


def names_of(texts: Texts) -> tuple[str, ...]:
    """The names of a DataFrame's columns; empty if there are none, or if they are not strings."""
    texts = as_known(texts)
    names = tuple(texts.columns) if hasattr(texts, "columns") else ()
    return names if all(isinstance(name, str) for name in names) else ()


def columns_of(texts: Texts, names: Sequence[str] = ()) -> list[list[Any]]:
    """One or two columns of N texts; missing ones are None.

    Args:
        texts: the texts.
        names: the columns to take, by name, where the texts are a DataFrame; otherwise columns go by their order.

    Raises:
        DataError: neither texts nor pairs of texts, or a column that is not there.
    """
    texts = as_known(texts)
    if hasattr(texts, "columns"):
        frame = _of_frame(texts, names)
        return _checked([[_none(text) for text in column.tolist()] for column in frame], [one.name for one in frame])
    rows = plain_rows(texts)
    if isinstance(rows, str | bytes):
        raise DataError(f"one text was given, not a list of texts: {rows[:40]!r}", "put it into a list: [text]")
    if isinstance(rows, Mapping | set | frozenset) or not isinstance(rows, Iterable):
        raise _no_texts()
    rows = [_none(row) for row in rows]
    if all(row is None or isinstance(row, str) for row in rows):
        return [rows]
    if odd := [row for row, one in enumerate(rows) if not (one is None or isinstance(one, str | list | tuple))]:
        raise _no_texts(f": row {odd[0] + 1} is {shown(rows[odd[0]], 60)}")
    if (
        all(isinstance(row, list | tuple) and 1 <= len(row) <= 2 for row in rows)
        and len({len(row) for row in rows}) == 1
    ):
        return _checked([[_none(text) for text in column] for column in zip(*rows, strict=True)])
    first: Any = next((row for row in rows if row is not None), None)
    for number, row in enumerate(rows, start=1):
        if type(row) is not type(first) or len(row) != len(first):
            raise _no_texts(f": row {number} is {shown(row, 60)}, and others are not like it")
    raise _no_texts()


def _checked(columns: list[list[Any]], names: Sequence[Any] = ()) -> list[list[Any]]:
    """Refuse a cell that is no text: a column of numbers is likelier a label or an id than something to read."""
    for at, column in enumerate(columns):
        row = next((row for row, one in enumerate(column, start=1) if not (one is None or isinstance(one, str))), None)
        if row is not None:
            of = f"column {names[at]!r}, " if names else ""
            fix = "give the columns of texts alone, and every text as a string" if names else "give texts as strings"
            raise DataError(f"{of}row {row}: {shown(column[row - 1], 60)} is not a text", fix)
    return columns


def _none(value: Any) -> Any:
    return None if is_missing(value) else value


def _no_texts(place: str = "") -> DataError:
    return DataError(
        f"these are neither texts nor pairs of texts{place}",
        "give a list of strings, of pairs of strings, or a DataFrame",
    )


def _of_frame(frame: Any, names: Sequence[str]) -> list[Any]:
    there = list(frame.columns)
    if not names:
        return [frame.iloc[:, at] for at in range(len(there))]
    for name in names:
        if there.count(name) != 1:
            fault = "no column" if name not in there else "several columns"
            here = ", ".join(map(str, there))
            raise DataError(f"the data frame given has {fault} {name!r}", f"fit read {', '.join(names)}; here: {here}")
    return [frame[name] for name in names]


def labels_of(labels: Any) -> np.ndarray:
    """Turn N labels of one kind into an array [N].

    Raises:
        DataError: labels that are missing, of several kinds, or several a text.
    """
    labels = as_known(labels)
    if hasattr(labels, "columns"):
        if len(labels.columns) != 1:
            raise DataError(f"{len(labels.columns)} columns of labels were given", "give one label for each text")
        labels = labels.iloc[:, 0]
    values = rows_of(labels, "labels")
    if values and all(isinstance(value, list | tuple) and len(value) == 1 for value in values):
        values = [value[0] for value in values]  # a column
    refuse_missing([is_missing(value) for value in values], "leave these rows out")
    if odd := [row for row, value in enumerate(values) if isinstance(value, LISTED)]:
        raise DataError(
            f"several labels were given for a text: {shown(values[odd[0]], 60)} (row {odd[0] + 1})",
            "give one label for each text",
        )
    values = [value.item() if isinstance(value, np.generic) else value for value in values]
    one_type(values)
    if isinstance(labels, np.ndarray) and labels.dtype.kind in KINDS_OF_CLASSES:
        return labels.reshape(len(values))
    return np.asarray(values)


def refuse_missing(missing: Sequence[bool], hint: str) -> None:
    """Refuse rows whose label is missing [N]; ``hint`` is the fix.

    Raises:
        DataError: there are some; it names the first of them.
    """
    if any(missing):
        rows = [row for row, is_bad in enumerate(missing, start=1) if is_bad]
        places = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
        raise DataError(f"labels are missing in {len(rows):,} of {len(missing):,} rows (row {places})", hint)


def same_number(texts: int, labels: int) -> None:
    """Refuse other than one label, or set of them, for each text.

    Raises:
        DataError: the numbers differ.
    """
    if texts != labels:
        raise DataError(f"{counted(texts, 'text')} but {counted(labels, 'label')}", "give a label for each text")


def classes_of(labels: np.ndarray) -> np.ndarray:
    """The distinct labels in sorted order [C].

    Raises:
        DataError: labels that are neither texts nor numbers, numbers with fractions, or two labels that a run reads as
            one.
    """
    if labels.dtype.kind not in KINDS_OF_CLASSES:
        # A saved run holds labels as text, of which nothing else could be made again; many have no order either.
        listed: list[Any] = labels.tolist()
        odd = next((one for one in listed if isinstance(one, int) and one.bit_length() >= 64), listed[0])  # noqa: PLR2004
        kind = "whole numbers of more than 64 bits" if isinstance(odd, int) else f"{type(odd).__name__} values"
        raise DataError(
            f"labels are {kind}, such as {shown(odd, 60)}", "give them as strings, whole numbers or truth values"
        )
    if labels.dtype.kind == "f" and (labels % 1 != 0).any():
        fraction = labels[labels % 1 != 0][0]
        raise DataError(
            f"labels such as {fraction:g} are numbers, not classes: this looks like regression",
            "use Regressor, or give the classes as strings",
        )
    classes = np.unique(labels)
    names = [name_of(one) for one in classes]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"two labels are both {twice!r} without the blanks around them", "spell both the same way")
    # A run has one class for both (`LabelSet.infer`), and predictions are to be labels as they were given.
    first: dict[str, str] = {}
    for name in names:
        if (other := first.setdefault(value_of(name), name)) != name:
            raise DataError(
                f"the labels {shown(other, 60)} and {shown(name, 60)} are one class", "spell both the same way"
            )
    return classes


def name_of(label: Any) -> str:
    """A label as the readers write it."""
    plain = label.item() if hasattr(label, "item") else label
    return label_text(plain if isinstance(plain, float) else str(plain))


def weights_of(labels: np.ndarray, class_weight: Any, sample_weight: Any) -> np.ndarray | None:
    """The weight of each text [N]: its own times that of its class; None: all the same.

    Args:
        labels: [N].
        class_weight: a weight for each class, 1 where one is not named, or ``"balanced"``: N / (classes * count).
        sample_weight: N numbers, or None.

    Raises:
        DataError: other than N weights, one that is not a number of 0 or more, or a class that does not occur.
    """
    if class_weight is None and sample_weight is None:
        return None
    given = sample_weights(as_known(sample_weight), len(labels))
    weights = np.ones(len(labels)) if given is None else given
    if class_weight is not None:
        weights = weights * _of_classes(labels, class_weight)
    if not weights.any():
        raise DataError("every weight is 0: sample_weight times class_weight", "give some texts a weight above 0")
    return weights


def _of_classes(labels: np.ndarray, class_weight: Any) -> np.ndarray:
    classes, place, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if class_weight == "balanced":
        return (len(labels) / (len(classes) * counts))[place]
    if not isinstance(class_weight, Mapping):
        raise DataError(f"class_weight: {shown(class_weight, 60)}", "legal: 'balanced', or a weight for each class")
    return np.array(class_weights(class_weight, classes.tolist()))[place]
