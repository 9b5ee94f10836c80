"""The training loop: one function, read top to bottom."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from stratatune.errors import NotFiniteError
from stratatune.files import write_text
from stratatune.model.offload import offload_trunk
from stratatune.objectives.tensors import numbers_on
from stratatune.progress import is_main
from stratatune.training import distributed
from stratatune.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from stratatune.training.config import RunConfig
from stratatune.training.evaluate import Scores, evaluate
from stratatune.training.finite import first_not_finite, not_finite, outputs_not_finite
from stratatune.training.machine import now
from stratatune.training.optimiser import build_optimiser, rate_factor, set_rate
from stratatune.training.session import Ask, Learnt, Session
from stratatune.units import readable_size


@dataclass
class Fitted:
    """What came out of :func:`steps`: the progress made, and the best epoch's tensors, which the model now holds."""

    progress: Progress
    scores: Scores | None


def steps(session: Session) -> Generator[Ask, Learnt | None, Fitted]:
    """Train the top of a model; afterwards the model holds the best epoch's tensors.

    Stops in front of every batch, so that several trials may take turns, or learn from it together
    (``training/trials/many.py``): what is sent says that it was learnt from, None that the trial is to do it now.

    Raises:
        ResourceError: a checkpoint or the log cannot be written.
        ConfigError: ``resume`` finds a checkpoint of other settings, data or base model.
        NotFiniteError: the loss, the gradient or the outputs of an evaluation; the model then holds the best epoch's
            tensors, or those before the step.
    """
    config, attached = session.config, session.top.attached
    trained = attached.trained()
    optimiser = session.accelerator.prepare(build_optimiser(attached.groups, config))
    distributed.own_chance(config.seed)
    resumed = load_checkpoint(session, trained, optimiser.optimizer) if config.resume else None
    progress, best = resumed or (Progress(), {})
    if not resumed:
        progress.seconds["cache"] += sum(one.clock.trunk_seconds for one in (session.feed, session.eval_feed) if one)
    found: Scores | None = None  # of the tensors in `best`, where this process has scored them
    _remember_again(session, progress)
    weighed = 0.0  # of the optimiser step under way
    total_steps = sum(math.ceil(len(session.batches(epoch)) / config.accumulate) for epoch in range(config.epochs))

    while progress.epoch < config.epochs and not _out_of_patience(progress, config):
        _settle(session)
        batches = session.batches(progress.epoch)
        session.top.train()
        for number, index in _timed(session, batches, progress):
            due = (number + 1) % config.accumulate == 0 or number + 1 == len(batches)
            factor = rate_factor(progress.step, total_steps, config)
            among = _group_size(number, len(batches), config.accumulate)
            ask = Ask(session, optimiser, (progress.epoch, number), index, factor, among, due, weighed)
            left = time.perf_counter()
            done = yield ask
            session.away += time.perf_counter() - left - (done.seconds if done else 0.0)
            done = done or _learn(ask, trained)
            if not done.finite:
                error = not_finite(ask, done, progress, len(batches))
                _restore(trained, best)
                raise error
            progress.loss_sum += done.loss * done.weight
            progress.loss_count += done.weight
            progress.tokens += done.tokens
            progress.batch = number + 1
            weighed = 0.0 if due else weighed + done.weight
            if due:
                progress.step += 1
                if config.checkpoint_every and progress.step % config.checkpoint_every == 0:
                    save_checkpoint(session, progress, trained, best, optimiser.optimizer)

        train_loss = progress.loss_sum / max(1, progress.loss_count)
        progress.epoch, progress.batch, progress.loss_sum, progress.loss_count = progress.epoch + 1, 0, 0.0, 0.0
        session.feed.flush()
        if progress.epoch % config.eval_every == 0 or progress.epoch == config.epochs:
            try:
                scores = _judge(session, progress, train_loss)
            except NotFiniteError as error:
                stopped = outputs_not_finite(session, progress, error)
                _restore(trained, best)
                raise stopped from error
            if progress.stale == 0:
                best = {name: parameter.detach().cpu().clone() for name, parameter in trained.items()}
                found = scores
        save_checkpoint(session, progress, trained, best, optimiser.optimizer)

    _restore(trained, best)
    return Fitted(progress, found or _evaluate(session, progress))


def _learn(ask: Ask, trained: Mapping[str, nn.Parameter]) -> Learnt:
    """The gradient of one batch and, where it is due, a step of the optimiser."""
    session, objective = ask.session, ask.session.objective
    set_rate(ask.optimiser, ask.factor)
    batch = session.forward.batch(session.train, ask.index)
    loss = session.forward.loss(batch, session.feed)
    part = distributed.weigh(loss, objective.weight(batch), batch.tokens)
    session.accelerator.backward(loss * (part.own / part.weight if ask.among == 1 else part.own))
    norm = _step(ask, trained, ask.scale(part.weight), part.loss) if ask.due else 0.0
    return Learnt(float(part.loss), part.tokens, part.weight, norm=norm)


def _step(ask: Ask, trained: Mapping[str, nn.Parameter], scale: float, loss: float | Tensor) -> float:
    """Step by the mean gradient over all that the step's batches bear, unless it is not finite; gives its norm."""
    session = ask.session
    distributed.add_gradients(trained.values())
    gradients = [parameter.grad for parameter in trained.values() if parameter.grad is not None]
    for gradient in gradients if scale != 1.0 else ():
        gradient.mul_(scale)
    if session.config.clip:
        norm = session.accelerator.clip_grad_norm_(trained.values(), session.config.clip)
    else:
        norm = nn.utils.get_total_norm(gradients)
    if math.isfinite(float(norm) if norm is not None else 0.0) and math.isfinite(float(loss)):
        ask.optimiser.step()
    ask.optimiser.zero_grad()
    return float(norm) if norm is not None else 0.0


def _remember_again(session: Session, progress: Progress) -> None:
    """Before a run goes on: what a cache in memory lost, by epoch one's batches, so that the numbers are the same."""
    cache = session.feed.cache
    if cache is None or cache.complete or not cache.writable:
        return
    first = session.batches(0)
    for index in first if progress.epoch else first[: progress.batch]:
        if not cache.has(session.train.texts_of(index)).all():
            session.feed.hidden(session.forward.batch(session.train, index))


def _settle(session: Session) -> None:
    """Once every hidden state is remembered: near the device if it has room, and without the weights that made them."""
    feeds = [feed for feed in (session.feed, session.eval_feed) if feed is not None]
    moved = sum(feed.move_to(session.device) for feed in feeds)
    if moved:
        session.reporter.say(f"the trunk cache is in the memory of {session.device}: {readable_size(moved)}")
    if session.reload and all(feed.complete for feed in feeds):
        rows = session.objective.only_rows
        words = None if rows is None else numbers_on(rows, session.device)
        freed = offload_trunk(session.top.attached, session.reload, words)
        if freed:
            session.reporter.say(f"the trunk's output is cached: {readable_size(freed)} of its weights are freed")


def _out_of_patience(progress: Progress, config: RunConfig) -> bool:
    return bool(config.early_stopping) and progress.stale >= config.early_stopping


def _group_size(number: int, batches: int, accumulate: int) -> int:
    """How many batches share an optimiser step with batch ``number``; the last group of an epoch may be short."""
    return min(accumulate, batches - number // accumulate * accumulate)


def _timed(session: Session, batches: list[Any], progress: Progress) -> Iterator[tuple[int, np.ndarray]]:
    """The batches of the epoch that are still to be done, timed, with a bar."""
    label = f"epoch {progress.epoch + 1}/{session.config.epochs}"
    trunk_before = session.feed.clock.trunk_seconds
    started, away_before = now(session.device), session.away
    texts = [session.train.texts_of(index) for index in batches[progress.batch :]]
    coming = session.feed.prefetch(texts, session.device)
    with coming, session.reporter.bar(label, sum(len(index) for index in batches)) as bar:
        bar.advance(sum(len(index) for index in batches[: progress.batch]))
        for number in range(progress.batch, len(batches)):
            yield number, batches[number]
            bar.advance(len(batches[number]), f"loss {progress.loss_sum / max(1, progress.loss_count):.3f}")
    in_trunk = session.feed.clock.trunk_seconds - trunk_before
    progress.seconds["cache"] += in_trunk
    progress.seconds["train"] += now(session.device) - started - in_trunk - (session.away - away_before)


def _judge(session: Session, progress: Progress, train_loss: float) -> Scores | None:
    """Evaluate and write the epoch down; ``progress.stale`` is then 0 where it is the best so far.

    Raises:
        NotFiniteError: a trained tensor, an output or a metric is NaN or infinite.
    """
    if name := first_not_finite(session.top.attached.trained().items()):
        raise NotFiniteError(f"{name} holds NaN or infinite values")
    scores = _evaluate(session, progress)
    metric = session.objective.metric
    if scores is None or session.objective.better(scores.metrics[metric], progress.best):
        progress.best, progress.best_epoch, progress.stale = scores and scores.metrics[metric], progress.epoch, 0
    else:
        progress.stale += 1
    record = {
        "epoch": progress.epoch,
        "step": progress.step,
        "train_loss": train_loss,
        **(scores.record() if scores else {}),
    }
    progress.history.append(record)
    progress.elapsed.append(round(progress.seconds["cache"] + progress.seconds["train"], 3))
    _write_history(session, progress)
    said = "  ".join(f"{name} {value:.4f}" for name, value in record.items() if isinstance(value, float))
    session.reporter.say(
        f"epoch {progress.epoch}/{session.config.epochs}  {said}{'  *' if progress.stale == 0 else ''}"
    )
    return scores


def _evaluate(session: Session, progress: Progress) -> Scores | None:
    """Score the evaluation set as the model stands; None when there is none."""
    if session.eval is None or session.eval_feed is None:
        return None
    started = time.perf_counter()
    scores = evaluate(session.forward, session.eval, session.eval_feed, session.eval_parts, tune=True)
    progress.seconds["eval"] += time.perf_counter() - started
    session.reporter.notice_once(scores.notices)
    return scores


def _write_history(session: Session, progress: Progress) -> None:
    """``metrics.jsonl`` is written whole each time, so that a resumed run leaves no line of a lost epoch in it."""
    lines = "".join(json.dumps(record, allow_nan=False) + "\n" for record in progress.history)
    if is_main():
        write_text(session.out / "metrics.jsonl", lines)
    session.accelerator.log(
        {key: value for key, value in progress.history[-1].items() if key != "epoch"}, step=progress.step
    )


def _restore(trained: Mapping[str, nn.Parameter], best: Mapping[str, Tensor]) -> None:
    for name, tensor in best.items():
        trained[name].data.copy_(tensor)
