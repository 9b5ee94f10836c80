"""Run the jobs of a grid on the machines of a Ray cluster (extra ``ray``).

Each of Ray's actors holds one worker of :mod:`stratatune.studies.grid.engines` and so runs one job at a time. An
actor that is lost, with its machine or alone, ends its job as ``lost``; the grid begins the job again on another. The
grid folder,
the model, the data and the cache must be at the same place on every machine: on a file system that they share.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

from stratatune._compat import needs_extra
from stratatune.errors import ResourceError
from stratatune.studies.grid.engines import Job, Outcome, Worker

_LOCAL_STORE = 80 * 2**20  # bytes of a cluster started here; only small texts go through it

_PATIENCE = 10  # seconds for a cluster's door to open


class _Slot:
    """Runs one job at a time, in a separate process on the actor's machine and with the actor's GPUs."""

    def __init__(self) -> None:
        self._worker: Worker | None = None

    def do(self, job: str) -> str:
        """Do a job and return its outcome, both as JSON: nothing of ours is pickled."""
        if self._worker is None or not self._worker.alive:
            self._worker = Worker()
        return json.dumps(self._worker.do(json.loads(job)))


class RayEngine:
    """Runs jobs on a Ray cluster.

    Args:
        address: the cluster's, ``host:port``, ``ray://host:port`` or ``auto``; None: one is started on this machine,
            unless ``$RAY_ADDRESS`` names one.
        jobs: how many run at a time; None: one for each GPU of the cluster, or one for each machine.

    Raises:
        ConfigError: Ray is not installed.
        ResourceError: the cluster cannot be reached.
    """

    def __init__(self, address: str | None = None, jobs: int | None = None) -> None:
        self._ray = _ray()
        self._begin(address or os.environ.get("RAY_ADDRESS"), jobs)
        total = self._ray.cluster_resources()
        gpus = int(total.get("GPU", 0))
        machines = sum(node["Alive"] for node in self._ray.nodes())
        self._slots = jobs or gpus or machines
        needs = {"num_gpus": gpus / self._slots if gpus < self._slots else 1} if gpus else {"num_cpus": 1}
        self._actor = self._ray.remote(**needs, max_restarts=0, scheduling_strategy="SPREAD")(_Slot)
        self._free: list[Any] = []
        self._under_way: dict[Any, tuple[Any, str]] = {}  # what Ray will answer with: its actor, and the job's name

    def _begin(self, address: str | None, jobs: int | None) -> None:
        if self._ray.is_initialized():
            return
        # One started here listens on the loopback alone: whoever reaches a Ray cluster may run anything on it.
        here = {"object_store_memory": _LOCAL_STORE, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        here = {} if address else {**here, **({"num_cpus": jobs} if jobs else {})}
        try:
            _knock(address or "")
            self._ray.init(address=address, log_to_driver=False, logging_level="ERROR", **here)
        except (ConnectionError, RuntimeError, TimeoutError, ValueError, OSError) as error:
            said = " ".join(str(error).split("\n")[0].split())
            raise ResourceError(
                f"Ray cannot be {f'reached at {address}' if address else 'started'}: {said}",
                "`ray start --head` begins a cluster, and `ray status` shows whether there is one",
            ) from error

    @property
    def slots(self) -> int:
        return self._slots

    def start(self, job: Job) -> None:
        actor = self._free.pop() if self._free else self._actor.remote()
        self._under_way[actor.do.remote(json.dumps(dict(job)))] = (actor, job["name"])

    def wait(self) -> Outcome:
        (ready, *_), _ = self._ray.wait(list(self._under_way), num_returns=1)
        actor, name = self._under_way.pop(ready)
        try:
            outcome = json.loads(self._ray.get(ready))
        except self._ray.exceptions.RayError as error:
            return {"name": name, "status": "lost", "error": f"Ray lost its worker ({type(error).__name__})"}
        self._free.append(actor)
        return outcome

    def stop(self) -> None:
        for actor in [*self._free, *(actor for actor, _ in self._under_way.values())]:
            self._ray.kill(actor)
        self._ray.shutdown()


def _knock(address: str) -> None:
    """Raise OSError if nothing listens at ``host:port``; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()


def _ray() -> Any:
    """Ray, set to keep quiet and to send no usage figures.

    Raises:
        ResourceError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the coming behaviour; else Ray warns
    # A worker imports stratatune from where this process has it, installed or not.
    source = str(Path(__file__).parents[2])
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if source not in paths and "site-packages" not in source:
        os.environ["PYTHONPATH"] = os.pathsep.join([source, *filter(None, paths)])
    with needs_extra("ray", "--engine ray"):
        import ray
        import ray.exceptions
    return ray
