"""The parts that a run trains with, and the request of a trial before each batch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from stratatune.cache.feed import Feed
from stratatune.data.batching import parts_of, plan_batches
from stratatune.data.encoded import Encoded
from stratatune.model.split import Top
from stratatune.model.start import Taken
from stratatune.objectives.objective import Objective
from stratatune.plan import Plan
from stratatune.progress import Reporter
from stratatune.training import distributed
from stratatune.training.config import RunConfig
from stratatune.training.forward import Forward
from stratatune.training.trials.sharing import ReadOnce
from stratatune.training.working import WorkingCopies

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass
class Session:
    """Everything that one run trains with.

    Attributes:
        forward: the tuned model under its objective: from a batch to logits.
        feed, eval_feed: hidden states of the training and the evaluation set.
        train, eval, test: the encoded data; ``eval`` and ``test`` may be missing.
        eval_parts: lengths of the parts of ``eval``, whose scores are averaged.
        settings: the settings that a checkpoint must match to be resumed.
        taken: what it took from the run that it starts from; None: it starts from the base.
        facts: likewise, see :func:`stratatune.training.facts.facts_of`.
        at_once: the most examples of a batch, over all ranks, that are computed at once, where a resumed run is to have
            smaller batches than it began with; None: all.
        reload: gives the base model once more, for weights that were offloaded; None: they stay in memory.
        away: seconds of an epoch in which it did not train: other trials had their turn, or it was evaluated or saved.
        racing: whether it is in a race (``training/trials/race.py``), in which nobody stops early.
        history: the evaluations so far, as :class:`stratatune.training.checkpoint.Progress` has them.
        begun: seconds that the run counted before its first batch: the fit of a new output layer, and the trunk for it.
        count_time: adds the time since its last call to the run's; set while an epoch runs.
        copies: working copies of wholly trained matrices, in the computation's precision, while the loop runs.
    """

    config: RunConfig
    accelerator: Accelerator
    forward: Forward
    train: Encoded
    feed: Feed | ReadOnce
    eval: Encoded | None
    eval_feed: Feed | None
    eval_parts: tuple[int, ...]
    out: Path
    reporter: Reporter
    settings: Mapping[str, Any]
    facts: Mapping[str, Any]
    test: Encoded | None = None
    taken: Taken | None = None
    at_once: int | None = None
    reload: Callable[[], nn.Module] | None = None
    away: float = 0.0
    racing: bool = False
    history: Sequence[Mapping[str, Any]] = ()
    begun: float = 0.0
    count_time: Callable[[], None] = lambda: None
    copies: WorkingCopies | None = None

    @property
    def device(self) -> torch.device:
        """The device on which it computes."""
        return self.forward.device

    @property
    def top(self) -> Top:
        """The model above the frozen depth."""
        return self.forward.top

    @property
    def objective(self) -> Objective:
        """The objective that it learns."""
        return self.forward.objective

    @property
    def starts_as_base(self) -> bool:
        """Whether its model equals the base model until the first step."""
        return self.taken is None and self.top.attached.resolved.starts_as_base

    def fed(self) -> Iterator[tuple[str, Encoded, Feed]]:
        """The data sets with separate feeds, by their names; trials share one feed of the training data."""
        named = (("training", self.train, self.feed), ("evaluation", self.eval, self.eval_feed))
        for name, data, feed in named:
            if data is not None and isinstance(feed, Feed):
                yield name, data, feed

    def batches(self, epoch: int) -> list[Any]:
        """The batches of an epoch (0-based) as numbers of this rank's examples; they depend on seed and epoch alone."""
        return distributed.mine(self.planned_batches(epoch))

    def planned_batches(self, epoch: int) -> list[Any]:
        """The batches of an epoch as numbers of all ranks' examples."""
        config = self.config
        return plan_batches(
            self.train.example_lengths,
            batch_size=config.batch_size,
            token_budget=config.token_budget,
            seed=config.seed,
            epoch=epoch,
        )

    def parts(self, planned: np.ndarray) -> int:
        """The number of parts in which every rank learns from its share of a planned batch [B], none of them empty.

        A batch of long texts is computed in parts, too, unless its loss compares all of its rows, or its tokens were
        chosen (``token_budget``).
        """
        share = len(planned) if distributed.copies(planned) > 1 else len(planned) // distributed.world()
        smaller = 1 if self.at_once is None else math.ceil(len(planned) / self.at_once)
        if self.divides:
            texts = self.train.texts_of(planned)
            count = math.ceil(len(texts) * share / len(planned))
            smaller = max(smaller, parts_of(count, int(self.train.lengths[texts].max())))
        return max(1, min(smaller, share))

    @cached_property
    def divides(self) -> bool:
        """Whether a batch may have so many tokens that it is computed in parts."""
        if self.config.batch_size is None or self.objective.whole_batches:
            return False
        groups = self.train.groups
        texts = self.config.batch_size * (1 if groups is None else int(groups.sizes.max(initial=1)))
        return parts_of(texts, int(self.train.lengths.max(initial=0))) > 1

    @cached_property
    def likeness(self) -> str:
        """A key without rates, decay and clipping: trials with equal keys have the same batches and tops."""
        # Trials that differ in rates alone compute the same graph, which is what stacking needs.
        plan = _without_rates(Plan.parse(self.config.plan).to_data())
        settings = {key: value for key, value in self.settings.items() if key not in OF_THE_OPTIMISER}
        return json.dumps({**settings, "plan": plan}, sort_keys=True)


OF_THE_OPTIMISER = ("lr", "weight_decay", "warmup", "schedule", "clip", "adam_eps")
"""Settings of the optimiser, which change the use of a gradient but not the gradient's computation."""


def _without_rates(data: Any) -> Any:
    """A plan's data without any method's own rate."""
    if isinstance(data, Mapping):
        return {key: _without_rates(value) for key, value in data.items() if key != "lr"}
    return [_without_rates(value) for value in data] if isinstance(data, list) else data


@dataclass(frozen=True)
class Ask:
    """A batch that a trial is about to learn from, alone or by ``training/trials/together.py``.

    Attributes:
        optimiser: the trial's own.
        position: epoch and number of the batch in it, both 0-based.
        index: numbers of the batch's examples [B].
        factor: the factor of the rates.
        among: how many batches share its optimiser step.
        due: whether the optimiser steps after this batch.
        before: the weight of the earlier batches of this step (:meth:`Objective.weight`).
        copies: how many processes learn from these same examples, see :func:`stratatune.training.distributed.copies`.
        parts: the number of parts in which the batch is computed.
    """

    session: Session
    optimiser: Any
    position: tuple[int, int]
    index: np.ndarray
    factor: float
    among: int
    due: bool
    before: float = 0.0
    copies: int = 1
    parts: int = 1

    @property
    def pieces(self) -> list[np.ndarray]:
        """The numbers of the examples of each part."""
        return np.array_split(self.index, self.parts)

    @property
    def summed(self) -> bool:
        """Whether gradients are summed over batches or parts of one, and not that of a single mean."""
        return self.among > 1 or self.parts > 1

    def scale(self, weight: float) -> float:
        """The factor of the step's gradient when it is due: it turns the sum over its batches into their mean."""
        return 1.0 / distributed.divisor(self.before + weight) if self.summed else 1.0


@dataclass(frozen=True)
class Learnt:
    """The result of learning from a batch.

    Attributes:
        loss: its mean loss.
        tokens: its real tokens.
        weight: how many terms the loss is a mean over.
        seconds: the time to charge, if another trial did the work.
        norm: the norm of the step's whole gradient, if the step was due.
    """

    loss: float
    tokens: int
    weight: float = 1.0
    seconds: float = 0.0
    norm: float = 0.0

    @property
    def finite(self) -> bool:
        """Whether loss and gradient are numbers; where they are not, no step was made."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)
