"""An optimiser step is the same however its examples are cut: into one batch, several, or shares of processes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import tiny
from stratatune.data import batching
from stratatune.model.saving import read_tensors
from stratatune.progress import Reporter
from stratatune.training import distributed
from stratatune.training.forward import Forward
from stratatune.training.predict import Predictor
from stratatune.training.prepare import Outline, read_tables
from stratatune.training.run import open_session

ONE_STEP = {"epochs": 1, "warmup": 0.0, "schedule": "constant", "clip": 0.0, "adam_eps": 1e3, "weight_decay": 0.0}
"""With an epsilon so large, Adam's first step is the gradient times a constant."""
ANSWERS = [("good", "best"), ("bad", "bad and worst and terrible and not good"), ("fine", "same"), ("one", "two three")]
ANSWERS += [("the film", "great great great great great"), ("a story", "maybe")]


@pytest.fixture
def told(tmp_path):
    """A table of texts with answers of one to eight words."""
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in ANSWERS))
    return str(path)


@pytest.fixture
def still(tiny_folder, tmp_path):
    """Gives ``still(family)``: a saved tiny model without dropout."""

    def saved(family):
        if family == "bert":
            none = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)
            return str(tiny_folder("bert", "mlm", **none))
        folder = tmp_path / family
        if family == "t5":
            tiny.tiny_encoder_decoder("t5", dropout_rate=0.0).save_pretrained(folder)
            tiny.tiny_tokenizer("roberta").save_pretrained(folder)
        else:
            tiny.save_tiny_decoder(folder, family, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
        return str(folder)

    return saved


@pytest.fixture
def gradient(run, still, tmp_path):
    """Gives ``gradient(family, **changes)``: what one optimiser step over all data moved, as one vector."""
    made = []

    def of(family="bert", **changes):
        made.append(None)
        out = str(tmp_path / f"step-{len(made)}")
        run(out=out, cache="off", **{**ONE_STEP, "model": still(family), "lr": 10.0, "eval": None, **changes})
        tensors = read_tensors(tmp_path / f"step-{len(made)}" / "adapter")
        return torch.cat([tensors[name].flatten() for name in sorted(tensors) if name.endswith(".b")]).double()

    return of


def assert_same_step(one, other):
    cosine = F.cosine_similarity(one, other, dim=0)
    assert one.norm() > 0
    assert float(cosine) == pytest.approx(1.0, abs=1e-6) and float(other.norm() / one.norm()) == pytest.approx(1, 1e-5)


@pytest.mark.parametrize("cut", [{"batch_size": 4, "accumulate": 2}, {"batch_size": 3, "accumulate": 9}])
@pytest.mark.parametrize("objective", ["classification", "mlm"])
def test_batches_of_unequal_size(gradient, objective, cut):
    data = {"plan": "lora", "train_samples": 5, "objective": objective}
    assert_same_step(gradient(**data, batch_size=5), gradient(**data, **cut))


@pytest.mark.parametrize("weights", [(0.1, 1.9), (0.01, 0.02), (0.0, 1.0)])
def test_weights_that_sum_to_less_than_one(gradient, tmp_path, weights):
    path = tmp_path / "weighed.jsonl"
    rows = [
        {"text": f"{label} film", "label": label, "w": w} for label, w in zip(("good", "bad"), weights, strict=True)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"plan": "lora", "objective": "classification", "train": str(path), "weight": "w"}
    assert_same_step(gradient(**data, batch_size=2), gradient(**data, batch_size=1, accumulate=2))


def test_batches_cut_by_a_token_budget(gradient):
    data = {"plan": "lora", "train_samples": 11, "objective": "classification"}
    whole = gradient(**data, batch_size=11)
    assert_same_step(whole, gradient(**data, batch_size=None, token_budget=60, accumulate=50))


@pytest.mark.parametrize(("family", "objective"), [("gpt2", "completion"), ("t5", "seq2seq")])
def test_answers_of_unequal_length(gradient, told, family, objective):
    data = {"plan": "lora", "train": told, "objective": objective}
    whole = gradient(family, **data, batch_size=len(ANSWERS))
    assert_same_step(whole, gradient(family, **data, batch_size=1, accumulate=len(ANSWERS)))


PREFERENCES = [(f"{text} {answer}", "great great", "bad " * len(text)) for text, answer in ANSWERS]


@pytest.mark.parametrize(
    ("family", "objective", "texts"),
    [
        *(("bert", name, 12) for name in ("classification", "mlm")),
        *(("gpt2", "completion", len(ANSWERS)), ("t5", "seq2seq", len(ANSWERS))),
        ("gpt2", "dpo", 2 * len(ANSWERS)),
    ],
)
def test_long_texts_are_computed_in_parts(gradient, told, tmp_path, monkeypatch, family, objective, texts):
    """The step is that of the whole batch, and no more than so many tokens are computed at once."""
    data = {"plan": "lora", "objective": objective}
    if objective == "dpo":
        rows = [dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in PREFERENCES]
        path = tmp_path / "preferences.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        data |= {"train": str(path), "batch_size": len(rows), "text": (), "label": None}
    elif family == "bert":
        data |= {"train_samples": texts, "batch_size": texts}
    else:
        data |= {"train": told, "batch_size": texts}
    whole = gradient(family, **data)
    computed, plain = list[tuple[int, int]](), Forward.loss

    def seen(self, batch, feed):
        computed.append((len(batch), batch.input_ids.shape[1]))
        return plain(self, batch, feed)

    monkeypatch.setattr(Forward, "loss", seen)
    monkeypatch.setattr(batching, "LONG", 2)
    monkeypatch.setattr(batching, "AT_ONCE", 20)
    assert_same_step(whole, gradient(family, **data))
    each = 2 if objective == "dpo" else 1
    assert len(computed) > 1 and sum(count for count, _ in computed) == texts
    # Parts are equal in number, so one may have a text more than another.
    assert all(count <= each or (count - each) * length <= 20 for count, length in computed)


def test_a_loss_over_the_whole_batch_is_not_divided(settings, told, tmp_path, still, monkeypatch):
    monkeypatch.setattr(batching, "LONG", 2)
    monkeypatch.setattr(batching, "AT_ONCE", 20)
    rows = [{"anchor": text, "positive": answer} for text, answer in ANSWERS]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for changes, divides in (
        ({"train": str(path), "objective": "vectors", "text": (), "label": None}, False),
        ({"objective": "classification"}, True),
        ({"objective": "classification", "batch_size": None, "token_budget": 400}, False),
    ):
        config = settings(**{"model": still("bert"), "eval": None, "plan": "1: lora", **changes})
        outline = Outline(config)
        out = tmp_path / str(changes["objective"]) / str(divides)
        session, caching = open_session(outline, read_tables(config, {}, outline.kind), out, Reporter(quiet=True))
        assert session.divides == divides
        assert any(session.parts(batch) > 1 for batch in session.planned_batches(0)) == divides
        caching.close()


def test_the_epochs_loss_is_the_mean_over_its_examples(run, settings, tmp_path):
    """One rate of almost nothing: the loss of an epoch is that of the data, in batches of 32 and 16 as in one."""
    for size, name in ((48, "one"), (32, "two")):
        run(batch_size=size, epochs=1, lr=1e-12, out=str(tmp_path / name), plan="head")
    losses = [json.loads((tmp_path / name / "metrics.jsonl").read_text())["train_loss"] for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_shares_of_processes_add_up_in_fp64(monkeypatch):
    """Three ranks with 1, 4 and 0 terms of a step's loss: the summed gradients are that of the mean over all five."""
    values = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
    shares = [values[:1], values[1:], values[:0]]

    def loss(rows):
        return (rows @ weight).square().sum() / max(1, len(rows))

    whole = torch.autograd.grad(loss(values), weight)[0]
    together = np.array([[len(rows), loss(rows).item() * len(rows), 1] for rows in shares]).sum(0)
    monkeypatch.setattr(distributed, "world", lambda: 3)
    monkeypatch.setattr(distributed, "added", lambda given: together)
    summed = torch.zeros_like(whole)
    for rows in shares:
        part = distributed.weigh(loss(rows), float(len(rows)), 1)
        assert (part.weight, part.tokens) == (5.0, 3)
        assert part.loss == pytest.approx(loss(values).item(), rel=1e-12)
        summed += torch.autograd.grad(loss(rows) * part.own / part.weight, weight)[0]
    torch.testing.assert_close(summed, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("world", [2, 3])
def test_a_batch_that_every_process_learns_from_counts_once(monkeypatch, world):
    """An example for three processes, then eight: the step's gradient and loss are the means over all nine."""
    values = torch.randn(9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
    monkeypatch.setattr(distributed, "world", lambda: world)
    batches = [np.arange(1), np.arange(1, 9)]
    shares = []
    for number in range(world):
        monkeypatch.setattr(distributed, "rank", lambda number=number: number)
        shares.append(distributed.mine(batches))

    def loss(rows):
        return (rows @ weight).square().mean()

    summed, total, tokens = torch.zeros_like(weight), 0.0, 0
    for batch, parts in zip(batches, zip(*shares, strict=True), strict=True):
        copies, sent = distributed.copies(batch), []
        # Each sends what it has; the second time every one gets the sum of all.
        for received in (lambda given, sent=sent: (sent.append(given), given)[1], lambda given, sent=sent: sum(sent)):
            monkeypatch.setattr(distributed, "added", received)
            found = [distributed.weigh(loss(values[part]), float(len(part)), 7 * len(part), copies) for part in parts]
        for part, one in zip(parts, found, strict=True):
            summed += torch.autograd.grad(loss(values[part]) * one.own, weight)[0]
        total, tokens = total + found[0].weight, tokens + found[0].tokens
        assert found[0].loss == pytest.approx(loss(values[batch]).item(), rel=1e-12)
    assert (total, tokens) == (pytest.approx(9.0), 63)
    torch.testing.assert_close(summed / total, torch.autograd.grad(loss(values), weight)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("family", "objective"), [("gpt2", "completion"), ("t5", "seq2seq")])
def test_what_bears_loss_is_counted_from_the_batch(settings, told, still, tmp_path, family, objective):
    """As the likelihoods' own count says."""
    outline = Outline(settings(model=still(family), train=told, eval=None, objective=objective, plan="lora"))
    tables = read_tables(outline.config, {}, outline.kind)
    session, caching = open_session(outline, tables, tmp_path, Reporter(quiet=True))
    for index in (np.arange(6), np.array([1]), np.array([3, 0])):
        batch = session.forward.batch(session.train, index)
        with torch.no_grad():
            logits = session.forward(batch, session.feed, training=False)
        assert session.objective.weight(batch) == session.objective.predict(logits, batch)[:, 1].sum()
    caching.close()


def test_rows_that_are_held_out_are_scored_without_weights(run, settings, tmp_path):
    """As in a file of their own: a weight says how much a row counts in training."""
    rows = [{"text": f"the {word} film {n}", "label": word} for n in range(20) for word in ("good", "bad")]
    path = tmp_path / "weighed.jsonl"
    path.write_text("".join(json.dumps({**row, "w": 1}) + "\n" for row in rows))
    asked = {"train": str(path), "eval": None, "eval_split": 0.2, "weight": "w", "plan": "lora"}
    outline = Outline(settings(**asked, objective="classification"))
    held = {*read_tables(outline.config, {}, outline.kind).eval[0].texts[0]}
    path.write_text("".join(json.dumps({**row, "w": int(row["text"] not in held)}) + "\n" for row in rows))
    result = run(**asked, objective="classification", epochs=1)
    loss = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())["eval_loss"]
    dev = tmp_path / "dev.jsonl"
    dev.write_text("".join(json.dumps(row) + "\n" for row in rows if row["text"] in held))
    assert loss > 0.01
    assert loss == pytest.approx(Predictor(result.out).score(str(dev))["metrics"]["loss"], rel=1e-4)
