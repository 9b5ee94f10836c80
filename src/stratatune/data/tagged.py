"""Texts with a tag for each word, or with named spans of characters, as one `Table`.

Files of CoNLL's kind (a word a line, a blank line after each text), columns of lists, ``tokens`` with ``tags``, or a
text with ``spans``, and the exports of annotation tools. A text of words is these joined by blanks. Every failure is
one DataError line.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stratatune.data.annotated import annotated
from stratatune.data.compressed import uncompressed, unpacked
from stratatune.data.conll import TOKENS, is_conll, open_conll
from stratatune.data.frames import Frame, called, of_spacy
from stratatune.data.labels import is_missing, label_text, listed
from stratatune.data.read_options import DEFAULTS, ReadOptions
from stratatune.data.readers import SINGLES, SPAN_COLUMNS, Table, is_list, texts_of, without_bad
from stratatune.data.several import files_in, joined
from stratatune.data.sources import open_source
from stratatune.data.spans import Place, are_spans, list_in, tags_of_spans
from stratatune.errors import DataError, counted, nearest, shown

WORDS = "words"
"""The key in ``Table.further`` of the words of each text, as (start, end) in its characters."""
TAGS = ("tags", "ner_tags", "labels", "label")
SPANS = (*SPAN_COLUMNS, "labels", "label")

_LISTS = 'write lists of words and of tags: ["Ada", "wrote"] and ["B-PER", "O"], in csv as JSON in a cell'
_WORDS = 'write a list of words, such as ["Ada", "wrote"]; plain texts are in a column named text'
_TAG_LIST = 'write a list with a tag for each word, such as ["B-PER", "O"]'
_JOINER = "\u200d"
_WORD = re.compile(r"[^\W_]+|[^\w\s]|_")


def words_of(text: str) -> list[Place]:
    """The words of a plain text: runs of letters and digits, and every other character by itself.

    Marks, such as an accent of its own or the sign of a vowel, belong to what they follow, and do not end a run.
    """
    words = [found.span() for found in _WORD.finditer(text)]
    if text.isascii():
        return words
    found: list[Place] = []
    for start, end in words:
        first, _ = found[-1] if found and found[-1][1] == start else (start, end)
        goes_on = text[start].isalnum() and text[first].isalnum() and _is_mark(text[start - 1])
        if first < start and (_is_mark(text[start]) or goes_on):
            found[-1] = (first, end)
        else:
            found.append((start, end))
    return found


def _is_mark(character: str) -> bool:
    return character == _JOINER or unicodedata.category(character).startswith("M")


def read_tagged(source: Any, options: ReadOptions = DEFAULTS) -> Table:
    """Read ``source`` into a Table whose labels are a list of tags for each text, one for each of its words.

    Args:
        source: a CoNLL file (any suffix that is not another format's; ``.txt`` and ``.tsv`` too); else what
            :func:`stratatune.data.readers.read` takes; or a list of lists of words.
        options: ``text`` is the column of words or of texts, ``label`` that of tags or of spans; for a CoNLL file a
            number from 1 serves too.

    Raises:
        DataError: whatever is wrong with the source, in one line.
    """
    frame = _open(source, options)
    if not frame.rows:
        raise DataError(f"{frame.place}: there are no rows", "give at least one text")
    frame = annotated(frame, needed=options.need_labels, label=options.label)
    if options.need_labels and any(_related(value) for value in _get(frame, "relations")):
        frame = frame.noting("relations are not read")
    column, whole = _column(frame, options.text_columns), frame
    given = _lists(frame, column) if _is_listed(frame, column) else None
    label_column = None
    if options.need_labels:
        frame = frame if given is not None or options.label in frame.names else _with_spans(frame, column)
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
            frame, labels = tags_of_spans(frame, label_column, texts, words)
        else:
            labels = [
                _tags(frame, row, label_column, value, len(one))
                for row, value, one in _rows(frame, label_column, words)
            ]
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


def _get(frame: Frame, column: str) -> list[Any]:
    return frame.get(column) if column in frame.names else []


def _related(value: Any) -> bool:
    return is_list(value) and len(value) > 0


def _instead(frame: Frame, column: str, values: list[Any]) -> Any:
    return lambda name: list(values) if name == column else frame.get(name)


def _rows(frame: Frame, column: str, words: list[list[Place]]) -> Iterator[tuple[int, Any, list[Place]]]:
    return zip(frame.rows, frame.get(column), words, strict=True)


# --- columns -------------------------------------------------------------------------------------------------------


def _column(frame: Frame, text: Sequence[str] | None) -> str:
    """The column of words or texts; a usual name also finds a column with another usual name."""
    if text and len(text) > 1:
        raise DataError(f"{len(text)} text columns were named: {', '.join(text)}", "tags are read of one")
    usual = (*TOKENS, *SINGLES)
    names = [name for name in frame.names if name not in TOKENS or not _describes_words(frame, name)]
    there = [name for name in usual if name in names]
    column = next(iter(text or there), None)
    if column is None or (column not in names and not (column in usual and there)):
        said = "which column holds the words?" if column is None else f"there is no column {column!r}"
        raise DataError(f"{frame.place}: {said} columns: {listed(frame.names)}", "name it with --text COLUMN")
    return column if column in names else there[0]


def _describes_words(frame: Frame, column: str) -> bool:
    """Whether the column has objects about the words of a text, as Prodigy's tokens, and the text is in another one."""
    first = next((value for value in frame.get(column) if _related(value)), None)
    return first is not None and isinstance(first[0], Mapping) and any(name in frame.names for name in SINGLES)


def _is_listed(frame: Frame, column: str) -> bool:
    """Whether the column holds lists of words, not texts."""
    value = next((value for value in frame.get(column) if not is_missing(value)), "")
    return not isinstance(value, str) or (column in TOKENS and value.lstrip().startswith("["))


def _label_column(frame: Frame, column: str, label: str | None, *, listed: bool) -> str:
    """The column of tags if there are words, else that of spans."""
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
        if not listed and column in TOKENS and any(name in names for name in TAGS):
            raise DataError(f"{frame.place}: column {column!r} holds texts, not lists of words", _LISTS)
        what = "tags, one for each word" if listed else "spans ({start, end, label})"
        raise DataError(
            f"{frame.place}: which column holds the {what}? columns: {', '.join(names)}",
            "name it with --label COLUMN",
        )
    return found[0]


def _with_spans(frame: Frame, column: str) -> Frame:
    """The frame with its only column of spans under a usual name: in Label Studio the user's own tag names it."""
    found = [name for name in frame.names if name != column and are_spans(frame.get(name))]
    if len(found) != 1 or set(SPANS) & set(frame.names):
        return frame
    return frame.renamed([(SPANS[0], found[0])]).noting(f"spans are read from column {found[0]!r}")


def _lists(frame: Frame, column: str) -> list[list[str]]:
    return [
        [_word(frame, row, word) for word in list_in(frame, row, column, value, _WORDS)]
        for row, value in zip(frame.rows, frame.get(column), strict=True)
    ]


def _word(frame: Frame, row: int, word: Any) -> str:
    if not isinstance(word, str):
        raise DataError(f"{frame.place}, row {row}: the word {shown(word)} is not a text", "write every word as a text")
    return word


def _places(words: Sequence[str]) -> list[Place]:
    """The place of each word in the text that blanks between them make."""
    places, start = [], 0
    for word in words:
        places.append((start, start + len(word)))
        start += len(word) + 1
    return places


def _tags(frame: Frame, row: int, column: str, value: Any, count: int) -> list[str]:
    given = list_in(frame, row, column, value, _TAG_LIST)
    if odd := [tag for tag in given if is_list(tag) or isinstance(tag, Mapping)]:
        raise DataError(
            f"{frame.place}, row {row}: {shown(odd[0])} in column {column!r} is no tag of a word", _TAG_LIST
        )
    tags = [label_text(tag) if not is_missing(tag) else "" for tag in given]
    if len(tags) != count:
        raise DataError(
            f"{frame.place}, row {row}: {counted(len(tags), 'tag')} for {counted(count, 'word')}",
            "write one tag for each word, O for none",
        )
    if "" in tags:
        raise DataError(f"{frame.place}, row {row}: word {tags.index('') + 1} has no tag", "write O for none")
    return tags


_NEVER_CONLL = (".csv", ".json", ".jsonl", ".parquet")  # so not unpacked to look


# --- the file ------------------------------------------------------------------------------------------------------


def _open(source: Any, options: ReadOptions) -> Frame:
    split, written = options.split, options.written
    if isinstance(source, str | Path) and (several := files_in(str(source))):
        return joined([_open(one, replace(options, split=None)) for one in several], str(source))
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        file = _file_in(path, split) if path.is_dir() else path
        if file.is_file() and uncompressed(file).suffix.lower() not in _NEVER_CONLL:
            with unpacked(file) as plain:
                # A column called by its number is one of a CoNLL file, which may hold that number as a word.
                asked = (*(options.text_columns or ()), *(here for _, here in written.columns))
                named = [name for name in asked if not name.isdecimal()]
                if is_conll(plain, written, need_labels=options.need_labels, columns=named):
                    return replace(open_conll(plain, written), place=str(file))
        return open_source(str(file), None, split if file == path else None, written)
    rows = isinstance(source, list | tuple) and bool(source) and all(isinstance(one, list | tuple) for one in source)
    if rows and not isinstance(of_spacy(source[0]), Mapping):
        rows = [list(one) for one in source]
        return Frame("the list of texts", ["tokens"], lambda _: rows, range(1, len(rows) + 1), named=False)
    return open_source(source, None, split, written)


def _file_in(folder: Path, split: str | None) -> Path:
    """The file named after a split; the folder itself where there is none."""
    others = (".all", ".arrow")
    files = sorted(one for one in folder.iterdir() if one.is_file() and one.suffix.lower() not in others)
    for name in called(split or ""):
        for file in files:
            if uncompressed(file).stem == name and not (folder / "dataset_dict.json").exists():
                return file
    return folder
