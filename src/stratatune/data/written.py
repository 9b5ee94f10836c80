"""Options for how a table is written, and for rows that are not whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from stratatune.errors import DataError, did_you_mean, shown

BadRows = Literal["refuse", "skip", "empty"]
"""The treatment of rows whose text is blank or whose label is missing."""

DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "\\t": "\t", "pipe": "|"}
"""Names of delimiters, as a shell makes some of them hard to type."""


def _are_names(pair: object) -> bool:
    return isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(one, str) for one in pair)


@dataclass(frozen=True)
class Written:
    """The format of a table of text, where it is not recognised, and the treatment of its bad rows.

    Attributes:
        delimiter: the character between two fields of a csv or tsv file; None: recognise it.
        encoding: the encoding of a text file; None: by its byte-order mark, else UTF-8 (latin-1 for ``.all`` files).
        bad_rows: rows with a blank text or without a label: ``refuse`` them, ``skip`` them, or read a blank text as
            an ``empty`` one.
        columns: (name, its name in this table) of each column that is called otherwise here.

    Raises:
        DataError: a value that is none of the legal ones.
    """

    delimiter: str | None = None
    encoding: str | None = None
    bad_rows: BadRows = "refuse"
    columns: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.delimiter is not None:
            object.__setattr__(self, "delimiter", delimiter_named(self.delimiter))
        if self.encoding is not None:
            check_encoding(self.encoding)
        if self.bad_rows not in get_args(BadRows):
            raise DataError(f"bad_rows: {shown(self.bad_rows)}", did_you_mean(str(self.bad_rows), get_args(BadRows)))
        if not isinstance(self.columns, tuple) or not all(map(_are_names, self.columns)):
            raise DataError(f"columns: {shown(self.columns)}", "give pairs of names, such as (('text', 'review'),)")


AS_USUAL = Written()
"""The default: everything is recognised, and incomplete rows are refused."""


def delimiter_named(word: object) -> str:
    """The character that ``word`` names, or ``word`` itself if it is one.

    Raises:
        DataError: not one character, or one that texts and quotes are made of.
    """
    character = DELIMITERS.get(word.lower(), word) if isinstance(word, str) else ""
    if len(character) != 1 or character.isalnum() or character in "\"'\r\n":
        raise DataError(f"delimiter: {shown(word)}", f"one character such as ; or a name: {', '.join(DELIMITERS)}")
    return character


def check_encoding(name: object) -> None:
    """Refuse an encoding that Python does not know, or that is not one of text.

    Raises:
        DataError: names the usual encodings.
    """
    try:
        if not isinstance(name, str):
            raise LookupError(name)
        "text".encode(name)  # refuses base64 and the like, which `codecs.lookup` finds
    except (LookupError, ValueError) as error:
        raise DataError(
            f"encoding: {shown(name)} is not a text encoding", "for example utf-8, latin-1, cp1252, utf-16"
        ) from error
