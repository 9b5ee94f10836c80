"""What a server refuses, and that slow, large and broken requests hold up nobody. Harmless input only."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading

import pytest

from stratatune.errors import ConfigError
from stratatune.serving.batching import Batcher, Busy, Request
from stratatune.serving.counters import Counters
from stratatune.serving.keys import ADMIN_KEYS, KEYS, Keys
from stratatune.serving.limits import Limits
from stratatune.serving.table import TaskTable

from .conftest import TEXTS

TEXT = TEXTS[0]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"texts": []}, "texts: List should have at least 1 item"),
        ({"texts": [3]}, "texts.0"),
        ({"texts": [TEXT], "more": 1}, "more: Extra inputs are not permitted"),
        ({"texts": [TEXT] * 300}, "300 texts"),
        ({"texts": [TEXT, "x" * 20_001]}, "text 2: 20,001 characters"),
        ({"texts": [TEXT, "  "]}, "text 2 is empty"),
        ({"texts": [TEXT, "\ud800"]}, "text 2 holds half of a surrogate pair"),
        ({"texts": [TEXT, [TEXT, TEXT]]}, "text 2: single texts and pairs are mixed"),
        ({"texts": [[TEXT, TEXT]], "tasks": ["lora"]}, "task lora reads single texts"),
        ({"texts": [[TEXT, TEXT]]}, "no task reads pairs"),
        ({"texts": [TEXT], "tasks": []}, "tasks: List should have at least 1 item"),
        (b"[" * 10_000, "the body"),
        (b'{"texts": ["a"', "the body is not JSON"),
        (b"\xff\xfe", "There was an error parsing the body"),
    ],
)
def test_bodies_that_are_refused(door, body, error):
    said = door.ask("POST", "/predict", body, content_type="application/json")
    assert 400 <= said.status <= 422
    assert error in said.error or isinstance(body, bytes)
    assert "Traceback" not in said.body.decode()


def test_other_content_types_are_refused(door):
    body = json.dumps({"texts": [TEXT]}).encode()
    said = door.ask("POST", "/predict", body, content_type="text/plain")
    assert (said.status, said.error) == (422, "the body was not read as JSON")


def test_paths_and_methods(door):
    assert door.ask("GET", "/nothing").status == 404
    assert door.ask("GET", "/predict").status == 405
    assert door.predict([TEXT], ["lorra"]).status == 404
    assert door.ask("GET", "/docs").status == 404  # it would load scripts from elsewhere


def test_a_body_that_is_too_large(serve):
    door = serve(body_bytes=1000)
    assert door.predict(["x" * 2000]).status == 413
    with contextlib.closing(door.connect()) as line:  # in chunks, with no length said
        line.request("POST", "/predict", iter([b"x" * 600, b"x" * 600]), encode_chunked=True)
        assert line.getresponse().status == 413
    assert door.predict([TEXT]).status == 200


def test_the_queue_is_bounded(tuned):
    table = TaskTable(0, device="cpu")
    task = table.add("lora", tuned["lora"])
    batcher = Batcher(table, Limits(queue=4), Counters())  # not begun: everything waits
    first = batcher.submit(Request(TEXTS[:3], [task]))
    with pytest.raises(Busy) as busy:
        batcher.submit(Request(TEXTS[:2], [task]))
    assert busy.value.after >= 1
    second = batcher.submit(Request(TEXTS[:1], [task]))
    assert batcher.waiting == 4
    second.cancel()
    assert batcher.waiting == 3
    batcher.start()
    assert len(first.result(60)["lora"]) == 3
    batcher.stop()
    assert not batcher.alive


def test_a_full_queue_says_when_to_come_again(serve, monkeypatch):
    door = serve(queue=1)
    hold, held = threading.Event(), threading.Event()
    import stratatune.serving.batching as batching

    whole = batching.answer

    def slow(*given):
        held.set()
        assert hold.wait(60)
        whole(*given)

    monkeypatch.setattr(batching, "answer", slow)
    found = []
    asking = [threading.Thread(target=lambda: found.append(door.predict([TEXT], ["lora"]))) for _ in range(2)]
    asking[0].start()
    assert held.wait(60)  # one is being computed,
    asking[1].start()
    while not door.counter("stratatune_queue_answers"):  # one waits,
        pass
    third = door.predict([TEXT], ["lora"])  # and there is no room for a third
    assert (third.status, third.error) == (429, "the queue is full")
    assert int(third.headers["Retry-After"]) >= 1
    assert door.ask("GET", "/health").status == 200
    hold.set()
    for thread in asking:
        thread.join()
    assert [said.status for said in found] == [200, 200]


def test_no_answer_in_time(serve, monkeypatch):
    door = serve(timeout=0.2)
    hold = threading.Event()
    import stratatune.serving.batching as batching

    whole = batching.answer
    monkeypatch.setattr(batching, "answer", lambda *given: hold.wait(60) and whole(*given))
    assert door.predict([TEXT]).status == 504
    hold.set()
    monkeypatch.undo()
    assert door.ask("GET", "/ready").status == 200


def silent(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def closed(line: socket.socket) -> bool:
    """Whether the server closed the line; what it said before is read away."""
    try:
        while line.recv(4096):
            pass
    except ConnectionError:
        pass
    return True


def test_clients_that_send_nothing_or_little_hold_up_nobody(serve):
    door = serve(patience=1.0)
    starts = [b"", b"POST /predict HTTP/1.1\r\nHost: a\r\n", b"POST /predict HTTP/1.1\r\nContent-Length: 50\r\n\r\n{"]
    with contextlib.ExitStack() as stack:
        lines = [stack.enter_context(silent(door.port)) for _ in range(30)]
        for number, line in enumerate(lines):
            line.sendall(starts[number % 3])
        assert door.predict(TEXTS[:2]).status == 200  # while all of them are open
        assert all(closed(line) for line in lines)
    assert door.predict(TEXTS[:2]).status == 200


def test_a_body_that_does_not_arrive(serve):
    door = serve(patience=0.5)
    with silent(door.port) as line:
        head = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
        line.sendall(head)
        assert line.recv(4096).startswith(b"HTTP/1.1 408 ")
        assert closed(line)


@pytest.mark.parametrize(
    "start",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\n" + b"x: " + b"y" * 70_000 + b"\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_no_http(serve, start):
    door = serve(patience=1.0)
    with silent(door.port) as line:
        with contextlib.suppress(ConnectionError):
            line.sendall(start)
        assert closed(line)
    assert door.predict(TEXTS[:1]).status == 200


def test_a_client_that_does_not_read_holds_up_nobody(serve):
    door = serve(patience=1.0, texts=10_000, characters=10_000, queue=10**6)
    with silent(door.port) as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        request = b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n"
        with contextlib.suppress(ConnectionError, BlockingIOError):
            line.setblocking(False)
            line.sendall(request * 500)
        assert door.predict(TEXTS[:1]).status == 200


def test_a_client_that_goes_before_its_answer(serve):
    door = serve()
    body = json.dumps({"texts": TEXTS[:4]}).encode()
    for _ in range(20):
        with silent(door.port) as line:
            head = f"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
            line.sendall(f"{head}\r\n\r\n".encode() + body)
    assert door.predict(TEXTS[:1]).status == 200


# --- keys ----------------------------------------------------------------------------------------------------------


def test_keys(serve):
    door = serve(Keys(("the-key-of-a-user",), ("the-key-of-an-admin",)))
    assert door.predict([TEXT]).status == 401
    assert door.ask("POST", "/predict", {"texts": [TEXT]}, authorization="Bearer the-key-of-a-usex").status == 401
    assert door.ask("POST", "/predict", {"texts": [TEXT]}, authorization="Basic the-key-of-a-user").status == 401
    for key in ("the-key-of-a-user", "the-key-of-an-admin"):
        assert door.ask("POST", "/predict", {"texts": [TEXT]}, authorization=f"Bearer {key}").status == 200
    for path in ("/tasks", "/metrics", "/openapi.json"):
        assert door.ask("GET", path).status == 401
    for path in ("/", "/health", "/ready"):
        assert door.ask("GET", path).status == 200
    assert door.ask("DELETE", "/tasks/lora", authorization="Bearer the-key-of-a-user").status == 401


def test_keys_from_the_environment():
    found = Keys.from_environment({KEYS: "a-key-of-16-signs, another-of-16-signs", ADMIN_KEYS: ""})
    assert found == Keys(("a-key-of-16-signs", "another-of-16-signs"), ())
    with pytest.raises(ConfigError, match=KEYS):
        Keys.from_environment({KEYS: "short"})


def test_limits_are_checked():
    with pytest.raises(ConfigError, match="queue: 0 must be more than 0"):
        Limits(queue=0)
    assert Limits(remember_bytes=0, wait=0).wait == 0
    assert os.environ.get(KEYS) is None  # the tests of this file ask without
