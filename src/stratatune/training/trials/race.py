"""A race between plans for one run: each begins as the run that it proposes, and the best one simply continues.

The trials share the base model, the encoding and, where their trunks end at one depth, the cache. They take turns on
the batches of the first epoch. After each heat they are scored on the last batches of that epoch, which none of them
has learnt from yet, so neither the evaluation data nor the test data are looked at, and no row is lost to the choice:
the winner learns from these batches when it reaches them. Its numbers are those of a run of its plan alone.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stratatune._compat import accelerator_for
from stratatune.errors import NotFiniteError, UserError
from stratatune.progress import Reporter
from stratatune.training import trackers
from stratatune.training.config import RunConfig
from stratatune.training.evaluate import evaluate_batches
from stratatune.training.folder import alone_in
from stratatune.training.result import Result
from stratatune.training.run import check_folder, trial, write_settings
from stratatune.training.session import Session
from stratatune.training.trials.sharing import ReadOnce, Shared
from stratatune.training.trials.turns import Turns


@dataclass(frozen=True)
class Mark:
    """The result of a trial after a heat.

    Attributes:
        steps: optimiser steps made so far.
        score: the run's own metric on the batches that are judged.
        loss: the mean loss on them; infinite where it diverged.
        rows: the number of these examples.
    """

    steps: int
    score: float
    loss: float
    rows: int

    @property
    def error(self) -> float:
        """About one standard error of a share, or of a correlation, of this size over this many rows."""
        share = min(max(abs(self.score), 0.0), 1.0)
        return math.sqrt(max(share * (1 - share), 0.25 / max(1, self.rows)) / max(1, self.rows))


@dataclass
class Trial:
    """A plan in a race.

    Attributes:
        config: the run that it proposes.
        marks: one a heat that it was in.
        refused: why it cannot take part, or stopped; empty otherwise.
        seconds: the time of its start and of its steps in the race, which the run that it proposes takes anyway.
    """

    config: RunConfig
    marks: list[Mark] = field(default_factory=list)
    refused: str = ""
    seconds: float = 0.0


def race(
    trials: Sequence[Trial],
    *,
    steps: int,
    judged: int,
    tables: Mapping[str, Any],
    shared: Shared,
    reporter: Reporter,
    chosen: Callable[[int], None],
) -> Result:
    """Try the plans in turn and train the best of them to its end.

    Args:
        trials: runs into one folder whose settings differ in plan, rate and settings that follow from these; marked
            here.
        steps: optimiser steps that each makes in a heat, after which the worse half stops.
        judged: batches of the first epoch, its last ones, that they are scored on.
        tables: data in memory, as for a run.
        shared: the parts that they share.
        reporter: the run's reporter.
        chosen: called with the number of the one that continues.

    Raises:
        UserError: a mistake in the settings or data, which every trial meets.
        NotFiniteError: all of them diverged.
    """
    out = Path(trials[0].config.out).expanduser()
    check_folder(trials[0].config, out)
    with alone_in(out), tempfile.TemporaryDirectory(prefix="stratatune-") as place:
        runners = [_Runner(one, Path(place) / f"{number}", tables, shared) for number, one in enumerate(trials)]
        try:
            left = _begun(runners)
            shared.let_go()
            while len(left) > 1:
                left = _heat(left, steps, judged)
            (winner,) = left
            for one in runners:
                if one is not winner:
                    one.stop()
            chosen(runners.index(winner))
            return winner.to_the_end(out, reporter, trials)
        finally:
            for one in runners:
                one.stop()
            shared.close()


def _begun(runners: Sequence[_Runner]) -> list[_Runner]:
    """The trials that reached their first batch."""
    errors: list[UserError] = []
    for one in runners:
        try:
            one.turns.take()
        except UserError as error:
            one.trial.refused = error.message
            errors.append(error)
    left = [one for one in runners if one.turns.ask is not None]
    for one in left:
        one.trial.seconds += one.session.begun
        one.session.racing = True
    if not left:
        raise errors[0] if errors else _diverged(runners)
    return left


def _heat(runners: Sequence[_Runner], steps: int, judged: int) -> list[_Runner]:
    """Let all make their optimiser steps, score them, and keep the better half."""
    for _ in range(steps * runners[0].trial.config.accumulate):
        for one in runners:
            one.step()
    for one in runners:
        one.judge(judged)
    running = [one for one in runners if not one.trial.refused]
    if not running:
        raise _diverged(runners)
    objective = running[0].session.objective
    order = ranked([one.trial.marks[-1] for one in running], smaller=objective.smaller)
    return [running[number] for number in order[: (len(runners) + 1) // 2]]


def _logged(trials: Sequence[Trial], metric: str) -> Iterator[dict[str, Any]]:
    """The marks of a race as trackers get them: each trial under its number, from 1."""
    for number, one in enumerate(trials, start=1):
        for mark in one.marks:
            found = {f"race_{number}_{metric}": mark.score, f"race_{number}_loss": mark.loss}
            yield {"step": mark.steps, **{name: value for name, value in found.items() if math.isfinite(value)}}


def _diverged(runners: Sequence[_Runner]) -> NotFiniteError:
    said = "; ".join(f"{one.trial.config.plan}: {one.trial.refused}" for one in runners)
    return NotFiniteError(f"every plan that was tried diverged: {said}", "give a smaller --lr, or look at the data")


def ranked(marks: Sequence[Mark], *, smaller: bool) -> list[int]:
    """The numbers of the marks, best first.

    Scores that are within a standard error of the best cannot be distinguished by so few rows; their losses, which say
    more than a count of right answers, put them in order.

    Args:
        marks: the marks of one heat.
        smaller: whether a smaller score is better; such scores have no known error, and rank as they are.
    """
    best = (min if smaller else max)(marks, key=lambda mark: mark.score)

    def key(number: int) -> tuple[float, float]:
        own = marks[number]
        behind = abs(best.score - own.score)
        return (0.0 if not smaller and behind <= best.error else behind, own.loss)

    return sorted(range(len(marks)), key=key)


class _Runner:
    """A trial under way, in its own folder until it has won."""

    def __init__(self, own: Trial, folder: Path, tables: Mapping[str, Any], shared: Shared) -> None:
        self.trial = own
        self.reporter = Reporter(held=True)
        # In a separate folder and without trackers: only the winner may leave traces in the user's.
        config = own.config.model_copy(update={"out": str(folder), "loggers": (), "resume": False})
        self.turns = Turns(trial(config, tables, self.reporter, shared))

    @property
    def session(self) -> Session:
        """The session that it trains with."""
        assert self.turns.ask is not None
        return self.turns.ask.session

    def step(self) -> None:
        """Learn from the batch that it has reached, unless it has ended."""
        if self.turns.ask is not None:
            started = time.perf_counter()
            self.turns.take()
            self.trial.seconds += time.perf_counter() - started

    def judge(self, batches: int) -> None:
        """Score the trial on the last batches of the first epoch."""
        if self.turns.ask is None:
            self.trial.refused = self.turns.error.message if self.turns.error else "it reached its end"
            return
        session = self.session
        try:
            held = session.batches(0)[-batches:]
            found = evaluate_batches(session.forward, session.train, session.feed, held)
        except NotFiniteError as error:
            self.trial.refused = error.message
            return
        loss = math.inf if found.loss is None else found.loss
        score = found.metrics.get(session.objective.metric, loss)
        steps = self.turns.ask.position[1] // self.trial.config.accumulate
        self.trial.marks.append(Mark(steps, score, loss, sum(map(len, held))))

    def to_the_end(self, out: Path, reporter: Reporter, trials: Sequence[Trial]) -> Result:
        """Continue as the run in ``out``, after a race of these trials."""
        session, config = self.session, self.trial.config
        write_settings(config, out)
        # Patience counts again: a winner that has none left stops after its next batch.
        session.out, session.racing = out, False
        if isinstance(session.feed, ReadOnce):  # no other trial reads any more, so it may read ahead again
            session.feed = session.feed.feed
        if config.loggers:
            session.accelerator = accelerator_for(config.device, config.loggers, out)
            top = session.top.attached
            plans = {f"race_{number}": one.config.plan for number, one in enumerate(trials, start=1)}
            trackers.begin(session.accelerator, config, top.resolved, session.objective.head, plans)
            records = [*session.history, *_logged(trials, session.objective.metric)]
            # In the order of steps: some trackers take no step before one that they have.
            trackers.log_records(session.accelerator, sorted(records, key=lambda one: one["step"]))
        self.reporter.quiet = reporter.quiet
        # Held back until now: the lines of the losers would only confuse.
        self.reporter.release()
        while self.turns.ask is not None:
            self.turns.take()
        if self.turns.error is not None:
            raise self.turns.error
        return self.turns.result

    def stop(self) -> None:
        """Give the trial up, with all that it holds."""
        self.turns.running.close()
        self.turns.ask = None
