"""Texts with a tag for each word, or with named spans of characters, as one `Table`.

Files of CoNLL's kind (a word a line, a blank line behind each text), and columns of lists: ``tokens`` with ``tags``, or
a text with ``spans``. A text of words is these joined by blanks. Every failure is one DataError line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from stratatune.data.frames import Frame, called
from stratatune.data.labels import is_missing, label_text
from stratatune.data.lines import decode, lines_of
from stratatune.data.read_options import DEFAULTS, ReadOptions
from stratatune.data.readers import SINGLES, Table, texts_of, without_bad
from stratatune.data.sources import SUFFIXES, open_source
from stratatune.data.written import Written
from stratatune.errors import DataError, nearest

WORDS = "words"
"""In ``Table.further``: the words of each text as (start, end) in its characters."""
TOKENS = ("tokens", "words")
TAGS = ("tags", "ner_tags", "labels", "label")
SPANS = ("spans", "entities", "labels", "label")

Place = tuple[int, int]
_WORD = re.compile(r"[^\W_]+|[^\w\s]|_")
_LAYOUTS = {
    1: ("tokens",),
    2: ("tokens", "tags"),
    4: ("tokens", "pos_tags", "chunk_tags", "ner_tags"),  # CoNLL-2003
    10: ("id", "tokens", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc"),  # CoNLL-U
}
_SHOWN = 3


def words_of(text: str) -> list[Place]:
    """The words of a plain text: runs of letters and digits, and every other sign by itself."""
    return [found.span() for found in _WORD.finditer(text)]


def read_tagged(source: Any, options: ReadOptions = DEFAULTS) -> Table:
    """Read ``source`` into a Table whose labels are a list of tags for each text, one for each of its words.

    Args:
        source: a CoNLL file (any suffix that is not another format's; ``.txt`` and ``.tsv`` too); else what
            :func:`stratatune.data.readers.read` takes; or a list of lists of words.
        options: ``text`` is the column of words or of texts, ``label`` that of tags or of spans; of a CoNLL file a
            number from 1 serves too.

    Raises:
        DataError: whatever is wrong with the source, in one line.
    """
    frame = _open(source, options)
    if not frame.rows:
        raise DataError(f"{frame.place} has no rows", "give a file with at least one text")
    column, whole = _column(frame, options.text_columns), frame
    given = _lists(frame, column) if _is_listed(frame, column) else None
    label_column = None
    if options.need_labels:
        label_column = _label_column(frame, column, options.label, listed=given is not None)
    if given is not None:
        frame = replace(frame, get=_instead(frame, column, [" ".join(words) for words in given]))
    if options.written.bad_rows == "skip":
        frame = without_bad(frame, [column])
    texts = texts_of(frame, column, options.written.bad_rows)
    place = {row: at for at, row in enumerate(whole.rows)}  # rows that are not whole may have been left out
    words = list(map(words_of, texts)) if given is None else [_places(given[place[row]]) for row in frame.rows]
    labels: Any = None
    if label_column is not None:
        if given is None:
            frame, labels = _tags_of_spans(frame, label_column, texts, words)
        else:
            labels = [_tags(frame, row, value, len(one)) for row, value, one in _rows(frame, label_column, words)]
    return Table(
        texts=(texts,),
        labels=labels,
        columns=(column,),
        label_column=label_column,
        source=frame.place,
        rows=frame.rows,
        notices=frame.notices,
        whole=whole if options.keep_whole else None,
        further={WORDS: words},
    )


def _instead(frame: Frame, column: str, values: list[Any]) -> Any:
    return lambda name: list(values) if name == column else frame.get(name)


def _rows(frame: Frame, column: str, words: list[list[Place]]) -> Iterator[tuple[int, Any, list[Place]]]:
    return zip(frame.rows, frame.get(column), words, strict=True)


# --- columns -------------------------------------------------------------------------------------------------------


def _column(frame: Frame, text: Sequence[str] | None) -> str:
    """The column of words or texts; one of the usual names stands for another that is there."""
    if text and len(text) > 1:
        raise DataError(f"{len(text)} text columns were named: {', '.join(text)}", "tags are read of one")
    usual = (*TOKENS, *SINGLES)
    there = [name for name in usual if name in frame.names]
    column = next(iter(text or there), None)
    if column is None or (column not in frame.names and not (column in usual and there)):
        said = "which column holds the words?" if column is None else f"there is no column {column!r}"
        raise DataError(f"{frame.place}: {said} columns: {', '.join(frame.names)}", "name it with --text COLUMN")
    return column if column in frame.names else there[0]


def _is_listed(frame: Frame, column: str) -> bool:
    """Whether the column holds lists of words, not texts."""
    value = next((value for value in frame.get(column) if not is_missing(value)), "")
    return not isinstance(value, str) or (column in TOKENS and value.lstrip().startswith("["))


def _label_column(frame: Frame, column: str, label: str | None, *, listed: bool) -> str:
    """The column of tags where there are words, else that of spans."""
    names = frame.names
    if label is not None and label in names:
        return label
    if label is not None and label.isdecimal() and 1 <= int(label) <= len(names):
        return names[int(label) - 1]
    usual = TAGS if listed else SPANS
    found = [name for name in usual if name in names and name != column]
    if label is not None and not (found and label in (*TAGS, *SPANS)):
        near = nearest(label, names)
        hint = (f"did you mean {near!r}? " if near else "") + f"columns: {', '.join(names)}"
        raise DataError(f"{frame.place} has no column {label!r}", hint)
    if not found:
        what = "tags, one for each word" if listed else "spans ({start, end, label})"
        raise DataError(
            f"{frame.place}: which column holds the {what}? columns: {', '.join(names)}",
            "name it with --label COLUMN",
        )
    return found[0]


def _lists(frame: Frame, column: str) -> list[list[str]]:
    return [
        [_word(frame, row, word) for word in _list(frame, row, column, value)]
        for row, value in zip(frame.rows, frame.get(column), strict=True)
    ]


def _list(frame: Frame, row: int, column: str, value: Any) -> list[Any]:
    """A cell's list; a text that is one in JSON serves too, as csv has no other way to write it."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise DataError(f"{frame.place}, row {row}: column {column!r} is no JSON list: {error}") from error
    value = value.tolist() if hasattr(value, "tolist") else value  # pyright: ignore[reportAttributeAccessIssue]
    if is_missing(value):
        return []
    if not isinstance(value, list | tuple):
        raise DataError(
            f"{frame.place}, row {row}: column {column!r} holds {type(value).__name__}, not a list",
            "write a list of words, or name a column of texts with --text",
        )
    return list(value)


def _word(frame: Frame, row: int, word: Any) -> str:
    if not isinstance(word, str):
        raise DataError(f"{frame.place}, row {row}: the word {word!r} is no text", "write every word as a text")
    return word


def _places(words: Sequence[str]) -> list[Place]:
    """Where each word lies in the text that blanks between them make."""
    places, start = [], 0
    for word in words:
        places.append((start, start + len(word)))
        start += len(word) + 1
    return places


def _tags(frame: Frame, row: int, value: Any, count: int) -> list[str]:
    tags = [label_text(tag) if not is_missing(tag) else "" for tag in _list(frame, row, "tags", value)]
    if len(tags) != count:
        raise DataError(
            f"{frame.place}, row {row}: {len(tags)} tags for {count} words", "write one tag for each word, O for none"
        )
    if "" in tags:
        raise DataError(f"{frame.place}, row {row}: word {tags.index('') + 1} has no tag", "write O for none")
    return tags


# --- spans ---------------------------------------------------------------------------------------------------------


class Span(NamedTuple):
    """The characters ``start`` to ``end`` of a text, and what they are called."""

    start: int
    end: int
    label: str


@dataclass
class _Misfits:
    """Spans that the words cannot say as they are, to be counted and named."""

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


def _tags_of_spans(
    frame: Frame, column: str, texts: list[str], words: list[list[Place]]
) -> tuple[Frame, list[list[str]]]:
    misfits, rows = _Misfits([], []), []
    for (row, value, places), text in zip(_rows(frame, column, words), texts, strict=True):
        spans = [_span(frame, row, one, text) for one in _span_list(frame, row, column, value)]
        rows.append(_tags_by_words(spans, text, places, row, misfits))
    for notice in misfits.notices():
        frame = frame.noting(notice)
    return frame, rows


def _span_list(frame: Frame, row: int, column: str, value: Any) -> list[Any]:
    if isinstance(value, Mapping) and all(isinstance(one, list) for one in value.values()):
        return [dict(zip(value, one, strict=True)) for one in zip(*value.values(), strict=True)]
    return _list(frame, row, column, value)


def _span(frame: Frame, row: int, value: Any, text: str) -> Span:
    """One span, without the blanks at its ends."""
    parts: list[Any] | None = list(value) if isinstance(value, list | tuple) else None
    if isinstance(value, Mapping):
        names = ("label", "type", "tag", "entity_group")
        parts = [value.get("start"), value.get("end"), next((value[name] for name in names if name in value), None)]
    place = f"{frame.place}, row {row}: span {value!r}"
    if parts is None or len(parts) != 3 or not isinstance(parts[2], str) or not parts[2].strip():
        raise DataError(f"{place} is none", 'write {"start": 0, "end": 5, "label": "PER"}')
    start, end, label = parts
    if any(isinstance(one, bool) or not isinstance(one, int) for one in (start, end)):
        raise DataError(f"{place}: its ends are no whole numbers", "count characters from 0; end is behind the last")
    if not 0 <= start < end <= len(text):
        raise DataError(f"{place} is not inside its text of {len(text)} characters", "0 <= start < end <= length")
    part = text[start:end]
    return Span(start + len(part) - len(part.lstrip()), end - len(part) + len(part.rstrip()), label.strip())


def _tags_by_words(spans: list[Span], text: str, words: list[Place], row: int, misfits: _Misfits) -> list[str]:
    """IOB2 tags of the words; of spans that cross, the longest is taken."""
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


# --- CoNLL ---------------------------------------------------------------------------------------------------------


def _open(source: Any, options: ReadOptions) -> Frame:
    split, written = options.split, options.written
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        file = _file_in(path, split) if path.is_dir() else path
        if file.is_file() and _is_conll(file, written, need_labels=options.need_labels):
            return _open_conll(file, written)
        return open_source(str(file), None, split, written)
    if isinstance(source, list) and source and all(isinstance(one, list | tuple) for one in source):
        rows = [list(one) for one in source]
        return Frame("the texts given", ["tokens"], lambda _: rows, range(1, len(rows) + 1), named=False)
    return open_source(source, None, split, written)


def _file_in(folder: Path, split: str | None) -> Path:
    """The file of a split that is called after it; the folder itself where there is none."""
    files = sorted(entry for entry in folder.iterdir() if entry.is_file() and entry.suffix not in (".all", ".arrow"))
    for name in called(split or ""):
        for file in files:
            if file.stem == name and not (folder / "dataset_dict.json").exists():
                return file
    return folder


def _is_conll(path: Path, written: Written, *, need_labels: bool) -> bool:
    """Whether a file has a word a line. A ``.tsv`` may be a table, and a ``.txt`` without tags a text a line."""
    if path.suffix not in (".txt", ".tsv"):
        return path.suffix not in SUFFIXES
    lines = lines_of(decode(path.read_bytes(), str(path), written.encoding))
    if path.suffix == ".tsv":
        return not {*TOKENS, *SINGLES} & set(next(iter(lines), "").split("\t"))
    filled = [line for line in lines if not _separates(line)]
    return need_labels or (len(filled) < len(lines) and len({len(line.split()) for line in filled}) == 1)


def _open_conll(path: Path, written: Written) -> Frame:
    lines = lines_of(decode(path.read_bytes(), str(path), written.encoding))
    first = next((line for line in lines if not _separates(line) and not line.startswith("# ")), "")
    mark = "\t" if "\t" in first.strip() else None
    if not first:
        raise DataError(f"{path} has no rows", "give a file with at least one text")
    texts: list[list[list[str]]] = [[]]
    width = len(_cells(first, mark))
    for number, line in enumerate(lines, start=1):
        if _separates(line):
            texts.append([])
            continue
        cells = _cells(line, mark)
        if not texts[-1] and len(cells) != width and line.startswith("#"):
            continue  # a comment
        if len(cells) != width:
            raise DataError(
                f"{path}, line {number}: {len(cells)} columns, and the first word has {width}: {line[:40]!r}",
                "write a word and its tag a line, and a blank line behind each text",
            )
        if width != 10 or cells[0].isdecimal():  # CoNLL-U has ranges (1-2) and empty words (1.1) in between
            texts[-1].append(cells)
    texts = [rows for rows in texts if rows]
    names = _LAYOUTS.get(width) or ("tokens", *(f"column{at}" for at in range(2, width)), "tags")
    columns = dict(zip(names, ([[row[at] for row in rows] for rows in texts] for at in range(width)), strict=True))
    return Frame(str(path), list(names), columns.__getitem__, range(1, len(texts) + 1))


def _separates(line: str) -> bool:
    return not line.strip() or line.startswith("-DOCSTART-")


def _cells(line: str, mark: str | None) -> list[str]:
    return [cell.strip() for cell in line.rstrip("\t ").split(mark)] if mark else line.split()
