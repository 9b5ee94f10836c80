"""Standard streams that may be closed, full, or in an encoding without box characters. No torch.

Progress that cannot be written is dropped without an error; an answer that cannot be written is a failure.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterable
from typing import Any, TextIO

from stratatune.errors import ResourceError

_PLAIN = {
    **dict.fromkeys("┌┐└┘├┤╞╡╭╮╰╯", "+"),
    **dict.fromkeys("─━", "-"),
    **dict.fromkeys("│┃", "|"),
    "═": "=",
    "█": "#",
    "▓": "%",
    "░": ".",
    "·": "'",
    "◆": "*",
    "±": "+/-",
    "×": "x",
    "…": "...",
    "→": "->",
}
"""Replacements for characters of ours that the encoding does not have."""
_ERRORS = "stratatune.plain"


def settle_streams() -> None:
    """Make the three standard streams usable, whatever state the process was started with.

    A descriptor that is closed is taken, so that no file of a run gets its number: what is then written to standard
    output fails, what is written to standard error goes nowhere.
    """
    codecs.register_error(_ERRORS, _plain)
    for number, flags in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # the lowest free number: this one
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = _plainly(sys.stdout or open(1, "w", closefd=False))  # noqa: SIM115
    sys.stderr = _Forgiving(_plainly(sys.stderr or open(2, "w", closefd=False)))  # noqa: SIM115


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Handle characters that an encoding does not have."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    escaped = "".join(_PLAIN.get(sign) or sign.encode("ascii", "backslashreplace").decode() for sign in signs)
    return escaped, error.end


def _plainly(stream: TextIO) -> TextIO:
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors=_ERRORS)
    return stream


class _Forgiving:
    """A stream that ignores failures to write."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write to the stream, and drop what cannot be written."""
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write lines to the stream, and drop what cannot be written."""
        self.write("".join(lines))

    def flush(self) -> None:
        """Flush the stream, if it can be."""
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def write_answer(text: str, *, exact: bool = False) -> None:
    """Write all of a text to standard output.

    Args:
        text: the text.
        exact: refuse characters that the encoding does not have, in place of writing others for them.

    Raises:
        BrokenPipeError: the reader has gone.
        ResourceError: it is closed, or the disk that it goes to is full, or its encoding lacks a character.
    """
    stream = sys.stdout
    if exact and (missing := _missing(text, stream)):
        raise ResourceError(
            f"standard output is {stream.encoding}, which cannot encode {missing!a}",
            "set PYTHONIOENCODING=utf-8, or write to a file with --out",
        )
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        drop_output()
        reason = "it is closed" if error.errno == errno.EBADF else error.strerror
        raise ResourceError(
            f"cannot write to standard output: {reason}", "write to a file or a pipe with room"
        ) from error


def _missing(text: str, stream: TextIO) -> str:
    """The first character that the stream's encoding does not have."""
    try:
        text.encode(stream.encoding or "utf-8")
    except UnicodeEncodeError as error:
        return error.object[error.start]
    return ""


def speaks_unicode() -> bool:
    """Whether standard output can hold every character."""
    return (sys.stdout.encoding or "utf-8").lower().replace("-", "").startswith("utf")


def drop_output() -> None:
    """Drop the rest of standard output's buffer, so that it causes no error at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
