"""A worker of a grid: ``python -m stratatune.studies.grid.worker`` trains one run at a time, as it is told.

Jobs come as lines of JSON on standard input, outcomes go as lines of JSON on standard output. Each job runs in a
separate process: its peak memory is its own, nothing of the run before is left in it, and what kills it kills nothing
else. On Linux that process is forked by multiprocessing's fork server, which imports torch once, so a run starts in
milliseconds; elsewhere, where a fork is not safe, it begins afresh.

When standard input ends, whoever gave the jobs is gone; the run under way is ended at once, so that it cannot write
beside the one that goes on in its place.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import queue
import sys
import threading
import traceback
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

LOG, TRACEBACK, LOCK = "log.txt", "error.txt", ".lock"
PRELOADED = (
    "stratatune.training.build",
    "transformers.modeling_layers",
    "sklearn.metrics",
    "datasets.packaged_modules",
    "stratatune.studies.grid.settled",
)
"""Modules that every run imports, and the one that settles them for forks."""


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Do one job and report how it ended.

    Args:
        job: ``kind`` (``run``, or ``cache`` to run the trunk alone), ``name``, ``config`` with ``out``.

    Returns:
        ``name``, ``status`` (``done`` or ``failed``), and ``result`` or ``error``, one line. The traceback of a failure
        is in ``error.txt`` of the folder, the run's own output in ``log.txt``.
    """
    from stratatune.spelling import read_by

    with read_by("file"):  # the recipe
        return _work(job)


def _work(job: dict[str, Any]) -> dict[str, Any]:
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
                from stratatune.studies.suggest.auto import train

                result = train(config.model_copy(update={"resume": True}), reporter=Reporter()).to_json()
    except Exception as error:
        with contextlib.suppress(OSError):
            (folder / TRACEBACK).write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        failure = failure_of(error)
        known = isinstance(error, StratatuneError) or failure.kind == "ResourceError"
        hint = failure.hint if known else f"the traceback is in {folder / TRACEBACK}"
        said = "; ".join(failure.lines) + (f" ({hint})" if hint else "")
        return {"name": job["name"], "status": "failed", "error": said}
    return {"name": job["name"], "status": "done", "result": result}


@contextlib.contextmanager
def _said_into(path: Path) -> Iterator[None]:
    """Redirect everything that the process prints to a file."""
    with path.open("a", encoding="utf-8") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        yield


def main() -> None:
    """Do one job after another until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # no library prints into the answers
    context = _context()
    for job in _jobs():
        print(json.dumps(_in_process(context, job)), file=answers, flush=True)


def _context() -> Any:
    """The start method: fork a process that has imported what a run needs, where that is safe; else spawn."""
    if not sys.platform.startswith("linux"):
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    # The server imports from the folder that it is started in first, and a user's queue.py may be in this one.
    working = Path.cwd()
    os.chdir(sys.prefix)
    try:
        forkserver.ensure_running()
    finally:
        os.chdir(working)
    return context


def _jobs() -> Iterator[dict[str, Any]]:
    """Yield the jobs of standard input. Its end ends this process, even during a job."""
    waiting: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            waiting.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield json.loads(waiting.get())


def _in_process(context: Any, job: dict[str, Any]) -> dict[str, Any]:
    """Do a job in its own process; one that dies without an answer is ``lost``."""
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(json.dumps(job), sending))
    process.start()
    sending.close()
    try:
        answer = receiving.recv_bytes()
    except EOFError:
        answer = b""
    process.join()
    receiving.close()
    if answer:
        return json.loads(answer)
    code = process.exitcode
    why = f"was killed by signal {-code}" + (", as when memory runs out" if code == -9 else "") if code < 0 else "ended"
    return {"name": job["name"], "status": "lost", "error": f"the process of this run {why}"}


def _run(job: str, sending: Connection) -> NoReturn:
    """Run one job in its process; it never returns."""
    from tqdm import tqdm

    # Bars of datasets would make a lock for several processes, which os._exit leaves behind with a warning.
    tqdm.set_lock(threading.RLock())
    try:
        threading.Thread(target=_end_with_parent, daemon=True).start()
        sending.send_bytes(json.dumps(work(json.loads(job))).encode())
    finally:
        os._exit(0)


def _end_with_parent() -> None:
    """End this run when its worker dies, in any way."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


if __name__ == "__main__":
    main()
