"""Grids: every run of a recipe, trained once, even if the grid is stopped and restarted.

The book (:mod:`stratatune.studies.grid.book`) says which runs are done; a run that was stopped goes on from its
checkpoint. Runs that read one trunk cache are grouped, and the trunk runs for all of them, alone, before the first
begins.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stratatune.errors import ConfigError, counted
from stratatune.files import make_folder, write_errors
from stratatune.locks import hold
from stratatune.progress import Reporter
from stratatune.studies.grid.book import LOCK, Store, is_id
from stratatune.studies.grid.contents import changed, contents_of
from stratatune.studies.grid.engines import Engine, Outcome
from stratatune.studies.grid.expand import Planned
from stratatune.studies.grid.recipe import Recipe
from stratatune.studies.grid.records import RUNS

TRUNKS = "trunks"  # logs of the trunk passes; the caches themselves are where `cache` says
ATTEMPTS = 3
"""The number of times that a run is begun in one go when its process or machine is lost."""


@dataclass
class Tally:
    """The result of :func:`run_grid`.

    Attributes:
        ran: runs that ended in this go, done or failed; ``skipped`` were done before.
        failed: id to the error, from this go and, where their runs were left alone, from those before.
        caches: trunk caches that were built in this go.
        earlier: runs of the book that the recipe no longer makes.
        stale: finished runs by the files of data and models that changed since they read them.
    """

    ran: int = 0
    skipped: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    caches: int = 0
    earlier: int = 0
    stale: dict[str, list[str]] = field(default_factory=dict)
    seconds: float = 0.0


@contextlib.contextmanager
def grid_lock(folder: Path) -> Iterator[None]:
    """Hold the right to change the grid in ``folder``.

    Raises:
        ConfigError: another process has it.
        ResourceError: the folder cannot be written.
    """
    make_folder(folder)
    with write_errors(folder):
        lock = hold(folder / LOCK)
    if lock is None:
        raise ConfigError(
            [f"{folder}: another process is working on this grid"],
            f"`stratatune grid ls {shlex.quote(str(folder))}` shows how far it is",
        )
    try:
        yield
    finally:
        lock.release()


def run_grid(
    runs: Sequence[Planned],
    recipe: Recipe,
    folder: Path,
    engine: Engine,
    *,
    retry_failed: bool = False,
    beside: Iterable[str] = (),
    reporter: Reporter,
) -> Tally:
    """Train every run that is not done yet; a failed run is recorded and does not stop the rest.

    ``beside`` are the ids of further runs that the recipe makes, where ``runs`` are not all; any other run of the book
    is of earlier settings from now on.

    Raises:
        ConfigError: another process works on the folder, or its book is of another version.
        ResourceError: the folder cannot be written.
    """
    started = time.perf_counter()
    with grid_lock(folder), Store.create(folder) as store:
        going = _Going(runs, folder, store, engine, reporter)
        store.tell(recipe=recipe.model_dump_json())
        store.belong({*going.runs, *beside})
        going.plan(retry_failed)
        try:
            with reporter.bar(recipe.title, going.left) as bar:
                while (outcome := going.next()) is not None:
                    if going.ended(outcome):
                        bar.advance(1)
        finally:
            engine.stop()
            going.give_back()
    going.tally.seconds = round(time.perf_counter() - started, 3)
    return going.tally


class _Going:
    """The jobs of one call: those that may start, those under way, and the records for the book."""

    def __init__(self, runs: Sequence[Planned], folder: Path, store: Store, engine: Engine, reporter: Reporter) -> None:
        self.runs = {run.id: run for run in runs}
        self.folder, self.store, self.engine, self.reporter = folder, store, engine, reporter
        self.tally = Tally()
        self._waiting: list[dict[str, Any]] = []
        self._under_way: dict[str, dict[str, Any]] = {}
        self._building: set[str] = set()  # trunks whose cache is not there yet
        self._begun: dict[str, int] = {}

    @property
    def left(self) -> int:
        """The number of runs left to do."""
        return sum(job["kind"] == "run" for job in self._waiting)

    def plan(self, retry_failed: bool) -> None:
        """Record the runs and queue those that are to be done, by the trunk they share."""
        self.store.plan(
            {**_written(run), "config": {**run.settings, "out": self._out(run)}} for run in self.runs.values()
        )
        for row in self.store.runs():
            if row["status"] == "running" or (row["status"] == "failed" and retry_failed and row["id"] in self.runs):
                self.store.stopped(row["id"], "waiting")
        rows = {row["id"]: row for row in self.store.runs()}
        self.tally.earlier = len(rows.keys() - (self.store.current() or ()))
        to_do = [run for run in self.runs.values() if rows[run.id]["status"] == "waiting"]
        self.tally.skipped = sum(rows[run]["status"] == "done" for run in self.runs)
        self.tally.failed = {run: rows[run]["error"] for run in self.runs if rows[run]["status"] == "failed"}
        done = [run for run in self.runs if rows[run]["status"] == "done"]
        self.tally.stale = stale(self.store, done)
        for path, runs in self.tally.stale.items():
            self.reporter.notice(
                f"{path} has changed since {counted(len(runs), 'finished run')} read it; to train again what is out of "
                f"date: stratatune grid rm {shlex.quote(str(self.folder))} --changed, then this command"
            )
        built = {name for name, row in self.store.caches().items() if _stands(row)}
        for trunk, sharing in _by_trunk(to_do).items():
            if len(sharing) > 1 and trunk and trunk not in built:
                self._building.add(trunk)
                config = {**self._config(sharing[0]), "out": str(self.folder / TRUNKS / trunk)}
                self._waiting.append({"kind": "cache", "name": trunk, "config": config})
            self._waiting += [{"kind": "run", "name": run.id, "config": self._config(run)} for run in sharing]

    def _config(self, run: Planned) -> dict[str, Any]:
        """The settings of a job: only those that are given, since a run treats the others as its own to choose."""
        return {**run.config.model_dump(mode="json", exclude_unset=True), "out": self._out(run)}

    def _out(self, run: Planned) -> str:
        return str((self.folder / RUNS / run.id).resolve())

    def next(self) -> Outcome | None:
        """Start all jobs that can start, then wait for one to end; None when nothing is left."""
        while len(self._under_way) < self.engine.slots and (job := self._startable()) is not None:
            self._waiting.remove(job)
            self._under_way[job["name"]] = job
            self._begun[job["name"]] = self._begun.get(job["name"], 0) + 1
            if job["kind"] == "run":
                self.store.started(job["name"], contents_of(job["config"]))
            self.engine.start(job)
        return self.engine.wait() if self._under_way else None

    def _startable(self) -> dict[str, Any] | None:
        for job in self._waiting:
            if job["kind"] == "cache" or self.runs[job["name"]].trunk not in self._building:
                return job
        return None

    def ended(self, outcome: Outcome) -> bool:
        """Record how a job ended; returns whether that ended a run."""
        job = self._under_way.pop(outcome["name"])
        if outcome["status"] == "lost":
            if self._begun[job["name"]] < ATTEMPTS:
                self.reporter.notice(f"{self._called(job)}: {outcome['error']}; it continues from its checkpoint")
                self._waiting.insert(0, job)
                return False
            error = f"{outcome['error']}, {ATTEMPTS} times"
            outcome = {"name": job["name"], "status": "failed", "error": error}
        if job["kind"] == "cache":
            self._built(outcome)
            return False
        self._run_ended(job, outcome)
        return True

    def _built(self, outcome: Outcome) -> None:
        """Let the runs that wait for a cache start; if it failed, each runs the trunk itself, and says why."""
        self._building.discard(outcome["name"])
        self.store.cached(outcome["name"], outcome["status"], result=outcome.get("result"), error=outcome.get("error"))
        if outcome["status"] == "done":
            self.tally.caches += len([one for one in outcome["result"]["caches"] if one.get("computed")])
        else:
            self.reporter.notice(f"no shared trunk cache: {outcome['error']}")

    def _run_ended(self, job: Mapping[str, Any], outcome: Outcome) -> None:
        name, error = outcome["name"], outcome.get("error")
        self.store.stopped(name, outcome["status"], result=outcome.get("result"), error=error)
        self.tally.ran += 1
        if error:
            self.tally.failed[name] = error
            self.reporter.notice(f"{self._called(job)} failed: {error}")
        else:
            best = outcome["result"]["best"]
            said = "  ".join(f"{metric} {value:.4f}" for metric, value in best.items())
            self.reporter.say(f"{self._called(job)}  {said}")

    def _called(self, job: Mapping[str, Any]) -> str:
        if job["kind"] == "cache":
            return f"trunk {job['name']}"
        run = self.runs[job["name"]]
        return f"{run.id[:8]}  " + " ".join(f"{axis}={name}" for axis, name in run.coordinates.items())

    def give_back(self) -> None:
        """Let the jobs that were under way when the grid was stopped wait again."""
        for job in self._under_way.values():
            if job["kind"] == "run":
                self.store.stopped(job["name"], "waiting")


def stale(store: Store, runs: Iterable[str]) -> dict[str, list[str]]:
    """Those of ``runs`` that read other contents than the files of their data and models hold now, by the file."""
    found: dict[str, list[str]] = {}
    read = store.contents()
    for run in runs:
        for path in changed(read.get(run, {})):
            found.setdefault(path, []).append(run)
    return found


def _written(run: Planned) -> dict[str, Any]:
    return {"id": run.id, "number": run.number, "coordinates": run.coordinates}


def _by_trunk(runs: Sequence[Planned]) -> dict[str, list[Planned]]:
    """Group runs by their trunk, in the order of the first of each; runs without one are alone."""
    groups: dict[str, list[Planned]] = {}
    for run in runs:
        groups.setdefault(run.trunk or f"-{run.id}", []).append(run)
    return groups


def _stands(cache: Mapping[str, Any]) -> bool:
    """Whether a built cache still exists."""
    records = (cache["result"] or {}).get("caches", []) if cache["status"] == "done" else []
    return bool(records) and all(Path(one["folder"]).is_dir() for one in records if one)


def remove_runs(folder: Path, runs: Sequence[str]) -> None:
    """Remove runs from the book and delete their folders, which are inside the grid's own.

    Raises:
        ConfigError: another process works on the folder, or a run's folder is elsewhere; then nothing is removed.
        ResourceError: a folder cannot be deleted.
    """
    with grid_lock(folder), Store.open(folder) as store:
        places = [_inside(folder, run) for run in runs]
        store.forget(runs)
        for place in places:
            with write_errors(place):
                if place.exists():
                    shutil.rmtree(place)


def _inside(folder: Path, run: str) -> Path:
    """The folder of a run; no id and no link may lead outside the grid."""
    place = folder / RUNS / run
    if not is_id(run) or place.resolve() != folder.resolve() / RUNS / run:
        raise ConfigError(
            [f"{place}: the folder of run {run[:80]!r} is not in the grid's own"], "delete by hand what should go"
        )
    return place
