"""Files of CoNLL's kind: a word and its columns a line, a blank line after each text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from stratatune.data.frames import Frame
from stratatune.data.lines import decode, lines_of
from stratatune.data.readers import SINGLES
from stratatune.data.sources import SUFFIXES
from stratatune.data.written import Written
from stratatune.errors import DataError, counted

TOKENS = ("tokens", "words")
"""The usual names of a column of words."""
_BLANK = " \t"
_BLANKS = re.compile(f"[{_BLANK}]+")
_LAYOUTS = {
    1: ("tokens",),
    2: ("tokens", "tags"),
    4: ("tokens", "pos_tags", "chunk_tags", "ner_tags"),  # CoNLL-2003
    10: ("id", "tokens", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc"),  # CoNLL-U
}


def is_conll(path: Path, written: Written, *, need_labels: bool, columns: Sequence[str] = ()) -> bool:
    """Whether a file has a word a line: a ``.tsv`` may be a table, and a ``.txt`` without tags a text a line.

    ``columns`` are the names by which columns are asked for: a header with one of them is that of a table.
    """
    if path.suffix.lower() not in (".txt", ".tsv"):
        return path.suffix.lower() not in SUFFIXES
    lines = lines_of(decode(path.read_bytes(), str(path), written.encoding))
    if path.suffix.lower() == ".tsv":
        return not {*TOKENS, *SINGLES, *columns} & set(next(iter(lines), "").split("\t"))
    filled = [line for line in lines if not _separates(line)]
    return need_labels or (len(filled) < len(lines) and len({len(_cells(line, None)) for line in filled}) == 1)


def open_conll(path: Path, written: Written) -> Frame:
    """The words and their other columns, a row a text.

    Raises:
        DataError: no text, or a line with more or fewer columns than the first.
    """
    lines = lines_of(decode(path.read_bytes(), str(path), written.encoding))
    first = next((line for line in lines if not _separates(line) and not line.startswith("# ")), "")
    mark = "\t" if "\t" in first.strip(_BLANK) else None
    if not first:
        raise DataError(f"{path}: there are no rows", "give at least one text")
    texts: list[list[list[str]]] = [[]]
    width = len(_cells(first, mark))
    tags = _tags(lines, mark)
    for number, line in enumerate(lines, start=1):
        if _separates(line):
            texts.append([])
            continue
        cells = _cells(line, mark)
        # A comment has another width, or no tag in its last column. A hashtag that begins a text is a word.
        unknown = line.startswith("# ") and bool(tags) and cells[-1] not in tags
        if not texts[-1] and line.startswith("#") and (len(cells) != width or unknown):
            continue
        if len(cells) != width:
            raise DataError(
                f"{path}, line {number}: {counted(len(cells), 'column')}, and the first word has {width}: "
                f"{line[:40]!r}",
                "write a word and its tag a line, and a blank line after each text",
            )
        if width != 10 or cells[0].isdecimal():  # CoNLL-U has ranges (1-2) and empty words (1.1) in between
            texts[-1].append(cells)
    texts = [rows for rows in texts if rows]
    names = _LAYOUTS.get(width) or ("tokens", *(f"column{at}" for at in range(2, width)), "tags")
    columns = dict(zip(names, ([[row[at] for row in rows] for rows in texts] for at in range(width)), strict=True))
    return Frame(str(path), list(names), columns.__getitem__, range(1, len(texts) + 1))


def _tags(lines: Sequence[str], mark: str | None) -> set[str]:
    """The last columns of all lines but those that begin with ``#``: a comment may have as many columns as a word."""
    return {_cells(line, mark)[-1] for line in lines if not line.startswith("#") and not _separates(line)}


def _separates(line: str) -> bool:
    return not line.strip(_BLANK) or line.startswith("-DOCSTART-")


def _cells(line: str, mark: str | None) -> list[str]:
    # No other white space separates columns: a no-break space may be inside a word, or be one.
    if mark:
        return [cell.strip(" ") for cell in line.rstrip("\t ").split(mark)]
    return _BLANKS.split(line.strip(_BLANK))
