"""Read a corpus: documents that a search goes through, one text a row, without labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from stratatune.data.frames import Frame, SeveralSplits
from stratatune.data.labels import listed
from stratatune.data.readers import SINGLES, Table, existing, texts_of, without_bad
from stratatune.data.several import are_files, names_of_files
from stratatune.data.sources import open_source
from stratatune.data.written import AS_USUAL, Written
from stratatune.errors import DataError
from stratatune.spelling import on_command_line

DOCUMENTS = ("positive", "pos", "answer", "passage", "document", "response")
"""The usual names of a column of documents next to one of queries."""


def read_corpus(source: Any, column: str | None = None, written: Written = AS_USUAL) -> Table:
    """Read the documents of ``source``: its one column, the one that is named, or the only one with a usual name.

    Args:
        source: a source of :func:`stratatune.data.readers.read`, or a list of files, which are read as one.
        column: the name of the column; None: it is recognised.
        written: the format of a text file, and the treatment of blank texts.

    Raises:
        DataError: the source cannot be read, is empty, has no such column, or several that may be meant.
    """
    source = names_of_files(source) if are_files(source) else source
    try:
        frame = open_source(source, None, None, replace(written, columns=()))
    except SeveralSplits as error:
        raise DataError(f"corpus: {error.message}", _one_of(error.splits)) from error
    if not frame.rows:
        raise DataError(f"{frame.place}: there are no rows", "give a corpus of at least one document")
    frame, name = _column(frame, column)
    if written.bad_rows == "skip":
        frame = without_bad(frame, [name])
    texts = texts_of(frame, name, written.bad_rows)
    return Table((texts,), columns=(name,), source=frame.place, rows=frame.rows, notices=frame.notices)


def _one_of(splits: Sequence[str]) -> str:
    """How to give one split of several, as no option names a split of the corpus."""
    if not splits:
        return "give one file in it: --corpus FILE"
    if on_command_line():
        return f"give one split, {' or '.join(splits)}, as a file or folder of its own: --corpus FILE"
    return f"give one split: corpus=data[{splits[0]!r}], or a file or folder of its own"


def _column(frame: Frame, column: str | None) -> tuple[Frame, str]:
    if column is not None:
        return frame, existing(frame, column)
    if len(frame.names) == 1:
        return frame, frame.names[0]
    found = [name for name in frame.names if name.casefold() in (*DOCUMENTS, *SINGLES)] if frame.named else []
    if len(found) != 1:
        raise DataError(
            f"{frame.place}: which column holds the documents? columns: {listed(frame.names)}",
            "name it with --corpus-column COLUMN",
        )
    return frame.noting(f"documents are read from column {found[0]!r}"), found[0]
