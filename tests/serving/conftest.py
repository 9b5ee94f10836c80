"""Three tasks on one tiny model, and a real server in front of them."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runs import *  # noqa: F403  (pytest finds fixtures by their names here)
from runs import rows, write_csv

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from stratatune.serving.keys import Keys
from stratatune.serving.limits import Limits
from stratatune.serving.server import Server, bound
from stratatune.serving.table import TaskTable

TEXTS = [row["text"] for row in rows(23, 7)]
PLANS = {"words": ("bft-adapter@2", "mlm"), "lora": ("2: lora", "classification"), "score": ("2: bitfit", "regression")}


@dataclass(frozen=True)
class Said:
    """An answer of the server."""

    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        return self.json["error"]["message"]


@dataclass(frozen=True)
class Door:
    """A running server, and how to ask it."""

    port: int
    server: Server
    table: TaskTable

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Said:
        """One request on a connection of its own; ``body`` as JSON, bytes as they are."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None and not isinstance(body, bytes):
            body, named = json.dumps(body), {"content-type": "application/json", **named}
        with contextlib.closing(self.connect()) as line:
            line.request(method, path, body, named)
            found = line.getresponse()
            return Said(found.status, found.headers, found.read())

    def predict(self, texts: list[Any], tasks: list[str] | None = None) -> Said:
        return self.ask("POST", "/predict", {"texts": texts, **({"tasks": tasks} if tasks else {})})

    def counter(self, line: str) -> float:
        """The value behind ``line`` in the metrics."""
        for one in self.ask("GET", "/metrics").body.decode().splitlines():
            if one.startswith(f"{line} "):
                return float(one.rpartition(" ")[2])
        return 0.0


@pytest.fixture(scope="session")
def tuned(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Callable[..., Path]) -> dict[str, str]:
    """The runs' folders by the names of their tasks."""
    import stratatune as st

    folder = tmp_path_factory.mktemp("tuned")
    train = write_csv(folder / "train.csv", rows(24, 0))
    found = {}
    for name, (plan, objective) in PLANS.items():
        label = "score" if objective == "regression" else "label"
        st.train(
            model=tiny_folder("bert", "mlm"),
            plan=plan,
            objective=objective,
            train=str(train),
            text="text",
            label=label,
            out=str(folder / name),
            epochs=1,
            lr=1e-2,
            batch_size=8,
            cache="ram",
            device="cpu",
        )
        found[name] = str(folder / name)
    return found


def table_of(runs: dict[str, str]) -> TaskTable:
    """A table of these tasks, as the command makes it."""
    table = TaskTable(Limits().remember_bytes, device="cpu")
    for name, run in runs.items():
        table.add(name, run)
    return table


@contextlib.contextmanager
def running(table: TaskTable, limits: Limits, keys: Keys) -> Iterator[Door]:
    """A server on a free port, until the block ends."""
    server, began = Server(table, limits, keys), threading.Event()
    with bound("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=server.run, args=(listener, lambda _: began.set()))
        thread.start()
        began.wait()
        door = Door(port, server, table)
        try:
            _until_ready(door)
            yield door
        finally:
            server.stop()
            thread.join()


def _until_ready(door: Door) -> None:
    while True:
        with contextlib.suppress(ConnectionError):
            if door.ask("GET", "/ready").status == 200:
                return


@pytest.fixture(scope="session")
def table(tuned: dict[str, str]) -> TaskTable:
    """The tasks of every server whose test neither changes nor counts them."""
    return table_of(tuned)


@pytest.fixture(scope="session")
def door(table: TaskTable) -> Iterator[Door]:
    """A server with its usual limits and no keys."""
    with running(table, Limits(), Keys()) as found:
        yield found


@pytest.fixture
def serve(table: TaskTable) -> Iterator[Callable[..., Door]]:
    """Gives ``serve(keys=None, table=table, **limits)``: a server of its own, on the common tasks unless changed."""
    with contextlib.ExitStack() as stack:

        def one(keys: Keys | None = None, table: TaskTable = table, **limits: Any) -> Door:
            return stack.enter_context(running(table, Limits(**limits), keys or Keys()))

        yield one
