"""Scoring a tuned model on an encoded data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from stratatune.cache.feed import Feed
from stratatune.data.batching import collate, plan_batches
from stratatune.data.encode import Encoded
from stratatune.model.split import Top
from stratatune.objectives.metrics import CORRELATIONS, no_correlation, score
from stratatune.objectives.objective import Objective
from stratatune.training import distributed as ranks

_BATCH_SIZE = 64


@dataclass(frozen=True)
class Scores:
    """What an evaluation found.

    Attributes:
        metrics: by name.
        loss: mean loss over label words, classes or values; None without labels.
        output: probabilities [N, C], or values [N] where the label is a number; rows in the order of the data.
        notices: what the user should know of the metrics, one line each.
    """

    metrics: dict[str, float]
    loss: float | None
    output: np.ndarray
    notices: list[str] = field(default_factory=list)

    def record(self) -> dict[str, float]:
        """For a line of ``metrics.jsonl``."""
        return {**{f"eval_{name}": value for name, value in self.metrics.items()}, "eval_loss": self.loss or 0.0}


@torch.no_grad()
def evaluate(
    top: Top,
    objective: Objective,
    data: Encoded,
    feed: Feed,
    pad_id: int,
    device: torch.device,
    parts: Sequence[int] = (),
) -> Scores:
    """Run the model over ``data`` without dropout; metrics only where it has labels.

    ``parts`` are the lengths of the data sets of which ``data`` is made; each metric is then the mean over them.
    """
    was_training = top.training
    top.eval()
    outputs: list[np.ndarray] = []
    order: list[np.ndarray] = []
    loss = 0.0
    batches = plan_batches(data.lengths, batch_size=_BATCH_SIZE, seed=0, epoch=0, shuffle=False)
    batches = ranks.whole_batches(batches)
    with feed.ahead(batches, device):
        for index in batches:
            batch = collate(data, index, pad_id).to(device)
            logits = top(feed.hidden(batch), batch.mask, batch.read, objective.words, objective.ids(batch))
            if batch.labels is not None:
                loss += objective.word_loss(logits, batch.labels).item() * len(index)
            outputs.append(objective.predict(logits).cpu().numpy())
            order.append(index)
    top.train(was_training)
    output, loss = ranks.rows_of_all(np.concatenate(outputs), np.concatenate(order), len(data), loss)
    if objective.reading.generates:
        return _class_scores(output)
    if data.labels is None:
        return Scores({}, None, output)
    rounding = objective.rounding(output, _precision(top, device)) if output.ndim == 1 else 0.0
    metrics, notices = _mean_score(data.labels, output, parts or (len(data),), rounding)
    return Scores(metrics, loss / len(data), output, notices)


def _class_scores(output: np.ndarray) -> Scores:
    """Loss and perplexity of free text: ``output`` [N, 2], summed log-probability and number of tokens."""
    loss = float(-output[:, 0].sum() / max(1.0, output[:, 1].sum()))
    return Scores({"loss": loss, "perplexity": float(np.exp(min(loss, 700.0)))}, loss, output)


def _precision(top: Top, device: torch.device) -> torch.dtype:
    """What the model computes in here."""
    if torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return top.attached.backbone.model.dtype


def _mean_score(
    truth: np.ndarray, output: np.ndarray, parts: Sequence[int], rounding: float
) -> tuple[dict[str, float], list[str]]:
    """Each metric's mean over the parts, and why a part has no correlation."""
    is_value = output.ndim == 1
    guess = output if is_value else output.argmax(axis=1)
    ends = np.cumsum(parts)[:-1]
    pairs = list(zip(np.split(truth, ends), np.split(guess, ends), strict=True))
    scores = [score(t, g, is_value, rounding) for t, g in pairs]
    why = {no_correlation(t, g, rounding) for t, g in pairs} - {""} if is_value else set()
    notices = [f"{' and '.join(CORRELATIONS)} are 0: {reason}" for reason in sorted(why)]
    return {name: float(np.mean([one[name] for one in scores])) for name in scores[0]}, notices
