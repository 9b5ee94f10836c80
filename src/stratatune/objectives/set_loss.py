"""The loss over label sets: binary cross-entropy of each label, with weights and the focal loss.

Shapes: B texts, C labels. The loss is a mean over texts and labels, in nats.

Weights: a text counts for label c by ``present[c]`` where it has the label, and by ``absent[c]`` where it has not.
``balanced`` is scikit-learn's for the two classes of each label, N / (2 n) and N / (2 (N - n)), whose mean over the
training data is 1. Focal loss: ``-(1 - p)^g log p`` of the probability p of what is true (Lin et al. 2017, equation 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stratatune.objectives.class_loss import BALANCED, focused, numbers_in
from stratatune.objectives.tensors import at_least_fp32, mean

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SetLoss:
    """The loss by which label sets are learnt.

    Attributes:
        present, absent: the weights of each label [C]; empty: all the same.
        focal: g of the focal loss.
    """

    present: tuple[float, ...] = ()
    absent: tuple[float, ...] = ()
    focal: float = 0.0

    def __call__(self, logits: Tensor, truth: Tensor, rows: Tensor | None = None) -> Tensor:
        """``logits`` [B, C]; ``truth`` [B, C] bool; ``rows`` [B] weights of each text."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        logits = at_least_fp32(logits)
        each = binary_cross_entropy_with_logits(logits, truth.to(logits.dtype), reduction="none")
        if self.focal:
            each = focused(each, (-each).exp(), self.focal)
        if self.present:
            present, absent = each.new_tensor(self.present), each.new_tensor(self.absent)
            each = each * present.where(truth, absent)
        return mean(each.mean(dim=1), rows)


def set_weights(written: str, truth: np.ndarray, names: Sequence[str]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The weights that a user writes: ``balanced``, or one a label for the texts that have it, as ``1/2.5/1``.

    Args:
        written: the option; empty: no weights.
        truth: the label sets of the training data, bool [N, C].
        names: the names of the labels, in their order.

    Returns:
        The weights of the texts that have each label [C], and of those that have not [C].

    Raises:
        ConfigError: none of these.
    """
    if not written:
        return (), ()
    if written == BALANCED:
        counts, every = truth.sum(axis=0), len(truth)
        # What all or no texts have has no other side to be balanced with.
        both = (counts > 0) & (counts < every)
        sides = (np.where(both, every / (2 * np.where(both, one, 1)), 1.0) for one in (counts, every - counts))
        present, absent = (tuple(side.tolist()) for side in sides)
        return present, absent
    return numbers_in(written, names), (1.0,) * len(names)
