"""Label sets of scikit-learn's users: indicator matrices and lists of labels, and what predictions are held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from stratatune.app.checks import LISTED, check_lists, plain_rows, rows_of
from stratatune.app.texts import as_known, classes_of, labels_of, name_of
from stratatune.data.labels import is_missing, listed
from stratatune.errors import DataError, shown


@dataclass(frozen=True)
class LabelSets:
    """Several labels a text, in the form in which they were given.

    Attributes:
        rows: the labels of each of N texts.
        classes: the distinct labels [C]; for a matrix the names or numbers of its columns.
        matrix: whether they were an indicator matrix [N, C].
    """

    rows: list[list[Any]]
    classes: np.ndarray
    matrix: bool


def sets_of(labels: Any, *, asked: bool = False) -> LabelSets | None:
    """An indicator matrix of 0 and 1, or lists of labels; None where each text has one label.

    ``asked``: lists of one label each are sets too.

    Raises:
        DataError: a matrix of other numbers, or labels of several kinds.
    """
    labels = as_known(labels)
    names = list(labels.columns) if hasattr(labels, "columns") else None
    values = labels.toarray() if hasattr(labels, "toarray") else labels  # of scipy.sparse
    values = values.to_numpy() if names is not None else values
    rows = plain_rows(values)
    sets = isinstance(rows, list) and any(isinstance(row, LISTED) and (asked or len(row) != 1) for row in rows)
    if not sets:
        return None  # one label each, perhaps as a column
    if getattr(values, "ndim", 1) == 2 or _is_matrix(rows):
        return _of_matrix(rows, names)
    check_lists(rows)
    flat = [label for row in rows for label in row]
    if not flat:
        raise DataError("no text has a label", "give at least one label")
    return LabelSets([list(row) for row in rows], classes_of(labels_of(flat)), matrix=False)


def truth_of(labels: Any, classes: np.ndarray, *, lists: bool) -> list[set[str]]:
    """The label sets of N texts that predictions are compared with, by the names of the labels.

    Args:
        labels: a DataFrame of 0 and 1, whose columns go by their names, in any order; another matrix of them [N, C],
            whose columns go by the order of ``classes``; or a list of labels for each text.
        classes: the labels of the estimator [C].
        lists: whether it was fitted to lists: rows that hold 0 and 1 are then such labels, not a matrix.

    Raises:
        DataError: columns that are not the estimator's labels, a matrix of other numbers, or one label a text.
    """
    labels, names = as_known(labels), [name_of(one) for one in classes]
    if hasattr(labels, "columns"):
        labels = _columns_by_name(labels, names)
    values = labels.toarray() if hasattr(labels, "toarray") else labels  # of scipy.sparse
    rows = plain_rows(rows_of(values, "labels"))
    if getattr(values, "ndim", 1) == 2 or (not lists and _is_matrix(rows)):
        if rows and len(rows[0]) != len(names):
            raise DataError(
                f"{len(rows[0])} columns of labels were given, and this model has {len(names)} labels",
                f"give a column for each: {listed(names)}",
            )
        _refuse_other_than_flags(rows)
        return [{name for name, value in zip(names, row, strict=True) if value} for row in rows]
    check_lists(rows)
    return [{name_of(label) for label in row} for row in rows]


def _columns_by_name(frame: Any, names: Sequence[str]) -> np.ndarray:
    """The columns of a data frame in the order of ``names``; each must be there once, and no other."""
    there = [name_of(one) for one in frame.columns]
    if twice := next((name for name in there if there.count(name) > 1), None):
        raise DataError(f"two columns of labels are called {twice!r}", "leave out one of them")
    lacking = next((name for name in names if name not in there), None)
    unknown = next((name for name in there if name not in names), None)
    if lacking is not None or unknown is not None:
        faults = [f"no column {lacking!r}"] if lacking is not None else []
        faults += [f"a column {unknown!r}, which is none of them"] if unknown is not None else []
        raise DataError(
            f"the labels given have {' and '.join(faults)}",
            f"labels of this model: {listed(names)}; an array goes by this order",
        )
    return frame.iloc[:, [there.index(name) for name in names]].to_numpy()


def _is_matrix(rows: list[Any]) -> bool:
    """Whether lists are rows of 0 and 1, in scikit-learn's format."""
    alike = all(isinstance(row, list | tuple) for row in rows) and len({len(row) for row in rows}) == 1
    return alike and all(isinstance(value, bool | int) and value in (0, 1) for row in rows for value in row)


def _of_matrix(rows: list[list[Any]], names: list[Any] | None) -> LabelSets:
    _refuse_other_than_flags(rows)
    # Columns may be called by dates, or by tuples, of which numpy would make a matrix.
    plain = [name if isinstance(name, str | Real) else str(name) for name in names or range(len(rows[0]))]
    classes = np.array(plain)
    if len({name_of(one) for one in classes}) < len(classes):
        raise DataError("two columns of labels have one name", "rename one of them")
    return LabelSets([[one for one, value in zip(classes, row, strict=True) if value] for row in rows], classes, True)


def _refuse_other_than_flags(rows: list[list[Any]]) -> None:
    for number, row in enumerate(rows, start=1):
        if odd := [value for value in row if is_missing(value) or value not in (0, 1)]:
            raise DataError(
                f"labels are a matrix that holds {shown(odd[0], 60)} (row {number})",
                "an indicator matrix holds 0 and 1; st.train(label=[...]) learns several label columns",
            )
