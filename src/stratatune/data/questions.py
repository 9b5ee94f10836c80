"""Questions, each with a context and the answers in it, as one `Table`.

SQuAD's own files (articles, paragraphs, questions), the rows of the hub's ``squad`` and ``squad_v2``, and flat rows of
a question, a context, an answer and its start. Every failure is one DataError line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from stratatune.data.frames import Frame
from stratatune.data.label_sets import columns_in, joined
from stratatune.data.labels import cell_text, is_missing, listed
from stratatune.data.read_options import DEFAULTS, ReadOptions
from stratatune.data.readers import Table, existing, texts_of, without_bad
from stratatune.data.sources import open_source
from stratatune.errors import DataError, counted

QUESTIONS = ("question", "query")
CONTEXTS = ("context", "passage", "paragraph", "document", "text")
ANSWERS = ("answers", "answer")
_START, _TEXT, _NONE = "answer_start", "text", "is_impossible"
_TREE = "paragraphs"  # the key by which an article of SQuAD is recognised
_SHOWN = 3

_COLUMNS = "name them in this order: --text QUESTION,CONTEXT"
_ANSWER = 'write {"text": ["in 1843"], "answer_start": [17]}, or columns answer and answer_start; none: empty lists'
_MEND = f"{_START} counts characters from 0; leave it out where the answer occurs once in its context"
_NO_ANSWER = f"a question without an answer has empty lists, {_START} -1 or {_NONE} true; or use --bad-rows skip"


class Answer(NamedTuple):
    """An answer as the characters from ``start`` on of its context."""

    text: str
    start: int

    @property
    def end(self) -> int:
        """The character after its last."""
        return self.start + len(self.text)


def read_questions(source: Any, options: ReadOptions = DEFAULTS) -> Table:
    """Read ``source`` into a Table of questions and contexts; its labels are a list of :class:`Answer` for each.

    A question without an answer has an empty list.

    Args:
        source: what :func:`stratatune.data.readers.read` takes; a JSON file may be SQuAD's own.
        options: ``text`` are the columns of the question and of its context, in this order; ``label`` is that of the
            answers, or ``"a,b"``: of one answer's text and of its start.

    Raises:
        DataError: whatever is wrong with the source, in one line.
    """
    written = options.written
    whole = frame = _flat(open_source(source, None, options.split, written))
    if not frame.rows:
        raise DataError(f"{frame.place}: there are no rows", "give at least one question")
    columns = _text_columns(frame, options.text)
    label = _label_columns(frame, columns, options.label) if options.need_labels else ()
    if written.bad_rows == "skip":
        frame = without_bad(frame, list(columns))
    labels: Any = None
    if label:
        contexts = texts_of(frame, columns[1], "empty")
        frame, labels = _answers(frame, label, contexts, skip=written.bad_rows == "skip")
    return Table(
        texts=tuple(texts_of(frame, name, written.bad_rows) for name in columns),
        labels=labels,
        columns=columns,
        label_column=joined(label) if label else None,
        source=frame.place,
        rows=frame.rows,
        notices=frame.notices,
        whole=whole if options.keep_whole else None,
    )


# --- columns -------------------------------------------------------------------------------------------------------


def _text_columns(frame: Frame, text: str | Sequence[str] | None) -> tuple[str, str]:
    """The columns of the question and of the context: those named, or those with a usual name."""
    if not frame.named:
        if len(frame.names) != 2:
            raise DataError(f"{frame.place} are single texts", "give pairs of a question and its context")
        return frame.names[0], frame.names[1]
    if text:
        named = columns_in(text) if isinstance(text, str) else tuple(text)
        if len(named) != 2:
            raise DataError(f"{len(named)} text columns were named: {', '.join(named)}", _COLUMNS)
        return existing(frame, named[0]), existing(frame, named[1])
    found = [next((name for name in usual if name in frame.names), None) for usual in (QUESTIONS, CONTEXTS)]
    if None in found:
        what = "question" if found[0] is None else "context"
        raise DataError(f"{frame.place}: which column holds the {what}? columns: {listed(frame.names)}", _COLUMNS)
    return found[0], found[1]  # pyright: ignore[reportReturnType]


def _label_columns(frame: Frame, texts: Sequence[str], label: str | None) -> tuple[str, ...]:
    """The column of the answers; two where a column of one answer has another with its start."""
    if label is None:
        found = next((name for name in ANSWERS if name in frame.names and name not in texts), None)
        if found is None:
            raise DataError(
                f"{frame.place}: which column holds the answers? columns: {listed(frame.names)}",
                "name it with --label COLUMN, or with --label ANSWER,START",
            )
    elif label not in frame.names and len(named := columns_in(label)) > 1:
        if len(named) > 2:
            raise DataError(f"{len(named)} label columns were named: {label}", "name the answer, or answer and start")
        # Data to evaluate may have SQuAD's lists where those of training had two columns.
        if named[0] not in frame.names and ANSWERS[0] in frame.names:
            return ANSWERS[:1]
        return tuple(existing(frame, name) for name in named)
    else:
        usual = [name for name in ANSWERS if name in frame.names]
        found = usual[0] if label not in frame.names and label in ANSWERS and usual else existing(frame, label)
    flat = _START in frame.names and not any(isinstance(value, Mapping | list) for value in frame.get(found))
    return (found, _START) if flat else (found,)


# --- SQuAD's tree ----------------------------------------------------------------------------------------------------


def _flat(frame: Frame) -> Frame:
    """The questions of SQuAD's articles as rows; any other frame as it is. Plausible answers are left out."""
    if _TREE not in frame.names:
        return frame
    titles = frame.get("title") if "title" in frame.names else [None] * len(frame.rows)
    rows: list[dict[str, Any]] = []
    for number, title, paragraphs in zip(frame.rows, titles, frame.get(_TREE), strict=True):
        place = f"{frame.place}, article {number}"
        for at, paragraph in enumerate(_objects(paragraphs, f"{place}: {_TREE!r}"), start=1):
            here = f"{place}, paragraph {at}"
            for one in _objects(paragraph.get("qas"), f"{here}: 'qas'"):
                row = {"id": one.get("id"), "title": title, "question": one.get("question")}
                rows.append({**row, "context": paragraph.get("context"), **{k: one[k] for k in _OWN if k in one}})
    names = [name for name in _FIELDS if any(name in row for row in rows)]
    found = {name: [row.get(name) for row in rows] for name in names}
    return Frame(frame.place, names, found.__getitem__, range(1, len(rows) + 1))


_OWN = ("answers", _NONE)
_FIELDS = ("id", "title", "question", "context", *_OWN)


def _objects(value: Any, place: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
        raise DataError(f"{place} is not a list of objects", "SQuAD's layout: data, paragraphs, qas, answers")
    return value


# --- answers -------------------------------------------------------------------------------------------------------


@dataclass
class _Misplaced(Exception):
    """An answer that is not where it should be, and the fix."""

    said: str
    fix: str


def _answers(
    frame: Frame, label: Sequence[str], contexts: list[str], *, skip: bool
) -> tuple[Frame, list[list[Answer]]]:
    """The answers of each row; with ``skip`` rows without usable ones are left out, and counted."""
    cells: list[list[Any]] = [frame.get(name) for name in label]
    impossible = frame.get(_NONE) if _NONE in frame.names else [None] * len(frame.rows)
    ids = frame.get("id") if "id" in frame.names else [None] * len(frame.rows)
    found, kept, gone = list[list[Answer]](), list[int](), list[str]()
    for at, row in enumerate(frame.rows):
        place = f"{frame.place}, row {row}" + ("" if is_missing(ids[at]) else f" (id {ids[at]})")
        try:
            given = _given([column[at] for column in cells], label)
            found.append(_checked(given, _flag(impossible[at]), contexts[at]))
        except _Misplaced as error:
            if not skip:
                raise DataError(f"{place}: {error.said}", error.fix) from None
            gone.append(f"row {row}: {error.said}")
            continue
        kept.append(at)
    if gone:
        if not kept:
            raise DataError(f"{frame.place}: no row has an answer that can be used; {gone[0]}", _ANSWER)
        more = "; ..." if len(gone) > _SHOWN else ""
        said = f"{len(gone):,} of {len(frame.rows):,} rows are left out ({'; '.join(gone[:_SHOWN])}{more})"
        frame = frame.keep(kept).noting(said)
    return frame, found


def _flag(value: Any) -> bool | None:
    """Whether a question is said to have no answer; None: nothing is said."""
    if is_missing(value) or value == "":
        return None
    if isinstance(value, str) and value.strip().lower() in _FLAGS:
        return _FLAGS[value.strip().lower()]
    if value in (0, 1):  # false and true are these too
        return bool(value)
    raise _Misplaced(f"{_NONE} is {value!r:.40}", "write true or false")


_FLAGS = {"true": True, "false": False, "1": True, "0": False}


def _given(cells: list[Any], label: Sequence[str]) -> list[tuple[Any, Any]] | None:
    """The texts and starts of a row's answers; None where the cell of a single answer is blank."""
    if len(cells) == 2:
        text, start = cells
        if not is_missing(start) and _whole(start) == -1:
            return []
        return None if is_missing(text) or not str(text).strip() else [(text, start)]
    value = _parsed(cells[0], label[0])
    if is_missing(value) or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, Mapping):
        texts, starts = _listed(value.get(_TEXT, [])), value.get(_START)
        starts = [None] * len(texts) if starts is None else _listed(starts)
        if len(texts) != len(starts):
            said = f"column {label[0]!r} holds {counted(len(texts), 'text')} and {counted(len(starts), 'start')}"
            raise _Misplaced(said, "write one start for each text")
        return list(zip(texts, starts, strict=True))
    if isinstance(value, list):
        return [(one.get(_TEXT), one.get(_START)) if isinstance(one, Mapping) else (one, None) for one in value]
    return [(value, None)]


def _parsed(value: Any, name: str) -> Any:
    """A cell as it is; lists and objects also as JSON text, since csv has no other way to write them."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except ValueError:
            if value.lstrip()[:2] in ("{'", "['"):  # an object as Python prints it
                raise _Misplaced(f"column {name!r} is not JSON: {value!r:.60}", _ANSWER) from None
    return value.tolist() if hasattr(value, "tolist") else value  # pyright: ignore[reportAttributeAccessIssue]


def _listed(value: Any) -> list[Any]:
    value = value.tolist() if hasattr(value, "tolist") else value
    return list(value) if isinstance(value, list | tuple) else [value]


def _checked(given: list[tuple[Any, Any]] | None, impossible: bool | None, context: str) -> list[Answer]:
    if given is None:
        if impossible:
            return []
        raise _Misplaced("the answer is empty", _NO_ANSWER)
    if impossible and given:
        raise _Misplaced(f"it has the answer {given[0][0]!r:.60}, and {_NONE} is true", "leave out one of the two")
    if impossible is False and not given:
        raise _Misplaced(f"it has no answer, and {_NONE} is false", _NO_ANSWER)
    return [_placed(text, start, context) for text, start in given]


def _placed(text: Any, start: Any, context: str) -> Answer:
    """An answer where its context has it, without the blanks at its ends."""
    if not isinstance(text, str):
        text = "" if is_missing(text) else cell_text(text)
    if not text.strip():
        raise _Misplaced("the answer is empty", _NO_ANSWER)
    at = _sought(text, context) if is_missing(start) or start == "" else _whole(start)
    if at is None:
        raise _Misplaced(f"{_START} {start!r:.40} of the answer {text!r:.60} is not a whole number", _MEND)
    if at < 0 or context[at : at + len(text)] != text:
        here = f"the context has {context[at : at + len(text)]!r:.60} there" if 0 <= at < len(context) else ""
        here = here or f"the context has {len(context)} characters"
        there = [found.start() for found in re.finditer(f"(?={re.escape(text)})", context)]
        hint = f"it occurs at {', '.join(map(str, there[:_SHOWN]))}; {_MEND}" if there else _MEND
        raise _Misplaced(f"the answer {text!r:.60} is not at {_START} {at}: {here}", hint)
    own = text.strip()
    return Answer(own, at + text.index(own))


def _sought(text: str, context: str) -> int:
    """The place of an answer that has no start: it must occur exactly once."""
    there = [found.start() for found in re.finditer(f"(?={re.escape(text)})", context)]
    if len(there) == 1:
        return there[0]
    if not there:
        raise _Misplaced(f"the answer {text!r:.60} does not occur in its context", "copy it from the context as it is")
    said = f"the answer {text!r:.60} occurs {len(there)} times in its context, at {', '.join(map(str, there[:_SHOWN]))}"
    raise _Misplaced(said, f"say which one is meant by {_START}, a character counted from 0")


def _whole(value: Any) -> int | None:
    """A whole number, also one that a table of text holds, or that a gap below it made a float; else None."""
    try:
        return None if isinstance(value, bool) or float(value) != int(float(value)) else int(float(value))
    except (TypeError, ValueError, OverflowError):
        return None
