"""Run a server until it is stopped."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from stratatune._compat import needs_extra
from stratatune.errors import ResourceError
from stratatune.serving.keys import Keys
from stratatune.serving.limits import Limits
from stratatune.serving.table import TaskTable


@dataclass(frozen=True)
class Address:
    """The address on which a server listens."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """The URL for a browser."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


@contextlib.contextmanager
def bound(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens on an address; clients that connect before a server runs on it wait. Port 0: a free port.

    Raises:
        ResourceError: the port is taken, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as found:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((host, port))
            found.listen()  # two sockets may be bound to one port, as long as neither listens
        except OSError as error:
            said = error.strerror or str(error)
            raise ResourceError(
                f"cannot listen on {host}:{port}: {said}", "choose another --port or --host; 0 is a free port"
            ) from error
        yield found


def check_installed() -> None:
    """Raise ResourceError if the extra is not installed."""
    with needs_extra("serve", "stratatune serve"):
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401


class Server:
    """A server over a table of tasks.

    Args:
        table: the tasks; more may come.
        limits: limits on clients.
        keys: who may ask.
    """

    def __init__(self, table: TaskTable, limits: Limits, keys: Keys) -> None:
        check_installed()
        import uvicorn

        from stratatune.serving.api import create_app
        from stratatune.serving.counters import Counters
        from stratatune.serving.protocol import with_deadline

        config = uvicorn.Config(
            create_app(table, limits, keys, Counters()),  # pyright: ignore[reportArgumentType]
            http=with_deadline(limits.patience),  # pyright: ignore[reportArgumentType]
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=limits.connections,
            timeout_keep_alive=int(max(1, limits.patience)),
            timeout_graceful_shutdown=int(limits.stop),
            log_level="error",  # malformed requests of strangers need no log line
            h11_max_incomplete_event_size=16_384,
        )
        self._server = uvicorn.Server(config)

    def run(self, listener: socket.socket, ready: Callable[[Address], Any] = lambda address: None) -> None:
        """Serve until :meth:`stop`, SIGINT or SIGTERM; requests in progress are answered first."""
        host, port = listener.getsockname()[:2]
        with _signals():
            ready(Address(host, port))
            self._server.run(sockets=[listener])

    def stop(self) -> None:
        """Let :meth:`run` end; from any thread."""
        self._server.should_exit = True


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Let uvicorn stop on both signals, but ignore them when it raises them again afterwards."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {one: signal.signal(one, lambda *_: None) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
