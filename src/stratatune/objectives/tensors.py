"""Small tensors that objectives compute with, and what they ask the model for."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from stratatune.data.batching import Batch
    from stratatune.model.question import Question


@functools.lru_cache(maxsize=64)
def numbers_on(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    """``numbers`` as int64 [n] on ``device``: copied there once, since a copy in each step would make a GPU wait."""
    import torch

    with torch.inference_mode(False):
        return torch.tensor(numbers, device=device, dtype=torch.int64)


def at_least_fp32(logits: Tensor) -> Tensor:
    """``logits`` in fp32, or in their own precision where that is higher."""
    import torch

    # bf16 has three digits: a softmax over many classes, or a sum of its logarithms, needs more.
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def mean(losses: Tensor, weights: Tensor | None) -> Tensor:
    """The mean of ``losses`` [B], each counted by its weight [B]; None: all count the same."""
    if weights is None:
        return losses.mean()
    weights = weights.to(losses.dtype)
    # A small batch may hold nothing but weights of 0.
    return (losses * weights).sum() / weights.sum().clamp(min=1e-12)


def at_places(batch: Batch) -> Question:
    """The question for the tokens at :attr:`Batch.places`."""
    import torch

    from stratatune.model.question import Question

    assert batch.places is not None
    there, places = batch.places >= 0, torch.zeros_like(batch.mask)
    places[there.nonzero()[:, 0], batch.places[there]] = True
    return Question(places=places)
