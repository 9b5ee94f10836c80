"""Several processes that train one model, started by ``torchrun`` or ``accelerate launch``.

Every rank holds the whole model and takes its share of each batch's examples. Their gradients are added up before the
optimiser steps, each weighted by its share, so that the numbers are those of one process with the same batches, up to
the order of the sum. Only gradients of trained parameters are added up: an adapter has few, and one message a step
carries them all. Rank 0 writes the files. With one process all of this does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as together
from torch import Tensor, nn

from stratatune.cache.feed import Feed
from stratatune.cache.shards import part_root
from stratatune.cache.store import TrunkCache
from stratatune.cache.trunks.source import building_batches
from stratatune.data.batching import shard
from stratatune.errors import ConfigError
from stratatune.progress import is_main, launched

if TYPE_CHECKING:
    from stratatune.data.encoded import Encoded
    from stratatune.training.caching import Caching


_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""The environment variables that a launcher sets for each process."""


@dataclass(frozen=True)
class BatchShare:
    """One rank's part of a batch.

    Attributes:
        own: how many terms this rank's mean loss is over.
        weight: how many terms the whole batch's is over.
        loss: the mean loss of the whole batch.
        tokens: real tokens of the whole batch.
    """

    own: float
    weight: float
    loss: float | Tensor
    tokens: int


def world() -> int:
    """The number of processes that train together; 1 before they are connected."""
    return together.get_world_size() if together.is_available() and together.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return together.get_rank() if world() > 1 else 0


def local_world() -> int:
    """The number of processes that train together on this machine, and share its memory."""
    # Every launcher sets it but MPI's.
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if world() > 1 else 1


def check_launch() -> str:
    """A notice where the environment names a rank and no launcher; else empty.

    Raises:
        ConfigError: it says that several processes train together, but not how they connect.
    """
    size, number = launched(), os.environ.get("RANK", "0")
    fix = "start them with torchrun or accelerate launch; for one process alone: unset RANK LOCAL_RANK WORLD_SIZE"
    if size <= 1 and "LOCAL_RANK" not in os.environ:
        return "" if number == "0" else f"RANK={number} is set and WORLD_SIZE is not: this process trains alone"
    lacking = [name for name in _LAUNCHER if not os.environ.get(name)]
    if lacking:
        said = f"WORLD_SIZE={size}" if size > 1 else f"LOCAL_RANK={os.environ['LOCAL_RANK']}"
        raise ConfigError([f"{said} is set, and {', '.join(lacking)} missing: no launcher started this process"], fix)
    if not number.isdecimal() or int(number) >= size:
        raise ConfigError([f"RANK={number} with WORLD_SIZE={size}: RANK must be below WORLD_SIZE"], fix)
    return ""


def check_met() -> None:
    """Refuse to continue where a launcher started several processes that are not connected to each other.

    Raises:
        ConfigError: each would train for itself, and all but the first would write nothing.
    """
    if world() != launched():
        raise ConfigError(
            [f"WORLD_SIZE={launched()}, but {world()} processes are connected"],
            "start them with torchrun on one device",
        )


def left_alone() -> str:
    """A notice where ``accelerate launch`` was to start several processes and started only this one; else empty."""
    asked = "ACCELERATE_USE_CPU" in os.environ and "MASTER_ADDR" in os.environ
    if world() > 1 or not asked or "WORLD_SIZE" in os.environ:
        return ""
    return (
        "accelerate launch started one process: with --cpu it starts several through MPI alone; "
        "use torchrun, or --multi_gpu, which takes the processor where there is no GPU"
    )


def mine(batches: Sequence[np.ndarray]) -> list[np.ndarray]:
    """This rank's examples of each batch [B]; a batch with fewer examples than ranks goes to all of them.

    Every ``world``-th example: batches are sorted by length, so all ranks get about as many tokens.
    """
    ranks, own = world(), rank()
    return [batch[own::ranks] if copies(batch) == 1 else batch for batch in batches]


def copies(batch: np.ndarray) -> int:
    """The number of ranks that learn from the same examples of a batch [B]: all where it has fewer than ranks."""
    return world() if len(batch) < world() else 1


def whole_batches(batches: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    """The batches that this rank scores: every ``world``-th, or all if there are fewer than ranks."""
    return shard(list(batches), rank(), world(), even=False) if len(batches) >= world() else batches


def rows_of_all(values: np.ndarray, order: np.ndarray, count: int, totals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All ranks' ``values`` [n, ...] of rows ``order`` [n] as one [count, ...], and the sum of their ``totals``."""
    whole = np.zeros((count, *values.shape[1:]), values.dtype)
    whole[order] = values
    # One process has scored all of it; otherwise each row is non-zero on one rank alone, and the sum puts them
    # together.
    if len(order) == count:
        return whole, totals
    return added(whole), added(totals)


def divisor(weight: float) -> float:
    """The number by which a sum over terms of this weight is divided; 1 where there is no term at all."""
    return weight if weight > 0 else 1.0


def weigh(loss: Tensor, weight: float, tokens: int, copies: int = 1) -> BatchShare:
    """The share of this rank's mean ``loss`` over ``weight`` examples (or tokens) in the loss of the whole batch.

    ``copies`` ranks have the same examples, which count once all the same.
    """
    if world() == 1:
        return BatchShare(weight, weight, loss.detach(), tokens)  # not read yet: a GPU would have to be waited for
    own = weight / copies
    # One message for three numbers: at small adapters latency is most of what a step sends.
    total, summed, all_tokens = added(np.array([own, loss.item() * own, tokens / copies]))
    return BatchShare(own, total, summed / divisor(total), round(all_tokens))


def add_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Add up every rank's gradients, in place; one message for each dtype."""
    if world() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    for dtype in dict.fromkeys(gradient.dtype for gradient in gradients):
        same = [gradient for gradient in gradients if gradient.dtype == dtype]
        # One message for all tensors, for the same reason.
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


def take_from_first(tensors: Iterable[Tensor]) -> None:
    """Give ``tensors`` the values that they have on rank 0, in place."""
    if world() == 1:
        return
    for tensor in tensors:
        sent = tensor.detach().to(_device())
        together.broadcast(sent, src=0)
        tensor.detach().copy_(sent)


def gathered(states: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gather every rank's tensors of one shape: rank 0's under their own names, rank 3's under ``name/3``."""
    found = dict(states)
    for name, state in states.items() if world() > 1 else ():
        others = [torch.empty_like(state, device=_device()) for _ in range(world())]
        together.all_gather(others, state.to(_device()))
        found |= {f"{name}/{number}" if number else name: other.cpu() for number, other in enumerate(others)}
    return found


def own_chance(seed: int) -> None:
    """Give every rank different random numbers for dropout; a single process keeps those that it has."""
    if world() > 1:
        # Derived, not seed + rank: the next seed's first rank would draw what this one's second does.
        torch.manual_seed(np.random.SeedSequence([seed, rank()]).generate_state(1).item())


def feeds(caching: Caching, data: Mapping[str, Encoded | None]) -> list[Feed | None]:
    """A feed for each data set; with several ranks, from caches on disk that all of them fill before the first step."""
    if world() == 1:
        return caching.feeds(data)
    # The first writes; the others read what it has begun.
    opened = caching.feeds(data, fill=False) if is_main() else None
    # Rank 0 decides for all: ranks time the trunk and see the disk differently, and must not choose different caches.
    choice = [caching.choice]
    together.broadcast_object_list(choice)
    caching.choice = choice[0]
    found = opened if opened is not None else caching.feeds(data, fill=False)
    together.barrier()
    for feed, (name, encoded) in zip(found, data.items(), strict=True):
        if feed is not None and encoded is not None:
            _fill(caching, feed, encoded, name)
    return found


def feed(caching: Caching, data: Encoded, name: str) -> Feed:
    """A feed as :func:`feeds` makes them, for data that come later."""
    if world() == 1:
        return caching.feed(data, name)
    opened = caching.feed(data, name, fill=False) if is_main() else None
    together.barrier()
    found = opened if opened is not None else caching.feed(data, name, fill=False)
    together.barrier()
    _fill(caching, found, data, name)
    return found


def agreed(asked: bool) -> bool:
    """Whether ``asked`` is true on any rank."""
    return bool(added(np.array([int(asked)])).any())


def _fill(caching: Caching, feed: Feed, data: Encoded, name: str) -> None:
    """Fill a cache on disk with all ranks: each runs the trunk over its share of what is missing.

    Each writes its own part; the first rank adopts the parts, and then all read the whole.
    """
    cache = feed.cache
    if not agreed(cache is not None and cache.folder is not None and cache.writable):
        caching.stream(feed, data, name)  # which refuses what it cannot write
        return
    assert cache is not None
    assert cache.folder is not None
    # In the same order on every rank, so that each finds its share without a message.
    lacking = [index for index in building_batches(data) if not cache.has(index).all()]
    share = shard(lacking, rank(), world(), even=False)
    own = feed
    if not is_main():
        root, scales = part_root(cache.folder, rank()), cache.codec.scales
        find = None if scales is None else lambda: scales
        own = feed.beside(
            TrunkCache.open(root, cache.key, data.lengths, cache.width, distinct=data.distinct, scales=find)
        )
    together.barrier()  # no process writes before all know what is missing
    caching.run(own, data, name, share)
    if own.cache is not None and own is not feed:
        own.cache.close()
    together.barrier()
    if is_main():
        cache.refresh()
    together.barrier()
    if not is_main():
        cache.refresh()


def _device() -> torch.device:
    """The device on which tensors must be to be sent."""
    # nccl sends from GPUs only, gloo from the CPU.
    return torch.device("cuda" if together.get_backend() == "nccl" else "cpu")
