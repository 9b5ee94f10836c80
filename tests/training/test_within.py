"""Evaluation within an epoch: where it takes place, what it records, and that training does not notice."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import stratatune as st
from stratatune.cache.policy import passes_of
from stratatune.errors import ConfigError
from stratatune.model.saving import read_tensors
from stratatune.model.split import Trunk
from stratatune.progress import Reporter
from stratatune.studies.grid.records import read_records
from stratatune.studies.report import charts
from stratatune.studies.report.measured import Measured
from stratatune.training import loop
from stratatune.training import run as running
from stratatune.training.config import to_yaml, validate
from stratatune.training.session import Session


def lines(result):
    return [json.loads(line) for line in (Path(result.out) / "metrics.jsonl").read_text().splitlines()]


def places(result):
    return [(line["epoch"], line["step"]) for line in lines(result)]


@pytest.mark.parametrize(
    ("given", "kept", "evaluations"),
    [
        *((1, 1, 1), (2.0, 2, 1), ("3", 3, 1), ("4/2", 2, 1)),
        *(
            (0.25, 0.25, 4),
            ("1/4", 0.25, 4),
            ("0.5", 0.5, 2),
            (1 / 3, 1 / 3, 3),
            (0.333, 1 / 3, 3),
            ("1/1000", 1e-3, 1000),
        ),
    ],
)
def test_a_part_of_an_epoch_is_read(given, kept, evaluations):
    config = validate({"model": "m", "train": "t", "eval_every": given}, check_files=False)
    assert (config.eval_every, type(config.eval_every), config.evaluations) == (kept, type(kept), evaluations)
    assert f"eval_every: {kept}\n" in to_yaml(config)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        *(
            (0.3, "nearest: 1/4 or 1/3"),
            (0.75, "nearest: 1/2 or 1"),
            (1.5, "nearest: 1 or 2"),
            (1e-4, "nearest: 1/1000"),
        ),
        *((0, "must be greater than 0"), ("1/0", "part of one such as 1/4"), ("often", "part of one such as 1/4")),
        *(("9" * 400, "a number up to 1,000,000,000,000"), (10**400, "a number up to 1,000,000,000,000")),
    ],
)
def test_another_part_is_refused_with_the_nearest(given, line):
    with pytest.raises(ConfigError) as error:
        validate({"model": "m", "train": "t", "eval_every": given}, check_files=False)
    (said,) = error.value.errors
    assert said.startswith("eval_every: ") and said.endswith(line)


@pytest.mark.parametrize(
    ("every", "accumulate", "expected"),
    [
        (0.25, 1, [(0.25, 2), (0.5, 3), (0.75, 5), (1, 6)]),
        (1 / 3, 1, [(0.3333, 2), (0.6667, 4), (1, 6)]),
        (0.5, 2, [(0.5, 2), (1, 3)]),
        (0.25, 4, [(0.5, 1), (1, 2)]),  # two steps an epoch: one evaluation after each
        (1, 1, [(1, 6)]),
    ],
)
def test_evaluations_are_evenly_spaced_over_the_steps(run, every, accumulate, expected):
    result = run(epochs=2, eval_every=every, accumulate=accumulate)
    steps = expected[-1][1]
    assert places(result) == expected + [(epoch + 1, step + steps) for epoch, step in expected]
    assert all(isinstance(line["epoch"], int) == (line["epoch"] % 1 == 0) for line in lines(result))
    assert all(line.keys() >= {"train_loss", "eval_loss", "eval_accuracy"} for line in lines(result))
    assert len(result.elapsed) == len(lines(result)) and result.elapsed == sorted(result.elapsed)
    best = next(line for line in lines(result) if line["epoch"] == result.best_epoch)
    assert result.best == {name: best[f"eval_{name}"] for name in result.best}


CASES = {
    "dropout": {"plan": "bft+ffd"},
    "uncached": {"plan": "bft+ffd", "cache": "off"},
    "accumulated": {"plan": "1: lora(dropout=0.2)", "accumulate": 4, "objective": "classification"},
    "working copies": {"plan": "1: full", "precision": "bf16"},
    "embeddings": {"plan": "full"},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("every", [0.5, 0.2])
def test_training_does_not_notice(run, monkeypatch, tmp_path, case, every):
    """The tensors after the last step, and every number at an epoch's end, are those of a run without."""
    plain, seen = loop.evaluate, []

    def watched(forward, *given, **words):
        seen.append({name: one.detach().clone() for name, one in forward.attached.trained().items()})
        return plain(forward, *given, **words)

    monkeypatch.setattr(loop, "evaluate", watched)
    changes = (
        {"epochs": 3, "head_start": "fitted", **CASES[case]} if case == "accumulated" else {"epochs": 3, **CASES[case]}
    )
    whole = run(**changes, out=str(tmp_path / "whole"))
    wanted = seen[-1]
    seen.clear()
    often = run(**changes, eval_every=every)
    assert len(seen) == len(lines(often)) > 3
    assert all(torch.equal(seen[-1][name], wanted[name]) for name in wanted)
    assert [line for line in lines(often) if line["epoch"] % 1 == 0] == lines(whole)


def test_the_loss_is_the_mean_since_the_epoch_began(run, monkeypatch):
    learn, losses = loop._learn, []
    monkeypatch.setattr(loop, "_learn", lambda *given: losses.append(found := learn(*given)) or found)
    result = run(epochs=2, eval_every=0.5, plan="2: lora", objective="classification")
    given = [one.loss for one in losses]
    means = [sum(given[start:end]) / (end - start) for start, end in ((0, 3), (0, 6), (6, 9), (6, 12))]
    assert [line["train_loss"] for line in lines(result)] == pytest.approx(means, abs=1e-9)


def scored(monkeypatch, scores):
    """Gives evaluations these scores, one after the other; the tensors of each are kept."""
    plain, left, kept = loop.evaluate, iter(scores), []

    def judged(forward, *given, **words):
        found, score = plain(forward, *given, **words), next(left)
        kept.append({name: one.detach().clone() for name, one in forward.attached.trained().items()})
        return dataclasses.replace(found, metrics={**found.metrics, "accuracy": score})

    monkeypatch.setattr(loop, "evaluate", judged)
    return kept


@pytest.mark.parametrize(
    ("every", "scores", "epochs", "best"),
    [
        (0.5, [0.75, 0.25, 0.25], 1.5, 0.5),
        (0.5, [0.5, 0.75, 0.25, 0.25], 2, 1),
        (1 / 3, [0.25, 0.5, 0.25, 0.75, 0.5, 0.5], 2, 1.3333),
        (2, [0.75, 0.25, 0.25], 6, 2),
    ],
)
def test_patience_counts_evaluations(run, monkeypatch, every, scores, epochs, best):
    kept = scored(monkeypatch, scores)
    result = run(epochs=9, eval_every=every, early_stopping=2)
    assert (result.epochs, result.best_epoch, len(lines(result))) == (epochs, best, len(scores))
    tensors, wanted = read_tensors(Path(result.out) / "adapter"), kept[scores.index(0.75)]
    assert all(torch.equal(tensors[name], wanted[name]) for name in wanted)
    assert result.elapsed[-1] <= result.seconds["cache"] + result.seconds["train"] + 0.002  # both are rounded


class Stop(KeyboardInterrupt):
    """A user's Ctrl-C."""


def test_a_run_that_has_stopped_within_an_epoch_is_finished_by_resuming_it(run, monkeypatch):
    def stop(*given):
        raise Stop

    changes = {"epochs": 9, "eval_every": 0.5, "early_stopping": 2}
    with monkeypatch.context() as patch:
        scored(patch, [0.75, 0.25, 0.25])
        patch.setattr(running, "_finish", stop)
        with pytest.raises(Stop):
            run(**changes)
    with monkeypatch.context() as patch:
        scored(patch, [0.75])  # of the best tensors, once more
        patch.setattr(loop, "_learn", stop)
        result = run(**changes, resume=True)
    assert (result.epochs, result.best_epoch, len(lines(result))) == (1.5, 0.5, 3)
    assert run(**changes, resume=True) == result
    (record,) = read_records(result.out)[1]
    assert record.result is not None and (record.result["epochs"], record.status) == (1.5, "done")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"max_steps": 8}, [(1, 6), (1.3333, 8)]),
        ({"max_steps": 6}, [(1, 6)]),
        ({"max_steps": 6, "eval_every": 3}, [(1, 6)]),
        ({"max_steps": 2, "eval": None}, [(0.3333, 2)]),
        ({"max_steps": 3, "accumulate": 4}, [(1, 2), (1.6667, 3)]),
        ({"max_steps": 4, "eval_every": 0.5}, [(0.5, 3), (0.6667, 4)]),
        ({"max_steps": 99, "epochs": 1}, [(1, 6)]),
    ],
)
def test_a_run_ends_after_its_steps_with_an_evaluation(run, changes, expected):
    result = run(**{"epochs": 3, **changes})
    assert places(result) == expected and result.epochs == expected[-1][0]


def test_the_rate_falls_over_the_steps(run, monkeypatch):
    rates, plain = [], loop.set_rate
    monkeypatch.setattr(loop, "set_rate", lambda optimiser, factor: rates.append(factor) or plain(optimiser, factor))
    run(epochs=9, max_steps=8, warmup=0)
    assert rates == pytest.approx([1 - step / 8 for step in range(8)])


def test_a_run_of_some_steps_is_resumed_and_finished(run, monkeypatch, tmp_path):
    changes = {"epochs": 3, "max_steps": 9, "checkpoint_every": 2}
    whole, learn, made = run(**changes, out=str(tmp_path / "whole")), loop._learn, []

    def stopped(*given):
        if len(made) == 7:
            raise Stop
        made.append(1)
        return learn(*given)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_learn", stopped)
        with pytest.raises(Stop):
            run(**changes)
    result = run(**changes, resume=True)
    assert lines(result) == lines(whole) and (result.best, result.epochs) == (whole.best, 1.5)
    assert run(**changes, resume=True) == result


def test_a_run_that_reads_nothing_twice_has_no_cache(run):
    assert not list(Path(run(epochs=9, max_steps=3, cache="auto", eval=None).out).parent.rglob("shard-*.bin"))


def test_auto_chooses_the_length_itself():
    with pytest.raises(ConfigError, match="max_steps: 5; plan: auto chooses how long to train; name a plan"):
        validate({"model": "m", "train": "t", "plan": "auto", "max_steps": 5}, check_files=False)


def test_an_evaluation_is_not_time_of_training(run, monkeypatch):
    """By a clock that moves with batches, evaluations and checkpoints alone."""
    clock, learn, judge, save = [0.0], loop._learn, loop.evaluate, loop.save_checkpoint

    def taking(seconds, function):
        def timed(*given, **words):
            found = function(*given, **words)
            clock[0] += seconds
            return found

        return timed

    monkeypatch.setattr(loop, "_learn", taking(1000.0, learn))
    monkeypatch.setattr(loop, "evaluate", taking(10.0, judge))
    monkeypatch.setattr(loop, "save_checkpoint", taking(1e6, save))
    monkeypatch.setattr(loop, "now", lambda device: clock[0])
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    result = run(epochs=2, eval_every=0.5, checkpoint_every=2)
    assert result.seconds["eval"] == 40
    assert result.seconds["cache"] + result.seconds["train"] == pytest.approx(12_000)
    assert result.elapsed == pytest.approx([3_000, 6_000, 9_000, 12_000])


def test_the_trunk_runs_once_and_is_freed_when_both_caches_are_full(run, monkeypatch):
    examples, settled, plain, free = [], [], Trunk.__call__, loop.offload_trunk

    def counted(self, input_ids, *given):
        examples.append(len(input_ids))
        return plain(self, input_ids, *given)

    monkeypatch.setattr(Trunk, "__call__", counted)
    monkeypatch.setattr(loop, "offload_trunk", lambda *given: settled.append(sum(examples)) or free(*given))
    run(epochs=3, eval_every=0.2, cache="ram")
    assert sum(examples) == 48 + 21
    assert settled and set(settled) == {48 + 21}


def test_without_evaluation_data_the_loss_is_recorded(run):
    result = run(epochs=1, eval=None, eval_every=0.5)
    assert [line.keys() for line in lines(result)] == [{"epoch", "step", "train_loss"}] * 2
    assert (result.best_epoch, result.best) == (1, {})


@pytest.mark.parametrize("together", ["never", "always"])
def test_trials_at_once_are_those_alone(settings, tmp_path, together):
    config = settings(plan="2: lora(dropout=0.2)", objective="classification", epochs=2, eval_every=1 / 3, accumulate=2)
    given = config.model_dump(exclude={"lr", "out"}, exclude_unset=True)
    quiet = Reporter(quiet=True)
    rates = [0.001, 0.01]
    found = st.train_many(**given, rates=rates, out=str(tmp_path / "many"), together=together, reporter=quiet)
    for rate, one in zip(rates, found, strict=True):
        alone = st.train(**given, lr=rate, out=str(tmp_path / f"alone-{rate}"), reporter=quiet)
        assert places(one) == places(alone) == [(0.3333, 1), (0.6667, 2), (1, 3), (1.3333, 4), (1.6667, 5), (2, 6)]
        near = 0 if together == "never" else 1e-5
        for line, other in zip(lines(one), lines(alone), strict=True):
            assert line == pytest.approx(other, abs=near)


def test_nobody_stops_early_in_a_race(settings):
    session = SimpleNamespace(racing=True, config=settings(early_stopping=1))
    progress = loop.Progress(stale=3)
    assert not loop._is_over(session, progress)
    session.racing = False
    assert loop._is_over(session, progress)
    assert not Session.racing


def test_tops_are_recorded_at_each_evaluation(run):
    result = run(plan="2: lora", objective="multitask(tops=label|score)", label="label,score", epochs=1, eval_every=0.5)
    assert [epoch for epoch, _ in places(result)] == [0.5, 1] and len(result.elapsed) == 2


def test_a_report_draws_every_evaluation(run):
    result = run(epochs=2, eval_every=0.5)
    (record,) = read_records(result.out)[1]
    for x, wanted in (("epoch", (0.5, 1.0, 1.5, 2.0)), ("step", (3.0, 6.0, 9.0, 12.0))):
        figure = charts.curves(Measured.of([record]), x)
        assert figure is not None
        assert {one.x for panel in figure.panels for one in panel.series} == {wanted}


def test_passes_over_the_evaluation_data():
    found = [passes_of("evaluation", *one) for one in ((3, 1), (3, 2), (3, 5), (3, 0.25), (7, 1 / 49))]
    assert found == [4, 3, 2, 13, 344]
    assert passes_of("training", 3, 0.25) == 3
