"""Kills at every write: runs an action again and again in forks, each killed at its n-th event, and then to its end.

    python kills.py JOB ...           or, a line each, on its standard input

An event is a call that changes a disk: a sync, a rename, a removal, a statement of SQLite. The killed process dies by
SIGKILL in front of it; with ``torn`` the file that was to be synced has lost its second half by then, as after a power
cut. This process imports everything once, so that a kill costs a fork and not an import.

JOB is a JSON object: ``scenario`` (a key of ``SCENARIOS``), ``folder``, ``config`` (a run's settings), ``points`` (the
events to die at; empty: tell how many there are), ``torn``. A line of JSON comes back for each point of each job.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sqlite3
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from stratatune.studies.grid.worker import PRELOADED

Scenario = Callable[[Path, dict[str, Any], bool], object]


def train(folder: Path, config: dict[str, Any], again: bool) -> None:
    """A run with checkpoints and a cache on disk; ``again`` goes on with it."""
    from stratatune.progress import Reporter
    from stratatune.training.config import validate
    from stratatune.training.run import train

    own = {**config, "out": str(folder / "run"), "cache": str(folder / "cache"), "resume": again}
    train(validate(own), reporter=Reporter(quiet=True))


def build(folder: Path, config: dict[str, Any], again: bool) -> None:
    """The trunk pass alone."""
    from stratatune.progress import Reporter
    from stratatune.training.build import build_cache
    from stratatune.training.config import validate

    build_cache(validate({**config, "out": str(folder / "run"), "cache": str(folder / "cache")}), Reporter(quiet=True))


def book(folder: Path, config: dict[str, Any], again: bool) -> None:
    """A grid's book from its first statement on: planned, begun, ended."""
    from stratatune.studies.grid import grid
    from stratatune.studies.grid.records import run_id

    with grid.grid_lock(folder / "grid"), grid.Store.create(folder / "grid") as store:
        plans = [{**config, "seed": seed} for seed in range(3)]
        store.plan(
            {"id": run_id(one), "number": number, "coordinates": {}, "config": one} for number, one in enumerate(plans)
        )
        for row in store.runs():
            if row["status"] != "failed":
                store.started(row["id"], {})
                store.stopped(row["id"], "failed", error="as it should")


SCENARIOS: dict[str, Scenario] = {"train": train, "cache": build, "book": book}


class Events:
    """Counts the writes of this process and ends it in front of the ``deadly``-th (0-based)."""

    def __init__(self, deadly: int | None, torn: bool) -> None:
        self.deadly, self.torn, self.seen = deadly, torn, 0

    def install(self) -> None:
        """From here on every call that changes a disk is an event."""
        for name in ("replace", "fsync", "unlink"):
            self._watch(name)
        plain = sqlite3.connect

        def connect(*given: Any, **how: Any) -> sqlite3.Connection:
            connection = plain(*given, **how)
            connection.set_trace_callback(lambda statement: self.event())
            return connection

        sqlite3.connect = connect

    def _watch(self, name: str) -> None:
        plain = getattr(os, name)

        def watched(*given: Any, **how: Any) -> Any:
            self.event(given[0] if name == "fsync" else None)
            # What a process wrote outlives its kill, so the disk need not be waited for.
            return None if name == "fsync" else plain(*given, **how)

        setattr(os, name, watched)

    def event(self, handle: int | None = None) -> None:
        """One write is about to happen; ``handle`` is that of a file to be synced."""
        if self.seen == self.deadly:
            if self.torn and handle is not None and not os.path.isdir(f"/proc/self/fd/{handle}"):
                os.ftruncate(handle, os.fstat(handle).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        self.seen += 1


def in_fork(action: Callable[[], int]) -> tuple[int, int]:
    """Do ``action`` in a fork: how that ended (0, or minus the signal), and the number that it gave."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        _as_child(action, writing)
    os.close(writing)
    with os.fdopen(reading) as answers:
        said = answers.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, int(said or 0)


def _as_child(action: Callable[[], int], writing: int) -> NoReturn:
    code = 1
    try:
        os.write(writing, str(action()).encode())
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def do(job: dict[str, Any]) -> None:
    """Every kill of one job."""
    scenario, config, torn = SCENARIOS[job["scenario"]], job.get("config", {}), job.get("torn", False)
    preloaded = ("stratatune.studies.grid.grid", *(PRELOADED if job["scenario"] != "book" else ()))
    for name in preloaded:
        importlib.import_module(name)

    def until(folder: Path, deadly: int | None, again: bool) -> Callable[[], int]:
        def action() -> int:
            events = Events(deadly, torn)
            events.install()
            scenario(folder, config, again)
            return events.seen

        return action

    for point in job["points"] or [None]:
        folder = Path(job["folder"]) / f"{point}"
        folder.mkdir(parents=True)
        code, seen = in_fork(until(folder, point, False))
        end = in_fork(until(folder, None, True))[0] if point is not None else code
        print(json.dumps({"point": point, "killed": code == -signal.SIGKILL, "events": seen, "end": end}), flush=True)


def main() -> None:
    """One job after another."""
    for line in sys.argv[1:] or sys.stdin:
        do(json.loads(line))


if __name__ == "__main__":
    main()
