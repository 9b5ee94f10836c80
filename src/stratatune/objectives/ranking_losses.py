"""Losses over the scores of candidates.

Shapes: G examples, K candidates of an example; ``there`` says which of the [G, K] there are.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, logsigmoid


def pointwise_loss(scores: Tensor, wanted: Tensor, there: Tensor) -> Tensor:
    """Mean binary cross-entropy of each score, as a logit, against ``wanted`` from 0 to 1."""
    return binary_cross_entropy_with_logits(scores[there], wanted[there].to(scores.dtype))


def pairwise_loss(scores: Tensor, gains: Tensor, there: Tensor) -> Tensor:
    """Bradley and Terry: the mean of ``-log sigmoid(score_i - score_j)`` over pairs with gain_i > gain_j."""
    known = there[:, :, None] & there[:, None, :] & (gains[:, :, None] > gains[:, None, :])
    return -logsigmoid((scores[:, :, None] - scores[:, None, :])[known]).sum() / known.sum().clamp(min=1)


def listnet_loss(scores: Tensor, gains: Tensor, there: Tensor) -> Tensor:
    """ListNet (Cao et al. 2007): the cross-entropy of the softmax of gains with that of scores, the mean over lists."""
    wanted = gains.to(scores.dtype).masked_fill(~there, -torch.inf).softmax(dim=1)
    # Not -inf: the target there is 0, and 0 times -inf is not a number.
    return cross_entropy(scores.masked_fill(~there, -1e16), wanted)
