"""A worker of a grid: ``python -m stratatune.studies.grid.worker`` trains what it is told, one run at a time.

Jobs come as lines of JSON on standard input, outcomes go as lines of JSON on standard output. The worker imports torch
once and then forks for each job, so that a run starts in milliseconds and yet in a process of its own: its peak memory
is its own, nothing of the run before is left in it, and what kills it kills nothing else. Where a process cannot be
forked safely (macOS, Windows) the jobs run in the worker itself, one after the other.

When standard input ends, whoever gave the jobs is gone; the run under way is ended at once, so that it cannot write
beside the one that goes on in its place.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

LOG, TRACEBACK, LOCK = "log.txt", "error.txt", ".lock"
_PRELOADED = (
    "stratatune.training.build",
    "transformers.modeling_layers",
    "sklearn.metrics",
    "datasets.packaged_modules",
)
_FORKS = sys.platform.startswith("linux")


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Do one job and tell how it ended.

    Args:
        job: ``kind`` (``run``, or ``cache`` to run the trunk alone), ``name``, ``config`` with ``out``.

    Returns:
        ``name``, ``status`` (``done`` or ``failed``), and ``result`` or ``error``, one line. The traceback of a failure
        is in ``error.txt`` of the folder, what the run said in ``log.txt``.
    """
    from filelock import FileLock

    from stratatune.errors import StratatuneError
    from stratatune.explain import failure_of
    from stratatune.progress import Reporter
    from stratatune.training.config import validate

    folder = Path(job["config"]["out"])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A worker whose grid was killed may live on for a moment: never two in one folder.
        with FileLock(folder / LOCK), _said_into(folder / LOG):
            (folder / TRACEBACK).unlink(missing_ok=True)
            config = validate(job["config"])
            if job["kind"] == "cache":
                from stratatune.training.build import build_cache

                result = build_cache(config, Reporter())
            else:
                from stratatune.training.run import train

                result = train(config.model_copy(update={"resume": True}), reporter=Reporter()).to_json()
    except Exception as error:
        with contextlib.suppress(OSError):
            (folder / TRACEBACK).write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        failure = failure_of(error)
        hint = failure.hint if isinstance(error, StratatuneError) else f"the traceback is in {folder / TRACEBACK}"
        said = "; ".join(failure.lines) + (f" ({hint})" if hint else "")
        return {"name": job["name"], "status": "failed", "error": said}
    return {"name": job["name"], "status": "done", "result": result}


@contextlib.contextmanager
def _said_into(path: Path) -> Iterator[None]:
    """Everything that the process prints goes into a file."""
    with path.open("a", encoding="utf-8") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        yield


def main() -> None:
    """Reads jobs until there are no more."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # no library prints into the answers
    preload()
    for line in _lines(0):
        job = json.loads(line)
        print(json.dumps(_in_child(job) if _FORKS else work(job)), file=answers, flush=True)


def preload() -> None:
    """Import what a run imports by itself, before the first job comes: else every run would, each anew."""
    for name in _PRELOADED:
        importlib.import_module(name)


def _lines(source: int) -> Iterator[str]:
    """The lines of a file descriptor, unbuffered, so that :func:`_in_child` may wait for its end too."""
    pending = b""
    while chunk := os.read(source, 1 << 16):
        *whole, pending = (pending + chunk).split(b"\n")
        yield from (line.decode() for line in whole)


def _in_child(job: dict[str, Any]) -> dict[str, Any]:
    """Do a job in a fork of this process; a child that dies without an answer is ``lost``."""
    reading, writing = os.pipe()
    life, ours = os.pipe()  # `ours` closes when this process dies, however it does
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.close(ours)
        _as_child(job, writing, life)
    os.close(writing)
    os.close(life)
    try:
        answer = _answer(reading, child)
        _, status = os.waitpid(child, 0)
    finally:
        os.close(reading)
        os.close(ours)
    if answer:
        return json.loads(answer)
    code = os.waitstatus_to_exitcode(status)
    why = f"was killed by signal {-code}" + (", as when memory runs out" if code == -9 else "") if code < 0 else "ended"
    return {"name": job["name"], "status": "lost", "error": f"the process of this run {why}"}


def _answer(reading: int, child: int) -> bytes:
    """All that the child writes; ends both when standard input ends first."""
    said = b""
    while True:
        ready, _, _ = select.select([0, reading], [], [])
        if 0 in ready and not os.read(0, 1):
            os.kill(child, signal.SIGKILL)
            os._exit(0)
        if reading in ready:
            chunk = os.read(reading, 1 << 16)
            if not chunk:
                return said
            said += chunk


def _as_child(job: dict[str, Any], writing: int, life: int) -> NoReturn:
    """What the fork does; it never comes back."""
    try:
        threading.Thread(target=_end_with, args=(life,), daemon=True).start()
        with os.fdopen(writing, "w", encoding="utf-8") as answers:
            answers.write(json.dumps(work(job)))
    finally:
        os._exit(0)


def _end_with(life: int) -> None:
    os.read(life, 1)
    os._exit(1)


if __name__ == "__main__":
    main()
