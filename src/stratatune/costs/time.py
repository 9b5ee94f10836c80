"""The one model of time: a pass takes a fixed part, and its work over a pace; both are fitted to small measurements.

``bench`` times parts of three blocks at several sizes and adds them up; ``suggest`` times one pass of the whole trunk
and a few steps of a plan's top. No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Pace:
    """Seconds of a pass: ``fixed + work / per_second``."""

    fixed: float
    per_second: float

    def seconds(self, work: float, passes: float = 1) -> float:
        """The seconds of ``passes`` that do ``work`` together."""
        return passes * self.fixed + work / self.per_second


def fitted(work: Sequence[float], seconds: Sequence[float]) -> Pace:
    """Fit the rate that comes nearest to the measured points, in proportion; no part of it is below zero."""
    x, y = np.asarray(work, dtype=float), np.asarray(seconds, dtype=float)
    slope, fixed = np.polyfit(x, y, 1, w=1 / y) if len(set(work)) > 1 else (0.0, 0.0)
    if fixed < 0 or slope <= 0:
        slope, fixed = float(np.mean(y / x)), 0.0
    return Pace(float(fixed), float(1 / slope))


@dataclass
class Stopwatch:
    """A timer of small pieces of work: it times them again in every round, and the best of each counts."""

    waited: Callable[[], float]
    work: list[float] = field(default_factory=list)
    runs: list[Callable[[], object]] = field(default_factory=list)
    best: list[float] = field(default_factory=list)

    def add(self, work: float, run: Callable[[], object]) -> None:
        """Add a point: its amount of work, and the function that does it."""
        run()  # the first, which warms up, does not count
        self.work.append(work)
        self.runs.append(run)
        self.best.append(float("inf"))

    def go(self) -> None:
        """Time each point once more."""
        for number, run in enumerate(self.runs):
            started = self.waited()
            run()
            self.best[number] = min(self.best[number], self.waited() - started)

    @property
    def rate(self) -> Pace:
        return fitted(self.work, self.best)
