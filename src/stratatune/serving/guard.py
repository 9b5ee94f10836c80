"""Protection of the application: keys, the size of a body, and a limit on slow senders."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from stratatune.serving.counters import Counters
from stratatune.serving.keys import Keys
from stratatune.serving.limits import Limits

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = ("/", "/health", "/ready")
"""The paths that are open to anybody: the page, which holds no secret, and whether the server lives."""


_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_CODES = {401: "invalid_api_key", 404: "unknown_url", 413: "request_too_large", 429: "rate_limit_exceeded"}


def error_body(status: int, message: str, hint: str = "", kind: str = "UserError", code: str = "") -> dict[str, Any]:
    """The body of an error: what all interfaces here say, and the fields that clients of OpenAI's API read."""
    usual = "server_error" if status >= 500 else "invalid_request_error"
    read = {"type": _TYPES.get(status, usual), "code": code or _CODES.get(status), "param": None}
    return {"error": {"message": message, "hint": hint, "kind": kind, **read}}


class _Refused(Exception):
    def __init__(self, status: int, message: str, hint: str = "", **headers: str) -> None:
        super().__init__(message)
        self.status, self.message, self.hint, self.headers = status, message, hint, headers


class Guard:
    """An ASGI application around another, which passes requests on whole or not at all.

    Args:
        app: the application.
        limits: limits on a body's size, and on the time in which it must arrive.
        keys: who may ask.
        counters: the server's counters.
    """

    def __init__(self, app: App, limits: Limits, keys: Keys, counters: Counters) -> None:
        self.app, self.limits, self.keys, self.counters = app, limits, keys, counters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.monotonic(), 0

        async def noting(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            try:
                self._check_key(scope)
                body = await self._body(scope, receive)
            except _Refused as refused:
                await _refuse(noting, refused)
            else:
                await _while_there(scope, self.app(scope, _replay(body, receive), noting), receive)
        except ConnectionError:
            status = status or 499  # as nginx notes a client that has gone
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.counters.request(route, status, time.monotonic() - started)

    def _check_key(self, scope: Scope) -> None:
        if scope["path"] not in OPEN and not self.keys.may_ask(_header(scope, b"authorization")):
            raise _Refused(
                401, "this server requires a key", "send Authorization: Bearer KEY", www_authenticate="Bearer"
            )

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        most = self.limits.body_bytes
        length = _header(scope, b"content-length")
        if length.isdecimal() and int(length[:20]) > most:
            raise _too_large(most)
        try:
            return await asyncio.wait_for(_whole(receive, most), self.limits.patience)
        except (asyncio.TimeoutError, TimeoutError):
            said = f"the request did not arrive within {self.limits.patience:g} s"
            raise _Refused(408, said, connection="close") from None


def _too_large(most: int) -> _Refused:
    return _Refused(413, f"a request may have {most:,} bytes", "send fewer texts at a time", connection="close")


async def _whole(receive: Receive, most: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("the client has gone")
        body += message.get("body", b"")
        if len(body) > most:
            raise _too_large(most)
        if not message.get("more_body", False):
            return bytes(body)


async def _while_there(scope: Scope, answering: Awaitable[None], receive: Receive) -> None:
    """Answer a request; one that asks for predictions is given up when its client leaves, and with it the computing."""
    if scope["method"] != "POST":
        await answering
        return
    answer, gone = asyncio.ensure_future(answering), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            answer.result()  # its error, where there is one
        else:
            raise ConnectionError("the client has gone")
    finally:
        gone.cancel()
        answer.cancel()
        await asyncio.wait((answer, gone))


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _refuse(send: Send, refused: _Refused) -> None:
    body = json.dumps(error_body(refused.status, refused.message, refused.hint)).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **refused.headers}
    written = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refused.status, "headers": written})
    await send({"type": "http.response.body", "body": body})


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")
