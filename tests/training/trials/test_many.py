"""Several trials at once are the same trials one by one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import stratatune as st
from runs import rows
from stratatune.errors import ConfigError
from stratatune.model.split import Trunk
from stratatune.plan import Plan
from stratatune.progress import Reporter
from stratatune.training.run import Result
from stratatune.training.trials.many import settings_of

QUIET = Reporter(quiet=True)

LONG = " | ".join(["1: lora(rank=4, alpha=8, on=q,k,v,o) + bitfit(on=ffn,norm_ffn)"] * 4)


@pytest.fixture
def given(settings, tmp_path):
    """Settings of every trial, without what differs."""

    def make(**changes):
        config = settings(**changes)
        kept = config.model_dump(exclude={"plan", "seed", "lr", "out"}, exclude_unset=True)
        return {**kept, "out": str(tmp_path / "many"), "reporter": QUIET}

    return make


def alone(given, tmp_path, **changes) -> Result:
    return st.train(**{**given, **changes, "out": str(tmp_path / "alone" / "-".join(map(str, changes.values())))})


def tensors(result):
    return load_file(Path(result.out) / "adapter" / "adapter.safetensors")


def history(result):
    return [json.loads(line) for line in (Path(result.out) / "metrics.jsonl").read_text().splitlines()]


def difference(one, other):
    mine, theirs = tensors(one), tensors(other)
    assert mine.keys() == theirs.keys()
    return max(float((mine[name] - theirs[name]).abs().max()) for name in mine)


@pytest.mark.parametrize(
    ("objective", "precision", "cache"), [("mlm", "fp32", "off"), ("classification", "bf16", "ram")]
)
def test_plans_and_rates_under_one_seed_are_the_single_runs_to_the_bit(given, tmp_path, objective, precision, cache):
    """Dropout included: each trial draws from a random state of its own."""
    shared = given(objective=objective, precision=precision, cache=cache)
    plans, rates = ["bft-adapter@2", "1: full"], [0.001, 0.003]
    results = st.train_many(**shared, plans=plans, rates=rates)
    assert [Path(result.out).name for result in results][:2] == ["bft-adapter@2_lr-0.001", "bft-adapter@2_lr-0.003"]
    for result, (plan, rate) in zip(results, [(p, r) for p in plans for r in rates], strict=True):
        single = alone(shared, tmp_path, plan=plan, lr=rate)
        assert difference(result, single) == 0
        assert history(result) == history(single)
        assert (result.best, result.trainable) == (single.best, single.trainable)


def test_seeds_share_the_cache_up_to_rounding(given, tmp_path):
    """1e-4: fp32 hidden states computed in other batches differ by 1e-6, and Adam's first steps divide by them."""
    shared = {**given(objective="classification", epochs=1), "plan": "bft-adapter"}
    for result, seed in zip(st.train_many(**shared, seeds=[0, 1]), (0, 1), strict=True):
        single = alone(shared, tmp_path, seed=seed)
        assert difference(result, single) < 1e-4
        assert result.best == single.best


@pytest.mark.parametrize(
    ("axes", "depths"), [({"seeds": [0, 1, 2]}, 1), ({"plans": ["bft@1", "bft@2", "bft-adapter@2"]}, 2)]
)
def test_the_trunk_runs_once_for_each_depth(given, axes, depths, monkeypatch):
    examples = []
    plain = Trunk.__call__

    def counted(self, input_ids, *args):
        examples.append(len(input_ids))
        return plain(self, input_ids, *args)

    monkeypatch.setattr(Trunk, "__call__", counted)
    st.train_many(**given(), **axes)
    # Where seeds differ, over the distinct texts before the first step; else batch by batch.
    training = len({row["text"] for row in rows(48, 0)}) if "seeds" in axes else 48
    assert sum(examples) == depths * (training + 21)


def test_the_model_is_loaded_and_the_text_encoded_once(given, monkeypatch):
    from stratatune.objectives.label_words import LabelWords
    from stratatune.training.trials import sharing

    called = []
    for place, name in ((sharing, "load_base"), (sharing, "tokenizer_for"), (LabelWords, "encode")):
        plain = getattr(place, name)
        monkeypatch.setattr(
            place, name, lambda *a, plain=plain, name=name, **k: (called.append(name), plain(*a, **k))[1]
        )
    st.train_many(**given(epochs=1), plan="bft-adapter", rates=[0.001, 0.002, 0.003])
    # Training and evaluation data are encoded.
    assert sorted(called) == ["encode", "encode", "load_base", "tokenizer_for"]


def test_trials_hold_the_frozen_weights_once(tiny_folder):
    from stratatune.model.attach import apply
    from stratatune.model.twins import part
    from stratatune.training.trials.sharing import Shared

    shared = Shared()
    models = []
    for seed in (0, 1):
        base = shared.load_base(
            str(tiny_folder("bert", "mlm")), "classification", device=torch.device("cpu"), num_labels=2, seed=seed
        )
        model = apply(base.model, "3: bitfit", also_train=base.new)
        part(model.attached)
        models.append(model)
    one, other = (dict(model.named_parameters()) for model in models)
    trained = set(models[0].attached.trained())
    assert trained and not any(one[name].data_ptr() == other[name].data_ptr() for name in trained)
    frozen = [name for name in one if name not in trained]
    assert frozen and all(one[name].data_ptr() == other[name].data_ptr() for name in frozen)
    assert not torch.equal(one["classifier.weight"], other["classifier.weight"])  # made by the seed


def test_folders_of_long_plans_have_names_that_a_file_system_takes():
    others = [LONG, LONG.replace("ffn)", "attn)"), f"{LONG} | head(mlm=bias)", "lora"]
    names = [Path(one["out"]).name for one in settings_of({"out": "runs"}, {"plan": others, "seed": [0], "lr": [0.1]})]
    assert len(set(names)) == 4 and max(map(len, names)) < 150 and names[-1] == "lora_seed-0_lr-0.1"


@pytest.mark.parametrize("plans", [["1: full", "-1: full"], ["1/2: full", "1:2 full"]])
def test_different_plans_have_folders_of_their_own(plans):
    folders = [one["out"] for one in settings_of({"out": "runs"}, {"plan": plans})]
    assert len(set(folders)) == 2 and folders == [one["out"] for one in settings_of({"out": "runs"}, {"plan": plans})]


@pytest.mark.parametrize(
    "axes",
    [{"plan": ["1: full", Plan.parse("1:  full")]}, {"lr": [0.001, 1e-3, 0.1]}, {"seed": [1, "1"]}],
    ids=["plans", "rates", "seeds"],
)
def test_what_says_the_same_is_a_repetition(axes):
    with pytest.raises(ConfigError, match="list each value once") as caught:
        settings_of({"out": "runs"}, axes)
    assert caught.value.hint == "leave out those that say the same"


@pytest.mark.parametrize("plan", ["1: lora", Plan.parse("1: lora")])
def test_a_single_plan_is_a_list_of_one(given, plan):
    (result,) = st.train_many(**given(epochs=1), plans=plan)
    assert Plan.parse(result.plan) == Plan.parse("1: lora")


def test_a_finished_trial_is_found_again(given):
    shared = given(epochs=1)
    first = st.train_many(**shared, rates=[0.001, 0.002])
    assert st.train_many(**shared, rates=[0.001, 0.002], resume=True) == first


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({}, "no plans, seeds or rates are given"),
        ({"lr": [1e-3, 1e-4]}, r"lr: a list; give several as rates=\[0.001, 0.003\]"),
        ({"seeds": []}, "seed: no values"),
        ({"rates": [0.1, 0.1]}, "list each value once"),
        ({"plans": [LONG, f"{LONG} "]}, "list each value once"),
        ({"seeds": 3}, r"^seeds: 3; give a list, such as \[0, 1, 2\]$"),
        ({"seeds": "01", "rates": 0.1}, "^seeds: '01'; give a list.*; rates: 0.1; give a list"),
        ({"plans": 3}, "^plans: 3; give a list"),
    ],
)
def test_wrong_axes(given, axes, message):
    with pytest.raises(ConfigError, match=message):
        st.train_many(**given(), **axes)
