"""A bounded queue of requests, and one thread that answers as many together as a batch holds.

A large request is cut into pieces and takes turns with the others, so that it holds up nobody. Nothing waits for a
batch to fill but for a moment: while one is computed, the next one gathers by itself.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from typing import Any

import torch

from stratatune.errors import ResourceError
from stratatune.serving.compute import Piece, answer, repeatable
from stratatune.serving.counters import Counters
from stratatune.serving.generated import GeneratedText
from stratatune.serving.limits import Limits
from stratatune.serving.table import TaskTable
from stratatune.serving.task import Row, Task

_PIECE = 16  # texts of one request that go into a batch together
_LONGEST_RETRY = 60


class Busy(ResourceError):
    """Raised if the queue is full.

    Args:
        after: seconds until it is worth another try.
    """

    def __init__(self, after: int) -> None:
        super().__init__("the queue is full", f"try again in {after} s")
        self.after = after


class Stopped(ResourceError):
    """Raised if the server stops."""


class Request:
    """A request for answers.

    Args:
        texts: N texts, pairs or conversations.
        tasks: the tasks that answer them.
        written: follows the answer to each text where a task generates it.
        options: how text is generated.

    Attributes:
        answers: N rows of each task by its name, when they are there. If it is cancelled, the rest is not computed.
        generates: whether a task generates text, which takes many steps of its model.
    """

    def __init__(
        self,
        texts: Sequence[Any],
        tasks: Sequence[Task],
        written: Sequence[GeneratedText] = (),
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.answers: Future[dict[str, list[Row]]] = Future()
        self.tasks = tasks
        written = written or [GeneratedText() for _ in texts]
        for one in written:
            one.gone = self.answers.cancelled
        size = len(texts) if repeatable(options or {}) else _PIECE
        cuts = [slice(start, start + size) for start in range(0, len(texts), size)]
        self.pieces = [Piece(texts[cut], tasks, written[cut], options or {}) for cut in cuts]
        self.waiting = deque(self.pieces)
        self.size = len(texts) * len(tasks)
        self.generates = any(task.objective.writes for task in tasks)

    @property
    def left(self) -> int:
        """The number of answers that have not been begun."""
        return sum(piece.size for piece in self.waiting)

    def settle(self) -> None:
        """Hand the answers on once all are there, or the first error."""
        with contextlib.suppress(InvalidStateError):  # cancelled meanwhile
            self._settle()

    def _settle(self) -> None:
        error = next((piece.error for piece in self.pieces if piece.error is not None), None)
        if error is not None:
            self.answers.set_exception(error)
        elif all(len(piece.rows) == len(self.tasks) for piece in self.pieces):
            names = [task.name for task in self.tasks]
            self.answers.set_result({name: [row for one in self.pieces for row in one.rows[name]] for name in names})


class Batcher:
    """Answers requests in a separate thread.

    Args:
        table: the tasks.
        limits: how many answers may wait, and how many texts are computed together.
        counters: the server's counters.
    """

    def __init__(self, table: TaskTable, limits: Limits, counters: Counters) -> None:
        self.table, self.limits, self.counters = table, limits, counters
        self._requests: deque[Request] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._rate = 0.0  # answers a second, lately
        self._generated = False  # whether the last batch generated text
        self._thread = threading.Thread(target=self._work, name="stratatune-serve", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether requests are being answered."""
        return self._thread.is_alive() and not self._stopping

    def stop(self) -> None:
        """Stop after the current batch; requests that still wait get an error."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        for request in self._requests:
            if not request.answers.done():
                request.answers.set_exception(Stopped("the server is stopping", "try again"))
        self._requests.clear()

    @property
    def waiting(self) -> int:
        """The number of answers in the queue."""
        with self._changed:
            return self._left()

    def _left(self) -> int:
        return sum(request.left for request in self._requests if not request.answers.cancelled())

    def submit(self, request: Request) -> Future[dict[str, list[Row]]]:
        """Put a request into the queue.

        Raises:
            Busy: there is no room for it.
            Stopped: nothing is answered any more.
        """
        with self._changed:
            if self._stopping:
                raise Stopped("the server is stopping", "try again")
            left = self._left()
            if left and left + request.size > self.limits.queue:
                raise Busy(min(_LONGEST_RETRY, 1 + int(left / self._rate) if self._rate else 1))
            self._requests.append(request)
            self._changed.notify_all()
        return request.answers

    def _work(self) -> None:
        while (taken := self._next()) is not None:
            self._compute(*taken, self._between)

    def _compute(self, requests: list[Request], pieces: list[Piece], between: Callable[[], None]) -> None:
        if not pieces:  # whoever asked has gone
            return
        started = time.monotonic()
        tasks = [task for piece in pieces for task in piece.tasks]
        trunks = self.table.trunks_of(tasks)
        before = _counts(trunks)
        answer(pieces, trunks, between)
        self.counters.batch(pieces, time.monotonic() - started, before, _counts(trunks))
        for trunk in trunks.values():
            trunk.trim()
        self._measure(sum(piece.size for piece in pieces), time.monotonic() - started)
        for request in requests:
            request.settle()

    def _between(self) -> None:
        """Answer, between two tokens of a generated text, what is asked of tasks that generate none."""
        with self._changed:
            requests, pieces = ([], []) if self._stopping else self._take(generating=False)
        if pieces:
            kind = pieces[0].tasks[0].predictor.device.type
            with torch.autocast(kind, enabled=False):  # in place of the generating model's
                self._compute(requests, pieces, lambda: None)

    def _measure(self, answers: int, seconds: float) -> None:
        now = answers / max(seconds, 1e-6)
        self._rate = now if not self._rate else 0.8 * self._rate + 0.2 * now

    def _next(self) -> tuple[list[Request], list[Piece]] | None:
        """The next batch: a piece of each request in turn. None when the server stops."""
        with self._changed:
            self._changed.wait_for(lambda: self._requests or self._stopping)
            if self.limits.wait:
                self._changed.wait_for(lambda: self._texts() >= self.limits.batch or self._stopping, self.limits.wait)
            if self._stopping:
                return None
            kinds = {request.generates for request in self._requests}
            # In turns: what generates no text is also answered between tokens, but text would wait for ever.
            self._generated = True in kinds and not (self._generated and False in kinds)
            return self._take(generating=self._generated)

    def _texts(self) -> int:
        return sum(len(piece.texts) for request in self._requests for piece in request.waiting)

    def _take(self, *, generating: bool) -> tuple[list[Request], list[Piece]]:
        """Pieces of the requests that generate text, or of the others."""
        own = deque(request for request in self._requests if request.generates == generating)
        self._requests = deque(request for request in self._requests if request.generates != generating)
        requests: list[Request] = []
        pieces: list[Piece] = []
        texts = 0
        while own and texts < self.limits.batch:
            request = own.popleft()
            if request.answers.done():  # cancelled: nobody waits for it
                continue
            piece = request.waiting.popleft()
            pieces.append(piece)
            texts += len(piece.texts)
            if request not in requests:
                requests.append(request)
            if request.waiting:
                own.append(request)
        self._requests.extend(own)
        return requests, pieces


def _counts(trunks: dict[str, Any]) -> tuple[int, int]:
    return sum(one.asked for one in trunks.values()), sum(one.computed for one in trunks.values())
