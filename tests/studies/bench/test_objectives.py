"""Every objective of the registry in a bench: the arms learn the same, and do the operations that are counted."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from benchmarks.counters import counted_flops

import chats
import tiny
from stratatune.app.verbs.benching import _setting
from stratatune.costs.cost import Epoch, cost
from stratatune.errors import ConfigError, ModelError
from stratatune.model.heads.registry import head_named
from stratatune.objectives.classes import Classes
from stratatune.objectives.objective import Objective
from stratatune.objectives.registry import OBJECTIVES
from stratatune.studies.bench.arms import BenchSetting, Ours, Stock, lengths_like, random_data
from stratatune.studies.bench.bench import bench, objective_of

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
BENCHED = {"encoder": "bert", "decoder": "llama"}
CASES = [
    pytest.param(name, family, id=f"{name}-{family}")
    for name, one in OBJECTIVES.items()
    for family in BENCHED
    if family in one.families
]
PLAN = "1: lora(rank=2)"


def setting_of(objective: str, family: str, **changes) -> BenchSetting:
    """Without dropout, so that two models of the same weights compute the same."""
    if family == "encoder":
        none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        config = tiny.tiny_model("bert", "mlm", **none).config.to_dict()
    else:
        config = tiny.tiny_decoder("llama", blocks=3).config.to_dict()
    config = {**config, "attn_implementation": "eager"}
    data = random_data(lengths_like("sst2", 24), config["vocab_size"], at_end=family == "decoder")
    given = {"batch_size": 8, "timed": 99, "bf16": False, "objective": objective}
    return BenchSetting(config, data, **{**given, **changes})


def counted(here: BenchSetting, ours: Ours, objective: str) -> dict[str, Epoch]:
    data, outputs = here.examples, here.learnt(objective)[0].outputs
    more = {"groups": data.groups, "places": here.places(objective), "labels": outputs, "memory": False}
    return dict(
        cost(ours.model.attached.resolved, None, data.lengths, objective=objective, batch_size=8, **more).epochs
    )


@pytest.mark.parametrize(("objective", "family"), CASES)
def test_all_arms_learn_one_objective_and_do_the_operations_that_are_counted(objective, family):
    """From the same weights transformers' whole model has the loss of our top; operations agree to the last one."""
    here = setting_of(objective, family)
    ours, stock = Ours(here, PLAN, None), Stock(here, lora=False, bucketed=True)
    assert type(ours.forward.objective) is OBJECTIVES[objective]
    today = OBJECTIVES[objective].today or objective
    assert type(stock.objective) is OBJECTIVES[today]
    if today == objective:
        for module in (ours.forward.top, ours.model, stock.model):
            module.eval()  # decoders' heads of tags have a dropout of their own
        for mine, theirs in zip(ours.batches(), stock.batches(), strict=True):
            assert ours.loss(mine).item() == pytest.approx(stock.loss(theirs).item(), rel=1e-4)
    ours.feed = ours.fresh_feed()
    ours.epoch()  # fills the cache
    epochs = counted(here, ours, objective)
    exact = 0.02 if objective == "vectors" else 1e-9  # the similarities within a batch are not in the formulas
    assert counted_flops(ours.epoch) == pytest.approx(epochs["cached"].flops, rel=exact)
    stock.bucketed = False
    assert counted_flops(stock.epoch) == pytest.approx(epochs["F"].flops, rel=exact)


@pytest.mark.parametrize(("objective", "family"), CASES)
def test_stock_lora_wears_the_head_of_the_objective(objective, family):
    pytest.importorskip("peft")
    here = setting_of(objective, family, timed=1)
    arm = Stock(here, lora=True, bucketed=False)
    head = head_named(OBJECTIVES[here.today].head)
    assert arm.model.peft_config["default"].task_type == head.peft_task
    before = {name: p.detach().clone() for name, p in arm.model.named_parameters() if p.requires_grad}
    arm.epoch()
    moved = {name for name, p in arm.model.named_parameters() if name in before and not torch.equal(before[name], p)}
    assert any("lora_B" in name for name in moved) and all("base_layer" not in name for name in before)


@pytest.mark.parametrize(("objective", "family"), [("tags", "encoder"), ("vectors", "encoder"), ("chat", "decoder")])
def test_a_bench_of_it_is_measured_and_predicted(objective, family):
    pytest.importorskip("peft")
    report = bench(setting_of(objective, family, timed=2), [PLAN], rounds=1)
    assert report.settings["objective"] == objective
    assert report.examples == (12 if objective == "vectors" else 24)
    assert [way.name for way in report.ways] == ["A", "B", "C", "F", "floor", PLAN]
    for way in report.ways:
        assert way.seconds > 0 and way.predicted > 0 and way.flops > 0
        assert (way.saved_bytes > 0) == (way.name != "floor")


def test_what_cannot_be_benched_is_one_line(monkeypatch):
    t5 = tiny.tiny_encoder_decoder("t5", more=0).config.to_dict()
    assert objective_of(t5, ["lora"], "seq2seq") == "seq2seq"
    with pytest.raises(ModelError, match="which bench cannot measure"):
        bench(BenchSetting(t5, random_data(np.array([4, 5]), 100), objective="seq2seq"), ["lora"])
    with pytest.raises(ModelError, match="seq2seq needs an encoder-decoder"):
        objective_of(setting_of("tags", "encoder").config, ["lora"], "seq2seq")

    @dataclass(frozen=True, kw_only=True)
    class Own(Classes):
        name: ClassVar[str] = "own"
        pretended = classmethod(Objective.pretended.__func__)

    monkeypatch.setitem(OBJECTIVES, "own", Own)
    with pytest.raises(ConfigError, match="objective: own has no made-up data"):
        bench(setting_of("own", "encoder"), [PLAN])


# --- on data of one's own ---------------------------------------------------------------------------------------------


def own(model, train, objective, **data):
    """The setting of ``stratatune bench --train FILE --objective ...``."""
    given = {"task": None, "text": None, "label": None, "plan": PLAN, **data}
    return _setting(str(model), str(train), "sst2", given, objective, 4, 2, False, "cpu", None)


def trained(here: BenchSetting) -> None:
    for arm in (Ours(here, PLAN, None), Stock(here, lora=False, bucketed=True)):
        losses = [arm.loss(batch).item() for batch in arm.batches()]
        assert losses and np.isfinite(losses).all()


def test_data_of_ones_own_are_learnt_as_a_run_learns_them(tiny_folder, tmp_path):
    words = "the good film was a great story".split()
    tagged = [{"tokens": words[: 3 + n % 4], "tags": ["O", "B-x", *["I-x"] * (1 + n % 4)]} for n in range(9)]
    here = own(tiny_folder("bert"), chats.write_jsonl(tmp_path / "tags.jsonl", tagged), "tags(align=all)")
    assert here.own is not None and here.own[0].align == "all" and here.own[0].tags == ("O", "B-x", "I-x")
    assert here.examples.examples == 9 and here.pad == tiny.tiny_tokenizer("bert").pad_token_id
    trained(here)
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        pairs = [(f"the film {n}", f"a {'good ' * n}story", f"{'the book ' * n}was bad") for n in range(1, 7)]
        csv.writer(file).writerows([("anchor", "positive", "negative"), *pairs])
    here = own(tiny_folder("bert"), tmp_path / "pairs.csv", "vectors")
    assert here.examples.examples == 6 and here.padded(np.array([0, 3]))[0] == 6
    trained(here)


def test_conversations_of_ones_own_are_learnt_in_every_arm(tmp_path):
    rows = [{"messages": chats.said(("user", "the film " * n), ("assistant", "a good story"))} for n in range(1, 8)]
    model = chats.save_chat_model(tmp_path / "model")
    here = own(model, chats.write_jsonl(tmp_path / "chats.jsonl", rows), "chat(turns=last)")
    assert here.own is not None and here.own[0].turns == "last" and here.examples.examples == 7
    trained(here)


def test_label_words_take_the_lengths_of_the_data_alone(tiny_folder, tmp_path):
    texts = [f"{'a good film and ' * (1 + n % 3)}story,{'yes' if n % 2 else 'no'}" for n in range(12)]
    (tmp_path / "train.csv").write_text("\n".join(["sentence,label", *texts]) + "\n")
    here = own(tiny_folder("bert"), tmp_path / "train.csv", "mlm", plan="bft-adapter@2")
    assert here.own is None and here.today == "classification" and len(set(here.data.lengths)) == 3
