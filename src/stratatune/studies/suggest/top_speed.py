"""The speed of this machine: a few real training steps of a plan's top, on batches of the user's own data."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from stratatune.costs.flops import example, reads_one, reread
from stratatune.costs.time import Pace, fitted
from stratatune.data.batching import Batch, pad_id, plan_batches
from stratatune.model.attach import apply
from stratatune.model.base import Base
from stratatune.model.precision import cast_frozen
from stratatune.objectives.objective import Objective
from stratatune.plan import Plan
from stratatune.training.forward import Forward
from stratatune.training.optimiser import build_optimiser

if TYPE_CHECKING:
    from stratatune.data.encoded import Encoded
    from stratatune.plan import Resolved, Shape
    from stratatune.training.prepare import Prepared

_WARM, _TIMED = 1, 3


@dataclass(frozen=True)
class LoadedSample:
    """The parts that a step needs: the model as loaded, and the run over the sample, settled."""

    base: Base
    prepared: Prepared
    device: torch.device
    autocast: torch.dtype | None


def top_pace(setting: LoadedSample, text: str) -> Pace:
    """The pace in FLOPs of training steps of the plan ``text``: forward, backward and optimiser.

    The model has the plan in it afterwards, and is of no more use.
    """
    model = apply(setting.base.model, Plan.parse(text), also_train=setting.base.new)
    model.to(setting.device)  # pyright: ignore[reportArgumentType]
    if setting.autocast is not None:
        cast_frozen(model.attached, setting.autocast)
    objective, pad = setting.prepared.objective, pad_id(setting.base.tokenizer)
    forward = Forward.of(model.attached, objective, pad, setting.device, setting.autocast)
    optimiser = build_optimiser(model.attached.groups, setting.prepared.config)
    feed = forward.feed()
    forward.top.train()

    def step(batch: Batch) -> float:
        hidden = feed.hidden(batch)
        _wait(setting.device)  # else the trunk would still run on a GPU, and be timed as the top
        started = time.perf_counter()
        objective.loss(forward.above(hidden, batch, training=True), batch).backward()
        optimiser.step()
        optimiser.zero_grad()
        _wait(setting.device)
        return time.perf_counter() - started

    batches = _batches(forward, setting.prepared)
    for batch in batches[:_WARM]:
        step(batch)
    timed = batches[-_TIMED:]
    work = sum(_top_flops(model.attached.resolved, batch, objective) for batch in timed)
    return fitted([work], [sum(step(batch) for batch in timed)])


def pass_flops(shape: Shape, encoded: Encoded, size: int) -> float:
    """FLOPs of one forward of all blocks over ``encoded``, in batches of ``size`` cut by length, padding included."""
    cut = plan_batches(encoded.lengths, batch_size=size, seed=0, epoch=0, shuffle=False)
    return sum(len(batch) * reread(shape, int(encoded.lengths[batch].max())) for batch in cut)


def _batches(forward: Forward, prepared: Prepared) -> list[Batch]:
    """Batches of typical length: the middle ones of all, by length."""
    config, encoded = prepared.config, prepared.train
    lengths = encoded.example_lengths
    size = config.batch_size or max(1, int((config.token_budget or 0) / lengths.mean()))
    cut = plan_batches(lengths, batch_size=min(size, len(lengths)), seed=0, epoch=0, shuffle=False)
    first = max(0, len(cut) // 2 - _TIMED // 2)
    chosen = cut[first : first + _TIMED]
    return [forward.batch(encoded, index) for index in chosen]


def _top_flops(resolved: Resolved, batch: Batch, objective: Objective) -> float:
    tokens, read_last = batch.input_ids.shape[1], reads_one(resolved.shape, objective.name, objective.positions)
    return len(batch) * example(resolved, tokens, objective.head, read_last=read_last)[1].flops


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
