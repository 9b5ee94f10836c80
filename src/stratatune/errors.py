"""Exceptions in one tree, each with one line for the user and one hint that gives the fix.

The command line prints ``message`` and ``hint`` and exits with ``exit_code``; a traceback needs ``--debug``. Both name
settings as command-line options; :mod:`stratatune.spelling` rewrites them for Python and for files.
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Sequence

from stratatune.spelling import spelled


class StratatuneError(Exception):
    """A failure of the program or the machine (exit code 1).

    Args:
        message: one line that names the place and the value.
        hint: one line that names the legal values or the fix; may be empty.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        message, hint = spelled(message), spelled(hint)
        super().__init__(f"{message} ({hint})" if hint else message)
        self.message = message
        self.hint = hint


class UserError(StratatuneError):
    """A mistake in the user's input (exit code 2)."""

    exit_code = 2


class PlanError(UserError):
    """A plan that does not parse, does not fit the model, or makes no sense."""


class DataError(UserError):
    """A file, column, label or template that cannot be used."""


class MissingColumn(DataError):
    """Data without a column that was named.

    Args:
        column: its name.
    """

    def __init__(self, message: str, hint: str = "", column: str = "") -> None:
        super().__init__(message, hint)
        self.column = column


class ModelError(UserError):
    """A base model that is missing, unknown or does not match the trained adapter."""


class ConfigError(UserError):
    """A run's settings; holds every error found, not only the first.

    Args:
        errors: one line each.
        hint: one line that says where the legal values are listed.
    """

    def __init__(self, errors: Sequence[str], hint: str = "") -> None:
        super().__init__("; ".join(errors), hint)
        self.errors = list(map(spelled, errors))


class CacheError(StratatuneError):
    """A trunk cache that is stale, corrupt or cannot be written."""


class NotFiniteError(StratatuneError):
    """A loss, a gradient or an output that is NaN or infinite, so that the run cannot go on.

    Args:
        kept: which trained tensors the model still holds, such as ``epoch 2``; empty: none that were trained.
    """

    def __init__(self, message: str, hint: str = "", kept: str = "") -> None:
        super().__init__(message, hint)
        self.kept = kept


class ResourceError(StratatuneError):
    """The machine ran out of something: disk, memory, permission."""


_LONGEST_WORD = 64  # comparing takes time by the square of the length, and no legal word is as long
_SHOWN, _MOST_NAMES, _CUT = 120, 60, 60


def nearest(word: str, legal: Iterable[str]) -> str:
    """The legal word most like ``word``, whatever their case, or an empty string when none is near."""
    names = {name.lower(): name for name in reversed(list(legal))}
    found = difflib.get_close_matches(word.lower(), list(names)[::-1], n=1) if len(word) <= _LONGEST_WORD else []
    return names[found[0]] if found else ""


def shown(value: object, longest: int = _SHOWN) -> str:
    """A value from outside for an error: as Python writes it, cut to ``longest`` characters."""
    cutting = reprlib.Repr()
    cutting.maxlevel, cutting.maxstring, cutting.maxlong, cutting.maxother = 3, longest, longest, longest
    try:
        text = cutting.repr(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        text = f"<{type(value).__name__}>"
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def counted(number: int, what: str, several: str = "") -> str:
    """A number and its noun: ``1 text``, ``1,234 texts``; ``several`` is the plural where it is not ``what`` + s."""
    return f"{number:,} {what if number == 1 else several or what + 's'}"


def with_article(noun: str) -> str:
    """A name after its article, by its first letter: ``a Llama``, ``an encoder``."""
    return f"{'an' if noun[:1].lower() in tuple('aeiou') else 'a'} {noun}"


def cut(text: str, longest: int = _CUT) -> str:
    """A name for a list or a table, in one line and without quotes, cut to ``longest`` characters."""
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def did_you_mean(word: str, legal: Iterable[str]) -> str:
    """A hint that names the nearest legal word and then all of them."""
    names = list(legal)
    near = nearest(word, names)
    listed = "legal: " + ", ".join(map(cut, names[:_MOST_NAMES])) + (", ..." if len(names) > _MOST_NAMES else "")
    return f"did you mean {near!r}? {listed}" if near else listed
