"""Losses over classes: class weights, the focal loss, label smoothing, and ordered classes.

Shapes: B examples, C classes. Losses are means over examples, in nats.

Weights: example i counts w[y_i]; ``balanced`` is N / (C n_c), scikit-learn's, whose mean over the training data is 1.
Focal loss: ``-(1 - p_y)^g log p_y`` (Lin et al. 2017, equation 4), g = 0 being the cross-entropy. Smoothing: the target
is (1 - e) one-hot + e / C (Szegedy et al. 2016). Ordered classes: C - 1 outputs, output k a logit of
P(y > k | y > k - 1), each learnt on the examples with y >= k (CORN, Shi et al. 2021), so that classes further away cost
more and the probabilities of "more than k" fall with k. All pairs of an example and an output that it teaches count the
same, as in CORN; the divisor is B (C - 1) and not the number of these pairs, so that small batches add up to a large
one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stratatune.errors import ConfigError
from stratatune.objectives.tensors import at_least_fp32, mean

if TYPE_CHECKING:
    from torch import Tensor

BALANCED = "balanced"
LEAST_APART = 1e-7
"""The least distance of a probability from 1 in the focal loss: about the rounding error of single precision."""
MOST_FOCAL = 10


@dataclass(frozen=True)
class ClassLoss:
    """The loss by which classes are learnt.

    Attributes:
        weights: one a class; empty: all the same.
        focal: g of the focal loss.
        smoothing: e of the smoothed targets.
        ordinal: whether the classes have an order, that of their numbers.
    """

    weights: tuple[float, ...] = ()
    focal: float = 0.0
    smoothing: float = 0.0
    ordinal: bool = False

    def __call__(self, logits: Tensor, targets: Tensor, rows: Tensor | None = None) -> Tensor:
        """``logits`` [B, C], or [B, C - 1] of ordered classes; ``targets`` [B] int64; ``rows`` [B] weights of each."""
        each = self._ordinal(logits, targets) if self.ordinal else self._classes(logits, targets)
        # A mean over examples, not over their weights as torch's `weight=` takes it: there a batch that happens to hold
        # one class alone has the same loss whatever that class weighs.
        if self.weights:
            each = each * each.new_tensor(self.weights)[targets]
        return mean(each, rows)

    def _classes(self, logits: Tensor, targets: Tensor) -> Tensor:
        from torch.nn.functional import cross_entropy

        each = cross_entropy(at_least_fp32(logits), targets, reduction="none", label_smoothing=self.smoothing)
        if not self.focal:
            return each
        chance = at_least_fp32(logits).softmax(dim=1).gather(1, targets[:, None])[:, 0]
        return focused(each, chance, self.focal)

    def _ordinal(self, logits: Tensor, targets: Tensor) -> Tensor:
        import torch
        from torch.nn.functional import binary_cross_entropy_with_logits

        place = torch.arange(logits.shape[1], device=logits.device)
        logits = at_least_fp32(logits)
        more = (targets[:, None] > place).to(logits.dtype)
        asked = targets[:, None] >= place
        each = binary_cross_entropy_with_logits(logits, more, reduction="none") * asked
        return each.mean(1)


def ordinal_chances(logits: Tensor) -> Tensor:
    """Probabilities [B, C] of ordered classes from ``logits`` [B, C - 1]: differences of P(y > k)."""
    import torch

    more = logits.float().sigmoid().cumprod(dim=1)
    ends = more.new_ones(len(more), 1)
    above = torch.cat([ends, more, torch.zeros_like(ends)], dim=1)
    return above[:, :-1] - above[:, 1:]


def focused(losses: Tensor, chances: Tensor, strength: float) -> Tensor:
    """The focal loss of ``losses`` by the probabilities of what is true, both of one shape; ``strength`` is g."""
    # At a probability that is rounded to 1 the slope of a root is infinite, and times a loss of 0 it is not a number.
    return (1 - chances).clamp(min=LEAST_APART) ** strength * losses


def numbers_in(written: str, names: Sequence[str]) -> tuple[float, ...]:
    """One weight for each of ``names``, written as ``1/2.5/1``.

    Raises:
        ConfigError: another number of them, or one that is not a number of 0 or more.
    """
    try:
        found = tuple(float(part) for part in written.split("/"))
    except ValueError:
        found = ()
    if len(found) != len(names) or not all(np.isfinite(one) and one >= 0 for one in found):
        order = "/".join(names[:6]) + ("/..." if len(names) > 6 else "")
        raise ConfigError(
            [f"objective: weights={written}: {len(names)} numbers, 0 or more each, are needed"],
            f"write weights={BALANCED}, or one for each in the order {order}",
        )
    return found


def weights_of(written: str, counts: Sequence[int], names: Sequence[str]) -> tuple[float, ...]:
    """The weights that a user writes: ``balanced``, or one a class, as ``1/2.5/1``.

    Args:
        written: the option; empty: no weights.
        counts: training examples of each class.
        names: the names of the classes, in their order.

    Raises:
        ConfigError: none of these.
    """
    if not written:
        return ()
    if written == BALANCED:
        there = sum(map(bool, counts))  # a class of the task that the data lack has no part in the mean
        return tuple(sum(counts) / (there * count) if count else 1.0 for count in counts)
    return numbers_in(written, names)
