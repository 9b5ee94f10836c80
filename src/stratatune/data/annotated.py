"""Exports of annotation tools as the columns that readers know: Label Studio's tasks, and Prodigy's answers.

How each tool writes a span is in :mod:`stratatune.data.spans`, and a row of spaCy's in :mod:`stratatune.data.frames`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stratatune.data.frames import Frame
from stratatune.data.labels import is_missing
from stratatune.errors import DataError, counted

_ANSWER, _ACCEPTED, _ANSWERS = "answer", "accept", {"accept", "reject", "ignore"}
_CHOICE = ("accept", "options")
_TASK = "data"
_ANNOTATIONS = ("annotations", "completions")
"""Columns of Label Studio's annotations; older versions call them completions."""
_SHOWN = 5


def annotated(frame: Frame, *, needed: bool, label: str | None = None) -> Frame:
    """The rows that a person has annotated, in columns; frames of no tool, and without such marks, as they are.

    Args:
        frame: the rows.
        needed: whether labels are needed: rows to predict stay, whatever was answered.
        label: the label column, if it was named: Prodigy's answers may be the classes.

    Raises:
        DataError: no row is annotated, or one was in two ways.
    """
    if _TASK in frame.names and frame.rows and all(isinstance(task, Mapping) for task in frame.get(_TASK)):
        return _of_tasks(frame, needed)
    if not needed or label == _ANSWER or _ANSWER not in frame.names:
        return frame
    answers = frame.get(_ANSWER)
    known = {answer for answer in answers if not is_missing(answer)} if all(map(_is_plain, answers)) else set()
    if not known or not known <= _ANSWERS:
        return frame
    return _keeping(frame, [answer == _ACCEPTED for answer in answers], "their answer is not accept", "accepted")


def choices_in(frame: Frame) -> str | None:
    """The column in which Prodigy has what was chosen of several options; None where there is none."""
    return _CHOICE[0] if set(_CHOICE) <= set(frame.names) else None


def _is_plain(value: Any) -> bool:
    return isinstance(value, str) or is_missing(value)


def _keeping(frame: Frame, kept: Sequence[bool], why: str, wanted: str) -> Frame:
    gone = [row for row, keep in zip(frame.rows, kept, strict=True) if not keep]
    if not gone:
        return frame
    if len(gone) == len(kept):
        raise DataError(f"{frame.place}: no row is {wanted}", "give rows that are, or predict these")
    places = f"row {', '.join(map(str, gone[:_SHOWN]))}{', ...' if len(gone) > _SHOWN else ''}"
    said = f"{len(gone):,} of {len(kept):,} rows {'is' if len(gone) == 1 else 'are'} left out"
    return frame.keep([at for at, keep in enumerate(kept) if keep]).noting(f"{said}: {why} ({places})")


def _of_tasks(frame: Frame, needed: bool) -> Frame:
    """The tasks of Label Studio as its export JSON-MIN has them: columns of their data, and one of each control tag."""
    tasks = frame.get(_TASK)
    column = next((name for name in _ANNOTATIONS if name in frame.names), None)
    cells = frame.get(column) if column else [None] * len(tasks)
    found, related = list[dict[str, list[Any]] | None](), False
    for row, cell in zip(frame.rows, cells, strict=True):
        given = [one for one in _list(cell) if isinstance(one, Mapping) and not one.get("was_cancelled")]
        results = [_list(one.get("result")) for one in given]
        related = related or any(one.get("type") == "relation" for result in results for one in result)
        regions = [_by_tag(result) for result in results]
        if needed and any(_alike(one) != _alike(regions[0]) for one in regions[1:]):
            raise DataError(
                f"{frame.place}, row {row}: the task has {counted(len(regions), 'annotation')} that differ",
                "keep one annotation of each task",
            )
        found.append(regions[0] if regions else None)
    tags = list(dict.fromkeys(name for regions in found for name in regions or ()))
    keys = dict.fromkeys(key for task in tasks for key in task)
    columns: dict[str, list[Any]] = {"id": frame.get("id")} if "id" in frame.names else {}
    columns |= {str(key): [task.get(key) for task in tasks] for key in keys}
    columns |= {name: [None if one is None else one.get(name, []) for one in found] for name in tags}
    names = list(columns)
    made = Frame(frame.place, names, columns.__getitem__, frame.rows, notices=frame.notices)
    if not needed:
        return made
    made = _keeping(made, [regions is not None for regions in found], "their task has no annotation", "annotated")
    return made.noting("relations are not read") if related else made


def _by_tag(result: list[Any]) -> dict[str, list[Any]]:
    """What was marked under each control tag: spans, or names of choices."""
    found: dict[str, list[Any]] = {}
    for one in result:
        value = one.get("value") if isinstance(one, Mapping) else None
        if not isinstance(value, Mapping) or is_missing(name := one.get("from_name")):
            continue
        if value.get("choices") is not None:  # Arrow gives every value all keys
            found.setdefault(str(name), []).extend(_list(value["choices"]))
        elif value.get("labels") is not None:
            found.setdefault(str(name), []).append(value)
    return found


def _alike(regions: Mapping[str, list[Any]]) -> dict[str, list[str]]:
    """Regions by their tags, in whatever order they were marked."""
    parts = ("start", "end", "labels")
    plain = {name: [[one[p] for p in parts if p in one] if isinstance(one, Mapping) else one for one in ones]
             for name, ones in regions.items()}  # fmt: skip
    return {name: sorted(map(repr, ones)) for name, ones in plain.items()}


def _list(value: Any) -> list[Any]:
    value = value.tolist() if hasattr(value, "tolist") else value
    return list(value) if isinstance(value, list | tuple) else []
