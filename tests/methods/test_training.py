"""Every method trains: from the trunk, from a cache, and with a rate of its own."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

import tiny
from asking import logits_at
from stratatune.model.split import Trunk
from stratatune.training.config import RunConfig
from stratatune.training.predict import Predictor
from stratatune.training.run import train
from tuning import MIXES, PLANS, batch, read_at, tuned


@pytest.mark.parametrize("text", (*PLANS, *MIXES))
def test_the_loss_falls(family, text):
    model, inputs, read = tuned(family, text, dtype=torch.float32), batch(family), read_at("mlm")
    mask, labels = inputs["attention_mask"].bool(), torch.tensor([30, 31, 32])
    optimiser = torch.optim.AdamW(model.attached.trained().values(), lr=3e-2)
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):  # its noise is larger than what a few steps of a few vectors win
            module.p = 0.0
    losses = []
    for _ in range(15):
        hidden = Trunk(model.attached)(inputs["input_ids"], mask, inputs.get("token_type_ids"))
        loss = torch.nn.functional.cross_entropy(logits_at(model.attached, hidden, mask, read), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.98 * losses[0], losses
    assert not model.attached.backbone.blocks[0].training or model.attached.resolved.frozen_depth == 0


def _table():
    good, bad = ("a very good film", "great book and she likes it"), ("a terrible film", "he hates the bad story")
    rows = [(text, label) for _ in range(4) for label, texts in (("good", good), ("bad", bad)) for text in texts]
    return pd.DataFrame(rows, columns=["text", "label"])


def _run(folder, out, plan, **settings):
    config = RunConfig(
        model=str(folder), plan=plan, train="-", out=str(out), epochs=2, batch_size=4, lr=1e-2, seed=3, device="cpu",
        precision="fp32", objective="classification", text=["text"], label="label", **settings,
    )  # fmt: skip
    return train(config, tables={"train": _table(), "eval": _table()})


@pytest.mark.parametrize(
    "plan", ["prompt(tokens=3)", "2: prefix(tokens=3) + lora", "idpg(tokens=2)", "3: houlsby(lr=0.1)"]
)
def test_a_run_from_the_cache_is_the_run_without(family, plan, tiny_folder, tmp_path):
    folder = tiny_folder(family, "classification", labels=2)
    results = [_run(folder, tmp_path / cache, plan, cache=cache) for cache in ("off", "ram")]
    scores = [Predictor(tmp_path / cache, device="cpu").predict(_table()).probabilities for cache in ("off", "ram")]
    assert results[0].best == results[1].best and results[0].trainable == results[1].trainable
    torch.testing.assert_close(*map(torch.from_numpy, scores), rtol=0, atol=1e-5)


def test_a_prompt_leaves_room_for_itself(tiny_folder, tmp_path):
    """Texts as long as the model takes are cut by the positions that the prompt takes."""
    folder = tiny_folder("roberta", "classification", labels=2)
    long = _table().assign(text="good " * 200)
    config = RunConfig(
        model=str(folder), plan="prompt(tokens=10)", train="-", out=str(tmp_path), epochs=1, batch_size=8, device="cpu",
        precision="fp32", objective="classification", text=["text"], label="label",
    )  # fmt: skip
    result = train(config, tables={"train": long, "eval": long})
    assert any(f"cut to {tiny.MAX_TOKENS - 10} tokens" in notice for notice in result.notices)
