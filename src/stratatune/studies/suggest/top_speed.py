"""How fast this machine is: a few real training steps of a plan's top, on batches of the user's own data."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from stratatune.cache.feed import Feed
from stratatune.costs.flops import example, reads_one, reread
from stratatune.costs.time import Pace, fitted
from stratatune.data.batching import Batch, collate, plan_batches
from stratatune.model.attach import apply
from stratatune.model.base import Base
from stratatune.model.precision import cast_frozen
from stratatune.model.split import Top, Trunk
from stratatune.objectives.objective import Objective
from stratatune.objectives.spec import Reading, pad_id
from stratatune.plan import Plan
from stratatune.training.optimiser import build_optimiser

if TYPE_CHECKING:
    from stratatune.data.encode import Encoded
    from stratatune.plan import Resolved, Shape
    from stratatune.training.config import RunConfig

_WARM, _TIMED = 1, 3


@dataclass(frozen=True)
class LoadedSample:
    """What a step needs: the model as loaded, how text is read, the sample, and the run's settings."""

    base: Base
    reading: Reading
    encoded: Encoded
    config: RunConfig
    device: torch.device
    autocast: torch.dtype | None


def top_pace(setting: LoadedSample, text: str) -> Pace:
    """The pace in FLOPs of training steps of the plan ``text``: forward, backward and optimiser.

    The model has the plan in it afterwards, and is of no more use.
    """
    model = apply(setting.base.model, Plan.parse(text), also_train=setting.base.new)
    model.to(setting.device)  # pyright: ignore[reportArgumentType]
    model.attached.reading = setting.reading.to_data()
    if setting.autocast is not None:
        cast_frozen(model.attached, setting.autocast)
    objective = Objective(setting.reading, setting.base.tokenizer).to(setting.device)
    optimiser = build_optimiser(model.attached.groups, setting.config)
    feed = Feed(Trunk(model.attached), None, one_position=model.attached.one_position, autocast=setting.autocast)
    top = Top(model.attached).train()

    def step(batch: Batch) -> float:
        hidden = feed.hidden(batch)
        started = time.perf_counter()
        with torch.autocast(setting.device.type, dtype=setting.autocast, enabled=setting.autocast is not None):
            logits = top(hidden, batch.mask, batch.read, objective.training_words, objective.ids(batch))
        objective.loss(logits, batch.labels).backward()
        optimiser.step()
        optimiser.zero_grad()
        _wait(setting.device)
        return time.perf_counter() - started

    batches = _batches(setting)
    for batch in batches[:_WARM]:
        step(batch)
    timed = batches[-_TIMED:]
    work = sum(_top_flops(model.attached.resolved, batch, objective) for batch in timed)
    return fitted([work], [sum(step(batch) for batch in timed)])


def pass_flops(shape: Shape, encoded: Encoded, size: int) -> float:
    """FLOPs of one forward of all blocks over ``encoded``, in batches of ``size`` cut by length, padding included."""
    cut = plan_batches(encoded.lengths, batch_size=size, seed=0, epoch=0, shuffle=False)
    return sum(len(batch) * reread(shape, int(encoded.lengths[batch].max())) for batch in cut)


def _batches(setting: LoadedSample) -> list[Batch]:
    """Batches of typical length: those in the middle of all, by length."""
    config, encoded = setting.config, setting.encoded
    size = config.batch_size or max(1, int((config.token_budget or 0) / encoded.lengths.mean()))
    cut = plan_batches(encoded.lengths, batch_size=min(size, len(encoded)), seed=0, epoch=0, shuffle=False)
    first = max(0, len(cut) // 2 - _TIMED // 2)
    chosen = cut[first : first + _TIMED]
    pad = pad_id(setting.base.tokenizer)
    return [collate(encoded, index, pad).to(setting.device) for index in chosen]


def _top_flops(resolved: Resolved, batch: Batch, objective: Objective) -> float:
    name = objective.reading.objective
    tokens = batch.input_ids.shape[1]
    return len(batch) * example(resolved, tokens, name, read_last=reads_one(resolved.shape, name))[1].flops


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
