"""Shared parts of all verbs: ``--json``, ``--quiet``, ``--debug``, and who prints what where.

A verb is a function that gives an :class:`Answer`; ``@verb()`` makes it a command. While it runs, standard output
is closed to everything, so that no library can print into it; then the answer goes there.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import math
import os
import sys
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from stratatune.app.failures import Interrupted, Stopped, Terminated, closed_pipe, ended_by_sigterm
from stratatune.app.streams import speaks_unicode, write_answer
from stratatune.progress import Reporter, is_main

app = typer.Typer(
    name="stratatune", pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]}
)
"""The command line, with which verbs register themselves."""


@dataclass(frozen=True)
class Door:
    """The options that every verb takes."""

    json: bool = False
    quiet: bool = False

    def reporter(self) -> Reporter:
        """A reporter of progress, on standard error."""
        return Reporter(quiet=self.quiet)


@dataclass(frozen=True)
class Answer:
    """The answer of a verb.

    Attributes:
        data: printed by ``--json``, instead of the text.
        text: printed to people on standard output.
        note: printed to people on standard error, unless ``--quiet``.
        exit_code: other than 0 where the finding is itself bad news.
        exact: the text is data: a character that standard output cannot hold is an error, not shown as another.
    """

    data: Any
    text: str = ""
    note: str = ""
    exit_code: int = 0
    exact: bool = False


def open_door(
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress; notices and errors only.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="The traceback of an error.")] = False,
) -> Door:
    """The group of options that every verb has; ``--debug`` is read where errors are reported.

    The libraries' own bars are for a terminal alone, as ours are; they ask the environment when they are imported.
    """
    if quiet or not sys.stderr.isatty():
        for library in ("HF_HUB", "HF_DATASETS"):
            os.environ.setdefault(f"{library}_DISABLE_PROGRESS_BARS", "1")
    return Door(json, quiet)


def verb(
    name: str | None = None, *, of: typer.Typer = app, interrupted: str = "", **groups: Callable[..., Any]
) -> Callable[[Callable[..., Answer]], Callable[..., Answer]]:
    """Register a function as a verb.

    Args:
        name: the verb; the function's name by default.
        of: the command line, or a group of verbs in it.
        interrupted: the hint after Ctrl-C and SIGTERM.
        groups: options that verbs share: the parameter of that name is filled by calling the group's function with
            its own options. ``door`` is one that every verb has.
    """

    def register(function: Callable[..., Answer]) -> Callable[..., Answer]:
        called = name or function.__name__
        words = {called, *(str(one.name) for one in app.registered_groups if one.typer_instance is of)}
        command = _Command(called, words, _Spread(function, {**groups, "door": open_door}), interrupted)
        of.command(called, help=inspect.getdoc(function))(command)
        return function

    return register


_asked: set[str] | None = None


def build_only(words: Iterable[str] | None) -> None:
    """Build options only for the verbs that ``words`` name, or whose group they name; None: for all of them.

    Options may be made from what takes a while to import (the settings of a run), and one command needs those of one
    verb. Before this is called, every verb has its options.
    """
    global _asked  # noqa: PLW0603
    _asked = None if words is None else set(words)


class _Command:
    """A verb as typer sees it. Its options are made when they are needed, so that registries may still grow."""

    def __init__(self, name: str, words: set[str], inner: _Spread, interrupted: str) -> None:
        self.__name__, self.__annotations__ = name, {}
        self.words, self.inner, self.interrupted = words, inner, interrupted

    @property
    def __signature__(self) -> inspect.Signature:
        wanted = _asked is None or self.words & _asked
        return inspect.Signature(self.inner.parameters if wanted else [])

    def __call__(self, **values: Any) -> int:
        try:
            with ended_by_sigterm(), contextlib.redirect_stdout(sys.stderr):
                door, answer = self.inner(values)
        except Terminated as error:
            raise Stopped("stopped by SIGTERM", self.interrupted) from error
        except KeyboardInterrupt as error:
            raise Interrupted("interrupted", self.interrupted) from error
        try:
            return _give(answer, door) if is_main() else answer.exit_code
        except BrokenPipeError:
            return closed_pipe()


@dataclass(frozen=True)
class _Spread:
    """Calls a function with the values of all its options, those of its groups gathered first."""

    function: Callable[..., Answer]
    groups: Mapping[str, Callable[..., Any]]

    @property
    def parameters(self) -> list[inspect.Parameter]:
        """The function's own parameters, then those of each group, keyword-only: typer distinguishes them by name."""
        own = _parameters(self.function, filled=self.groups)
        shared = [one for group in self.groups.values() for one in _parameters(group)]
        return [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*own, *shared)]

    def __call__(self, values: dict[str, Any]) -> tuple[Door, Answer]:
        made = {name: group(**_take(values, group)) for name, group in self.groups.items()}
        return made["door"], self.function(**values, **made)


def _parameters(function: Callable[..., Any], filled: Container[str] = ()) -> list[inspect.Parameter]:
    """The options of a function, their annotations evaluated; those that groups fill may name types imported later."""
    found = [one for one in inspect.signature(function).parameters.values() if one.name not in filled]
    return [one.replace(annotation=_evaluated(one.annotation, function)) for one in found]


def _evaluated(annotation: Any, function: Callable[..., Any]) -> Any:
    return eval(annotation, function.__globals__) if isinstance(annotation, str) else annotation


def _take(values: dict[str, Any], group: Callable[..., Any]) -> dict[str, Any]:
    """Take the group's values out of ``values``."""
    return {name: values.pop(name) for name in inspect.signature(group).parameters}


def _give(answer: Answer, door: Door) -> int:
    """Print an answer and return the exit code."""
    if door.json:
        # JSON's own escapes replace characters that the encoding does not have.
        # A date, a decimal or bytes, which a column of the data may hold, as text, as in a file.
        text = json.dumps(_finite(answer.data), ensure_ascii=not speaks_unicode(), allow_nan=False, default=str)
        write_answer(f"{text}\n")
    elif answer.text:
        write_answer(answer.text if answer.text.endswith("\n") else f"{answer.text}\n", exact=answer.exact)
    if answer.note and not door.quiet and not door.json:
        print(answer.note, file=sys.stderr, flush=True)
    return answer.exit_code


def _finite(value: Any) -> Any:
    """Replace NaN by None, as JSON has no NaN."""
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
