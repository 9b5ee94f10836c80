"""Engines that run a grid's jobs: :class:`LocalEngine`, in processes of this machine; another in ``ray_engine.py``."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any, Protocol

Job = Mapping[str, Any]
"""A job as plain data: see :func:`stratatune.studies.grid.worker.work`."""
Outcome = Mapping[str, Any]
"""The result of :func:`stratatune.studies.grid.worker.work`, or ``lost`` when its process or machine went away."""


_START = "import sys; sys.path[:1] = [p for p in sys.path[:1] if p]; from {0} import main; main()"
COMMAND = (sys.executable, "-c", _START.format("stratatune.studies.grid.worker"))
"""The command of a worker. Not ``-m``: that imports from the working folder, where a user may have a ``queue.py``."""


class Engine(Protocol):
    """Runs jobs, at most ``slots`` at a time."""

    @property
    def slots(self) -> int:
        """The number of jobs that may run at a time."""
        ...

    def start(self, job: Job) -> None:
        """Begin a job; call it only while fewer than ``slots`` are under way."""
        ...

    def wait(self) -> Outcome:
        """Wait until one of the jobs under way ends."""
        ...

    def stop(self) -> None:
        """End all jobs under way."""
        ...


class Worker:
    """A worker process of this machine, driven over its standard streams."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        environment = {**os.environ, **(environment or {}), "PYTHONSAFEPATH": "1"}  # for the processes that it starts
        # A separate session: Ctrl-C is for the grid, which then ends its workers.
        self._process = subprocess.Popen(
            COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True
        )

    def do(self, job: Job) -> Outcome:
        """Do one job; ``lost`` when the process ends before it answers."""
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(json.dumps(job).encode() + b"\n")
            self._process.stdin.flush()
            if line := self._process.stdout.readline():
                return json.loads(line)
        code = self._process.wait()
        return {"name": job["name"], "status": "lost", "error": f"its worker ended with exit code {code}"}

    @property
    def alive(self) -> bool:
        """Whether it can take another job."""
        return self._process.poll() is None

    def stop(self) -> None:
        """End the worker, and with it its run; a run's checkpoints are complete at any time."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()


class LocalEngine:
    """Runs each job in a worker process; on a machine with GPUs, each worker has one GPU.

    Args:
        jobs: how many run at a time; None: one for each GPU, or one.
    """

    def __init__(self, jobs: int | None = None) -> None:
        self._gpus = visible_gpus()
        self._slots = jobs or max(1, len(self._gpus))
        self._workers: dict[int, Worker] = {}
        self._free = list(range(self._slots))
        self._ended: queue.Queue[tuple[int, Outcome]] = queue.Queue()

    @property
    def slots(self) -> int:
        return self._slots

    def start(self, job: Job) -> None:
        slot = self._free.pop(0)
        if slot in self._workers and not self._workers[slot].alive:
            self._workers.pop(slot).stop()  # closes its streams
        if slot not in self._workers:
            self._workers[slot] = Worker(self._environment(slot))
        threading.Thread(target=self._do, args=(slot, self._workers[slot], job), daemon=True).start()

    def _do(self, slot: int, worker: Worker, job: Job) -> None:
        self._ended.put((slot, worker.do(job)))

    def wait(self) -> Outcome:
        slot, outcome = self._ended.get()
        self._free.insert(0, slot)
        return outcome

    def stop(self) -> None:
        for worker in self._workers.values():
            worker.stop()

    def _environment(self, slot: int) -> dict[str, str]:
        """The environment of a worker: its own GPU, and its share of the processor's cores."""
        chosen = {"CUDA_VISIBLE_DEVICES": self._gpus[slot % len(self._gpus)]} if self._gpus else {}
        if self._slots > 1 and "OMP_NUM_THREADS" not in os.environ:
            chosen["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // self._slots))
        return chosen


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them; asks the driver, not torch."""
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    count = sum(line.startswith("GPU ") for line in listed.stdout.splitlines()) if listed.returncode == 0 else 0
    return [str(number) for number in range(count)]
