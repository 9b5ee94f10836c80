"""A new output layer that starts fitted: the direction of another solver's, a few times the size of a drawn one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from stratatune.cache.feed import Feed
from stratatune.errors import ConfigError
from stratatune.model.saving import read_tensors
from stratatune.progress import Reporter
from stratatune.training import head_start
from stratatune.training.prepare import Outline, read_tables
from stratatune.training.run import open_session, train
from stratatune.training.session import Session

STILL = {"epochs": 1, "lr": 1e-12, "weight_decay": 0.0}  # what is saved is what training started from
PLAN = {"plan": "1: full", "objective": "classification"}


def opened(config) -> Session:
    outline = Outline(config)
    Path(config.out).mkdir()
    session, caching = open_session(
        outline, read_tables(config, {}, outline.kind), Path(config.out), Reporter(quiet=True)
    )
    caching.close()
    return session


def output_layer(session: Session) -> torch.nn.Linear:
    model = session.top.attached.backbone.model
    return getattr(model.classifier, "out_proj", model.classifier)


def pooled(session: Session) -> tuple[np.ndarray, np.ndarray]:
    """What the output layer reads of each training text, and the labels."""
    seen = []
    with session.forward.evaluating(), torch.no_grad():
        handle = output_layer(session).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        batch = session.forward.batch(session.train, np.arange(session.train.examples))
        session.forward(batch, session.feed, training=False)
        handle.remove()
    return seen[0].numpy().astype(np.float64), session.train.labels


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_the_direction_is_that_of_a_logistic_regression(family, settings, monkeypatch):
    monkeypatch.setattr(head_start, "STRENGTHS", (0.1,))
    monkeypatch.setattr(head_start, "_ITERATIONS", 2000)
    config = settings(family=family, **PLAN, train=settings().train.replace("train.csv", "train3.csv"), eval=None)
    session = opened(config)
    drawn = output_layer(session).weight.detach().clone()
    inputs, labels = pooled(session)
    head_start.fit_head(session)
    layer = output_layer(session)
    spread = np.sqrt(inputs.var(0).mean())
    given = (inputs - inputs.mean(0)) / spread
    solved = LogisticRegression(C=1 / (0.1 * len(given)), tol=1e-9, max_iter=10_000).fit(given, labels)
    wanted = solved.coef_
    got = layer.weight.detach().numpy().astype(np.float64)
    cosine = (got * wanted).sum() / np.linalg.norm(got) / np.linalg.norm(wanted)
    assert cosine > 0.999
    assert float(layer.weight.detach().norm()) == pytest.approx(3 * float(drawn.norm()), rel=1e-4)
    # At the mean of what is read the logits are those of the solver: the shares of the classes.
    at_mean = layer(torch.tensor(inputs.mean(0), dtype=torch.float32)).detach().numpy()
    assert np.allclose(at_mean - at_mean.mean(), solved.intercept_ - solved.intercept_.mean(), atol=1e-3)


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": "classification"},
        {"objective": "classification(weights=balanced, focal=2)"},
        {"objective": "regression", "label": "score"},
        {"objective": "multilabel"},
        {"objective": "multitask", "label": "label,score"},
    ],
    ids=lambda changes: changes["objective"].partition("(")[0] + ("(" if "(" in changes["objective"] else ""),
)
def test_it_starts_from_a_smaller_loss(changes, run, tmp_path):
    """The loss of the untrained model over the training data, by every objective with a new output layer."""
    losses = {}
    for start in ("drawn", "fitted"):
        result = run(**{**PLAN, **changes}, **STILL, head_start=start, out=str(tmp_path / start))
        lines = (Path(result.out) / "metrics.jsonl").read_text().splitlines()
        losses[start] = json.loads(lines[-1])["eval_loss"]
    assert losses["fitted"] < losses["drawn"]


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize("limit", ["SAMPLE", "PLACES"])
def test_it_reads_no_more_than_the_first_batches(limit, family, run, monkeypatch, tmp_path):
    """The sample is made of the first epoch's own batches, so a cache holds the same numbers as without it."""
    monkeypatch.setattr(head_start, limit, 20)
    seen, plain = [], Feed.hidden

    def hidden(self, batch):
        if len(batch) == 8:
            seen.append(batch.input_ids.tolist())
        return plain(self, batch)

    monkeypatch.setattr(Feed, "hidden", hidden)
    run(family=family, **PLAN, epochs=1, head_start="fitted")
    assert seen[:3] == seen[3:6]
    assert len(seen) == 3 + 6


@pytest.mark.parametrize("cache", ["off", "ram"])
def test_stopped_and_resumed(cache, settings, run, monkeypatch, tmp_path):
    changes = {**PLAN, "head_start": "fitted", "epochs": 3, "cache": cache}
    whole = run(**changes, out=str(tmp_path / "whole"))

    def stop(self, epoch):
        if epoch == 2:
            raise KeyboardInterrupt
        return plain(self, epoch)

    plain = Session.batches
    with monkeypatch.context() as patch:
        patch.setattr(Session, "batches", stop)
        # The batches of all epochs are counted first.
        patch.setattr("stratatune.training.loop.math.ceil", lambda value: int(-(-value // 1)))
        with pytest.raises(KeyboardInterrupt):
            train(settings(**changes), reporter=Reporter(quiet=True))
    again = run(**changes, resume=True)
    wanted, got = read_tensors(Path(whole.out) / "adapter"), read_tensors(Path(again.out) / "adapter")
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("width", [3, 8])
def test_inputs_that_are_all_equal_give_no_weight(width):
    """Fewer examples than inputs, or more."""
    inputs, labels = torch.zeros(5, width, dtype=torch.float64), torch.tensor([0, 1, 0, 0, 1])

    class Plain:
        def loss(self, logits, batch):
            return torch.nn.functional.cross_entropy(logits, batch)

        def weight(self, batch):
            return float(len(batch))

    parts = [head_start.Part(labels, inputs, torch.Size([5, 2]))]
    weight, bias = head_start._fitted(head_start._Fit(Plain(), torch.nn.Linear(width, 2), parts), parts)
    assert weight.shape == (2, width) and not weight.any()
    assert torch.allclose(bias.softmax(0), torch.tensor([0.6, 0.4], dtype=torch.float64), atol=1e-4)


@pytest.mark.parametrize("examples", [60, 12])
def test_the_search_finds_the_minimum(examples):
    """Of inputs that are far from independent, with rare classes, and with fewer examples than inputs."""
    random = np.random.default_rng(0)
    inputs = torch.tensor(random.normal(size=(examples, 20)) @ random.normal(size=(20, 20)) * np.logspace(0, -3, 20))
    labels = torch.tensor(random.choice(4, size=examples, p=[0.85, 0.05, 0.05, 0.05]))

    class Plain:
        def loss(self, logits, batch):
            return torch.nn.functional.cross_entropy(logits, batch)

        def weight(self, batch):
            return float(len(batch))

    cut = [slice(0, examples // 3), slice(examples // 3, examples)]
    parts = [head_start.Part(labels[one], inputs[one], torch.Size([len(labels[one]), 4])) for one in cut]
    fit = head_start._Fit(Plain(), torch.nn.Linear(20, 4), parts)
    weight, bias = fit(fit.sample(parts), 0.01)
    weight, bias = (weight @ fit.directions.T).requires_grad_(), bias.requires_grad_()
    loss = torch.nn.functional.cross_entropy(inputs @ weight.T + bias, labels) + 0.005 * weight.square().sum()
    assert all(slope.abs().max() < 1e-5 for slope in torch.autograd.grad(loss, [weight, bias]))


def test_an_objective_without_a_new_output_layer(run):
    with pytest.raises(ConfigError, match="head_start: mlm has no new output layer") as caught:
        run(plan="bft-adapter", head_start="fitted")
    assert "drawn" in str(caught.value.hint)


def test_texts_that_say_nothing(run, files, tmp_path):
    """Where all texts are equal, nothing can be read of them, and the layer stays as it was drawn."""
    path = tmp_path / "same.csv"
    path.write_text("text,label\n" + "the film,a\nthe film,b\n" * 16)
    changes = {**PLAN, **STILL, "train": str(path), "eval": None}
    tensors = [
        read_tensors(Path(run(**changes, head_start=start, out=str(tmp_path / start)).out) / "adapter")
        for start in ("drawn", "fitted")
    ]
    name = next(name for name in tensors[0] if "classifier" in name and name.endswith("weight"))
    assert torch.equal(tensors[0][name], tensors[1][name])


def test_label_sets_start_fitted_unless_the_run_says_otherwise(run, tmp_path):
    changes = {**PLAN, **STILL, "objective": "multilabel"}
    tensors = {
        start: read_tensors(Path(run(**changes, head_start=start, out=str(tmp_path / start)).out) / "adapter")
        for start in ("auto", "fitted", "drawn")
    }
    name = next(name for name in tensors["auto"] if "classifier" in name and name.endswith("weight"))
    assert torch.equal(tensors["auto"][name], tensors["fitted"][name])
    assert not torch.equal(tensors["auto"][name], tensors["drawn"][name])


def test_too_many_outputs_stay_as_they_were_drawn(run, monkeypatch, tmp_path):
    monkeypatch.setattr(head_start, "_LARGEST", 10)
    tensors = [
        read_tensors(Path(run(**PLAN, **STILL, head_start=start, out=str(tmp_path / start)).out) / "adapter")
        for start in ("drawn", "fitted")
    ]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
