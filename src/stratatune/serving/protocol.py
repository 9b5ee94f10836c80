"""uvicorn's HTTP connection with a deadline for the head of a request and for the reading of an answer.

uvicorn limits the time between requests, but not the time that a request's first lines may take, nor that in which a
client reads: clients that open connections and send nothing, or read nothing, would keep them for ever.
"""

from __future__ import annotations

import asyncio
from typing import Literal

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_For = Literal["head", "reader"]


def with_deadline(seconds: float) -> type[asyncio.Protocol]:
    """A protocol for uvicorn's ``http`` setting; ``seconds``: the deadline for a head, and for reading an answer on."""

    class Deadline(H11Protocol):
        """A connection that is closed where the client keeps it waiting."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._deadlines: dict[_For, asyncio.TimerHandle] = {}
            self._wait("head")

        def connection_lost(self, exc: Exception | None) -> None:
            self._done("head")
            self._done("reader")
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is h11.IDLE:
                self._wait("head")
            else:
                self._done("head")

        def pause_writing(self) -> None:
            super().pause_writing()
            self._wait("reader")

        def resume_writing(self) -> None:
            super().resume_writing()
            self._done("reader")

        def timeout_keep_alive_handler(self) -> None:
            if self.transport.get_write_buffer_size():  # close() would wait until the client has read that
                self.transport.abort()
            else:
                super().timeout_keep_alive_handler()

        def _wait(self, reason: _For) -> None:
            if reason not in self._deadlines:
                self._deadlines[reason] = self.loop.call_later(seconds, self.transport.abort)

        def _done(self, reason: _For) -> None:
            if reason in self._deadlines:
                self._deadlines.pop(reason).cancel()

    return Deadline
