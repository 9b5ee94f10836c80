"""The loss of text that a language model writes, by tokens. Shared by the objectives whose answer is free text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stratatune.data.encoded import IGNORED, Encoded

if TYPE_CHECKING:
    from torch import Tensor

    from stratatune.data.batching import Batch
    from stratatune.model.question import Question


def second_halves(texts: Encoded) -> Encoded:
    """Make up data: the second half of each text's tokens counts in the loss, as an answer to a question does."""
    behind = np.concatenate([np.arange(length) >= (length + 1) // 2 for length in texts.lengths])
    return texts.with_targets(np.where(behind, texts.ids, IGNORED), texts.offsets)


def next_tokens(batch: Batch) -> Tensor:
    """The target that each token of a text has to predict [B, T]: that of the next token; -100 at the end."""
    from torch.nn.functional import pad

    # Targets are shifted, not logits, so that it is known before the head runs which tokens it must run on.
    assert batch.labels is not None
    return pad(batch.labels[:, 1:], (0, 1), value=IGNORED)


def bearing_loss(batch: Batch) -> Question:
    """The tokens that predict one that counts in the loss."""
    from stratatune.model.question import Question

    targets = next_tokens(batch)
    places = targets != IGNORED
    return Question(places=places, following=targets[places])


def likelihoods(found: Tensor, targets: Tensor) -> Tensor:
    """The likelihood of each text: the summed log-probability of its targets, and the number of them [B, 2].

    Args:
        found: logits [B, U, V], the prediction of every target; or the scores [n, 2] of those that count, in reading
            order, as :attr:`Question.following` asks for them.
        targets: [B, U], -100 where there is no loss.
    """
    import torch

    from stratatune.model.heads.token_scores import scores_of

    counted = targets != IGNORED
    if found.ndim == 3:
        every = scores_of(found.flatten(0, 1), targets.clamp(min=0).flatten())[:, 0]
        total = every.view(targets.shape).where(counted, 0).sum(dim=1)
    else:
        total = _by_text(found[:, 0], counted)
    return torch.stack([total, counted.sum(dim=1).to(total.dtype)], dim=1)


def right_tokens(scores: Tensor, targets: Tensor) -> Tensor:
    """The number of targets of each text that are the likeliest token [B]: ``scores`` [n, 2] of those that count."""
    return _by_text(scores[:, 1], targets != IGNORED)


def _by_text(values: Tensor, counted: Tensor) -> Tensor:
    """The sum over the tokens of each text [B]: ``values`` [n] of those that count [B, U], in reading order."""
    return values.new_zeros(len(counted)).index_add(0, counted.nonzero()[:, 0], values)


def mean_loss(found: Tensor) -> Tensor:
    """The mean over all targets of :func:`likelihoods` [B, 2]."""
    return -found[:, 0].sum() / found[:, 1].sum().clamp(min=1)


def weight_of(targets: Tensor) -> float:
    """The number of targets that count in the loss."""
    return float((targets != IGNORED).sum())


def text_scores(output: np.ndarray) -> dict[str, float]:
    """Loss and perplexity of a data set: ``output`` [N, 2] as :func:`likelihoods` gives it."""
    # Sums and counts, not means of texts: a long text counts by its tokens, as it does in the training loss.
    loss = float(-output[:, 0].sum() / max(1.0, output[:, 1].sum()))
    return {"loss": loss, "perplexity": float(np.exp(min(loss, 700.0)))}  # exp(710) is not a double
