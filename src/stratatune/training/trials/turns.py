"""Trials in one process that take turns, a step at a time."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from torch import Tensor

from stratatune.errors import NotFiniteError
from stratatune.training.checkpoint import random_state, set_random_state
from stratatune.training.session import Ask, Learnt


class Turns:
    """A trial that can pause after any step, with the random numbers that it would draw alone."""

    def __init__(self, running: Generator[Ask, Learnt | None, Any]) -> None:
        self.running = running
        self.random: dict[str, Tensor] = {}
        self.ask: Ask | None = None
        """The batch that it has reached; None before the first and after the last."""
        self.result: Any = None
        self.error: NotFiniteError | None = None
        """The error that stopped it before its end."""

    def take(self, learnt: Learnt | None = None) -> None:
        """Learn from the requested batch, unless that is done, and go on to the next one or to the end."""
        # torch has one global generator: each trial continues from where it left it, as if it had run alone.
        if self.random:
            set_random_state(self.random)
        try:
            self.ask = self.running.send(learnt)
        except StopIteration as done:
            self.ask, self.result = None, done.value
        except NotFiniteError as error:
            # One that diverged must not stop the others.
            # Without its frames, which hold the models of all trials.
            self.ask, self.error = None, error.with_traceback(None)
            error.__cause__ = error.__context__ = None
        self.random = random_state()
