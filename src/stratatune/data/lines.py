"""Decoding of bytes to text and splitting of text into lines, the same for files and for standard input."""

from __future__ import annotations

import codecs
from pathlib import Path

from stratatune.errors import DataError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # it begins with that of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LONGEST_MARK = 4


def encoding_of(start: bytes) -> str:
    """The encoding that a byte-order mark at the start shows, else UTF-8: MRPC has one, as do files saved by Excel."""
    return next((name for mark, name in _MARKS if start.startswith(mark)), "utf-8")


def encoding_of_file(path: Path) -> str:
    """The encoding of a file, as by :func:`encoding_of`."""
    with path.open("rb") as file:
        return encoding_of(file.read(_LONGEST_MARK))


def decode(content: bytes, place: str, encoding: str | None = None) -> str:
    """``content`` as text, without a byte-order mark.

    Raises:
        DataError: it is not of that encoding.
    """
    try:
        return content.decode(encoding or encoding_of(content)).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise not_in(place, error) from error


def not_in(place: str, error: UnicodeDecodeError) -> DataError:
    """The failure to decode ``place``, in one line."""
    return DataError(
        f"{place}: is not {error.encoding.upper()}: {error.reason} at byte {error.start:,}",
        "save the file as UTF-8, or name its encoding (--encoding latin-1)",
    )


def lines_of(text: str) -> list[str]:
    r"""The lines of ``text`` without their ends: ``\n`` or ``\r\n``, or ``\r`` if there is no other.

    No other character ends a line: form feeds, U+0085 and U+2028 occur inside texts, and so may a lone ``\r``.
    `str.splitlines` would cut at all of them, and then there are more predictions than lines.
    """
    if "\n" not in text:
        lines = text.split("\r")
    else:
        lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines if lines[-1] else lines[:-1]
