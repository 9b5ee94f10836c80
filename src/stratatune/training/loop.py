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
from stratatune.model.finite import first_not_finite
from stratatune.model.offload import offload_trunk
from stratatune.objectives.tensors import numbers_on
from stratatune.progress import is_main
from stratatune.training import distributed
from stratatune.training.checkpoint import FILE as CHECKPOINT
from stratatune.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from stratatune.training.config import RunConfig
from stratatune.training.evaluate import Scores, evaluate
from stratatune.training.finite import not_finite, outputs_not_finite
from stratatune.training.head_start import fit_head
from stratatune.training.machine import now
from stratatune.training.optimiser import build_optimiser, clip_and_step, gradients_of, rate_factor, set_rate
from stratatune.training.session import Ask, Learnt, Session
from stratatune.training.trackers import log_records
from stratatune.training.untuned import look, no_better
from stratatune.training.working import WorkingCopies, working_copies
from stratatune.units import readable_size


@dataclass(frozen=True)
class Best:
    """The trained tensors of the best evaluation so far, and its scores where this process has made it."""

    tensors: Mapping[str, Tensor]
    scores: Scores | None = None


@dataclass
class Fitted:
    """The result of :func:`steps`: the progress made, and the best epoch's tensors, which the model now holds."""

    progress: Progress
    scores: Scores | None


def steps(session: Session) -> Generator[Ask, Learnt | None, Fitted]:
    """Train the top of a model; afterwards the model holds the best epoch's tensors.

    Stops before every batch, so that several trials may take turns, or learn from it together
    (``training/trials/many.py``): a value sent means that it was learnt from, None that the trial is to learn now.

    Raises:
        ResourceError: a checkpoint or the log cannot be written.
        ConfigError: ``resume`` finds a checkpoint of other settings, data or base model.
        NotFiniteError: the loss, the gradient or the outputs of an evaluation; the model then holds the best epoch's
            tensors, or those before the step.
    """
    spent = _begin(session)
    # A working copy holds one batch's gradient in half precision: sums over batches or ranks would lose digits in it.
    alone = session.device.type == "cpu" and distributed.world() == 1 and session.config.accumulate == 1
    alone = alone and session.at_once is None and not session.divides
    with working_copies(session.top.attached, session.forward.autocast, wanted=alone) as copies:
        session.copies = copies
        return (yield from _steps(session, copies, spent))


def _begin(session: Session) -> float:
    """Settle the start of a new output layer; returns the seconds that it took."""
    config = session.config
    wanted = session.objective.fitted_start if config.head_start == "auto" else config.head_start == "fitted"
    if session.taken and session.taken.output_layer:
        if config.head_start == "fitted":
            session.reporter.notice(f"head_start: not fitted, since the output layer begins as in {config.start_from}")
        return 0.0
    begun = config.resume and (session.out / CHECKPOINT).exists()
    return fit_head(session) if wanted and not begun else 0.0


def _steps(session: Session, copies: WorkingCopies, spent: float) -> Generator[Ask, Learnt | None, Fitted]:
    """The loop itself; ``spent`` are the seconds of training before it."""
    config, attached = session.config, session.top.attached
    trained = attached.trained()
    # Only the optimiser: the model stays bare, since gradients are added up by hand (training/distributed.py).
    optimiser = session.accelerator.prepare(build_optimiser(attached.groups, config, copies.by_master))
    distributed.own_chance(config.seed)
    started = time.perf_counter()
    try:
        untuned = look(session)
    except NotFiniteError as error:
        raise outputs_not_finite(session, Progress(), error) from error
    resumed = load_checkpoint(session, trained, optimiser.optimizer) if config.resume else None
    copies.refresh()
    progress, tensors = resumed or (Progress(), {})
    session.history = progress.history
    best = Best(tensors)
    if not resumed:
        in_trunk = sum(one.clock.trunk_seconds for one in (session.feed, session.eval_feed) if one)
        progress.seconds["cache"] += in_trunk
        progress.seconds["train"] += spent
        session.begun = in_trunk + spent
        if untuned is not None:
            progress.seconds["eval"] += max(0.0, time.perf_counter() - started - in_trunk)
            if _note_untuned(session, progress, untuned):
                best = Best(_copied(trained), untuned)
    _remember_again(session, progress)
    weighed = 0.0  # of the optimiser step under way
    # Counted over all epochs: with a token budget, epochs differ in their number of batches.
    total_steps = sum(math.ceil(len(session.batches(epoch)) / config.accumulate) for epoch in range(config.epochs))
    total_steps = min(total_steps, config.max_steps or total_steps)

    while progress.epoch < config.epochs and not _is_over(session, progress):
        _settle(session)
        planned = session.planned_batches(progress.epoch)
        batches, parts = distributed.mine(planned), [session.parts(one) for one in planned]
        session.top.train()
        for number, index in _timed(session, batches, parts, progress):
            due = (number + 1) % config.accumulate == 0 or number + 1 == len(batches)
            factor = rate_factor(progress.step, total_steps, config)
            among = _group_size(number, len(batches), config.accumulate)
            place, alike = (progress.epoch, number), distributed.copies(planned[number])
            ask = Ask(session, optimiser, place, index, factor, among, due, weighed, alike, parts[number])
            # The time in which other trials have their turn is not this one's.
            left = time.perf_counter()
            done = yield ask
            session.away += time.perf_counter() - left - (done.seconds if done else 0.0)
            done = done or _learn(ask, trained)
            # No step was made, so the tensors are those before it, or the best epoch's.
            if not done.finite:
                error = not_finite(ask, done, progress, len(batches))
                _restore(trained, best.tensors)
                raise error
            progress.loss_sum += done.loss * done.weight
            progress.loss_count += done.weight
            progress.tokens += done.tokens
            # Counted before the checkpoint, which must not repeat this batch.
            progress.batch = number + 1
            weighed = 0.0 if due else weighed + done.weight
            if due:
                progress.step += 1
                part = _part(number + 1, len(batches), config)
                if _has_all_steps(config, progress) and number + 1 < len(batches):
                    part = (number + 1) / len(batches)
                if part or (config.checkpoint_every and progress.step % config.checkpoint_every == 0):
                    # Tokens are counted up to here, and so must be the time they took.
                    session.count_time()
                    left = time.perf_counter()
                    if part:
                        # Four digits tell any two places apart, and are easier to read than a third's sixteen.
                        best = _judge(session, progress, round(progress.epoch + part, 4), trained, best)
                    # After the evaluation, which a resumed run must neither lose nor repeat.
                    save_checkpoint(session, progress, trained, best.tensors, optimiser.optimizer)
                    session.away += time.perf_counter() - left

        if progress.batch < len(batches):  # the evaluation within the epoch was the last one
            break
        # At the end of an epoch the pending shard is written, so that a kill later loses no trunk work.
        session.feed.flush()
        ended = progress.epoch + 1
        last = ended == config.epochs or _has_all_steps(config, progress)
        if config.eval_every < 1 or ended % config.eval_every == 0 or last:
            best = _judge(session, progress, ended, trained, best)
        progress.epoch, progress.batch, progress.loss_sum, progress.loss_count = ended, 0, 0.0, 0.0
        save_checkpoint(session, progress, trained, best.tensors, optimiser.optimizer)

    _restore(trained, best.tensors)
    copies.refresh()
    session.reporter.notice_once(filter(None, [no_better(session, progress.history)]))
    return Fitted(progress, best.scores or _evaluate(session, progress))


def _learn(ask: Ask, trained: Mapping[str, nn.Parameter]) -> Learnt:
    """Compute the gradient of one batch and, if it is due, step the optimiser."""
    session, objective = ask.session, ask.session.objective
    set_rate(ask.optimiser, ask.factor)
    shares = list[distributed.BatchShare]()
    for index in ask.pieces:
        batch = session.forward.batch(session.train, index)
        loss = session.forward.loss(batch, session.feed)
        part = distributed.weigh(loss, objective.weight(batch), batch.tokens, ask.copies)
        # A mean over the batch becomes this rank's share of the sum; with accumulation, dividing waits until all
        # weights are known (Ask.scale).
        # Not by Accelerator.backward, which divides and scales as its own environment variables say.
        (loss * (part.own if ask.summed else part.own / distributed.divisor(part.weight))).backward()
        shares.append(part)
    weight, tokens = sum(part.weight for part in shares), sum(part.tokens for part in shares)
    loss = shares[0].loss
    if len(shares) > 1:
        loss = sum(part.loss * part.weight for part in shares) / distributed.divisor(weight)
    norm = _step(ask, trained, ask.scale(weight), loss) if ask.due else 0.0
    return Learnt(float(loss), tokens, weight, norm=norm)


def _step(ask: Ask, trained: Mapping[str, nn.Parameter], scale: float, loss: float | Tensor) -> float:
    """Step by the mean gradient over all targets of the step's batches, unless it is not finite; returns its norm."""
    # Before clipping: the norm is that of the whole gradient, not of a rank's share.
    distributed.add_gradients(trained.values())
    optimiser = ask.optimiser.optimizer
    gradients = gradients_of(optimiser)
    for gradient in gradients if scale != 1.0 else ():
        gradient.mul_(scale)
    return clip_and_step(optimiser, gradients, ask.session.config.clip, float(loss))


def _remember_again(session: Session, progress: Progress) -> None:
    """Refill a cache in memory before a run is resumed, by epoch one's batches, so that the numbers are the same."""
    cache = session.feed.cache
    if cache is None or cache.complete or not cache.writable:
        return
    first = session.batches(0)
    for index in first if progress.epoch else first[: progress.batch]:
        if not cache.has(session.train.computed_of(index)).all():
            session.forward.remember(session.forward.batch(session.train, index), session.feed)


def _settle(session: Session) -> None:
    """Move a complete cache near the device if there is room, and free the weights that made it."""
    feeds = [feed for feed in (session.feed, session.eval_feed) if feed is not None]
    moved = sum(feed.move_to(session.device) for feed in feeds)
    if moved:
        session.reporter.say(f"the trunk cache is in the memory of {session.device}: {readable_size(moved)}")
    # All of them: evaluation data that still need the trunk would load it again at once.
    if session.reload and all(feed.complete for feed in feeds):
        rows = session.objective.only_rows
        words = None if rows is None else numbers_on(rows, session.device)
        freed = offload_trunk(session.top.attached, session.reload, words)
        if freed:
            session.reporter.say(f"the trunk's output is cached: {readable_size(freed)} of its weights are freed")


def _is_over(session: Session, progress: Progress) -> bool:
    """Whether the run ends before its epochs: patience has run out, or all steps that it may make are made."""
    patience = 0 if session.racing else session.config.early_stopping
    return bool(patience) and progress.stale >= patience or _has_all_steps(session.config, progress)


def _has_all_steps(config: RunConfig, progress: Progress) -> bool:
    return config.max_steps is not None and progress.step >= config.max_steps


def _part(batches: int, total: int, config: RunConfig) -> float:
    """The part of an epoch that is behind ``batches`` of its ``total``, if it is to be evaluated there; else 0.

    Of n evaluations the k-th is after the first optimiser step with which k/n of the steps are made; where there are
    fewer steps than evaluations, there is one after each step. The one at the epoch's end is not counted here.
    """
    steps, before, every = math.ceil(total / config.accumulate), (batches - 1) // config.accumulate, config.evaluations
    reached = (before + 1) * every // steps
    return reached / every if batches < total and reached > before * every // steps else 0.0


def _group_size(number: int, batches: int, accumulate: int) -> int:
    """The number of batches in batch ``number``'s optimiser step; the last group of an epoch may be short."""
    return min(accumulate, batches - number // accumulate * accumulate)


def _timed(
    session: Session, batches: list[Any], parts: list[int], progress: Progress
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the rest of the epoch's batches, until the run is over, timed, with a bar.

    ``parts``: in how many parts each is computed.
    """
    label = f"epoch {progress.epoch + 1}/{session.config.epochs}"
    counted = session.feed.clock.trunk_seconds, now(session.device), session.away

    def count() -> None:
        """Add the time since the last call to ``progress``."""
        nonlocal counted
        before, counted = counted, (session.feed.clock.trunk_seconds, now(session.device), session.away)
        in_trunk, passed, away = (new - old for new, old in zip(counted, before, strict=True))
        progress.seconds["cache"] += in_trunk
        progress.seconds["train"] += passed - in_trunk - away

    session.count_time = count
    rest = zip(batches[progress.batch :], parts[progress.batch :], strict=True)
    coming = (session.train.computed_of(piece) for index, count in rest for piece in np.array_split(index, count))
    texts = [texts for texts in coming if len(texts)]
    # The rest of the epoch in its order; a resumed one begins in the middle.
    coming = session.feed.prefetch(texts, session.device)
    with coming, session.reporter.bar(label, sum(len(index) for index in batches)) as bar:
        bar.advance(sum(len(index) for index in batches[: progress.batch]))
        for number in range(progress.batch, len(batches)):
            yield number, batches[number]
            bar.advance(len(batches[number]), f"loss {progress.loss_sum / max(1, progress.loss_count):.3f}")
            if _is_over(session, progress):
                break
    count()


def _judge(
    session: Session, progress: Progress, epochs: float, trained: Mapping[str, nn.Parameter], best: Best
) -> Best:
    """Evaluate after so many ``epochs``, and record it; returns the best so far.

    Raises:
        NotFiniteError: as :func:`_score`; the model then holds the best tensors so far.
    """
    try:
        scores = _score(session, progress, epochs)
    except NotFiniteError as error:
        stopped = outputs_not_finite(session, progress, error, epochs)
        _restore(trained, best.tensors)
        raise stopped from error
    return Best(_copied(trained), scores) if progress.best_epoch == epochs else best


def _score(session: Session, progress: Progress, epochs: float) -> Scores | None:
    """Evaluate and record, and note the place as the best one if its score is, or is equal at a lower loss.

    An equal score at a lower loss is better to keep, and no reason for more patience: ``progress.stale`` becomes 0 only
    for a score that is strictly better.

    Raises:
        NotFiniteError: a trained tensor, an output or a metric is NaN or infinite.
    """
    # A NaN in a tensor need not show in a metric, and the epoch could be taken for the best.
    if name := first_not_finite(session.top.attached.trained().items()):
        raise NotFiniteError(f"{name} holds NaN or infinite values")
    scores = _evaluate(session, progress)
    metric = session.objective.metric
    if scores is None or session.objective.better(scores.metrics[metric], progress.best):
        progress.best, progress.best_epoch, progress.stale = scores and scores.metrics[metric], epochs, 0
    else:
        progress.stale += 1
        if scores.metrics[metric] == progress.best and _is_lower(scores.loss, progress):
            progress.best_epoch = epochs
    _record(session, progress, epochs, {"train_loss": progress.train_loss, **(scores.record() if scores else {})})
    return scores


def _is_lower(loss: float | None, progress: Progress) -> bool:
    """Whether an evaluation's loss is below that of the best one; the untuned base is kept where scores are equal."""
    best = next((one for one in progress.history if one["epoch"] == progress.best_epoch > 0), None)
    return loss is not None and best is not None and loss < best["eval_loss"]


def _record(session: Session, progress: Progress, epochs: float, numbers: Mapping[str, float]) -> None:
    """Write a line of the history, and report it."""
    progress.history.append({"epoch": epochs, "step": progress.step, **numbers})
    progress.elapsed.append(round(progress.seconds["cache"] + progress.seconds["train"], 3))
    _write_history(session, progress)
    # The untuned base is recorded before it is known to be kept: where it cannot be, no score is the best yet.
    best = progress.best_epoch == epochs and not (epochs == 0 and progress.best is None)
    said = "  ".join(f"{name} {value:.4f}" for name, value in numbers.items())
    place = f"epoch {epochs}/{session.config.epochs}" if epochs else "untuned base"
    session.reporter.say(f"{place}  {said}{'  *' if best else ''}")


def _note_untuned(session: Session, progress: Progress, scores: Scores) -> bool:
    """Record the untuned base as epoch 0; returns whether it is the best so far: training starts from its tensors."""
    session.reporter.notice_once(scores.notices)
    if session.starts_as_base:
        progress.best = scores.metrics[session.objective.metric]
    _record(session, progress, 0, scores.record())
    return progress.best is not None


def _copied(trained: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    # On the CPU and cloned: the parameters keep training in place.
    return {name: parameter.detach().cpu().clone() for name, parameter in trained.items()}


def _evaluate(session: Session, progress: Progress) -> Scores | None:
    """Score the current model on the evaluation set; None when there is no such set."""
    if session.eval is None or session.eval_feed is None:
        return None
    started = time.perf_counter()
    size = session.config.eval_batch_size
    scores = evaluate(session.forward, session.eval, session.eval_feed, session.eval_parts, batch_size=size)
    progress.seconds["eval"] += time.perf_counter() - started
    session.reporter.notice_once(scores.notices)
    return scores


def _write_history(session: Session, progress: Progress) -> None:
    """Write all of ``metrics.jsonl`` each time, so that a resumed run leaves no line of a lost epoch in it."""
    lines = "".join(json.dumps(record, allow_nan=False) + "\n" for record in progress.history)
    if is_main():
        write_text(session.out / "metrics.jsonl", lines)
    log_records(session.accelerator, progress.history[-1:])


def _restore(trained: Mapping[str, nn.Parameter], best: Mapping[str, Tensor]) -> None:
    for name, tensor in best.items():
        trained[name].data.copy_(tensor)
