"""Reporting a failure to the user, on the command line. No torch."""

from __future__ import annotations

import contextlib
import sys
import traceback

from stratatune.app.streams import drop_output, write_answer
from stratatune.errors import StratatuneError
from stratatune.explain import failure_of

_CLOSED_PIPE = 141  # what a shell reports of a program that SIGPIPE ended


class Interrupted(StratatuneError):
    """The user pressed Ctrl-C."""

    exit_code = 130


def report(error: Exception, *, as_json: bool, debug: bool) -> int:
    """Report ``error`` to the user and return the exit code."""
    failure = failure_of(error)
    if debug:
        traceback.print_exception(error, file=sys.stderr)
    if as_json:
        with contextlib.suppress(StratatuneError, OSError):  # standard output may be what failed
            write_answer(f"{failure.to_json()}\n")
    for line in failure.lines:
        print(f"error: {line}", file=sys.stderr)
    if failure.hint:
        print(f"hint: {failure.hint}", *failure.picture, sep="\n", file=sys.stderr, flush=True)
    return failure.exit_code


def closed_pipe() -> int:
    """The reader of our output has gone: what is left in the buffer must not be an error at exit. Returns the code."""
    drop_output()
    return _CLOSED_PIPE
