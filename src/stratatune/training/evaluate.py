"""Scoring a tuned model on an encoded data set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from stratatune.cache.feed import Feed
from stratatune.data.batching import plan_batches
from stratatune.data.encode import Encoded, flat
from stratatune.errors import NotFiniteError
from stratatune.objectives.objective import Objective
from stratatune.training import distributed
from stratatune.training.forward import Forward

_BATCH_SIZE = 64


@dataclass(frozen=True)
class Scores:
    """What an evaluation found.

    Attributes:
        metrics: by name.
        loss: mean loss over label words, classes, values or tokens; None without targets.
        output: what the objective predicts, such as probabilities [N, C] or values [N]; rows in the order of the data.
        objective: what they were scored by: that of the run, tuned to these data where that was asked for.
        notices: what the user should know of the metrics, one line each.
    """

    metrics: dict[str, float]
    loss: float | None
    output: np.ndarray
    objective: Objective
    notices: list[str] = field(default_factory=list)

    def record(self) -> dict[str, float]:
        """For a line of ``metrics.jsonl``."""
        return {**{f"eval_{name}": value for name, value in self.metrics.items()}, "eval_loss": self.loss or 0.0}


@torch.no_grad()
def evaluate(forward: Forward, data: Encoded, feed: Feed, parts: Sequence[int] = (), *, tune: bool = False) -> Scores:
    """Run the model over ``data`` without dropout; metrics only where it has targets.

    ``parts`` are the examples of the data sets of which ``data`` is made; each metric is then the mean over them.
    ``tune``: whether the objective's thresholds are fitted to these data first (:meth:`Objective.tuned`).

    Raises:
        NotFiniteError: an output, the loss or a metric is NaN or infinite.
    """
    objective, top = forward.objective, forward.top
    was_training = top.training
    top.eval()
    outputs: list[np.ndarray] = []
    order: list[np.ndarray] = []
    totals = np.zeros(2)  # the summed loss, and what it is summed over
    weighs = bool(data.targets) and "loss" not in objective.metrics  # else it is scored from what is predicted
    batches = plan_batches(data.example_lengths, batch_size=_BATCH_SIZE, seed=0, epoch=0, shuffle=False)
    batches = distributed.whole_batches(batches)
    with feed.prefetch([data.texts_of(index) for index in batches], forward.device):
        for index in batches:
            batch = forward.batch(data, index)
            logits = forward(batch, feed, training=False)
            if weighs:
                weight = objective.weight(batch)
                totals += np.array([objective.loss(logits, batch, training=False).item() * weight, weight])
            outputs.append(objective.predict(logits, batch))
            order.append(index)
    top.train(was_training)
    offsets = np.concatenate([[0], np.cumsum(objective.rows(data))])
    rows = flat(offsets, np.concatenate(order))
    output, totals = distributed.rows_of_all(np.concatenate(outputs), rows, int(offsets[-1]), totals)
    check_outputs(output)
    if not data.targets:
        return Scores({}, None, output, objective)
    objective = objective.tuned(output, data) if tune else objective
    metrics, notices = _mean_score(objective, torch.finfo(forward.precision).eps, data, output, offsets, parts)
    loss = metrics["loss"] if "loss" in metrics else float(totals[0] / max(1.0, totals[1]))
    check_outputs(output, {"loss": loss, **metrics})
    return Scores(metrics, loss, output, objective, notices)


def check_outputs(output: np.ndarray, metrics: Mapping[str, float] | None = None) -> None:
    """Refuse what a model gives for data where it is no number: ``output`` [N, ...], and what it was scored.

    Raises:
        NotFiniteError: it says for how many rows, or which metric.
    """
    hint = "the model's weights are damaged or have diverged, or the precision is too narrow for them"
    odd = np.flatnonzero(~np.isfinite(output.reshape(len(output), -1)).all(axis=1))
    if len(odd):
        said = f"the model's output is NaN or infinite for {len(odd)} of {len(output)} rows, the first is {odd[0] + 1}"
        raise NotFiniteError(said, hint)
    for name, value in (metrics or {}).items():
        if not math.isfinite(value):
            raise NotFiniteError(f"the {name} over {len(output)} rows is {value}", hint)


def _mean_score(
    objective: Objective, unit: float, data: Encoded, output: np.ndarray, offsets: np.ndarray, parts: Sequence[int]
) -> tuple[dict[str, float], list[str]]:
    """Each metric's mean over the parts, and what is to be said of any of them."""
    if len(parts) < 2:
        return objective.score(output, data, unit)
    found, start = [], 0
    for size in parts:
        rows = output[offsets[start] : offsets[start + size]]
        found.append(objective.score(rows, data.subset(np.arange(start, start + size)), unit))
        start += size
    notices = sorted({notice for _, said in found for notice in said})
    return {name: float(np.mean([metrics[name] for metrics, _ in found])) for name in found[0][0]}, notices
