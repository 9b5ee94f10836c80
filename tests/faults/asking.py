"""A command asked in this process, and what is wrong with its answer, whatever its input was."""

from __future__ import annotations

import contextlib
import io
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stratatune.app.cli import run

MOST_LINES, WIDEST, LONGEST = 10, 4000, 5.0
_RAW = re.compile(r"please report it|Traceback \(most recent|^error: [A-Z]\w*(Error|Exception|Warning)\b", re.MULTILINE)


@dataclass(frozen=True)
class Answer:
    """What a command said, its exit code, and how many seconds of the processor it took."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def faults(self) -> list[str]:
        """What no input may lead to: ``traceback`` (or a raw Python error), ``long``, ``code``; seconds are apart."""
        found = []
        if _RAW.search(self.err) or "Traceback (most recent" in self.out:
            found.append("traceback")
        lines = [line for line in self.err.splitlines() if line.startswith(("error: ", "hint: "))]
        if self.code and (len(lines) > MOST_LINES or max(map(len, self.err.splitlines() or [""])) > WIDEST):
            found.append("long")
        if self.code not in (0, 1, 2) or (self.code and not lines and not self.out):
            found.append("code")
        return found

    @property
    def slow(self) -> bool:
        return self.seconds > LONGEST


def ask(*arguments: object, stdin: str = "") -> Answer:
    """Run ``stratatune ARGUMENTS`` as the console script does, its streams captured."""
    out, err = _stream(), _stream()
    begun = time.process_time()
    with _streams(io.TextIOWrapper(io.BytesIO(stdin.encode("utf-8", "surrogatepass")), "utf-8"), out, err):
        try:
            code = run([str(one) for one in arguments])
        except BaseException as error:  # nothing may come through: not SystemExit either
            import traceback

            traceback.print_exception(error, file=err)
            code = 70
    seconds = time.process_time() - begun
    return Answer(code, _said(out), _said(err), seconds)


def _stream() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace", write_through=True)


def _said(stream: io.TextIOWrapper) -> str:
    stream.flush()
    return stream.buffer.getvalue().decode("utf-8", "replace")  # pyright: ignore[reportAttributeAccessIssue]


@contextlib.contextmanager
def _streams(stdin: io.TextIOWrapper, out: io.TextIOWrapper, err: io.TextIOWrapper) -> Iterator[None]:
    kept = sys.stdin, sys.stdout, sys.stderr
    sys.stdin, sys.stdout, sys.stderr = stdin, out, err
    try:
        yield
    finally:
        sys.stdin, sys.stdout, sys.stderr = kept


def fresh(folder: Path) -> Path:
    """``folder``, empty."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
