"""One run from settings to artefact: read, attach, cache, train, evaluate, save."""

from __future__ import annotations

import contextlib
import functools
import json
import shlex
from collections.abc import Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import TypeAdapter, ValidationError

from stratatune._compat import accelerator_for
from stratatune.data.batching import pad_id
from stratatune.data.several import without_folders
from stratatune.errors import ConfigError, ModelError, NotFiniteError, PlanError, counted
from stratatune.files import write_text
from stratatune.model.attach import apply_to
from stratatune.model.base import load_base
from stratatune.model.finite import first_not_finite
from stratatune.model.packing import hidden_count, pack_top
from stratatune.model.precision import cast_frozen
from stratatune.model.saving import save_adapter
from stratatune.model.start import Start, take
from stratatune.model.tokenizers import reading_of
from stratatune.model.twins import part
from stratatune.model.unread import to_device
from stratatune.objectives.objective import Objective
from stratatune.objectives.registry import OBJECTIVES, written
from stratatune.outside import Unreadable, first_mistake, read_json
from stratatune.plan.picture import headline
from stratatune.progress import Reporter, is_main
from stratatune.training import distributed, trackers
from stratatune.training.caching import Caching
from stratatune.training.checkpoint import FILE as CHECKPOINT
from stratatune.training.checkpoint import same_settings, saved_settings, steps_as_begun
from stratatune.training.config import NOT_TRAINED_BY, RunConfig, load_config, to_yaml, validate
from stratatune.training.evaluate import evaluate, mean_score
from stratatune.training.facts import facts_of
from stratatune.training.folder import alone_in, in_use, is_running
from stratatune.training.forward import Forward
from stratatune.training.loop import Fitted, steps
from stratatune.training.machine import count_peak_anew, environment, in_bf16, peak_memory
from stratatune.training.prepare import Outline, Tables, read_tables, settle
from stratatune.training.result import RESULT, Result
from stratatune.training.seal import broken, sealed
from stratatune.training.session import Ask, Learnt, Session
from stratatune.training.streaming import room_for_top, settle_waves, streamed_below, top_streamed, with_cache
from stratatune.training.trials.sharing import Shared
from stratatune.training.trials.tops import parts_of, train_tops
from stratatune.training.untuned import looked_later, share_texts

if TYPE_CHECKING:
    from stratatune.model.attached import Attached

CONFIG = "config.yaml"


def train(config: RunConfig, *, tables: Mapping[str, Any] | None = None, reporter: Reporter | None = None) -> Result:
    """Run everything that ``config`` says; the run folder then holds adapter, settings, metrics and environment.

    Args:
        config: the settings.
        tables: data in memory that takes the place of a path, by ``train``, ``eval``, ``test`` and ``corpus``.
        reporter: prints progress; on standard error by default.

    Raises:
        UserError: a mistake in the settings or the data, before anything is trained.
        ResourceError: no room or no permission.
        NotFiniteError: a loss, a gradient or an output is NaN or infinite.
    """
    return finish(trial(config, tables or {}, reporter or Reporter()))


def finish(running: Generator[Ask, Learnt | None, Result]) -> Result:
    """Let a trial learn from every batch that it requests."""
    while True:
        try:
            next(running)
        except StopIteration as done:
            return done.value


def trial(
    config: RunConfig, tables: Mapping[str, Any], reporter: Reporter, shared: Shared | None = None
) -> Generator[Ask, Learnt | None, Result]:
    """The run as a whole, stopping before every batch; see :func:`train`.

    Trials over the same data have :class:`Shared` in common, and close it.
    """
    reporter.begin_run()
    if line := distributed.check_launch():
        reporter.notice(line)
    out = Path(config.out).expanduser()
    # Before its files are read, which a living run changes.
    if is_main() and is_running(out):
        raise in_use(out)
    check_folder(config, out)
    # To read a result no lock is needed.
    finished = _finished(config, out)
    if finished is not None:
        reporter.notice(f"{out} holds a finished run: nothing is left to do, and no data are read")
        return finished
    with alone_in(out):
        check_folder(config, out)  # another may have been there in between
        return (yield from _run(config, tables, out, reporter, shared))


def _run(
    config: RunConfig, tables: Mapping[str, Any], out: Path, reporter: Reporter, shared: Shared | None
) -> Generator[Ask, Learnt | None, Result]:
    """The run in its folder, which is its own."""
    if parts := parts_of(config):
        write_settings(config, out)
        result = yield from train_tops(config, parts, tables, reporter, shared, trial)
        _write_result(result, out)
        return result
    outline = Outline(_as_begun(config, out))
    at_once, line = _at_once(config, outline.config)
    if line:
        reporter.notice(line)
    read = read_tables if shared is None else shared.read_tables
    data = read(config, tables, kind_of(outline, tables))
    for notice in data.notices:
        reporter.notice(notice)
    # The steps are those that the run began with, also where its batches are computed in parts.
    begun = {name: getattr(outline.config, name) for name in ("batch_size", "accumulate")}
    write_settings(config.model_copy(update=begun), out)
    session, caching = open_session(outline, data, out, reporter, shared, at_once)
    attached = session.top.attached
    counts = (attached.trained_count(), _total(attached))
    for line in headline(outline.resolved, session.objective.head, counts):
        reporter.say(line)
    # Before training, which fills the cache.
    hit = session.feed.cache is not None and session.feed.cache.complete
    processes = distributed.world()
    try:
        for name, part, feed in session.fed():
            caching.fill_repeated(feed, part, name)
        trackers.begin(session.accelerator, config, outline.resolved, session.objective.head)
        fitted = _tuned(session, (yield from steps(session)))
        test = _test_scores(session, caching)
        best = fitted.scores.metrics if fitted.scores else {}
        trackers.conclude(session.accelerator, {"best": best, "test": test[0]}, fitted.progress.seconds)
    except NotFiniteError as error:
        raise _with_kept(error, session, caching) from error
    finally:
        caching.close()
        trackers.end(session.accelerator)
    return _finish(session, caching, fitted, test, _rows(data), hit, processes)


def write_settings(config: RunConfig, out: Path) -> None:
    """Write the files of a run folder that describe its run before it begins."""
    if is_main():
        write_text(out / CONFIG, to_yaml(config))
        write_text(out / "env.json", json.dumps(environment(), indent=2) + "\n")


def kind_of(outline: Outline, tables: Mapping[str, Any]) -> type[Objective]:
    """The kind of objective by which data are read.

    A mistake in the data is reported before one in the model's name, which takes a hub to find.
    """
    try:
        return outline.kind
    except ModelError:
        name, _ = written(outline.config.objective)
        read_tables(outline.config, tables, OBJECTIVES.get(name, OBJECTIVES["classification"]))
        raise


def check_folder(config: RunConfig, out: Path) -> None:
    """Refuse a run folder that holds another run's work.

    Raises:
        ConfigError: it holds a run, and ``resume`` is not set; or a run with other settings.
        ModelError: its checkpoint is damaged.
    """
    if not config.resume:
        for name, what in ((RESULT, "a finished run"), (CHECKPOINT, "a run that was stopped")):
            if (out / name).exists():
                raise ConfigError(
                    [f"out: {out} holds {what}"], "choose another --out, remove the folder, or continue with --resume"
                )
    elif (saved := saved_settings(out)) is not None:
        same_settings(saved, _settings(_as_begun(config, out)), out)


def _settings(config: RunConfig) -> dict[str, Any]:
    """The settings on which a run and its resumption must agree."""
    return {key: value for key, value in config.model_dump(mode="json").items() if key not in NOT_TRAINED_BY}


def _as_begun(config: RunConfig, out: Path) -> RunConfig:
    """Keep the choices of ``auto`` from the beginning of a resumed run, whatever fits now and on any processor.

    Its optimiser steps are kept, too, where batches of another size would make steps of as many rows.
    """
    begun = (saved_settings(out) or {}) if config.resume else {}
    auto = [name for name in ("cache_dtype", "precision") if begun.get(name) and getattr(config, name) == "auto"]
    kept = {**{name: begun[name] for name in auto}, **steps_as_begun(begun, _settings(config))}
    return config.model_copy(update=kept) if kept else config


def _at_once(config: RunConfig, begun: RunConfig) -> tuple[int | None, str]:
    """The examples that a resumed run computes at once, and a line about it; None: the batches that it began with."""
    size, was = config.batch_size, begun.batch_size
    if size is None or was is None or (size, config.accumulate) == (was, begun.accumulate):
        return None, ""
    said = f"batch_size: {size} with accumulate {config.accumulate}; the run began with {was} and {begun.accumulate}"
    if size < was:
        return size, f"{said}: its steps keep their rows, and each batch is computed in parts of {size} at most"
    return None, f"{said}, and keeps those: its steps have as many rows"


def _finished(config: RunConfig, out: Path) -> Result | None:
    """The result of a run that was finished before it was resumed; None when there is something left to do.

    Raises:
        ConfigError: it was a run of other settings.
        ModelError: its files are damaged.
    """
    if not config.resume or not (out / RESULT).exists() or (out / CHECKPOINT).exists():
        return None
    try:
        data = read_json(out / RESULT)
        if isinstance(data, dict) and (odd := broken(data, out)):
            raise Unreadable(f"{odd} is not as the run left it")
        result = TypeAdapter(Result).validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        raise ModelError(f"{out / RESULT} is damaged: {first_mistake(error)}", "choose another --out") from error
    except Unreadable as error:
        raise ModelError(f"{out / RESULT} is damaged: {error}", "choose another --out") from error
    begun = validate(load_config(out / CONFIG), check_files=False)
    now = _settings(config)
    same_settings(_settings(begun), now | steps_as_begun(_settings(begun), now), out)
    # Nothing is left to train, and the result holds the scores of its own test data.
    if config.test not in (None, begun.test):
        raise ConfigError(
            [f"test: was {begun.test!r}, is now {config.test!r}, and the run in {out} is finished"],
            f"score it on other data: stratatune eval {shlex.quote(str(out))} --data {shlex.quote(str(config.test))}",
        )
    return result


def open_session(
    outline: Outline,
    data: Tables,
    out: Path,
    reporter: Reporter,
    shared: Shared | None = None,
    at_once: int | None = None,
) -> tuple[Session, Caching]:
    """Settle the run, load the base model, attach the plan, open the caches.

    Args:
        outline, data: the run's settings, and its data as read.
        out: the run folder.
        reporter: prints progress.
        shared: the parts that the trials of one call share.
        at_once: see :class:`stratatune.training.session.Session`.
    """
    config = outline.config
    # First of all: it connects the processes, and rank and world are read from here on.
    accelerator = accelerator_for(config.device, config.loggers, out)
    distributed.check_met()
    # Trials hold one base model in common: the peak of all is that of each.
    begin = functools.partial(count_peak_anew, accelerator.device)
    _ = begin() if shared is None else shared.once("peak memory", begin)
    autocast = torch.bfloat16 if in_bf16(config.precision, accelerator.device) else None
    # Before the plan is attached: methods draw their new weights from here.
    torch.manual_seed(config.seed)
    prepared = settle(outline, data) if shared is None else shared.settle(outline, data)
    if at_once is not None and prepared.objective.whole_batches:
        raise ConfigError(
            [f"batch_size: was {config.batch_size}, and {prepared.objective.name} compares the rows of a whole batch"],
            f"resume with --batch-size {config.batch_size} --accumulate {config.accumulate}, or choose another --out",
        )
    if prepared.objective.needs_evaluation and prepared.eval is None:
        raise ConfigError(
            [f"objective: {config.objective} is tuned on evaluation data"], "give --eval FILE, or --eval-split 0.1"
        )
    if config.corpus is not None and "corpus" in prepared.objective.settings and not data.corpora:
        raise ConfigError(
            [f"corpus: {config.corpus}; it is searched in evaluation, and there are no evaluation data"],
            "give --eval FILE or --eval-split 0.1, or mine negatives from it: vectors(mine=3)",
        )
    start = _start(config, shared)
    below = streamed_below(outline, reporter, alone=shared is None)
    load = functools.partial(load_base, unread_below=below, room_above=room_for_top(config) if below else None)
    if shared is not None:
        load = functools.partial(shared.load_base, device=accelerator.device)
    base = load(**prepared.base)
    # Before the plan is attached: the fingerprint is that of the bare base.
    known = start and start.check_base(base.backbone, outline.resolved, outline.shape, prepared.tokenizer)
    model = apply_to(base.backbone, outline.resolved, also_train=base.new, revision=config.revision, fingerprint=known)
    if not model.attached.trained():
        raise PlanError(
            f"plan: {config.plan} trains nothing under {prepared.objective.name}, which has no new output layer",
            "add a method, such as -1: lora",
        )
    to_device(model, accelerator.device)
    if line := top_streamed(model.attached):
        reporter.say(line)
    # On the model, so that whatever saves it (a run, Trainer, a user) saves how it is used.
    model.attached.spec = prepared.objective.to_data()
    if config.corpus is not None and data.corpora:
        # Its name alone: whoever uses the adapter gives a corpus, and none is read unasked.
        model.attached.spec["corpus"] = without_folders(config.corpus)
    if config.pack != "none":
        pack_top(model.attached, config.pack)
        model.attached.spec["pack"] = config.pack
    model.attached.tokenizer = reading_of(base.tokenizer)
    if shared is not None:
        part(model.attached)
    # Only now: the tensors of trials are their own.
    taken = start and take(model.attached, start, prepared.objective.name, prepared.objective.labels)
    if start and taken:
        model.attached.started_from = {"run": start.name, "tensors": start.digest}
        (reporter.say if taken.complete else reporter.notice)(f"start_from: {taken.line}")
    if autocast is not None:
        # After to_device: casts are found by the address of the weight that they were made from.
        cast_frozen(model.attached, autocast, None if shared is None else shared.casts)
    settled = [line] if (line := distributed.left_alone()) else []
    settled += start.notices if start else ()
    if start and prepared.objective.base_is_reference:
        settled.append(
            f"{prepared.objective.name} compares with the base model, not with {start.name}: "
            f"`stratatune export {shlex.quote(start.name)} --to merged --out DIR` makes it a model, for --model DIR"
        )
    if config.early_stopping and prepared.eval is None:
        settled.append(f"early_stopping: without evaluation data all {counted(config.epochs, 'epoch')} are trained")
    settled += base.about_new(taken.names if taken else ())
    for notice in dict.fromkeys((*settled, *base.notices, *model.attached.notices, *prepared.notices)):
        reporter.notice(notice)
    forward = Forward.of(model.attached, prepared.objective, pad_id(prepared.tokenizer), accelerator.device, autocast)
    opened = None if shared is None else shared.caches
    # Only now does the process hold all that stays in memory, which the limit is compared with.
    settle_waves(model.attached, config.memory_limit)
    caching = Caching(with_cache(config) if below else config, forward, prepared.tokenizer, reporter, opened)
    with contextlib.nullcontext() if shared is None else shared.turn():
        own, eval_feed = distributed.feeds(caching, {"training": prepared.train, "evaluation": prepared.eval})
        assert own is not None
        feed = own
        if shared is not None:
            digest = caching.key(prepared.train).digest
            feed = shared.feed(own, prepared.train, digest, forward.pad_id, forward.device)
    session = Session(
        config=config,
        accelerator=accelerator,
        forward=forward,
        train=prepared.train,
        feed=feed,
        eval=prepared.eval,
        eval_feed=eval_feed,
        eval_parts=prepared.eval_parts,
        test=prepared.test,
        out=out,
        reporter=reporter,
        settings={**_settings(config), "cache_dtype": caching.dtype, "precision": "bf16" if autocast else "fp32"},
        taken=taken,
        at_once=at_once,
        facts=facts_of(prepared, model.attached.base_hash, start and start.digest),
        # A streamed trunk is not in memory, so there is nothing to offload.
        reload=None if below else lambda: load_base(**prepared.base).model,
    )
    return session, caching


def _start(config: RunConfig, shared: Shared | None) -> Start | None:
    """The adapter that the run starts from, read once for all trials of one call; None: it starts from the base."""
    if config.start_from is None:
        return None
    name = config.start_from
    return Start.read(name) if shared is None else shared.once(("start", name), lambda: Start.read(name))


def _tuned(session: Session, fitted: Fitted) -> Fitted:
    """Let the objective choose values on the evaluation data, whose scores are then flattering."""
    if session.eval is None or fitted.scores is None or not session.eval.targets:
        return fitted
    objective, output = session.objective.tuned(fitted.scores.output, session.eval)
    if objective is session.objective:
        return fitted
    session.forward = replace(session.forward, objective=objective)
    attached = session.top.attached
    attached.spec |= objective.to_data()
    metrics, _ = mean_score(session.forward, session.eval, output, session.eval_parts)
    found = ", ".join(
        f"{name} {value:.3f}"
        for name, value in objective.to_data().items()
        if name in ("temperature", "threshold") and isinstance(value, float)
    )
    session.reporter.say(f"chosen on the evaluation data, whose scores it flatters: {found or 'thresholds'}")
    return replace(fitted, scores=replace(fitted.scores, metrics=metrics, output=output))


def _test_scores(session: Session, caching: Caching) -> tuple[dict[str, float], dict[str, Any]]:
    """Score the test data once, with the selected weights: the metrics, and those of each class."""
    if session.test is None:
        return {}, {}
    feed = distributed.feed(caching, session.test, "test")
    share_texts(session, feed, session.test)
    encoded = looked_later(session, session.test, feed)
    caching.fill_repeated(feed, encoded, "test")
    scores = evaluate(session.forward, encoded, feed, batch_size=session.config.eval_batch_size)
    session.reporter.notice_once(f"test: {notice}" for notice in scores.notices)
    return scores.metrics, session.objective.by_class(scores.output, encoded)


def _by_class(session: Session, fitted: Fitted) -> dict[str, Any]:
    """The scores of each class on the evaluation data, in the selected epoch."""
    if session.eval is None or fitted.scores is None:
        return {}
    return session.objective.by_class(fitted.scores.output, session.eval)


def _rows(data: Tables) -> dict[str, int]:
    """The number of rows by which a run was scored."""
    counts = {"evaluation": sum(map(len, data.eval)), "test": len(data.test) if data.test else 0}
    return {part: count for part, count in counts.items() if count}


def _with_kept(error: NotFiniteError, session: Session, caching: Caching) -> NotFiniteError:
    """Save the last finite tensors of a run that cannot go on, and return its error; no result is written."""
    # Tensors that hold NaN are of no use to anybody.
    if not error.kept or first_not_finite(session.top.attached.trained().items()):
        return error
    _save(session, caching, {})
    return NotFiniteError(error.message, f"{error.hint}; {session.out / 'adapter'} holds the tensors of {error.kept}")


def _save(session: Session, caching: Caching, best: Mapping[str, float]) -> None:
    """Save the adapter, with everything that its numbers depend on."""
    attached, metric = session.top.attached, session.objective.metric
    attached.spec |= caching.codec.to_data() if caching.codec else {}
    attached.spec["precision"] = "bf16" if session.forward.autocast else "fp32"
    attached.spec["score"] = f"{metric} {best[metric]:.4f}" if best else ""
    if is_main():
        save_adapter(attached, session.out / "adapter")


def _finish(
    session: Session,
    caching: Caching,
    fitted: Fitted,
    test: tuple[dict[str, float], dict[str, Any]],
    rows: dict[str, int],
    hit: bool,
    processes: int,
) -> Result:
    """Save the adapter and the result."""
    attached, progress = session.top.attached, fitted.progress
    best = fitted.scores.metrics if fitted.scores else {}
    _save(session, caching, best)
    classes = {"evaluation": _by_class(session, fitted), "test": test[1]}
    busy = progress.seconds["cache"] + progress.seconds["train"]
    result = Result(
        out=str(session.out),
        plan=str(attached.resolved.plan),
        objective=session.objective.name,
        frozen_depth=attached.resolved.frozen_depth,
        cached_depth=attached.resolved.cached_depth,
        backprop_blocks=attached.resolved.backprop_blocks,
        trainable=attached.trained_count(),
        total=_total(attached),
        best=best,
        best_epoch=progress.best_epoch,
        test=test[0],
        epochs=progress.trained,
        seconds={kind: round(value, 3) for kind, value in progress.seconds.items()},
        tokens_per_second=round(progress.tokens / max(busy, 1e-9), 1),
        peak_memory_bytes=peak_memory(session.device),
        cache_hit=hit,
        processes=processes,
        metric=session.objective.metric,
        elapsed=progress.elapsed,
        labels=list(session.objective.labels),
        by_class={name: found for name, found in classes.items() if found},
        rows=rows,
        notices=session.reporter.notices_of_run,
    )
    _write_result(result, session.out)
    return result


def _total(attached: Attached) -> int:
    """The number of parameters of the model, with those that are packed or not in memory."""
    return attached.parameter_count() + hidden_count(attached)


def _write_result(result: Result, out: Path) -> None:
    """Write the result and delete the checkpoint, which is no longer needed."""
    if is_main():
        kept = sealed(result.to_json(), out)
        write_text(out / RESULT, json.dumps(kept, indent=2, allow_nan=False) + "\n")
        # Last: until the result is whole, the checkpoint is what a resumed run goes on from.
        (out / CHECKPOINT).unlink(missing_ok=True)
