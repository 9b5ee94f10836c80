"""The length of a race between plans that its price allows: counted in operations, never in seconds. No torch.

Choosing may take a share of the run that is proposed in the end, whichever that turns out to be. The work of the
winner's own trial is not lost, because the run goes on from there; that of the others is, and so are the pass that
reads every depth and every evaluation. A race has heats: in each, those that are left make some steps, are scored, and
the worse half stops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SHARE = 0.12
"""The share of the proposed run's work; with uncounted work (loading, opening caches) it stays below 15 %."""
_MOST, _FEWEST, _LONGEST = 4, 16, 64
"""The most plans in a race; the fewest and the most steps of a heat."""
_JUDGED = (4, 16)
"""The fewest and the most batches that each heat is scored on."""


@dataclass(frozen=True)
class Price:
    """The price of a plan, in operations.

    Attributes:
        run: the whole run, the trunk's pass included.
        step: training on a batch whose trunk is cached.
        trunk: the trunk's pass over a batch.
        share: equal for plans that can share a trunk cache.
    """

    run: float
    step: float
    trunk: float
    share: str

    @property
    def judged(self) -> float:
        """The price of scoring a batch from the cache: at most half a step, as with LoRA; a third where all trains."""
        return self.step / 2


@dataclass(frozen=True)
class Course:
    """A race.

    Attributes:
        entrants: how many of the plans take part, from the first on; 1: none is tried, the first is taken.
        steps: of the optimiser, that each of those left makes in a heat.
        judged: batches that they are scored on after it.
        accumulate: batches of a step.
    """

    entrants: int
    steps: int = 0
    judged: int = 0
    accumulate: int = 1

    @property
    def batches(self) -> int:
        """The number of batches that each of those left learns from in a heat."""
        return self.steps * self.accumulate

    @property
    def heats(self) -> list[int]:
        """The number of trials left before each heat."""
        left, found = self.entrants, list[int]()
        while left > 1:
            found.append(left)
            left = (left + 1) // 2
        return found


def overhead(course: Course, prices: Sequence[Price], winner: int, spent: float) -> float:
    """The operations of a race beyond the winner's own trial, at worst: the most expensive others stay longest."""
    own = prices[winner]
    others = sorted((one for n, one in enumerate(prices[: course.entrants]) if n != winner), key=lambda one: -one.step)
    total, trunks = spent, dict[str, float]()
    batches = course.judged  # whose trunk states are made once
    for left in course.heats:
        batches += course.batches
        running = others[: left - 1]
        total += sum(one.step * course.batches + one.judged * course.judged for one in running)
        total += own.judged * course.judged
        for one in running:
            if one.share != own.share:
                trunks[one.share] = one.trunk * batches
    return total + sum(trunks.values())


def planned(
    prices: Sequence[Price], batches: int, spent: float, *, accumulate: int = 1, share: float = SHARE
) -> Course:
    """The race with the most entrants that has heats of 16 steps or more and keeps to its share, whoever wins.

    Args:
        prices: the prices of the plans, in the order of entry.
        batches: the number in an epoch; training and scoring both draw from the first epoch.
        spent: operations spent already, or that will be, on reading the depths.
        accumulate: batches of an optimiser step.
        share: the share of the proposed run that choosing may take.
    """
    for entrants in range(min(_MOST, len(prices)), 1, -1):
        for steps in range(_LONGEST, _FEWEST - 1, -1):
            course = Course(entrants, steps, min(max(_JUDGED[0], steps // 2), _JUDGED[1]), accumulate)
            if course.batches * len(course.heats) + course.judged > batches:
                continue
            if all(overhead(course, prices, one, spent) <= share * prices[one].run for one in range(entrants)):
                return course
    return Course(1)
