"""A loss, a gradient or an output that is NaN or infinite ends a run in one line, and nothing holds it afterwards."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM

import stratatune as st
from stratatune.errors import NotFiniteError
from stratatune.model.saving import read_tensors
from stratatune.progress import Reporter
from stratatune.studies.suggest.suggest import suggest
from stratatune.studies.suggest.suggestion import Asked
from stratatune.training.build import build_cache
from stratatune.training.evaluate import check_outputs
from stratatune.training.forward import Forward
from stratatune.training.predict import Predictor
from stratatune.training.trials import together

WILD = {"lr": 1e30, "clip": 0.0, "warmup": 0.0}


@pytest.fixture
def damaged(tiny_folder, tmp_path):
    """A base model with one NaN in a weight of its first block."""
    folder = shutil.copytree(tiny_folder("bert", "mlm"), tmp_path / "damaged")
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if "layer.0.output.dense.weight" in name)
    tensors[name][0, 0] = math.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def strict(folder: Path) -> list[dict]:
    """The lines of the log, by a parser that takes no NaN."""

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line, parse_constant=refuse) for line in lines]


def refused(run, **changes) -> NotFiniteError:
    with pytest.raises(NotFiniteError) as caught:
        run(**changes)
    error = caught.value
    assert error.exit_code == 1 and "\n" not in error.message + error.hint
    return error


@pytest.mark.parametrize("cache", ["off", "ram"])
def test_a_nan_in_the_base_model_names_the_weight(run, damaged, tmp_path, cache):
    error = refused(run, model=str(damaged), cache=cache)
    assert "the loss is nan in epoch 1, step 1, batch 1 of 6" in error.message
    assert "layer.0.output.dense.weight" in error.hint
    assert not (tmp_path / "run" / "result.json").exists() and not (tmp_path / "run" / "adapter").exists()
    assert strict(tmp_path / "run") == []


def test_a_nan_in_the_base_model_names_the_weight_before_an_output_layer_is_fitted(run, damaged):
    error = refused(run, model=str(damaged), objective="classification", plan="1: lora", head_start="fitted")
    assert "the loss is nan in epoch 1, step 1, batch 1 of 6" in error.message
    assert "layer.0.output.dense.weight" in error.hint


WEIGHT = "the base model is damaged: its weight .*layer.0.output.dense.weight holds NaN"


@pytest.mark.parametrize("stored", ["bf16", "int8"])
def test_a_nan_in_the_base_model_is_named_where_its_trunk_is_cached(run, damaged, tmp_path, stored):
    """The weights of such a trunk may have left the memory, and the cache of an earlier run may be complete."""
    for _ in range(2):
        error = refused(run, model=str(damaged), plan="2: full", cache=str(tmp_path / "caches"), cache_dtype=stored)
        assert re.search(WEIGHT, error.hint)
        shutil.rmtree(tmp_path / "run", ignore_errors=True)


@pytest.mark.parametrize("stored", ["bf16", "int8"])
def test_no_cache_is_built_of_a_nan_in_the_base_model(settings, damaged, tmp_path, stored):
    asked = settings(model=str(damaged), plan="2: full", cache=str(tmp_path / "caches"), cache_dtype=stored)
    with pytest.raises(NotFiniteError, match=WEIGHT):
        build_cache(asked, Reporter(quiet=True))


@pytest.mark.parametrize("family", ["full", "bft"])
def test_a_nan_in_the_base_model_is_named_before_it_is_probed(settings, damaged, family):
    with pytest.raises(NotFiniteError, match=WEIGHT):
        suggest(settings(model=str(damaged)), Asked(family=family), reporter=Reporter(quiet=True))


def test_a_nan_in_the_base_model_is_named_where_rows_are_cached_for_other_loops(damaged):
    model = st.apply(AutoModelForMaskedLM.from_pretrained(damaged), "2: full")
    with pytest.raises(NotFiniteError, match=WEIGHT):
        st.cached(model, Dataset.from_dict({"input_ids": [[5, 6, 7]], "attention_mask": [[1, 1, 1]]}), cache="ram")


def test_a_nan_in_the_base_model_is_named_where_it_is_scored_first(damaged, tmp_path):
    pairs = [(f"{word} film", f"{word} book") for word in ("good", "bad", "old", "new")] * 4
    embedder = st.Embedder("2: lora", model=str(damaged), epochs=1, eval_split=0.5, cache="ram", device="cpu")
    with pytest.raises(NotFiniteError, match=f"in the evaluation after epoch 0.*{WEIGHT}"):
        embedder.fit(pairs)


def test_trials_that_all_stop_name_the_weight(settings, damaged, tmp_path):
    kept = settings(epochs=1, model=str(damaged)).model_dump(exclude={"plan", "seed", "lr"}, exclude_unset=True)
    with pytest.raises(NotFiniteError, match=f"2 of 2 trials stopped.*{WEIGHT}") as caught:
        st.train_many(**kept, plan="2: lora", rates=[0.001, 0.002], reporter=Reporter(quiet=True))
    assert "the others" not in caught.value.hint


@pytest.mark.parametrize("plan", ["bft-adapter", "full", "head"])
def test_a_rate_that_is_far_too_large_is_named(run, tmp_path, plan):
    error = refused(run, plan=plan, **WILD)
    assert "epoch 1" in error.message and "smaller lr than 1e+30" in error.hint and "clip" in error.hint
    assert not (tmp_path / "run" / "result.json").exists()
    strict(tmp_path / "run")


def test_the_rate_or_the_decay_that_is_too_large_is_named(run):
    error = refused(run, plan="2: lora(lr=1e30)", clip=0.0, warmup=0.0)
    assert "a smaller lr than 1e+30, which the plan sets" in error.hint
    error = refused(run, plan="full", weight_decay=1e30, warmup=0.0)
    assert "a smaller lr than 0.003, a smaller weight_decay than 1e+30" in error.hint


def poisoned(monkeypatch, bad: int, value: float = math.nan, evaluation: bool = False):
    """The loss of training batch number ``bad`` (0-based, of all epochs), or an evaluation's logits, are ``value``."""
    seen, name = [0], "__call__" if evaluation else "loss"
    plain = getattr(Forward, name)

    def instead(self, *given, **how):
        seen[0] += not how.get("training", False)
        return plain(self, *given, **how) * (value if seen[0] == bad + 1 and not how.get("training") else 1.0)

    monkeypatch.setattr(Forward, name, instead)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_the_best_epoch_is_kept_and_nothing_bad_is_stepped(run, monkeypatch, tmp_path, value, clip):
    whole = run(epochs=1, clip=clip, out=str(tmp_path / "whole"))
    poisoned(monkeypatch, 8, value)
    error = refused(run, epochs=3, clip=clip, schedule="constant", out=str(tmp_path / "a"))
    assert "epoch 2, step 9, batch 3 of 6" in error.message and "holds the tensors of epoch 1" in error.hint
    kept = read_tensors(tmp_path / "a" / "adapter")
    assert kept.keys() == read_tensors(Path(whole.out) / "adapter").keys()
    assert all(tensor.isfinite().all() for tensor in kept.values())
    assert [line["epoch"] for line in strict(tmp_path / "a")] == [1]
    assert not (tmp_path / "a" / "result.json").exists()
    assert np.isfinite(Predictor(tmp_path / "a").predict(["good film"]).probabilities).all()


@pytest.mark.parametrize("place", [0, 1])
def test_within_an_accumulated_step(run, monkeypatch, tmp_path, place):
    poisoned(monkeypatch, 2 + place)
    error = refused(run, accumulate=2)
    assert f"step 2, batch {3 + place} of 6" in error.message and "holds the tensors of step 1" in error.hint


def test_a_gradient_that_is_not_finite_though_the_loss_is(run, monkeypatch):
    plain = Forward.loss

    def loss(self, batch, feed):
        found = plain(self, batch, feed)
        found.register_hook(lambda gradient: gradient * math.inf)
        return found

    monkeypatch.setattr(Forward, "loss", loss)
    for clip in (0.0, 1.0):
        assert "the gradient's norm is" in refused(run, clip=clip).message


def test_outputs_of_an_evaluation(run, monkeypatch, tmp_path):
    poisoned(monkeypatch, 1, evaluation=True)  # that of epoch 2: the 21 examples are one batch
    error = refused(run, epochs=3)
    assert "21 of 21 rows" in error.message and "after epoch 2, step 12" in error.message
    assert "holds the tensors of epoch 1" in error.hint
    assert [line["epoch"] for line in strict(tmp_path / "run")] == [1]


def test_without_evaluation_data_the_tensors_are_looked_at(run, monkeypatch):
    plain = torch.optim.AdamW.step

    def step(self, *given, **words):
        plain(self, *given, **words)
        self.param_groups[0]["params"][0].data.view(-1)[0] = math.nan

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    refused(run, eval=None, batch_size=48, epochs=1)


def test_a_prediction_is_no_nan(run, tmp_path):
    result = run(epochs=1)
    path = Path(result.out) / "adapter" / "adapter.safetensors"
    predictor = Predictor(result.out)
    with torch.no_grad():
        next(iter(predictor.model.attached.trained().values())).fill_(math.nan)
    assert path.exists()
    with pytest.raises(NotFiniteError, match="NaN or infinite for 2 of 2 rows, the first is 1"):
        predictor.predict(["good film", "bad film"])


def test_what_is_checked_of_outputs():
    fine = np.array([[0.1, 0.9], [0.5, 0.5]])
    check_outputs(fine, {"accuracy": 1.0})
    with pytest.raises(NotFiniteError, match="1 of 2 rows, the first is 2"):
        check_outputs(np.array([0.0, np.inf]))
    with pytest.raises(NotFiniteError, match="the pearson over 2 rows is nan"):
        check_outputs(fine, {"loss": 0.5, "pearson": math.nan})


# ---- trials ----


@pytest.mark.parametrize("way", ["always", "never"])
def test_a_trial_that_diverges_leaves_the_others_alone(settings, tmp_path, way):
    kept = settings(epochs=2, clip=0.0, warmup=0.0).model_dump(exclude={"seed", "lr", "out"}, exclude_unset=True)
    kept |= {"plan": "2: lora", "together": way, "reporter": Reporter(quiet=True)}
    alone = st.train_many(**kept, rates=[0.001, 0.003], out=str(tmp_path / "alone"))
    with pytest.raises(NotFiniteError, match="1 of 3 trials") as caught:
        st.train_many(**kept, rates=[0.001, 1e30, 0.003], out=str(tmp_path / "many"))
    assert "lr-1e+30" in caught.value.message and "\n" not in caught.value.message
    for result in alone:
        other = tmp_path / "many" / Path(result.out).name
        mine, theirs = read_tensors(Path(result.out) / "adapter"), read_tensors(other / "adapter")
        for name, tensor in mine.items():
            torch.testing.assert_close(theirs[name], tensor, rtol=0, atol=2e-6)
        assert (other / "result.json").exists()
    assert not (tmp_path / "many" / "lr-1e+30" / "result.json").exists()


def test_a_bad_row_of_a_stacked_step_stays_as_it_is(settings, monkeypatch):
    seen = []
    plain = together.AlikeTrials._step

    def step(self, gradient, losses, factor):
        gradient[1] = math.nan
        before = [tensor[1].clone() for tensor in (self.values, self.first, self.second, self.steps)]
        norms = plain(self, gradient, losses, factor)
        after = [tensor[1] for tensor in (self.values, self.first, self.second, self.steps)]
        seen.append(all(torch.equal(a, b) for a, b in zip(before, after, strict=True)) and not norms[1].isfinite())
        seen.append(bool(norms[[0, 2]].isfinite().all()))
        return norms

    monkeypatch.setattr(together.AlikeTrials, "_step", step)
    kept = settings(epochs=1).model_dump(exclude={"plan", "seed", "lr"}, exclude_unset=True)
    with pytest.raises(NotFiniteError, match="gradient's norm is nan in epoch 1, step 1"):
        st.train_many(
            **kept, plan="2: lora", rates=[0.001, 0.002, 0.003], together="always", reporter=Reporter(quiet=True)
        )
    assert seen and all(seen)
