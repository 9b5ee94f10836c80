"""The cost of each candidate plan on this machine, and the candidates that a budget leaves. No torch.

FLOPs, bytes kept for backward and the size of the cache are the cost model's (``costs/cost.py``) over the sample's
lengths, put up to all rows. Seconds are FLOPs at the paces that were measured on this machine (``costs/time.py``).
Memory is the frozen weights as the checkpoint stores them, 16 bytes for each trained parameter (its fp32 value, its
gradient and AdamW's two moments), and the tensors that a step keeps for backward; a cache lies on disk.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from stratatune.costs.cost import cost
from stratatune.costs.time import Pace
from stratatune.plan import Plan, Shape
from stratatune.units import DTYPE_BYTES, readable_seconds

if TYPE_CHECKING:
    import numpy as np

_TRAINED_BYTES = 4 * DTYPE_BYTES["fp32"]  # the value, its gradient and AdamW's two moments


@dataclass(frozen=True)
class RunSize:
    """The size of the user's run.

    Attributes:
        lengths: [n] tokens of the sample's examples.
        rows: examples of the whole training set.
        epochs, batch_size: settings of the run.
        objective: the name of its objective; ``head``: the head that this reads.
        dtype: the precision of computation and cache.
        classes: the number of classes of the task; 1 for numbers.
        device: where it computes.
        positions: which positions its objective reads (``Objective.positions``); None: those of its kind.
        weight_bytes: bytes of a frozen weight: 2 of a checkpoint in half precision, which stays so.
    """

    lengths: np.ndarray
    rows: int
    epochs: int
    batch_size: int
    objective: str
    head: str
    dtype: str
    classes: int
    device: str = "auto"
    positions: str | None = None
    weight_bytes: float = DTYPE_BYTES["fp32"]


@dataclass(frozen=True)
class Paces:
    """The speed of this machine: of the trunk forward, and of training steps of the top; work is in FLOPs."""

    trunk: Pace
    top: Pace


@dataclass(frozen=True)
class Candidate:
    """A plan and the cost of its run.

    Attributes:
        plan: the plan as text.
        depth: where it inserts, or where its LoRA starts.
        frozen_depth: how many blocks the trunk has.
        trainable: parameters, without the task's own output layer.
        flops: the work of all epochs, the first of which fills the cache.
        seconds: the same in time; evaluation is left out.
        memory_bytes: most that is in use.
        cache_bytes: the bytes of the trunk cache, on disk.
        over: the budgets that it does not keep, as text; empty where it keeps them.
    """

    plan: str
    depth: int
    frozen_depth: int
    trainable: int
    flops: float
    seconds: float
    memory_bytes: int
    cache_bytes: int
    over: str = ""


def price(text: str, depth: int | None, shape: Shape, work: RunSize, paces: Paces) -> Candidate:
    """The cost of a run of the plan ``text``; ``depth`` None: its frozen depth.

    Raises:
        PlanError: the plan does not fit the model.
    """
    resolved = Plan.parse(text).resolve(shape)
    found = cost(
        resolved,
        lengths=work.lengths,
        objective=work.objective,
        dtype=work.dtype,
        batch_size=work.batch_size,
        labels=work.classes,
        device=work.device,
        positions=work.positions,
    )
    share = work.rows / len(work.lengths)
    first, cached = (found.epochs[name].flops * share for name in ("first", "cached"))
    steps = found.epochs["cached"].steps * share
    trained = resolved.trainable(work.head)
    frozen = work.weight_bytes * (resolved.total(work.head) - trained)
    return Candidate(
        plan=text,
        depth=resolved.frozen_depth if depth is None else depth,
        frozen_depth=resolved.frozen_depth,
        trainable=trained,
        flops=first + (work.epochs - 1) * cached,
        seconds=paces.trunk.seconds(first - cached, steps) + work.epochs * paces.top.seconds(cached, steps),
        memory_bytes=round(frozen + _TRAINED_BYTES * trained + found.epochs["cached"].saved_bytes),
        cache_bytes=round(found.cache_bytes * share),
    )


def within(candidate: Candidate, seconds: float | None, memory: int | None) -> Candidate:
    """The candidate with the budgets that it exceeds named in ``over``."""
    over = []
    if seconds is not None and candidate.seconds > seconds:
        over.append(f"{readable_seconds(candidate.seconds)} of {readable_seconds(seconds)}")
    if memory is not None and candidate.memory_bytes > memory:
        over.append(f"{candidate.memory_bytes / 1e6:,.0f} MB of {memory / 1e6:,.0f} MB")
    return replace(candidate, over=", ".join(over))


def nearest_kept(candidates: list[Candidate], depth: int) -> Candidate | None:
    """The candidate at ``depth``, or if it is over a budget the nearest above it (a deeper trunk costs less)."""
    kept = sorted((one for one in candidates if not one.over and one.depth >= depth), key=lambda one: one.depth)
    return kept[0] if kept else None
