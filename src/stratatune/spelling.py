"""How a setting is written where it is given: on the command line, in Python or in a file.

The source writes messages and hints for the command line, ``--bad-rows skip``. Exceptions are rewritten for where the
mistake was made: ``bad_rows="skip"`` in Python, ``bad_rows: skip`` where the settings are in a file.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

Door = Literal["python", "command", "file"]

SETTINGS = frozenset(
    """
    model revision trust-remote-code attention plan start-from objective loss task text label weight template
    label-words train eval eval-split test corpus corpus-column train-samples bad-rows delimiter encoding max-length out
    epochs max-steps batch-size token-budget accumulate lr weight-decay head-start warmup schedule clip adam-eps seed
    device precision trunk pack memory-limit cache cache-dtype cache-limit metric eval-every eval-batch-size
    early-stopping checkpoint-every resume loggers
    """.split()
)
"""The settings of a run, as options."""
ARGUMENTS = frozenset("base budget-memory column data engine family int8 refine samples split threshold to".split())
"""Further options that are arguments in Python; those of the command line alone are in neither set."""
_PLURAL = {"column": "columns"}
"""An option that may be repeated, and the argument that takes all of its values."""
_FLAGS = ("resume", "trust-remote-code", "int8", "refine")
_NO_VALUES = ("or", "and", "for", "with", "to", "is", "says", "continues", "leaves", "needs", "shows")
"""Words that may follow an option without being its value."""

_VALUE = rf"""(?!(?:{"|".join(_NO_VALUES)})\b)(?:'[^']*'|"[^"]*"|\w[\w./-]*(?:[,=][\w./-]+)*)"""
_FLAG = rf"(?:{'|'.join(_FLAGS)})(?![\w-])"
_START, _NAME = r"(?<![\w-])--", "[a-z][a-z0-9-]*"
_OPTION = rf"{_START}(?:(?P<flag>{_FLAG})|(?P<name>{_NAME})(?: (?P<value>{_VALUE}))?)"
_COMMAND = r"`[^`]*`|\bstratatune [a-z]+ [^;`]*"  # to be typed as it is
_CALL = rf"\b(?:export|predict)(?: {_START}(?:{_FLAG}|{_NAME}(?: {_VALUE})?))+"
_SPOKEN = re.compile(rf"(?P<command>{_COMMAND})|(?P<call>{_CALL})|{_OPTION}")


@dataclass(frozen=True)
class _Reader:
    """Who reads: through which door, and which settings were options even so."""

    door: Door = "python"
    options: frozenset[str] = frozenset()


_reader = _Reader()


@contextmanager
def read_by(door: Door) -> Iterator[None]:
    """Spell settings for the readers of one door, for as long as this lasts."""
    global _reader  # noqa: PLW0603  one process has one reader, in all its threads
    before, _reader = _reader, _Reader(door)
    try:
        yield
    finally:
        _reader = before


def settings_are_in_a_file(options: Collection[str]) -> None:
    """Until the command ends, spell settings as a file does, except ``options``, which it gave itself."""
    global _reader  # noqa: PLW0603
    if _reader.door != "command":
        return
    _reader = _Reader("file", frozenset(name.replace("_", "-") for name in options) | {"resume"})


def on_command_line() -> bool:
    """Whether the reader typed a command."""
    return _reader.door != "python"


def spelled(text: str) -> str:
    """The text with its settings as the reader writes them."""
    if "--" not in text or _reader.door == "command":
        return text
    return _SPOKEN.sub(_replaced, text)


def _replaced(found: re.Match[str]) -> str:
    if found["command"] or (found["call"] and _reader.door == "file"):  # in a file there are no verbs
        return found[0]
    if found["call"]:
        return _called(found["call"])
    legal = SETTINGS - _reader.options if _reader.door == "file" else SETTINGS | ARGUMENTS
    if (found["flag"] or found["name"]) not in legal:
        return found[0]
    return _option(found) + ("." if found[0].endswith(".") else "")


def _called(text: str) -> str:
    """A verb and its options as a call."""
    verb, _, options = text.partition(" ")
    return f"{verb}({', '.join(map(_option, re.finditer(_OPTION, options)))})"


def _option(found: re.Match[str]) -> str:
    """An option that was found, as Python or a file has it."""
    return _written(found["flag"] or found["name"], (found["value"] or "").removesuffix("."))


def _written(name: str, value: str) -> str:
    """A setting with its value, which may be missing, as Python or a file has it."""
    file = _reader.door == "file"
    own = _PLURAL.get(name, name.replace("-", "_"))
    if name in _FLAGS:
        return f"{own}: true" if file else f"{own}=True"
    if not value:
        return own
    if name == "label-words" and "=" in value:
        pairs = [pair.strip("'\"").partition("=") for pair in value.split(",")]
        mark = "" if file else '"'
        words = ", ".join(f"{mark}{label}{mark}: {mark}{word}{mark}" for label, _, word in pairs)
        return f"{own}: {{{words}}}" if file else f"{own}={{{words}}}"
    if file:
        return f"{own}: {value}"
    plain = value[1:-1] if value[0] in "'\"" else value
    return f"{own}={plain}" if re.fullmatch(r"[\d.]+", plain) else f'{own}="{plain}"'
