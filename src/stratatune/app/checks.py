"""Checks of what is given to an estimator beside the texts: labels, label sets and weights, with the row at fault."""

from __future__ import annotations

import math
from collections.abc import Iterator, KeysView, Mapping, Sequence, ValuesView
from typing import Any

import numpy as np

from stratatune.data.labels import is_missing
from stratatune.errors import DataError, shown

LISTED = (list, tuple, set, frozenset, np.ndarray)
"""The types of several labels of one text."""
KINDS_OF_CLASSES = "iufbU"
"""The kinds of numpy's arrays that hold classes: numbers, truth values and texts."""
_SHORT = 60


def read_once(given: Any) -> Any:
    """An iterator, or a view of a dict, as a list, which can be read twice; everything else as it is."""
    return list(given) if isinstance(given, Iterator | KeysView | ValuesView) else given


def rows_of(given: Any, what: str) -> list[Any]:
    """What is given for N texts, as a list; ``what`` is its name in a message.

    Raises:
        DataError: one value, a mapping or a set, which have no order, or several columns.
    """
    if len(columns := getattr(given, "columns", ())) > 1:
        raise DataError(f"{what}: {len(columns)} columns were given", "give one value for each text")
    rows = given.iloc[:, 0] if len(columns) else given
    rows = rows.tolist() if hasattr(rows, "tolist") else rows
    if isinstance(rows, str | bytes | Mapping | set | frozenset) or not hasattr(rows, "__iter__"):
        raise DataError(f"{what}: {shown(rows, _SHORT)} is not a list", "give a list with one value for each text")
    return list(rows)


def plain_rows(given: Any) -> Any:
    """What has an order (a tuple, an array, a Series, a column of ``datasets``) as a list; its arrays as lists too.

    Everything else stays as it is.
    """
    rows = given.tolist() if hasattr(given, "tolist") else given
    if not isinstance(rows, Sequence) or isinstance(rows, str | bytes):
        return rows
    return [row.tolist() if isinstance(row, np.ndarray) else row for row in rows]


def check_lists(rows: Sequence[Any]) -> None:
    """Refuse rows that are not lists of labels of one type.

    Raises:
        DataError: names the first row that is no list, or holds a missing label, a list, or one of another type.
    """
    for row, one in enumerate(rows, start=1):
        if not isinstance(one, LISTED):
            raise DataError(
                f"labels of row {row}: {shown(one, _SHORT)} is not a list of labels",
                "give a list for each text, empty if it has no label",
            )
        if odd := [label for label in one if isinstance(label, LISTED) or is_missing(label)]:
            raise DataError(
                f"labels of row {row}: {shown(odd[0], _SHORT)} is not a label",
                "leave it out of the list; an indicator matrix holds 0 and 1",
            )
    one_type([label for one in rows for label in one], [row for row, one in enumerate(rows, start=1) for _ in one])


def one_type(values: Sequence[Any], rows: Sequence[int] | None = None) -> None:
    """Refuse labels of several types: as classes 1 and ``"1"`` would be two.

    Raises:
        DataError: names the types, and the first two of ``rows`` (from 1 on by default) that differ.
    """
    kinds = [_kind(value) for value in values]
    other = next((at for at, kind in enumerate(kinds) if kind != kinds[0]), None)
    if other is not None:
        places = [f"row {rows[at] if rows else at + 1}: {shown(values[at], _SHORT)}" for at in (0, other)]
        raise DataError(
            f"labels have several types: {', '.join(sorted(set(kinds)))} ({', '.join(places)})",
            "give all of them as strings",
        )


def _kind(value: Any) -> str:
    # The same for numpy's texts and numbers as for Python's: a list may hold either, depending on its source.
    value = value.item() if isinstance(value, np.generic) else value
    return "numbers" if isinstance(value, bool | int | float) else type(value).__name__


def check_known_type(labels: np.ndarray, classes: np.ndarray) -> None:
    """Refuse to compare texts with numbers.

    Raises:
        DataError: the labels given are of one kind, and those of training of the other.
    """
    given, known = labels.tolist(), classes.tolist()
    if given and known and isinstance(given[0], str) != isinstance(known[0], str):
        kinds = ["texts" if isinstance(one, str) else "numbers" for one in (given[0], known[0])]
        raise DataError(
            f"labels are {kinds[0]} such as {shown(given[0], _SHORT)}, and fit was given {kinds[1]} such as "
            f"{shown(known[0], _SHORT)}",
            "give labels of the same type",
        )


def sample_weights(given: Any, count: int) -> np.ndarray | None:
    """The weights of ``count`` texts float64 [N]; None where none are given.

    Raises:
        DataError: another number of weights, one that is not a number of 0 or more, or only zeros; names the row.
    """
    if given is None:
        return None
    rows = rows_of(given, "sample_weight")
    if len(rows) != count:
        raise DataError(f"sample_weight: {len(rows)} for {count} texts", "give a weight for each text")
    weights = np.array([_as_weight(one) for one in rows])
    if (odd := np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))).size:
        raise DataError(
            f"sample_weight, row {odd[0] + 1}: the weight {shown(rows[odd[0]], _SHORT)}", "give numbers of 0 or more"
        )
    if not weights.any():
        raise DataError("sample_weight: every weight is 0", "give some texts a weight above 0")
    return weights


def class_weights(given: Mapping[Any, Any], classes: Sequence[Any]) -> list[float]:
    """The weight of each class, 1 where ``given`` does not name it.

    Raises:
        DataError: a class that does not occur, or a weight that is not a number of 0 or more.
    """
    if odd := [name for name in given if name not in classes]:
        raise DataError(f"class_weight names {odd[0]!r}, which is not a label", f"labels: {list(classes)}")
    weights = [_as_weight(given.get(one, 1.0)) for one in classes]
    for name, weight in zip(classes, weights, strict=True):
        if not (math.isfinite(weight) and weight >= 0):
            raise DataError(f"class_weight of {name!r}: {shown(given[name], _SHORT)}", "give numbers of 0 or more")
    if not any(weights):
        raise DataError("class_weight: every weight is 0", "give some classes a weight above 0")
    return weights


def _as_weight(value: Any) -> float:
    """A weight as a number; NaN where it is none. A text is none, whatever it spells."""
    try:
        return math.nan if is_missing(value) or isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        return math.nan
