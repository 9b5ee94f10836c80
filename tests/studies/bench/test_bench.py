"""A bench on a tiny model: every way measured and predicted, by a clock that counts batches and not seconds."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from transformers import BertConfig, GPT2Config

import tiny
from stratatune.costs.cost import cost
from stratatune.costs.time import fitted
from stratatune.errors import ConfigError, ModelError
from stratatune.plan import Plan
from stratatune.studies.bench.arms import BenchSetting, Ours, Stock, lengths_like, random_data, typical
from stratatune.studies.bench.bars import svg
from stratatune.studies.bench.bench import bench, objective_of
from stratatune.studies.bench.block_times import Machine

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
PLANS = ("bft-adapter@2", "2: lora")


def setting(family="bert", **changes):
    pytest.importorskip("peft")
    config = tiny.tiny_model(family, "mlm").config.to_dict()
    data = random_data(lengths_like("sst2", 96), config["vocab_size"])
    return BenchSetting(config, data, **{"batch_size": 8, "timed": 2, **changes})


TICK = 2.0**-20


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Each batch of an epoch takes one second, and a look at the clock next to nothing, which is what a probe takes."""
    now, collated = [0.0], BenchSetting.collated

    def counted(self, *args):
        for batch in collated(self, *args):
            now[0] += 1.0
            yield batch

    def waited(self):
        now[0] += TICK
        return now[0]

    monkeypatch.setattr(BenchSetting, "collated", counted)
    monkeypatch.setattr(BenchSetting, "waited", waited)


def check_way(way, batches):
    """It ran the batches that it is said to, which stand for an epoch of ``batches``, and has all its numbers."""
    assert (way.seconds, way.first) == pytest.approx((batches, batches), rel=1e-4)
    assert way.predicted > 0 and way.flops > 0
    assert (way.saved_bytes > 0) == (way.name != "floor")


def test_every_way_is_measured_and_predicted(family):
    said = []
    report = bench(setting(family), PLANS, rounds=1, say=said.append)
    assert [way.name for way in report.ways] == ["A", "B", "C", "F", "floor", *PLANS]
    for way in report.ways:
        check_way(way, batches=12)
    assert report.ratio("A", "A") == 1
    assert report.ratio("2: lora", "F", 10) == pytest.approx(
        report.way("F").epochs(10) / report.way("2: lora").epochs(10)
    )
    assert any(line.startswith("bft-adapter@2, first:") for line in said)
    told = json.loads(json.dumps(report.to_data()))
    assert told["ways"][5]["epoch_vs"].keys() == {"A", "B", "C", "F"}
    drawn = ElementTree.fromstring(svg(report))
    bars = [one for one in drawn.iter() if one.tag.endswith("rect")]
    assert len(bars) == 2 * len(report.ways) and "http" not in svg(report).replace("http://www.w3.org", "")


@pytest.mark.parametrize("plan", ["1:2 lora | cut(2)", "1: full | cut(2)", "late_prompt(depth=1, tokens=2) | cut(2)"])
@pytest.mark.parametrize("objective", ["classification", "tags"])
def test_a_plan_that_cuts_the_model_is_predicted_by_the_blocks_that_are_left(plan, objective):
    report = bench(setting(objective=objective), [plan], rounds=1)
    check_way(report.way(plan), batches=12)


def test_plans_that_train_everything_have_no_cache():
    report = bench(setting(), ["full"], rounds=1)
    assert report.way("full").cache_bytes == 0


@pytest.mark.parametrize("plans", [[], ["bft", "bft"]])
def test_wrong_plans(plans):
    with pytest.raises(ConfigError, match="plans:"):
        bench(setting(), plans)


def of_decoder(family, objective=None, **changes):
    pytest.importorskip("peft")
    config = {**tiny.tiny_decoder(family, blocks=3).config.to_dict(), "attn_implementation": "eager"}
    data = random_data(lengths_like("sst2", 24), config["vocab_size"], at_end=True)
    return BenchSetting(config, data, **{"batch_size": 8, "timed": 2, "objective": objective, **changes})


@pytest.mark.parametrize(
    ("family", "plan", "objective"),
    [("gpt2", "bft-adapter@2", "causal"), ("llama", "1: lora", "classification"), ("gemma3_text", "lpt@1", "causal")],
)
def test_decoders_are_measured_as_their_first_plan_reads_labels(family, plan, objective):
    report = bench(of_decoder(family), [plan], rounds=1)
    assert report.settings["objective"] == objective and [way.name for way in report.ways] == [
        "A",
        "B",
        "C",
        "F",
        "floor",
        plan,
    ]
    for way in report.ways:
        check_way(way, batches=3)


def test_objectives_of_a_bench():
    decoder, encoder = GPT2Config().to_dict(), BertConfig().to_dict()
    assert objective_of(decoder, ["lora"], "causal") == "causal" and objective_of(encoder, ["bft"]) is None
    assert objective_of(encoder, ["bft"], "tags") == objective_of(decoder, ["lora"], "tags") == "tags"
    with pytest.raises(ConfigError, match="objective: 'tagging'"):
        objective_of(decoder, ["lora"], "tagging")
    with pytest.raises(ModelError, match="causal needs a decoder, and this model is an encoder"):
        objective_of(encoder, ["lora"], "causal")


def test_encoder_decoders_are_refused():
    with pytest.raises(ModelError, match="which bench cannot measure"):
        bench(BenchSetting({"model_type": "t5"}, random_data(np.array([4, 5]), 100)), ["lora"])


@pytest.mark.parametrize("objective", ["causal", "classification"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_decoders_arms_do_the_operations_that_the_cost_model_counts(family, objective):
    """Ours with the head at one position, those of today at every one.

    Stock LoRA on GPT-2's ``c_attn`` is one pair of matrices, as large as those of q and v; only in the first block,
    where the first matrix wants no input gradient, does it multiply 2 r D times a token more.
    """
    from benchmarks.counters import counted_flops

    here = of_decoder(family, objective, timed=99, bf16=False)
    ours = Ours(here, "bft-adapter@1", None)
    ours.epoch()  # fills the cache
    resolved = ours.model.attached.resolved
    counted = cost(resolved, None, here.data.lengths, objective=objective, batch_size=8).epochs
    assert counted_flops(ours.epoch) == counted["cached"].flops
    assert counted_flops(Stock(here, lora=False, bucketed=False).epoch) == counted["F"].flops
    lora = Stock(here, lora=True, bucketed=False)
    for name, arm, batches in (("A", lora, here.random), ("B", lora.cut_by_length(), here.bucketed)):
        tokens = sum(len(index) * int(here.data.lengths[index].max()) for index in batches)
        more = 2 * 8 * resolved.shape.hidden * tokens if family == "gpt2" else 0
        assert counted_flops(arm.epoch) == counted[name].flops + more


def test_the_loss_of_today_is_ours():
    """The whole decoder of transformers with its own loss, and our top from the cache: one number."""
    here = of_decoder("llama", "causal", bf16=False)
    ours, stock = Ours(here, "lora", None), Stock(here, lora=False, bucketed=True)
    for mine, theirs in zip(ours.batches(), stock.batches(), strict=True):
        assert ours.loss(mine).item() == pytest.approx(stock.loss(theirs).item(), rel=1e-5)


def test_the_arms_do_the_operations_that_the_cost_model_counts():
    """Over the timed batches: what is measured and what is predicted are the same work."""
    from benchmarks.counters import counted_flops

    here = setting(timed=99, bf16=False)
    ours = Ours(here, PLANS[0], None)
    ours.epoch()  # fills the cache
    counted = cost(ours.model.attached.resolved, None, here.data.lengths, batch_size=8, labels=2).epochs
    assert counted_flops(ours.epoch) == counted["cached"].flops
    assert counted_flops(Stock(here, lora=False, bucketed=False).epoch) == counted["F"].flops


def test_a_rate_is_a_fixed_part_and_a_slope():
    rate = fitted([100, 200, 400], [1.5, 2.0, 3.0])
    assert rate.fixed == pytest.approx(1.0) and rate.per_second == pytest.approx(200)
    assert rate.seconds(300) == pytest.approx(2.5)
    assert fitted([100, 200], [1.0, 3.0]).fixed == 0  # nothing takes less than no time
    assert fitted([5, 5], [1.0, 3.0]).seconds(5) == pytest.approx(2.0)


def test_predictions_follow_the_formulas(monkeypatch):
    """With one rate for everything and no fixed part, a prediction is the work over the rate."""
    from stratatune.studies.bench import block_times as machine

    here = setting(timed=99)
    monkeypatch.setattr(Machine, "_rate", lambda self, name: machine.Pace(0.0, 1e9))
    made = Machine(here)
    plan = Plan.parse("2: lora").resolve(made.shape)
    counted = cost(plan, None, here.data.lengths, batch_size=8).epochs
    from_cache = made.plan(plan, here.bucketed, trunk=False)
    assert from_cache == pytest.approx(counted["cached"].flops / 1e9, rel=0.02)  # but for the head
    assert made.stock("full", here.random) == pytest.approx(counted["F"].flops / 1e9, rel=0.02)


def test_typical_batches_are_as_long_as_the_epochs():
    lengths = lengths_like("rte", 3200)
    plan = np.array_split(np.random.default_rng(0).permutation(3200), 100)
    padded = [len(index) * lengths[index].max() for index in plan]
    few = [len(index) * lengths[index].max() for index in typical(plan, lengths, 6)]
    assert np.mean(few) == pytest.approx(np.mean(padded), rel=0.01)
