"""Trials that make their steps together have the numbers that they have in turns, and alone."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import asking
import stratatune as st
import tiny
import tuning
from stratatune.errors import ConfigError, NotFiniteError
from stratatune.methods.adapter import BottleneckAdapter
from stratatune.model.question import Question
from stratatune.model.saving import read_tensors
from stratatune.model.split import Trunk
from stratatune.progress import Reporter
from stratatune.training.config import validate
from stratatune.training.forward import Forward
from stratatune.training.optimiser import build_optimiser
from stratatune.training.session import Ask
from stratatune.training.trials.together import AlikeTrials

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
RATES = [0.001, 0.003, 0.01]
ROUNDING = 2e-6
"""On tensors of size one in fp32. ``adam_eps`` stands well above the gradients' rounding: where the true gradient is
zero (the biases of the keys), Adam would otherwise blow up rounding to the size of a step."""


# ---- one step, in fp64 ----


class Plain:
    """The loss of a batch with labels 0, 1, 2, 0, ...; as an objective."""

    def __init__(self, attached):
        self.classifies = attached.backbone.head.name == "sequence"

    def question(self, batch, *, training):
        return Question() if self.classifies else asking.at(batch.read)

    piece = 0

    def represent(self, logits, batch):
        return logits

    def loss(self, logits, batch):
        return nn.functional.cross_entropy(logits if self.classifies else logits[:, 0], batch.labels)

    def weight(self, batch):
        return 3.0


class Told(Plain):
    """The loss of free text, behind a text or by a second stack."""

    def __init__(self, attached, targets):
        super().__init__(attached)
        self.own, self.targets = asking.text_objective(attached), targets

    def question(self, batch, *, training):
        return self.own.question(self.with_targets(batch), training=training)

    def loss(self, logits, batch):
        return self.own.loss(logits, self.with_targets(batch))

    def with_targets(self, batch):
        found = self.targets
        if self.own.name == "completion":
            found = asking.behind(batch.mask, batch.read, batch.input_ids)
        return SimpleNamespace(**{**vars(batch), "labels": found})

    def weight(self, batch):
        return 3.0


def batch_of(family, kind) -> Any:
    found = tuning.batch(family)
    mask = found["attention_mask"].bool()
    return SimpleNamespace(
        input_ids=found["input_ids"],
        token_types=found.get("token_type_ids"),
        mask=mask,
        read=tuning.read_at(kind),
        labels=torch.tensor([0, 1, 2]),
    )


def asks_of(models, settings, *, among=1, due=True, factor=0.7, before=0.0):
    """What trials over ``models`` ask for, each with its own ``settings``."""
    found = []
    for number, (model, own) in enumerate(zip(models, settings, strict=True)):
        config = validate({"model": "m", "train": "t", **own}, check_files=False)
        forward = Forward.of(model.attached, Plain(model.attached), 0, torch.device("cpu"), None)
        parts = {"top": forward.top, "forward": forward, "device": forward.device, "copies": None}
        session: Any = SimpleNamespace(config=config, **parts)
        optimiser = build_optimiser(model.attached.groups, config)
        index = torch.arange(3).numpy()
        found.append(Ask(session, optimiser, (0, 0), index, factor * (number + 1), among, due, before))
    return found


def hidden_of(model, batch):
    return Trunk(model.attached)(batch.input_ids, batch.mask, batch.token_types).detach()


@pytest.mark.parametrize("text", [*tuning.PLANS, *tuning.MIXES])
@pytest.mark.parametrize(("family", "kind"), [("bert", "mlm"), ("roberta", "classification")])
def test_gradients_of_every_treatment_are_those_alone(family, kind, text):
    """``prove`` compares to the square root of fp64's rounding, 1.5e-8."""
    models = [tuning.tuned(family, text, kind) for _ in range(3)]
    if models[0].attached.resolved.trains_embeddings:
        pytest.skip("the trunk trains: such trials take turns")
    batch = batch_of(family, kind)
    before = {name: p.clone() for name, p in models[0].attached.trained().items()}
    group = AlikeTrials(asks_of(models, [{}] * 3))
    group.prove(batch, hidden_of(models[0], batch))
    assert all(torch.equal(p, before[name]) for model in models for name, p in model.attached.trained().items())


@pytest.mark.parametrize("text", ["1: lora", "late_prompt(depth=2, tokens=3)", "adapter(depth=2)"])
@pytest.mark.parametrize("family", ["deberta-v2", "modernbert", "albert", "gpt2", "gemma3_text", "t5", "bart"])
def test_gradients_of_other_families_are_those_alone(family, text):
    if family == "albert" and text == "1: lora":
        text = ": lora"  # its blocks share their weights
    targets = torch.tensor([[5, 6, 7, 8], [9, 10, 11, -100], [12, 13, -100, -100]])

    def make():
        if family in ("t5", "bart"):
            return tiny.tiny_encoder_decoder(family)
        if family in tiny.DECODERS:
            return tiny.tiny_decoder(family, "causal")
        return tiny.tiny_of(family, "classification")

    models = [_tuned(make, text) for _ in range(2)]
    mask = torch.arange(9) < torch.tensor([9, 6, 8])[:, None]
    ids = torch.randint(5, 50, (3, 9)).masked_fill(~mask, 1)
    read = mask.sum(1) - 2 if family in tiny.DECODERS else torch.zeros(3, dtype=torch.long)
    batch: Any = SimpleNamespace(input_ids=ids, token_types=None, mask=mask, read=read, labels=torch.tensor([0, 1, 2]))
    asks = asks_of(models, [{}] * 2)
    for ask in asks:
        if models[0].attached.backbone.head.name in ("lm", "seq2seq_lm"):
            forward = ask.session.forward
            ask.session.forward = replace(forward, objective=Told(models[0].attached, targets))
    AlikeTrials(asks).prove(batch, hidden_of(models[0], batch))


def _tuned(make, text):
    torch.manual_seed(1)
    return st.apply(make().double(), text)


def test_a_gradient_that_is_not_the_trials_own_is_found(monkeypatch):
    """An adapter that computes with the values that were its own when it was made."""
    plain, models = BottleneckAdapter.forward, [tuning.tuned("bert", "bft-adapter@2") for _ in range(2)]
    held = {id(m): m.up.weight for model in models for m in model.modules() if isinstance(m, BottleneckAdapter)}

    def forward(self, hidden, mask):
        changed, mask = plain(self, hidden, mask)
        return changed + hidden @ held[id(self)] @ held[id(self)].T, mask

    monkeypatch.setattr(BottleneckAdapter, "forward", forward)
    batch = batch_of("bert", "mlm")
    with pytest.raises(ValueError, match="gradients differ"):
        AlikeTrials(asks_of(models, [{}] * 2)).prove(batch, hidden_of(models[0], batch))


@pytest.mark.parametrize("among", [1, 2])
def test_steps_are_those_of_adamw_and_clipping_alone(among):
    """Five steps of three trials that differ in everything that may differ, in fp64: 1e-10."""
    plans = ["1: lora(lr=0.02) + bitfit", "1: lora + bitfit", "1: lora(lr=0.001) + bitfit(lr=0.004)"]
    settings = [
        {"lr": 0.01, "clip": 0.01, "weight_decay": 0.3},
        {"lr": 0.002, "clip": 0.0, "weight_decay": 0.0, "adam_eps": 1e-3},
        {"lr": 0.005, "clip": 100.0, "weight_decay": 0.1, "adam_eps": 1e-6},
    ]
    batch = batch_of("bert", "mlm")
    once, apart = ([tuning.tuned("bert", plan) for plan in plans] for _ in range(2))
    hidden = hidden_of(once[0], batch)
    group = AlikeTrials(asks_of(once, settings))
    alone = asks_of(apart, settings)
    for number in range(5 * among):
        due, factor = (number + 1) % among == 0, 0.2 * number + 0.1
        asks = asks_of(once, settings, among=among, due=due, factor=factor, before=3.0 * (number % among))
        group.learn(asks, batch, hidden)
        for place, (ask, model) in enumerate(zip(alone, apart, strict=True)):
            trained = list(model.attached.trained().values())
            forward = ask.session.forward
            (forward.objective.loss(forward.above(hidden, batch, training=True), batch) / among).backward()
            if due:
                for own in ask.optimiser.param_groups:
                    own["lr"] = own["initial_lr"] * factor * (place + 1)
                if ask.session.config.clip:
                    nn.utils.clip_grad_norm_(trained, ask.session.config.clip)
                ask.optimiser.step()
                ask.optimiser.zero_grad()
    for one, other, start in zip(once, apart, [tuning.tuned("bert", plan) for plan in plans], strict=True):
        pairs = zip(*(model.attached.trained().values() for model in (one, other, start)), strict=True)
        for mine, theirs, was in pairs:
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)
            assert not torch.equal(theirs, was) or not was.any()


# ---- whole runs ----


@pytest.fixture
def given(settings, tmp_path):
    """Gives the settings of every trial, without what differs."""

    def make(dropout=False, family="bert", kind="mlm", **changes):
        config = settings(family, kind, **changes)
        kept = config.model_dump(exclude={"plan", "seed", "lr", "out"}, exclude_unset=True)
        if not dropout:
            kept["model"] = str(still(kept["model"], tmp_path / "still"))
        return {"adam_eps": 1e-3, **kept, "reporter": Reporter(quiet=True), "out": str(tmp_path / "many")}

    return make


def still(source, folder):
    """The model in ``source`` without dropout."""
    import shutil

    shutil.copytree(source, folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **NO_DROPOUT}))
    return folder


@pytest.fixture
def both(given, tmp_path, learnt):
    """Gives ``both(axes, **settings)``: the trials' results together and in turns; the former were learnt together."""

    def run(axes, **changes):
        shared = given(**changes)
        ways = []
        for way in ("always", "never"):
            learnt.clear()
            ways.append(st.train_many(**{**shared, "out": str(tmp_path / way)}, **axes, together=way))
            assert bool(learnt) == (way == "always")
        return ways

    return run


@pytest.fixture
def learnt(monkeypatch):
    """How many trials learnt together, step by step."""
    found, plain = [], AlikeTrials.learn

    def learn(self, asks, batch, hidden):
        losses = plain(self, asks, batch, hidden)
        found.append(len(asks))
        return losses

    monkeypatch.setattr(AlikeTrials, "learn", learn)
    return found


def assert_alike(one, other, bound=ROUNDING):
    mine, theirs = (read_tensors(Path(result.out) / "adapter") for result in (one, other))
    assert mine.keys() == theirs.keys()
    assert max(float((mine[name] - theirs[name]).abs().max()) for name in mine) <= bound
    records, wanted = (history(result) for result in (one, other))
    assert len(records) == len(wanted)
    for record, want in zip(records, wanted, strict=True):
        assert record == pytest.approx(want, rel=1e-4, abs=1e-5)
    assert (one.best, one.best_epoch, one.epochs, one.trainable) == (
        *(other.best, other.best_epoch, other.epochs, other.trainable),
    )


def history(result):
    return [json.loads(line) for line in (Path(result.out) / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("plan", "objective"),
    [
        *(("bft-adapter@2", "mlm"), ("bft@2", "mlm"), ("2: lora", "mlm"), ("spafit-0-1-II", "mlm")),
        *(("bft-adapter@2", "classification"), ("2: lora", "classification"), ("spafit-0-1-I", "classification")),
    ],
)
def test_together_is_in_turns(both, learnt, plan, objective):
    for one, other in zip(*both({"rates": RATES}, plan=plan, objective=objective, epochs=2), strict=True):
        assert_alike(one, other)
        assert other.notices == one.notices


def test_every_step_is_made_together(given, learnt):
    st.train_many(**given(epochs=2), rates=RATES, together="always")
    assert learnt == [3] * 12  # 48 examples, 8 a batch


@pytest.mark.parametrize(
    "changes",
    [
        {"accumulate": 4},
        {"precision": "bf16"},
        {"token_budget": 400, "batch_size": None},
        {"loss": "words"},
        {"schedule": "cosine"},
    ],
)
def test_other_settings(both, changes):
    words = {"label_words": {"positive": "great", "negative": "bad"}} if "loss" in changes else {}
    bound = 2e-2 if "precision" in changes else ROUNDING  # bf16 keeps 8 bits, and the sums are made in another order
    ways = both({"rates": RATES[:2]}, plan="bft-adapter@2", **changes, **words)
    for one, other in zip(*ways, strict=True):
        if "precision" not in changes:
            assert_alike(one, other)
        mine, theirs = (read_tensors(Path(result.out) / "adapter") for result in (one, other))
        assert max(float((mine[name] - theirs[name]).abs().max()) for name in mine) <= bound


def test_dropout_on_the_cpu_is_what_each_would_draw_alone(both):
    axes = {"rates": RATES}
    for one, other in zip(*both(axes, dropout=True, plan="2: lora(dropout=0.3)", epochs=3), strict=True):
        assert_alike(one, other)


def test_plans_that_differ_in_a_treatments_rate_are_alike_and_others_are_not(both, learnt, given):
    plans = ["2: lora(lr=0.01) + bitfit", "2: lora(lr=0.002) + bitfit", "2: lora + bitfit(lr=0.003)", "2: bitfit"]
    for one, other in zip(*both({"plans": plans}), strict=True):
        assert_alike(one, other)
    learnt.clear()
    st.train_many(**given(epochs=1, out="unused"), plans=plans, together="always")
    assert set(learnt) == {3}


def test_trials_of_several_seeds_stand_with_their_own(given, learnt):
    st.train_many(**given(epochs=1, objective="classification"), seeds=[0, 1], rates=RATES[:2], together="always")
    assert learnt == [2] * 12


def test_one_stops_early_and_the_others_go_on(both, learnt):
    """The smallest rate finds no better epoch, the others do."""
    axes = {"rates": [1e-9, 0.03, 0.1]}
    ways = both(axes, plan="2: lora", objective="classification", epochs=8, early_stopping=2)
    epochs = [result.epochs for result in ways[0]]
    assert epochs[0] < max(epochs)
    for one, other in zip(*ways, strict=True):
        assert_alike(one, other, 2e-5)  # eight epochs at a large rate, where rounding grows


class Stop(KeyboardInterrupt):
    """A user's Ctrl-C."""


@pytest.mark.parametrize("at", [4, 9])
def test_stopped_and_resumed_is_uninterrupted_to_the_bit(given, tmp_path, monkeypatch, at):
    changes = given(dropout=True, epochs=3, checkpoint_every=2, plan="2: lora(dropout=0.2)")
    whole = st.train_many(**{**changes, "out": str(tmp_path / "whole")}, rates=RATES, together="always")
    plain, seen = AlikeTrials.learn, [0]

    def learn(self, *given):
        seen[0] += 1
        if seen[0] == at:
            raise Stop
        return plain(self, *given)

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(AlikeTrials, "learn", learn)
        st.train_many(**changes, rates=RATES, together="always")
    again = st.train_many(**changes, rates=RATES, together="always", resume=True)
    for one, other in zip(again, whole, strict=True):
        mine, theirs = (read_tensors(Path(result.out) / "adapter") for result in (one, other))
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
        assert history(one) == history(other)


def test_a_trial_that_is_behind_catches_up(given, tmp_path, monkeypatch, learnt):
    """Stopped between two trials' checkpoints of one step."""
    changes = given(epochs=3, checkpoint_every=2, plan="2: lora")
    whole = st.train_many(**{**changes, "out": str(tmp_path / "whole")}, rates=RATES, together="never")
    from stratatune.training import loop

    plain, seen = loop.save_checkpoint, [0]

    def save(*given):
        seen[0] += 1
        if seen[0] == 5:
            raise Stop
        return plain(*given)

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(loop, "save_checkpoint", save)
        st.train_many(**changes, rates=RATES, together="always")
    learnt.clear()
    again = st.train_many(**changes, rates=RATES, together="always", resume=True)
    assert learnt[0] == 2 and learnt[-1] == 3  # one had its checkpoint of step 4, two that of step 2
    for one, other in zip(again, whole, strict=True):
        assert_alike(one, other)


@pytest.mark.parametrize("stage", ["prove", "learn"])
def test_what_cannot_be_stacked_takes_turns(given, tmp_path, monkeypatch, stage, capfd):
    """At the first batch, or in the middle of an optimiser step: to the bit what turns give, up to there rounding."""
    changes = given(plan="2: lora", dropout=True, accumulate=3)
    turns = st.train_many(**{**changes, "out": str(tmp_path / "turns")}, rates=RATES, together="never")
    plain, seen = getattr(AlikeTrials, stage), [0]

    def fails(self, *given):
        seen[0] += 1
        if stage == "prove" or seen[0] == 5:
            raise RuntimeError("Batching rule not implemented for aten::something")
        return plain(self, *given)

    monkeypatch.setattr(AlikeTrials, stage, fails)
    found = st.train_many(**changes, rates=RATES, together="always")
    assert capfd.readouterr().err.count("3 trials take turns") == 1
    for one, other in zip(found, turns, strict=True):
        assert_alike(one, other, 0.0 if stage == "prove" else ROUNDING)


def test_where_memory_is_short_fewer_are_computed_at_once(given, both, monkeypatch):
    plain, widths = AlikeTrials._of_rows, []

    def of_rows(self, rows, batch, hidden):
        found = plain(self, rows, batch, hidden)
        widths.append(len(found[0]))
        if widths[-1] > 2:
            raise torch.OutOfMemoryError("out of memory")
        return found

    monkeypatch.setattr(AlikeTrials, "_of_rows", of_rows)
    for one, other in zip(*both({"rates": RATES}, dropout=True), strict=True):
        assert_alike(one, other)
    assert widths[:3] == [3, 2, 1] and 3 not in widths[1:]


def test_auto_is_turns_on_the_cpu(given, learnt):
    st.train_many(**given(epochs=1), rates=RATES)
    assert not learnt


def test_a_wrong_word(given):
    with pytest.raises(ConfigError, match="together: 'alway'.*did you mean 'always'"):
        st.train_many(**given(), rates=RATES, together="alway")


@pytest.mark.parametrize("left", [1, 2])
def test_one_that_diverges_takes_no_gradient_of_the_others_with_it(given, tmp_path, left):
    """It ends within an optimiser step, of which the others have gathered a part."""
    changes, rates = given(plan="2: lora", accumulate=3, clip=0.0, epochs=1), [*RATES[:left], 1e30]
    for way in ("always", "never"):
        with pytest.raises(NotFiniteError, match="1 of"):
            st.train_many(**{**changes, "out": str(tmp_path / way)}, rates=rates, together=way)
    for rate in RATES[:left]:
        one, other = (read_tensors(tmp_path / way / f"lr-{rate}" / "adapter") for way in ("always", "never"))
        assert max(float((one[name] - other[name]).abs().max()) for name in one) <= ROUNDING


def test_times_are_charged_once(both):
    """All trials together were charged no more than went by, though each of them was there the whole time."""
    started = time.perf_counter()
    together_, turns = both({"rates": RATES})
    gone_by = time.perf_counter() - started
    charged = [second for result in (*together_, *turns) for second in result.seconds.values()]
    assert min(charged) >= 0 and 0 < sum(charged) <= gone_by + 0.0005 * len(charged)  # each is rounded


def test_tops_of_trials_draw_dropout_as_in_turns(given, tmp_path, learnt):
    """The trials of a call and the tops of each take turns, one inside the other."""
    changes = given(
        dropout=True, objective="multitask(tops=label|score)", label="label,score", plan="2: lora", epochs=1
    )
    found = {}
    for way in ("always", "never"):
        results = st.train_many(**{**changes, "out": str(tmp_path / way)}, rates=RATES[:2], together=way)
        found[way] = [result.best for result in results]
        assert bool(learnt) == (way == "always")
        learnt.clear()
    for one, other in zip(found["always"], found["never"], strict=True):
        assert one == pytest.approx(other, abs=1e-5)
