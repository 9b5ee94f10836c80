"""Progress for the user during a run: a bar on a terminal, plain lines elsewhere; always on standard error."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

_SECONDS_BETWEEN_LINES = 10.0


def is_main() -> bool:
    """Whether this process prints and writes files: the first of those that train one model together.

    ``RANK`` alone says nothing: schedulers and notebooks leave it set.
    """
    return launched() <= 1 or os.environ.get("RANK", "0") == "0"


def launched() -> int:
    """The number of processes that a launcher started, by ``WORLD_SIZE``; 1 without one."""
    size = os.environ.get("WORLD_SIZE", "")
    return int(size) if size.isdecimal() else 1


class Bar(Protocol):
    """A running count of examples."""

    def advance(self, examples: int, note: str = "") -> None:
        """Count ``examples`` more; ``note`` is shown with the bar."""
        ...


class Reporter:
    """Reports progress and notices to the user.

    Args:
        quiet: say nothing but notices that matter.
        name: the trial's name, if several run at once; bars, which would then lie over each other, are left
            out.
        held: keep every line until :meth:`release`, for a run that may be given up.
    """

    def __init__(self, quiet: bool = False, name: str = "", *, held: bool = False) -> None:
        self.quiet, self.name = quiet or not is_main(), name
        self.notices: list[str] = []
        self._before = 0
        self._held: list[str] | None = [] if held else None

    def begin_run(self) -> None:
        """Begin a run: one reporter may report several, one after the other, and each has a record of its own."""
        self._before = len(self.notices)

    @property
    def notices_of_run(self) -> list[str]:
        """The notices since the run began."""
        return self.notices[self._before :]

    def say(self, text: str) -> None:
        """Print a line of ordinary progress."""
        if not self.quiet:
            self._print(f"{self.name}: {text}" if self.name else text)

    def notice(self, text: str) -> None:
        """Print a line that the user should see even when quiet; it is kept for the run's record."""
        self.notices.append(text)
        if is_main():
            self._print(f"note: {self.name}: {text}" if self.name else f"note: {text}")

    def release(self) -> None:
        """Print the lines that were held, and every line from now on."""
        held, self._held = self._held or [], None
        for line in held:
            self._print(line)

    def _print(self, line: str) -> None:
        if self._held is None:
            print(line, file=sys.stderr, flush=True)
        else:
            self._held.append(line)

    def notice_once(self, texts: Iterable[str]) -> None:
        """Print each of ``texts`` as a notice, but only once a run: every epoch finds them again."""
        for text in texts:
            if text not in self.notices_of_run:
                self.notice(text)

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator[Bar]:
        """A bar over ``total`` examples."""
        if self.quiet or self.name or self._held is not None:
            yield _Silent()
        elif sys.stderr.isatty():
            yield from _terminal_bar(label, total)
        else:
            yield _Lines(label, total)


class _Silent:
    def advance(self, examples: int, note: str = "") -> None:
        """Count nothing."""


class _Lines:
    """Prints a line now and then, for logs."""

    def __init__(self, label: str, total: int) -> None:
        self.label, self.total, self.done = label, total, 0
        self.said = time.monotonic()

    def advance(self, examples: int, note: str = "") -> None:
        self.done += examples
        if time.monotonic() - self.said >= _SECONDS_BETWEEN_LINES:
            self.said = time.monotonic()
            print(f"{self.label}: {self.done}/{self.total} {note}", file=sys.stderr, flush=True)


def _terminal_bar(label: str, total: int) -> Iterator[Bar]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=total, note="")

        class _Rich:
            def advance(self, examples: int, note: str = "") -> None:
                progress.update(task, advance=examples, note=note)

        yield _Rich()
