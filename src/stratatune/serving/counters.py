"""Counters of a server, as Prometheus reads them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from stratatune.serving.compute import Piece

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Counters:
    """The counters of one server, with their own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = {"namespace": "stratatune", "registry": self.registry}
        self._requests = Counter("requests", "HTTP requests.", ["route", "status"], **own)
        self._seconds = Histogram(
            "request_seconds", "Seconds until a request was answered.", ["route"], buckets=_SECONDS, **own
        )
        self._answers = Counter("answers", "Texts answered.", ["task"], **own)
        self._failures = Counter("failed_pieces", "Parts of requests that ended in an error.", **own)
        self._batch_texts = Histogram("batch_texts", "Texts computed together.", buckets=_TEXTS, **own)
        self._batch_seconds = Histogram("batch_seconds", "Seconds of computing a batch.", buckets=_SECONDS, **own)
        self._asked = Counter("trunk_texts_asked", "Texts for which tasks needed the trunk.", **own)
        self._computed = Counter("trunk_texts_computed", "Texts for which the trunk ran.", **own)
        self._waiting = Gauge("queue_answers", "Answers that wait.", **own)
        self._tasks = Gauge("tasks", "Tasks that are served.", **own)

    def watch(self, waiting: Callable[[], int], tasks: Callable[[], int]) -> None:
        """Set the functions that the gauges read from."""
        self._waiting.set_function(waiting)
        self._tasks.set_function(tasks)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count an answered request; ``route`` is a pattern, so that there are few of them."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def batch(self, pieces: Sequence[Piece], seconds: float, before: tuple[int, int], after: tuple[int, int]) -> None:
        """Count a batch; ``before`` and ``after``: texts that the trunks were given, and that they computed."""
        self._batch_texts.observe(sum(len(piece.texts) for piece in pieces))
        self._batch_seconds.observe(seconds)
        self._asked.inc(after[0] - before[0])
        self._computed.inc(after[1] - before[1])
        for piece in pieces:
            if piece.error is not None:
                self._failures.inc()
                continue
            for task in piece.tasks:
                self._answers.labels(task.name).inc(len(piece.texts))

    def forget(self, task: str) -> None:
        """Remove the counters of a task that is no longer served."""
        with contextlib.suppress(KeyError):  # it never answered
            self._answers.remove(task)

    def text(self) -> bytes:
        """The counters in Prometheus' text format."""
        return generate_latest(self.registry)
