"""Rows of a query and a list of candidates, as sentence-transformers' listwise losses read them: a row a candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from stratatune.data.frames import Frame
from stratatune.data.labels import is_missing
from stratatune.errors import DataError

LISTS = "listwise"
"""The key in ``Table.further`` that is there where each query came with a list of its candidates."""
CANDIDATES = ("candidates", "documents", "docs", "passages", "texts", "answers", "responses")
_SCORES = ("labels", "scores", "label", "score", "relevance")


def listwise(frame: Frame, *, need_labels: bool, label: str | None = None) -> Frame | None:
    """The frame with a row for each candidate, as columns ``text`` and ``score``; None where rows have no lists.

    The rows are numbered anew, and other columns are repeated. ``label`` names the column of the scores, where it holds
    lists; else it has one of the usual names.

    Raises:
        DataError: a row without a list of texts, or whose scores are not as many; a column that is called like one of
            the two that are made.
    """
    named = (name for name in frame.names if name.casefold() in CANDIDATES)
    column = next((name for name in named if _first_list(frame, name, str)), None)
    if column is None:
        return None
    texts = [_texts(frame, row, column, value) for row, value in zip(frame.rows, frame.get(column), strict=True)]
    named = [label] if label in frame.names else [name for name in frame.names if name.casefold() in _SCORES]
    scores = next((name for name in named if name and _first_list(frame, name, object)), None)
    if scores is None and need_labels:
        raise DataError(
            f"{frame.place}: column {column!r} holds lists of candidates, and there is no list of their scores",
            "add one of the same length: labels or scores",
        )
    counts = [len(one) for one in texts]
    columns = {
        name: [value for value, count in zip(frame.get(name), counts, strict=True) for _ in range(count)]
        for name in frame.names
        if name not in (column, scores, *_other_scores(frame, scores))
    }
    made = ("text", "score") if scores is not None else ("text",)
    if taken := next((one for one in made if one in columns), None):
        raise DataError(
            f"{frame.place}: a column {taken!r} beside the lists in {column!r}, which get the names text and score",
            "rename it; a query is usually called query",
        )
    columns["text"] = [text for one in texts for text in one]
    if scores is not None:
        given = [_listed(value) for value in frame.get(scores)]
        for row, count, values in zip(frame.rows, counts, given, strict=True):
            if not isinstance(values, list) or len(values) != count:
                has = f"{len(values)} values" if isinstance(values, list) else "no list"
                raise DataError(
                    f"{frame.place}, row {row}: {count} in {column!r}, and {has} in {scores!r}",
                    "give each candidate a score",
                )
        columns["score"] = [value for values in given for value in values]
    return replace(
        frame,
        place=f"{frame.place} (a row for each of {column!r})",
        names=list(columns),
        get=columns.__getitem__,
        rows=range(1, sum(counts) + 1),
        original={},
        mend=lambda _, cell: cell,  # its columns are not those of the file
    )


def _other_scores(frame: Frame, scores: str | None) -> list[str]:
    """Further lists that might be scores, where those to learn from are known."""
    usual = [name for name in frame.names if name.casefold() in _SCORES] if scores else []
    return [name for name in usual if _first_list(frame, name, object)]


def _first_list(frame: Frame, name: str, kind: type) -> bool:
    """Whether the first value of a column is a list of this kind."""
    first = _listed(next((value for value in frame.get(name) if not is_missing(value)), None))
    return isinstance(first, list) and all(isinstance(one, kind) for one in first)


def _listed(value: Any) -> Any:
    value = value.tolist() if hasattr(value, "tolist") else value
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _texts(frame: Frame, row: int, column: str, value: Any) -> list[str]:
    found = _listed(value)
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise DataError(f"{frame.place}, row {row}: {column!r} holds no list of texts", "write a list of strings")
    return found
