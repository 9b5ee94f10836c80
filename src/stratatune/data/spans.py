"""Convert named spans of characters to tags of words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral
from typing import Any, NamedTuple

from stratatune.data.frames import Frame
from stratatune.data.labels import is_missing
from stratatune.errors import DataError, counted, shown

Place = tuple[int, int]
"""The place of a word in its text: its first character, and the one after its last."""
_SHOWN = 3
_KINDS = {str: "a text", dict: "an object"}
_ENDS = (("start", "end"), ("start_offset", "end_offset"))
_NAMES = ("label", "type", "tag", "entity_group", "labels")
_TOOLS = {"start_offset", "labels", "token_start"}
"""Keys of a span that doccano, Label Studio and Prodigy alone write."""
_WRITE = 'write {"start": 0, "end": 5, "label": "PER"}'
_SPANS = 'write a list of spans: [{"start": 0, "end": 5, "label": "PER"}]; none: []'


class Span(NamedTuple):
    """The characters ``start`` to ``end`` of a text, with their label."""

    start: int
    end: int
    label: str


@dataclass
class _Misfits:
    """Spans that do not fit the words, to be counted and named."""

    widened: list[str]
    crossed: list[str]
    total: int = 0

    def notices(self) -> Iterator[str]:
        for found, what in (
            (self.widened, "begin or end inside a word and are widened to whole words"),
            (self.crossed, "cross a longer span or hold no word, and are left out"),
        ):
            if found:
                more = ", ..." if len(found) > _SHOWN else ""
                yield f"{len(found):,} of {self.total:,} spans {what}: {', '.join(found[:_SHOWN])}{more}"


def tags_of_spans(
    frame: Frame, column: str, texts: list[str], words: list[list[Place]]
) -> tuple[Frame, list[list[str]]]:
    """A tag for each word of each text, in IOB2, and the frame with notices about spans that cut words.

    Args:
        frame: the rows.
        column: the column of the spans, a list in each row.
        texts: the text of each row.
        words: the words of each text by their characters.
    """
    misfits, rows = _Misfits([], []), []
    for row, value, places, text in zip(frame.rows, frame.get(column), words, texts, strict=True):
        given = [_filled(one) for one in _span_list(frame, row, column, value)]
        spans = [_span(frame, row, one, text) for one in given]
        if all(map(_is_of_tool, given)):
            spans = _apart(spans, text, f"{frame.place}, row {row}")
        rows.append(_tags_by_words(spans, text, places, row, misfits))
    for notice in misfits.notices():
        frame = frame.noting(notice)
    return frame, rows


def _span_list(frame: Frame, row: int, column: str, value: Any) -> list[Any]:
    if isinstance(value, Mapping) and all(isinstance(one, list) for one in value.values()):
        sizes = {name: len(ones) for name, ones in value.items()}
        if len(set(sizes.values())) > 1:
            said = ", ".join(f"{size} of {name!r}" for name, size in sizes.items())
            raise DataError(
                f"{frame.place}, row {row}: column {column!r} holds lists of different lengths: {said}", _SPANS
            )
        return [dict(zip(value, one, strict=True)) for one in zip(*value.values(), strict=True)]
    return list_in(frame, row, column, value, _SPANS)


def _span(frame: Frame, row: int, value: Any, text: str) -> Span:
    """Read one span, without the blanks at its ends."""
    place = f"{frame.place}, row {row}: span {shown(value)}"
    parts: list[Any] | None = list(value) if isinstance(value, list | tuple) else None
    first, last = _ends(value)
    if isinstance(value, Mapping):
        parts = [value.get(first), value.get(last), _label(value, place)]
    if parts is None or len(parts) != 3 or parts[2] is None:
        raise DataError(f"{place} is none", _WRITE)
    if not isinstance(parts[2], str) or not parts[2].strip():
        raise DataError(f"{place}: its label {shown(parts[2])} is not a name", _WRITE)
    start, end, label = parts
    if isinstance(value, Mapping) and not {first, last} <= value.keys():
        lacking = " and ".join(name for name in (first, last) if name not in value)
        raise DataError(f"{place} has no {lacking}", _WRITE)
    if not all(map(_is_whole, (start, end))):
        raise DataError(f"{place}: its ends are not whole numbers", "count characters from 0; end is after the last")
    if not 0 <= start < end <= len(text):
        raise DataError(f"{place} is not inside its text of {len(text)} characters", "0 <= start < end <= length")
    start, end = int(start), int(end)
    part = text[start:end]
    said = value.get("text") if isinstance(value, Mapping) and _is_of_tool(value) else None
    if isinstance(said, str) and _bare(said) != _bare(part):
        raise DataError(
            f"{place}: the characters {start} to {end} of its text are {shown(part)}",
            "offsets count characters from 0, an emoji as one, in the text as this file has it; end is after the last",
        )
    return Span(start + len(part) - len(part.lstrip()), end - len(part) + len(part.rstrip()), label.strip())


def _is_whole(value: Any) -> bool:
    """Whether it is a whole number, numpy's too; pandas has floats beside a gap."""
    return not isinstance(value, bool) and (
        isinstance(value, Integral) or (isinstance(value, float) and value.is_integer())
    )


def _filled(value: Any) -> Any:
    """A span without the nulls that Arrow gives the keys of other spans."""
    return {name: one for name, one in value.items() if one is not None} if isinstance(value, Mapping) else value


def _ends(value: Any) -> tuple[str, str]:
    return next((pair for pair in _ENDS if isinstance(value, Mapping) and set(pair) & value.keys()), _ENDS[0])


def _label(value: Mapping[str, Any], place: str) -> Any:
    """The label of a span; Label Studio has a list of them."""
    label = next((value[name] for name in _NAMES if name in value), None)
    label = label.tolist() if hasattr(label, "tolist") else label  # pyright: ignore[reportOptionalMemberAccess]
    if not isinstance(label, list | tuple):
        return label
    if len(label) != 1:
        raise DataError(f"{place} has {counted(len(label), 'label')}", "give each span one label")
    return label[0]


def _is_of_tool(value: Any) -> bool:
    """Whether a span is in the form of an annotation tool: lists, Label Studio's, doccano's or Prodigy's objects."""
    return isinstance(value, list | tuple) or (isinstance(value, Mapping) and bool(_TOOLS & value.keys()))


def are_spans(values: Sequence[Any]) -> bool:
    """Whether the first list of a column that is not empty holds spans as objects."""
    lists = (value.tolist() if hasattr(value, "tolist") else value for value in values)
    first = next((_filled(value[0]) for value in lists if isinstance(value, list | tuple) and value), None)
    return isinstance(first, Mapping) and set(_ends(first)) <= first.keys() and bool(set(_NAMES) & first.keys())


def _bare(text: str) -> str:
    """A text without white space, which Label Studio writes in other ways (a line end as a backslash and an n)."""
    return "".join(text.replace("\\n", " ").split())


def _apart(spans: list[Span], text: str, place: str) -> list[Span]:
    """The distinct spans, as an annotation tool has them.

    Raises:
        DataError: two of them overlap: the one that is left out would be somebody's work.
    """
    spans = sorted(dict.fromkeys(spans))
    for one, other in pairwise(spans):
        if other.start < one.end:  # the first two that overlap are neighbours
            named = [f"{shown(text[span.start : span.end])} ({span.label})" for span in (one, other)]
            raise DataError(
                f"{place}: the spans {named[0]} at {one.start} and {named[1]} at {other.start} overlap",
                'a word has one tag: leave one of them out; of spans that are written {"start", "end", "label"} the '
                "longest is taken",
            )
    return spans


def _tags_by_words(spans: list[Span], text: str, words: list[Place], row: int, misfits: _Misfits) -> list[str]:
    """IOB2 tags of the words; where spans cross, the longest is taken."""
    tags = ["O"] * len(words)
    misfits.total += len(spans)
    for span in sorted(spans, key=lambda one: (one.start - one.end, one.start)):
        met = [at for at, (start, end) in enumerate(words) if start < span.end and span.start < end]
        named = f"row {row} {text[span.start : span.end]!r} ({span.label})"
        if not met or any(tags[at] != "O" for at in met):
            misfits.crossed.append(named)
            continue
        if (words[met[0]][0], words[met[-1]][1]) != (span.start, span.end):
            misfits.widened.append(named)
        for at in met:
            tags[at] = f"{'B' if at == met[0] else 'I'}-{span.label}"
    return tags


def list_in(frame: Frame, row: int, column: str, value: Any, legal: str) -> list[Any]:
    """A cell's list, also as JSON text, since csv has no other way to write it.

    Args:
        frame: the rows.
        row: the number of the cell's row.
        column: the name of its column.
        value: the cell.
        legal: what to write there, for an error.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise DataError(
                f"{frame.place}, row {row}: column {column!r} is not a JSON list: {error}",
                'write ["a", "b"], with double quotes, as json.dumps does',
            ) from error
    value = value.tolist() if hasattr(value, "tolist") else value  # pyright: ignore[reportAttributeAccessIssue]
    if is_missing(value):
        return []
    if not isinstance(value, list | tuple):
        what = _KINDS.get(type(value), f"{value!r:.40}")
        raise DataError(f"{frame.place}, row {row}: column {column!r} holds {what}, not a list", legal)
    return list(value)
