"""The tasks of a server, which can be added and removed while it runs."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from stratatune.errors import ConfigError, did_you_mean
from stratatune.serving.names import check_name
from stratatune.serving.remembered import RememberedTrunk
from stratatune.serving.task import Task
from stratatune.serving.weights import SharedWeights, return_memory


class TaskTable:
    """Tasks by name, in the order of adding, with one copy of the parts that their models share.

    Args:
        remember: bytes of hidden states that all trunks together keep for texts that come again.
        where: base, device and precision of every task, as the options of
            :class:`stratatune.training.predict.Predictor`.
    """

    def __init__(self, remember: int, **where: Any) -> None:
        self.remember, self.where = remember, where
        self._shared = SharedWeights()
        self._tasks: dict[str, Task] = {}
        self._trunks: dict[str, RememberedTrunk] = {}
        self._changing = threading.Lock()  # one load at a time; answers go on meanwhile

    def add(self, name: str, run: str) -> Task:
        """Load a run and serve it as ``name``.

        Raises:
            ConfigError: there is a task of that name.
            ModelError: the run cannot be loaded.
        """
        check_name(name)
        with self._changing:
            if name in self._tasks:
                raise ConfigError([f"task {name!r} exists"], "remove it first, or choose another name: NAME=RUN")
            task = Task.load(name, run, self._shared, **self.where)
            return_memory()
            self._replace({**self._tasks, name: task})
            return task

    def remove(self, name: str) -> None:
        """Stop serving ``name``; requests that wait for it are still answered.

        Raises:
            ConfigError: there is no such task.
        """
        with self._changing:
            self.named(name)
            self._replace({key: task for key, task in self._tasks.items() if key != name})
        return_memory()

    def _replace(self, tasks: dict[str, Task]) -> None:
        """Replace the tables as a whole, so that readers of the old ones are not disturbed."""
        names = {task.trunk for task in tasks.values() if task.trunk}
        trunks = {name: self._trunks.get(name) or RememberedTrunk(0) for name in names}
        for trunk in trunks.values():
            trunk.limit = self.remember // max(1, len(trunks))
        self._tasks, self._trunks = tasks, trunks

    @property
    def tasks(self) -> Mapping[str, Task]:
        """The tasks that are served now."""
        return self._tasks

    @property
    def trunks(self) -> Mapping[str, RememberedTrunk]:
        """The shared trunks by their names in :attr:`stratatune.serving.task.Task.trunk`."""
        return self._trunks

    def trunks_of(self, tasks: Sequence[Task]) -> dict[str, RememberedTrunk]:
        """The trunk of each task that shares one; a task that was removed meanwhile gets a separate one."""
        return {task.trunk: self._trunks.get(task.trunk) or RememberedTrunk(0) for task in tasks if task.trunk}

    def named(self, name: str) -> Task:
        """The task called ``name``.

        Raises:
            ConfigError: there is none.
        """
        if name not in self._tasks:
            raise ConfigError([f"there is no task {name!r}"], did_you_mean(name, self._tasks))
        return self._tasks[name]
