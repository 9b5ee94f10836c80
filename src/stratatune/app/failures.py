"""Reporting a failure to the user, on the command line. No torch."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from typing import Any

from stratatune.app.streams import drop_output, write_answer
from stratatune.errors import StratatuneError
from stratatune.explain import failure_of

_CLOSED_PIPE = 141  # what a shell reports of a program that SIGPIPE ended


class Interrupted(StratatuneError):
    """The user pressed Ctrl-C."""

    exit_code = 130


class Stopped(StratatuneError):
    """The process was sent SIGTERM, as schedulers do at the end of a job's time."""

    exit_code = 128 + signal.SIGTERM


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does: with what it has to give back, and a line that says so."""


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Have SIGTERM raise :class:`Terminated` while this is open, unless something else handles it."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def end(number: int, frame: Any) -> None:
        # A second one, while what is to be given back is given back, ends the process at once.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise Terminated

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


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
