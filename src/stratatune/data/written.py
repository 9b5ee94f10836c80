"""Options for how a table is written, and for rows that are not whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from stratatune.errors import DataError, did_you_mean

BadRows = Literal["refuse", "skip", "empty"]
"""The treatment of rows whose text is blank or whose label is missing."""

DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "\\t": "\t", "pipe": "|"}
"""Names of delimiters, as a shell makes some of them hard to type."""


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
            raise DataError(f"bad_rows: {self.bad_rows!r}", did_you_mean(str(self.bad_rows), get_args(BadRows)))


AS_USUAL = Written()
"""The default: everything is recognised, and incomplete rows are refused."""


def delimiter_named(word: str) -> str:
    """The character that ``word`` names, or ``word`` itself if it is one.

    Raises:
        DataError: not one character, or one that texts and quotes are made of.
    """
    character = DELIMITERS.get(word.lower(), word)
    if len(character) != 1 or character.isalnum() or character in "\"'\r\n":
        raise DataError(f"delimiter: {word!r}", f"one character such as ; or a name: {', '.join(DELIMITERS)}")
    return character


def check_encoding(name: str) -> None:
    """Refuse an encoding that Python does not know, or that is not one of text.

    Raises:
        DataError: names the usual encodings.
    """
    try:
        "text".encode(name)  # refuses base64 and the like, which `codecs.lookup` finds
    except (LookupError, ValueError) as error:
        raise DataError(
            f"encoding: {name!r} is not a text encoding", "for example utf-8, latin-1, cp1252, utf-16"
        ) from error
