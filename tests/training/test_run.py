"""A run from settings to artefact on tiny models: what it leaves, and that its numbers are the ones it says."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from stratatune.data.read_options import ReadOptions
from stratatune.data.readers import read
from stratatune.errors import ConfigError, PlanError
from stratatune.model.saving import read_tensors
from stratatune.progress import Reporter
from stratatune.training.forward import Forward
from stratatune.training.optimiser import build_optimiser, rate_factor
from stratatune.training.predict import Predictor
from stratatune.training.run import train
from stratatune.training.session import Session

JSON_KEYS = {  # design.md, "The doors"
    *("out", "plan", "frozen_depth", "trainable", "best", "epochs", "seconds"),
    *("tokens_per_second", "peak_memory_bytes", "cache_hit"),
}
OBJECTIVES = {
    "mlm, whole vocabulary": {"plan": "bft", "loss": "vocab"},
    "mlm, label words": {"plan": "bft", "loss": "words", "label_words": {"positive": "great", "negative": "terrible"}},
    "classification": {"plan": "spafit-0-1-II"},
    "three classes": {"plan": "bft-adapter", "objective": "classification", "train": "train3.csv", "eval": "dev3.csv"},
    "three label words": {"plan": "bft-adapter+ffd", "train": "train3.csv", "eval": "dev3.csv"},
    "regression": {"plan": "lora", "objective": "regression", "label": "score"},
    "frozen to the top": {"plan": "head"},
    "everything": {"plan": "full", "objective": "mlm"},
}


def tensors(folder):
    return read_tensors(Path(folder) / "adapter")


def same_bits(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def metrics(folder):
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def pathed(changes, files):
    return {key: str(files / value) if key in ("train", "eval") else value for key, value in changes.items()}


@pytest.mark.parametrize("case", OBJECTIVES)
def test_the_artefact_gives_the_run_s_own_numbers(family, case, run, files, tmp_path):
    changes = pathed(OBJECTIVES[case], files)
    result = run(family=family, epochs=4, **changes)
    assert result.to_json().keys() >= JSON_KEYS and json.loads((tmp_path / "run" / "result.json").read_text())
    assert result.seconds.keys() == {"cache", "train", "eval"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        *("adapter", "config.yaml", "env.json", "metrics.jsonl", "result.json", ".run.lock")
    }
    predictor, dev = Predictor(result.out, device="cpu"), changes.get("eval", str(files / "dev.csv"))
    scored = predictor.score(dev)
    assert scored["n"] == 21
    assert {name: scored["metrics"][name] for name in result.best} == pytest.approx(result.best, abs=1e-5)
    best = metrics(result.out)[result.best_epoch - 1]
    assert {name: best[f"eval_{name}"] for name in result.best} == result.best
    assert result.metric == predictor.objective.metric and result.metric in result.best

    table = read(dev, ReadOptions(text="text", label=changes.get("label", "label")))
    predicted = predictor.predict(dev)
    if case == "regression":
        assert np.corrcoef(predicted.values, [float(v) for v in table.labels])[0, 1] == pytest.approx(
            result.best["pearson"], abs=1e-4
        )
    else:
        assert np.mean([a == b for a, b in zip(predicted.labels, table.labels, strict=True)]) == result.best["accuracy"]
        np.testing.assert_allclose(predicted.probabilities.sum(1), 1, atol=1e-5)
        one_by_one = [predictor.predict([text]).probabilities[0] for text in table.texts[0][:5]]
        np.testing.assert_allclose(predicted.probabilities[:5], one_by_one, atol=1e-5)


def test_regression_by_two_label_words(family, run, files, tmp_path):
    pairs = [{"sentence1": "a great film", "sentence2": "a good film", "score": 5 - n % 3} for n in range(12)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    source = str(tmp_path / "pairs.jsonl")
    result = run(family=family, task="stsb", plan="bft", text=(), label=None, train=source, eval=source)
    assert result.objective == "mlm" and {"pearson", "spearman"} <= result.best.keys()
    predicted = Predictor(result.out, device="cpu").predict(source)
    assert predicted.labels is None and ((predicted.values >= 0) & (predicted.values <= 5)).all()


def test_it_learns(family, run):
    result = run(family=family, plan="full", epochs=20, lr=0.003)
    assert result.best["accuracy"] > 0.85
    assert metrics(result.out)[-1]["train_loss"] < 0.5 * metrics(result.out)[0]["train_loss"]


@pytest.mark.parametrize("plan", ["bft", "bft-adapter", "spafit-0-1-II", "head"])
def test_the_cache_changes_no_number(family, plan, run, tmp_path):
    found = {}
    for cache in ("off", "ram", str(tmp_path / "cache")):
        found[cache] = tensors(run(family=family, plan=plan, cache=cache, out=str(tmp_path / Path(cache).name)).out)
    first = found.pop("off")
    for name, tensor in ((name, one[name]) for one in found.values() for name in one):
        torch.testing.assert_close(tensor, first[name], atol=2e-5, rtol=1e-4)
    assert same_bits(*found.values())


def test_runs_of_one_frozen_depth_share_a_cache(family, run, tmp_path, monkeypatch):
    changes = {"family": family, "cache": str(tmp_path / "cache"), "plan": "bft-adapter"}
    assert not run(**changes).cache_hit
    again = [
        {"seed": 5},
        {"lr": 0.01},
        {"plan": "lpt-adapter"},
        {"plan": "3: lora + bitfit(on=ffn)", "objective": "mlm"},
    ]

    def never(*_):
        raise AssertionError("the trunk ran, though everything was in the cache")

    for number, change in enumerate(again):
        with monkeypatch.context() as patch:
            patch.setattr("stratatune.model.split.Trunk.__call__", never)
            result = run(**{**changes, **change}, out=str(tmp_path / f"again{number}"))
        assert result.cache_hit and result.seconds["cache"] == 0
    assert not run(**{**changes, "plan": "bft"}, out=str(tmp_path / "deeper")).cache_hit
    assert not run(**{**changes, "template": "{a} <mask> ."}, out=str(tmp_path / "template")).cache_hit


def test_a_step_of_four_small_batches_is_a_step_of_one_large_one(run, tmp_path, tiny_folder):
    still = tiny_folder("bert", "mlm", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    changes = {"model": str(still), "plan": "lora", "epochs": 1, "warmup": 0, "schedule": "constant", "clip": 0}
    # so large an epsilon makes a step a multiple of the gradient
    changes |= {"adam_eps": 1.0, "lr": 0.1, "weight_decay": 0}
    large = run(**changes, batch_size=48, out=str(tmp_path / "large"))
    small = run(**changes, batch_size=12, accumulate=4, out=str(tmp_path / "small"))
    wanted, found = tensors(large.out), tensors(small.out)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], atol=1e-6, rtol=1e-5)
    assert max(float(tensor.abs().max()) for name, tensor in wanted.items() if name.endswith(".b")) > 1e-4
    assert metrics(large.out)[-1]["step"] == metrics(small.out)[-1]["step"] == 1


@pytest.mark.parametrize("objective", ["classification", "regression"])
def test_scores_do_not_depend_on_the_batch_of_evaluations(objective, run, files, tmp_path, monkeypatch):
    sizes, plain = list[int](), Forward.__call__

    def counted(self, batch, feed, *, training):
        if not training:
            sizes.append(len(batch))
        return plain(self, batch, feed, training=training)

    monkeypatch.setattr(Forward, "__call__", counted)
    label = "score" if objective == "regression" else "label"
    changes = {"kind": "none", "plan": "2: lora", "objective": objective, "label": label, "epochs": 1}
    changes["test"] = str(files / "dev.csv")
    whole = run(**changes, out=str(tmp_path / "whole"))
    assert sizes == [21, 21]
    sizes.clear()
    few = run(**changes, out=str(tmp_path / "few"), eval_batch_size=10)
    assert sizes == [10, 10, 1] * 2
    assert few.best == pytest.approx(whole.best, abs=1e-5) and few.test == pytest.approx(whole.test, abs=1e-5)
    assert same_bits(tensors(few.out), tensors(whole.out))
    first = run(**changes, out=str(tmp_path / "few"), eval_batch_size=7, resume=True)
    assert first.best == few.best  # a finished run, whose settings this one has


def test_a_token_budget_bounds_every_batch(run, monkeypatch):
    seen = []
    plain = Session.batches

    def watched(self, epoch):
        found = plain(self, epoch)
        seen.extend(len(index) * int(self.train.lengths[index].max()) for index in found)
        return found

    monkeypatch.setattr(Session, "batches", watched)
    run(batch_size=None, token_budget=100)
    assert seen and max(seen) <= 100


def test_early_stopping_and_the_best_epoch_s_weights(run, tmp_path, monkeypatch):
    """The rate is so high that scores jump: the saved weights must be the best epoch's, not the last's."""
    scores = iter([0.5, 0.75, 0.25, 0.25, 0.25, 0.25])
    kept = {}

    def judged(*arguments, plain, **words):
        found = plain(*arguments, **words)
        value = next(scores, None)
        if value is None:
            return found
        kept[value] = {name: p.detach().clone() for name, p in arguments[0].attached.trained().items()}
        return dataclasses.replace(found, metrics={**found.metrics, "accuracy": value})

    from stratatune.training import loop

    plain = loop.evaluate
    monkeypatch.setattr(loop, "evaluate", lambda *a, **w: judged(*a, plain=plain, **w))
    result = run(epochs=9, early_stopping=2)
    assert result.epochs == 4 and result.best_epoch == 2
    assert same_bits(tensors(result.out), kept[0.75]) and len(metrics(result.out)) == 4


def test_of_equal_scores_the_lower_loss_is_kept_and_buys_no_patience(run, monkeypatch):
    from stratatune.training import loop

    losses, kept, plain = iter([0.9, 0.5, 0.7]), {}, loop.evaluate

    def judged(*arguments, **words):
        found, loss = plain(*arguments, **words), next(losses, None)
        if loss is None:
            return found
        kept[loss] = {name: p.detach().clone() for name, p in arguments[0].attached.trained().items()}
        return dataclasses.replace(found, metrics={**found.metrics, "accuracy": 0.5}, loss=loss)

    monkeypatch.setattr(loop, "evaluate", judged)
    result = run(epochs=9, early_stopping=2)
    assert result.epochs == 3 and result.best_epoch == 2
    assert same_bits(tensors(result.out), kept[0.5])


def test_early_stopping_without_evaluation_data_says_so(settings, capsys):
    """No epoch has a score, so none is without improvement."""
    result = train(settings(eval=None, early_stopping=1, epochs=3))
    assert result.epochs == 3
    assert "early_stopping: without evaluation data all 3 epochs are trained" in capsys.readouterr().err


def test_the_best_epoch_is_not_scored_twice(run, monkeypatch):
    from stratatune.training import loop

    calls, plain = [], loop.evaluate
    monkeypatch.setattr(loop, "evaluate", lambda *a, **w: calls.append(1) or plain(*a, **w))
    result = run(epochs=4, eval_every=2)
    assert len(calls) == len(result.elapsed) == 2
    assert result.elapsed == sorted(result.elapsed)
    assert result.elapsed[-1] == pytest.approx(result.seconds["cache"] + result.seconds["train"], abs=0.002)  # rounded
    best = next(line for line in metrics(result.out) if line["epoch"] == result.best_epoch)
    assert result.best == {name: best[f"eval_{name}"] for name in result.best}


def test_rates_and_decay_reach_the_optimiser(family, settings, monkeypatch):
    from stratatune.training import loop

    made = []

    def kept(groups, config, copies):
        groups = list(groups)
        made.append((groups, build_optimiser(groups, config, copies)))
        return made[0][1]

    monkeypatch.setattr(loop, "build_optimiser", kept)
    config = settings(family=family, plan="2: bitfit(lr=0.5) | 3: lora(lr=0.25)", objective="classification", epochs=1)
    train(config, reporter=Reporter(quiet=True))
    groups, optimiser = made[0]
    rate_of = {id(p): group for group in optimiser.param_groups for p in group["params"]}
    for group in groups:
        wanted = {"bitfit": 0.5, "lora": 0.25}.get(group.method, config.lr)
        for parameter in group.parameters:
            found = rate_of[id(parameter)]
            assert found["initial_lr"] == wanted
            assert found["weight_decay"] == (config.weight_decay if parameter.ndim > 1 else 0.0)
    assert len(rate_of) == sum(len(group.parameters) for group in groups)


def test_the_rate_rises_and_falls(settings):
    config = settings(warmup=0.2)
    factors = [rate_factor(step, 10, config) for step in range(10)]
    assert factors == pytest.approx([0.5, 1, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125])
    assert [rate_factor(step, 4, settings(warmup=0, schedule="constant")) for step in range(4)] == [1, 1, 1, 1]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.06, 0.5, 1.0])
def test_schedules_are_those_of_transformers(schedule, warmup, settings):
    """After warm-up, which is from 1 / steps here and from 0 there."""
    from transformers import get_scheduler

    config, total = settings(schedule=schedule, warmup=warmup), 50
    warm, optimiser = round(warmup * total), torch.optim.SGD([torch.zeros(1)], lr=1.0)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    theirs = get_scheduler(name, optimiser, num_warmup_steps=warm, num_training_steps=total)
    factor = theirs.lr_lambdas[0]  # pyright: ignore[reportAttributeAccessIssue]
    for step in range(total):
        wanted = factor(step) if step >= warm else (step + 1) / warm
        assert rate_factor(step, total, config) == pytest.approx(wanted, abs=1e-12), step


@pytest.mark.parametrize("plan", ["bft-adapter", "head", "full"])
@pytest.mark.parametrize(
    "kept",
    [
        {"precision": "bf16"},
        {"cache_dtype": "fp16"},
        {"precision": "bf16", "cache_dtype": "fp32"},
        {"cache_dtype": "int8"},
        {"precision": "bf16", "cache_dtype": "int8", "cache": "off"},
    ],
)
def test_lower_precision_runs_and_scores_the_same_again(plan, kept, run, files):
    result = run(plan=plan, **kept)
    scored = Predictor(result.out, device="cpu").score(str(files / "dev.csv"))
    assert {name: scored["metrics"][name] for name in result.best} == result.best
    loss = metrics(result.out)[result.best_epoch - 1]["eval_loss"]
    assert scored["metrics"]["loss"] == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_int8_cache_changes_no_number_either(precision, run, tmp_path):
    """In one epoch every batch is the same with and without a cache: both round by the same scales, to the bit."""
    changes = {"cache_dtype": "int8", "precision": precision}
    found = []
    for cache in ("off", "ram", str(tmp_path / "cache")):
        out = str(tmp_path / Path(cache).name / "run")
        found.append(tensors(run(**changes, epochs=1, cache=cache, out=out).out))
    assert same_bits(found[1], found[2])
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, atol=1e-6, rtol=1e-5)
    record = json.loads((tmp_path / "ram" / "run" / "adapter" / "adapter.json").read_text())["reading"]
    assert record["kept"] == "int8" and len(record["scales"]) == 32
    again = run(**changes, epochs=3, cache=str(tmp_path / "cache"), out=str(tmp_path / "again"))
    assert again.cache_hit and again.seconds["cache"] == 0, "the scales too are found in the cache"


def test_a_sample_that_lacks_a_class_of_its_task(run, tmp_path):
    """A task's classes are the task's, not those that happen to be in the file."""
    (tmp_path / "trec.csv").write_text("text,label\n" + "who was it ?,human\nwhere is it ?,location\n" * 4)
    source = str(tmp_path / "trec.csv")
    result = run(task="trec", plan="lora", text="text", train=source, eval=source)
    assert len(result.labels) == 6


def test_accelerate_s_own_settings_change_no_gradient(run, tmp_path, monkeypatch):
    alone = run(epochs=1, out=str(tmp_path / "alone"))
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    launched = run(epochs=1, out=str(tmp_path / "launched"))
    assert alone.best == launched.best
    one, other = (tmp_path / name / "metrics.jsonl" for name in ("alone", "launched"))
    assert one.read_text() == other.read_text()


def test_a_plan_that_trains_nothing_is_refused(run, settings):
    words = {"label_words": {"positive": "great", "negative": "bad"}}
    with pytest.raises(PlanError, match="trains nothing under mlm, which has no new output layer"):
        run(plan="frozen", objective="mlm", **words)
    for name in ("clip", "adam_eps"):
        with pytest.raises(ConfigError, match=name):
            settings(**{name: float("inf")})


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_numbers_learnt_in_bf16_are_not_rounded_to_it(family, run, files):
    """In bf16 there are some 130 numbers from 1 to 2, and texts would share theirs."""
    result = run(family=family, plan="3: full", objective="regression", label="score", precision="bf16", epochs=1)
    predictor = Predictor(result.out, device="cpu")
    found = predictor.predict([f"a film of {number} parts" for number in range(40)] + ["great", "bad", "she"])
    exact = np.asarray(found.values)
    assert not np.array_equal(exact, torch.tensor(exact).bfloat16().double().numpy())
