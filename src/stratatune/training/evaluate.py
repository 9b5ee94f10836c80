"""Scoring a tuned model on an encoded data set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from stratatune.data.batching import divided, plan_batches
from stratatune.data.encoded import IGNORED, LABEL, Encoded, flat
from stratatune.errors import NotFiniteError, counted
from stratatune.training import distributed
from stratatune.training.forward import Answering, Forward, ReadingAhead

BATCH_SIZE = 64
"""Examples of a batch, where no other number is given."""
_MOST_LOGITS = 2**27
"""The most logits over a vocabulary that are made at once: 256 MB in bf16. Those of 64 texts may take gigabytes."""


@dataclass(frozen=True)
class Scores:
    """The result of an evaluation.

    Attributes:
        metrics: the metrics by name.
        loss: mean loss over label words, classes, values or tokens; None without targets.
        output: the objective's predictions, such as probabilities [N, C] or values [N]; rows in the order of the data.
        notices: warnings about the metrics, one line each.
    """

    metrics: dict[str, float]
    loss: float | None
    output: np.ndarray
    notices: list[str] = field(default_factory=list)

    def record(self) -> dict[str, float]:
        """The scores as a line of ``metrics.jsonl`` has them."""
        return {**{f"eval_{name}": value for name, value in self.metrics.items()}, "eval_loss": self.loss or 0.0}


@torch.no_grad()
def evaluate(
    forward: Answering,
    data: Encoded,
    feed: ReadingAhead,
    parts: Sequence[int] = (),
    *,
    batch_size: int = BATCH_SIZE,
    alone: bool = False,
) -> Scores:
    """Run the model over ``data`` without dropout; metrics only where it has targets.

    Args:
        forward: the model.
        data: the examples.
        feed: gives what the model reads of them.
        parts: the examples of the data sets of which ``data`` is made; each metric is then the mean over them.
        batch_size: examples of a batch; the results do not depend on it, beyond rounding.
        alone: this process runs all of it; otherwise every process that trains with it calls this, for a share.

    Raises:
        NotFiniteError: an output, the loss or a metric is NaN or infinite.
    """
    # Without targets the prediction depends on the text alone, so equal texts run once.
    once = not data.targets and data.groups is None and data.given is None and data.distinct.repeated > 0
    asked = data.distinct.first if once else np.arange(data.examples)
    # Sorted by length and of a size of their own, so scores depend on neither the run's batch size nor its seed.
    batches = plan_batches(data.example_lengths[asked], batch_size=batch_size, seed=0, epoch=0, shuffle=False)
    batches = within_memory(forward, data, [asked[index] for index in batches])
    batches = batches if alone else distributed.whole_batches(batches)
    outputs, order, totals = _outputs(forward, data, feed, batches)
    offsets = _offsets(forward, data)
    output, totals = distributed.rows_of_all(outputs, flat(offsets, order), int(offsets[-1]), totals)
    if once:
        output = output[flat(offsets, data.distinct.same)]
    # Metrics can hide NaN: argmax over NaN gives a class like any other.
    check_outputs(output)
    return _scored(forward, data, output, totals, parts)


def within_memory(forward: Answering, data: Encoded, batches: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Cut the batches (numbers of examples) so that long texts and logits over a vocabulary fit memory."""
    batches = divided(batches, data.example_lengths)
    if not (forward.objective.writes and isinstance(forward, Forward)):
        return batches
    most = _MOST_LOGITS // forward.attached.resolved.shape.vocab
    reads = _tokens_read(data)
    cut = []
    for batch in batches:
        # A piece ends before the example with which it would have too many.
        start, total = 0, 0
        for at, count in enumerate(reads[batch]):
            if at > start and total + count > most:
                cut.append(batch[start:at])
                start, total = at, 0
            total += count
        cut.append(batch[start:])
    return cut


def _tokens_read(data: Encoded) -> np.ndarray:
    """The number of tokens of each example at which the head runs: int64 [N]."""
    labels = data.targets.get(LABEL)
    if data.places is not None:
        of_texts = data.places.sizes
    elif labels is not None and labels.offsets is not None:
        return np.add.reduceat(np.append(labels.values != IGNORED, False), labels.offsets[:-1]) * (labels.sizes > 0)
    else:
        of_texts = data.lengths
    return of_texts if data.groups is None else np.add.reduceat(of_texts[data.groups.values], data.groups.starts)


@torch.no_grad()
def evaluate_batches(forward: Answering, data: Encoded, feed: ReadingAhead, batches: Sequence[np.ndarray]) -> Scores:
    """Evaluate as :func:`evaluate` does, but only these batches of labelled ``data``, in this process.

    Raises:
        NotFiniteError: an output, the loss or a metric is NaN or infinite.
    """
    output, order, totals = _outputs(forward, data, feed, batches)
    check_outputs(output)
    return _scored(forward, data.subset(order), output, totals, ())


def _outputs(
    forward: Answering, data: Encoded, feed: ReadingAhead, batches: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The predictions, the examples in the same order, and the summed loss with the weight that it is summed over."""
    objective = forward.objective
    outputs: list[np.ndarray] = []
    totals = np.zeros(2)
    weighs = bool(data.targets) and "loss" not in objective.metrics  # else it is scored from the predictions
    coming = [texts for texts in map(data.computed_of, batches) if len(texts)]
    with forward.evaluating(), feed.prefetch(coming, forward.device):
        for index in batches:
            batch = forward.batch(data, index)
            logits = forward(batch, feed, training=False)
            if weighs:
                weight = objective.weight(batch)
                # Weighted back to a sum: batches, and ranks, have different numbers of terms.
                totals += np.array([objective.loss(logits, batch, training=False).item() * weight, weight])
            outputs.append(objective.predict(logits, batch))
    return np.concatenate(outputs), np.concatenate(list(batches)), totals


def _offsets(forward: Answering, data: Encoded) -> np.ndarray:
    """The start of each example's rows of the predictions, and the end."""
    return np.concatenate([[0], np.cumsum(forward.objective.rows(data))])


def _scored(forward: Answering, data: Encoded, output: np.ndarray, totals: np.ndarray, parts: Sequence[int]) -> Scores:
    """The metrics of the predictions, in the order of the data."""
    if not data.targets:
        return Scores({}, None, output)
    metrics, notices = mean_score(forward, data, output, parts)
    loss = metrics["loss"] if "loss" in metrics else float(totals[0] / distributed.divisor(float(totals[1])))
    check_outputs(output, {"loss": loss, **metrics})
    return Scores(metrics, loss, output, notices)


def check_outputs(output: np.ndarray, metrics: Mapping[str, float] | None = None) -> None:
    """Refuse outputs [N, ...] and metrics that are not finite.

    Raises:
        NotFiniteError: it says for how many rows, or which metric.
    """
    hint = "the model's weights are damaged or have diverged, or the precision is too narrow for them"
    odd = np.flatnonzero(~np.isfinite(output).all(axis=tuple(range(1, output.ndim))))
    if len(odd):
        said = f"the model's output is NaN or infinite for {len(odd)} of {len(output)} rows, the first is {odd[0] + 1}"
        raise NotFiniteError(said, hint)
    for name, value in (metrics or {}).items():
        if not math.isfinite(value):
            raise NotFiniteError(f"the {name} over {counted(len(output), 'row')} is {value}", hint)


def mean_score(
    forward: Answering, data: Encoded, output: np.ndarray, parts: Sequence[int]
) -> tuple[dict[str, float], list[str]]:
    """The mean of each metric over the parts, and the notices about any of them."""
    objective, unit = forward.objective, torch.finfo(forward.precision).eps
    if len(parts) < 2:
        return objective.score(output, data, unit)
    found, start, offsets = [], 0, _offsets(forward, data)
    for size in parts:
        rows = output[offsets[start] : offsets[start + size]]
        found.append(objective.score(rows, data.subset(np.arange(start, start + size)), unit))
        start += size
    notices = sorted({notice for _, said in found for notice in said})
    return {name: float(np.mean([metrics[name] for metrics, _ in found])) for name in found[0][0]}, notices
