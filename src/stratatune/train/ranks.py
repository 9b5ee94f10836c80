"""Several processes that train one model, as ``torchrun`` and ``accelerate launch`` start them: who does what.

Every rank holds the whole model and takes its share of each batch's examples. Their gradients are added up before the
optimiser steps, each weighted by its share, so that the numbers are those of one process with the same batches, up to
the order of the sum. Only what trains is added up: of an adapter that is little, and one message a step carries it all.
Rank 0 writes the files. With one process all of this does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
import torch.distributed as together
from torch import Tensor, nn

from stratatune.data.batching import collate, plan_batches, shard
from stratatune.train.progress import is_main

if TYPE_CHECKING:
    from stratatune.data.encode import Encoded
    from stratatune.train.feed import Feed

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """One rank's part of a batch.

    Attributes:
        share: of the batch's loss, 0..1; the shares of all ranks add up to 1.
        loss: the mean loss of the whole batch.
        tokens: real tokens of the whole batch.
    """

    share: float
    loss: float
    tokens: int


def world() -> int:
    """How many processes train together; 1 before they have met."""
    return together.get_world_size() if together.is_available() and together.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return together.get_rank() if world() > 1 else 0


def mine(batches: Sequence[np.ndarray]) -> list[np.ndarray]:
    """This rank's examples of each batch [B]; a batch with fewer examples than ranks is everybody's.

    Every ``world``-th example: batches are sorted by length, so all ranks get about as many tokens.
    """
    ranks, own = world(), rank()
    return [batch[own::ranks] if len(batch) >= ranks else batch for batch in batches]


def whole_batches(batches: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    """The batches that this rank scores, every ``world``-th; all where there are fewer than ranks."""
    return shard(list(batches), rank(), world(), even=False) if len(batches) >= world() else batches


def rows_of_all(values: np.ndarray, order: np.ndarray, count: int, loss: float) -> tuple[np.ndarray, float]:
    """What all ranks scored: their ``values`` [n, ...] of the examples ``order`` [n] as one [count, ...], and the sum
    of their losses."""
    whole = np.zeros((count, *values.shape[1:]), values.dtype)
    whole[order] = values
    if len(order) == count:
        return whole, loss
    return added(whole), float(added(np.array([loss]))[0])


def weigh(loss: Tensor, weight: float, tokens: int) -> Part:
    """What this rank's mean ``loss`` over ``weight`` examples (or words) is in the loss of the whole batch."""
    if world() == 1:
        return Part(1.0, loss.item(), tokens)
    total, summed, all_tokens = added(np.array([weight, loss.item() * weight, tokens]))
    return Part(weight / total, summed / total, int(all_tokens))


def add_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Every rank's gradients added up, in place; one message for each dtype."""
    if world() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    for dtype in dict.fromkeys(gradient.dtype for gradient in gradients):
        same = [gradient for gradient in gradients if gradient.dtype == dtype]
        flat = torch.cat([gradient.reshape(-1) for gradient in same])
        together.all_reduce(flat)
        for gradient, summed in zip(same, flat.split([gradient.numel() for gradient in same]), strict=True):
            gradient.copy_(summed.view_as(gradient))


def added(values: np.ndarray) -> np.ndarray:
    """The sum of every rank's ``values``, of one shape on all of them."""
    if world() == 1:
        return values
    tensor = torch.from_numpy(np.ascontiguousarray(values)).to(_device())
    together.all_reduce(tensor)
    return tensor.cpu().numpy()


def gathered(states: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every rank's tensors of one shape: rank 0's under their own names, rank 3's under ``name/3``."""
    found = dict(states)
    for name, state in states.items() if world() > 1 else ():
        others = [torch.empty_like(state, device=_device()) for _ in range(world())]
        together.all_gather(others, state.to(_device()))
        found |= {f"{name}/{number}" if number else name: other.cpu() for number, other in enumerate(others)}
    return found


def own_chance(seed: int) -> None:
    """Dropout of its own for every rank; one process keeps the numbers that it has."""
    if world() > 1:
        torch.manual_seed(np.random.SeedSequence([seed, rank()]).generate_state(1).item())


def main_first(function: Callable[[], T]) -> T:
    """``function`` by rank 0, and when that is done by the others."""
    if world() == 1:
        return function()
    found = function() if is_main() else None
    together.barrier()
    return function() if found is None else found


def remember(feed: Feed | None, data: Encoded | None, pad_id: int, device: torch.device) -> None:
    """Rank 0 fills a cache on disk before the others open it: they could only read what was there then."""
    if world() == 1 or not is_main() or feed is None or data is None or feed.cache is None or not feed.cache.folder:
        return
    for index in plan_batches(data.lengths, batch_size=64, seed=0, epoch=0, shuffle=False):
        if not feed.cache.has(index).all():
            feed.hidden(collate(data, index, pad_id).to(device))
    feed.cache.flush()


def _device() -> torch.device:
    """Where tensors must be to be sent."""
    return torch.device("cuda" if together.get_backend() == "nccl" else "cpu")
