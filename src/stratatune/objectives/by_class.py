"""Details that a single score hides: precision, recall and F1 of each class, and which class is taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stratatune.errors import cut
from stratatune.objectives.calibration import calibration_error

MOST_IN_MATRIX = 100
"""The most classes with which a confusion matrix is kept."""


def by_class(
    labels: Sequence[str], truth: np.ndarray | None, output: np.ndarray, guess: np.ndarray | None = None
) -> dict[str, Any]:
    """The scores of each class, as plain data.

    Args:
        labels: the names of the C classes.
        truth: class numbers int64 [N].
        output: probabilities [N, C].
        guess: class numbers that are predicted [N]; None: the likeliest.

    Returns:
        ``f1``: the kind of mean of the metric ``f1``; ``classes``: for each class ``label``, ``precision``, ``recall``,
        ``f1`` and ``n``, its rows; ``calibration_error``, the expected one (Guo et al. 2017); ``confusion`` [C, C]:
        rows by their class, and under it by the predicted class, for at most :data:`MOST_IN_MATRIX` classes. Empty
        where there are no classes, or no labels.
    """
    if not labels or truth is None or truth.shape != (len(output),) or output.shape[1:] != (len(labels),):
        return {}
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    numbers, guess = list(range(len(labels))), output.argmax(axis=1) if guess is None else guess
    columns: Any = precision_recall_fscore_support(truth, guess, labels=numbers, zero_division=0.0)  # pyright: ignore[reportArgumentType]
    classes = [
        {"label": label, "precision": float(p), "recall": float(r), "f1": float(f), "n": int(n)}
        for label, p, r, f, n in zip(labels, *columns, strict=True)
    ]
    found: dict[str, Any] = {"f1": f1_of(labels), "classes": classes}
    found["calibration_error"] = calibration_error(output, truth)
    if len(labels) <= MOST_IN_MATRIX:
        found["confusion"] = confusion_matrix(truth, guess, labels=numbers).tolist()
    return found


def f1_of(labels: Sequence[str]) -> str:
    """The kind of mean that the metric ``f1`` is."""
    return f"of {cut(labels[1], _LONGEST)!r} (binary)" if len(labels) == 2 else "mean over the classes (macro)"


def shown(found: dict[str, Any]) -> str:
    """The scores of :func:`by_class` for a terminal: a line for each class, and the matrix if it fits."""
    if not found:
        return ""
    classes = found["classes"]
    width = max(len("class"), *(len(cut(one["label"], _LONGEST)) for one in classes))
    lines = [f"f1: {found['f1']}", *_calibration(found), f"{'class':<{width}}  precision  recall      f1       n"]
    for one in classes:
        name, numbers = cut(one["label"], _LONGEST), (one["precision"], one["recall"], one["f1"])
        lines.append(f"{name:<{width}}  {{:>9.4f}}  {{:>6.4f}}  {{:>6.4f}}  {one['n']:>6,}".format(*numbers))
    return "\n".join([*lines, *_matrix(found, width)])


def _calibration(found: dict[str, Any]) -> list[str]:
    if "calibration_error" not in found:
        return []
    return [f"calibration error: {100 * found['calibration_error']:.1f} % between confidence and accuracy"]


_WIDEST = 10  # classes of a matrix in a terminal
_LONGEST = 24


def _matrix(found: dict[str, Any], width: int) -> list[str]:
    names = [cut(one["label"], _LONGEST) for one in found["classes"]]
    if "confusion" not in found or len(names) > _WIDEST:
        return []
    cells = [max(len(name), 6) for name in names]
    head = "  ".join(f"{name:>{cell}}" for name, cell in zip(names, cells, strict=True))
    lines = ["rows by their class, columns by what was predicted", f"{'':<{width}}  {head}"]
    for name, row in zip(names, found["confusion"], strict=True):
        lines.append(f"{name:<{width}}  " + "  ".join(f"{n:>{c},}" for n, c in zip(row, cells, strict=True)))
    return lines
