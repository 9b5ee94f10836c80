"""The report of ``--plan auto`` on its choice: three lines, and a record of everything that it looked at. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from stratatune.errors import counted
from stratatune.shapes.shape import top_depth
from stratatune.studies.suggest.candidates import FEW, MORE_OF_FEW, Proposal
from stratatune.studies.suggest.choosing import adds_below
from stratatune.studies.suggest.course import Course, Price
from stratatune.studies.suggest.probing import Probe

if TYPE_CHECKING:
    from stratatune.training.config import RunConfig
    from stratatune.training.trials.race import Trial


@dataclass(frozen=True)
class Choice:
    """The choice for a run, and the reasons.

    Attributes:
        config: the run's settings, its plan an ordinary one.
        why: three lines.
        record: everything that was looked at, as plain data.
    """

    config: RunConfig
    why: tuple[str, str, str]
    record: Mapping[str, Any]


@dataclass(frozen=True)
class Seen:
    """Everything that a choice depends on.

    Attributes:
        plans: the candidate plans, with prices.
        number: the number of the chosen plan.
        trials: the trials in the race; empty without one.
        probes: the probes of the depths that were read.
        course: the race.
        share: the share of the chosen run's work that choosing took.
        of_stock: the run's work over that of stock LoRA on every block for as many epochs.
        metric: the run's metric.
        blocks: L.
        rows: the number of training examples.
        seconds: that choosing took, the winner's own steps left out.
    """

    plans: Sequence[tuple[Proposal, Price]]
    number: int
    trials: Sequence[Trial]
    probes: Sequence[Probe]
    course: Course
    share: float
    of_stock: float
    metric: str
    blocks: int
    rows: int
    seconds: float

    def choice(self, config: RunConfig) -> Choice:
        """Record the choice of the run ``config``."""
        why = (
            f"auto: {config.plan} at rate {config.lr:.2g}, {counted(config.epochs, 'epoch')} at most: "
            f"{self.plans[self.number][0].name}",
            f"  why: {self._depths()}; {self._trials()}",
            f"  cost: choosing took {self.share:.0%} of the run's work (at most 15 %); the whole run does "
            f"{self.of_stock:.0%} of the work of LoRA on every block",
        )
        return Choice(config, why, self._record())

    def _depths(self) -> str:
        if not self.probes:
            few = f"; {self._because_few}" if self._few else ""
            return f"no depth was read (too few examples, or no single label for each text){few}"
        depth = top_depth(self.blocks)
        at, best = next(one for one in self.probes if one.depth == depth), max(self.probes, key=lambda one: one.score)
        said = f"a probe of depth {depth} scores {at.score:.3f}, of depth {best.depth}, the best, {best.score:.3f}"
        if adds_below(self.probes, depth):
            return f"{said}: what the task needs gets lost on the way up, so plans that train more blocks come first"
        if self._few:
            return f"{said}; {self._because_few}"
        return f"{said}: what the task needs is there"

    @property
    def _few(self) -> bool:
        """Whether the chosen plan is the one that comes first because rows are few."""
        return self.plans[self.number][0].name == MORE_OF_FEW

    @property
    def _because_few(self) -> str:
        return f"more blocks train than the topmost because rows are few ({self.rows:,}; up to {FEW:,})"

    def _trials(self) -> str:
        if not self.trials:
            return "nothing was tried, as trials would cost more than their share, and this most often comes first"
        own = self.trials[self.number]
        others = "; ".join(
            f"{one.config.plan} at {one.config.lr:.2g}: {one.refused or f'{one.marks[-1].score:.3f}'}"
            for one in self.trials
            if one is not own
        )
        if not own.marks:
            return f"nothing else could be tried ({others})"
        last = own.marks[-1]
        scored = f"{self.metric} {last.score:.3f} on {last.rows} rows held back"
        return f"after {last.steps} steps {scored} ({others})"

    def _record(self) -> dict[str, Any]:
        plans = [
            {**asdict(proposal), "operations": price.run, "chosen": place == self.number}
            for place, (proposal, price) in enumerate(self.plans)
        ]
        for line, one in zip(plans, self.trials, strict=False):
            line |= {"marks": [asdict(mark) for mark in one.marks], "refused": one.refused}
        return {
            "plans": plans,
            "probes": [{"depth": one.depth, "score": one.score, "error": one.error} for one in self.probes],
            "course": asdict(self.course) if self.trials else None,
            "share": self.share,
            "seconds": round(self.seconds, 3),
        }
