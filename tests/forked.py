"""Processes that begin with everything imported: forks of a server that imported it once, for each worker of pytest.

``python -m stratatune train`` takes seconds of a processor for its imports, and then trains a tiny model in one. What
is started here is a process like any other: it is killed, holds locks, has streams and trains beside others. What
concerns the start itself (what is imported, what a launcher sets, how a shell sees it) is tested with a new Python.
"""

from __future__ import annotations

import atexit
import itertools
import multiprocessing
import os
import runpy
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stratatune.studies.grid.worker import PRELOADED

FORKS = sys.platform.startswith("linux")  # elsewhere a fork is not safe, and each begins afresh
_CONTEXT: Any = multiprocessing.get_context("forkserver" if FORKS else "spawn")
_NUMBERS = itertools.count()
_LOADED = ("stratatune.app.cli", "accelerate", *PRELOADED)


class Started:
    """As much of ``subprocess.Popen`` as tests use; what the process says goes into two files."""

    def __init__(self, line: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        number = next(_NUMBERS)
        self._said = folder / f"process-{number}.out", folder / f"process-{number}.err"
        self._process = _CONTEXT.Process(target=_begin, args=([*line], dict(environment), *map(str, self._said)))
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise TimeoutError(f"process {self.pid} goes on")
        return self._process.exitcode

    @property
    def said(self) -> tuple[str, str]:
        """Its output and its errors up to now."""
        out, err = (path.read_text() if path.exists() else "" for path in self._said)
        return out, err

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Waits for its end; its output and its errors."""
        self.wait(timeout)
        return self.said


def start(line: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> Started:
    """``python LINE`` under way, where LINE is ``-m MODULE ...``, ``-c CODE ...`` or ``SCRIPT ...``.

    It leads a session of its own, computes with one thread, and what it says is written into ``folder``.
    """
    _CONTEXT.set_forkserver_preload([*_LOADED])
    return Started(line, folder, {**os.environ, **(environment or {})})


def together(line: Sequence[str], folder: Path, processes: int = 2) -> list[Started]:
    """``python LINE`` several times over, with the environment that torchrun would give each."""
    if processes == 1:
        return [start(line, folder, {"CUDA_VISIBLE_DEVICES": ""})]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    size = str(processes)
    common = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    common["CUDA_VISIBLE_DEVICES"] = ""
    return [start(line, folder, {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(processes)]


def _begin(line: list[str], environment: dict[str, str], out: str, err: str) -> None:
    import torch

    if hasattr(os, "setsid"):
        os.setsid()
    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    how, *rest = line
    try:
        if how == "-m":
            sys.argv = rest
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        elif how == "-c":
            sys.argv = ["-c", *rest[1:]]
            exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv = line
            sys.path.insert(0, str(Path(how).parent))
            runpy.run_path(how, run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # which multiprocessing leaves out
