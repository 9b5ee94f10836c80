"""What is promised of a run before it starts: nothing trains that would break it, and a sample is what was asked."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from stratatune.cache.feed import Feed
from stratatune.data.readers import Table
from stratatune.errors import PlanError
from stratatune.objectives.classes import Classes
from stratatune.progress import Reporter
from stratatune.training import loop
from stratatune.training.config import validate
from stratatune.training.prepare import read_tables
from stratatune.training.run import train


@pytest.mark.parametrize("plan", ["12: lora | head(mlm=decoder)", "2: lora | head(mlm=decoder)"])
def test_a_run_that_would_break_the_promise_fails_before_training(plan, run, tmp_path, monkeypatch):
    """A tied decoder that trains would carry gradients to the embeddings; no step is made, no tensor written."""
    monkeypatch.setattr(Feed, "hidden", lambda self, batch: pytest.fail("it began to train"))
    with pytest.raises(PlanError) as caught:
        run(plan=plan, objective="mlm", out=str(tmp_path / "run"))
    assert "outside" in caught.value.message if plan.startswith("12") else "tied" in caught.value.message
    assert not (tmp_path / "run" / "metrics.jsonl").exists() and not (tmp_path / "run" / "adapter").exists()


def test_train_samples_draws_each_class_by_its_share_and_by_the_seed(tmp_path):
    path = tmp_path / "data.jsonl"
    rows = [{"text": f"text {n}", "label": "rare" if n % 5 == 0 else "often"} for n in range(100)]
    path.write_text("\n".join(map(json.dumps, rows)))

    def drawn(seed, **settings) -> Table:
        given = {"model": "m", "train": str(path), "text": "text", "label": "label", "seed": seed, "train_samples": 20}
        return read_tables(validate({**given, **settings}, check_files=False), {}, Classes).train

    one = drawn(0, objective="classification")
    assert len(one) == 20 and list(one.labels or ()).count("rare") == 4
    assert one.texts == drawn(0, objective="classification").texts != drawn(1, objective="classification").texts


@pytest.mark.parametrize("epochs", [1, 5, 10])
def test_the_schedule_follows_the_epochs(epochs, run, tmp_path, monkeypatch):
    """The rate rises over 6 % of all steps and is near zero at the last, whatever their number."""
    rates, plain = [], loop.set_rate
    monkeypatch.setattr(loop, "set_rate", lambda optimiser, factor: (rates.append(factor), plain(optimiser, factor)))
    run(plan="3: bitfit", epochs=epochs, out=str(tmp_path / "run"), objective="classification")
    assert len(rates) % epochs == 0 and rates.index(max(rates)) <= 0.06 * len(rates) + 1
    assert rates[-1] == min(rates[1:]) <= 1.5 / (0.94 * len(rates))


# ---- real weights -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "stories.jsonl"
    rows = [{"text": f"the {a} was", "answer": f"very {b} ."} for a in ("dog", "cat", "bird") for b in ("big", "happy")]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.mark.parametrize("plan", ["spafit-1-3-II+delta", "lpt@3", "0:2 frozen | 2: lora(rank=4, on=q,k,v,o)"])
def test_stories260k_from_training_to_a_plain_model(plan, shared, told, tmp_path):
    """A real Llama: SPAFIT (its biases as added vectors, since it has none) and a late prompt."""
    from stratatune.model.artefact import load
    from stratatune.model.merging import merge

    folder = shared / "models" / "stories260K"
    if not folder.is_dir():
        pytest.skip("no stories260K in the shared folder")
    given = {"model": str(folder), "plan": plan, "train": str(told), "text": "text", "label": "answer", "epochs": 4}
    given |= {"objective": "completion", "out": str(tmp_path), "cache": "ram", "lr": 0.01, "batch_size": 3}
    result = train(validate({**given, "device": "cpu"}), reporter=Reporter(quiet=True))
    losses = [json.loads(line)["train_loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0] and result.backprop_blocks < 5
    model = load(tmp_path)
    ids = torch.tensor([[1, 403, 407, 261, 378, 432]])
    with torch.no_grad():
        said, wanted = model.generate(ids, max_new_tokens=5, do_sample=False), model(input_ids=ids).logits
        assert said.shape == (1, 11)
        if "lpt" in plan:
            with pytest.raises(PlanError, match="late_prompt"):
                merge(model)
            return
        merge(model).save_pretrained(tmp_path / "merged")
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", attn_implementation="eager")
        torch.testing.assert_close(plain(input_ids=ids).logits, wanted, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("plan", ["spafit-1-3-II", "bft"])
def test_minilm_from_training_to_a_plain_model(plan, shared, tmp_path):
    """A real BERT with its own masked-LM head: SPAFIT as a classifier, BFT by label words."""
    from stratatune.model.artefact import load
    from stratatune.model.merging import merge
    from stratatune.training.predict import Predictor

    folder = shared / "models" / "minilm-mlm"
    if not folder.is_dir():
        pytest.skip("no minilm-mlm in the shared folder")
    films = tmp_path / "films.jsonl"
    words = {1: ("great", "good", "wonderful", "fine"), 0: ("terrible", "bad", "awful", "poor")}
    rows = [{"sentence": f"a {w} film", "label": label} for label, listed in words.items() for w in listed]
    films.write_text("\n".join(map(json.dumps, rows)))
    given = {"model": str(folder), "plan": plan, "train": str(films), "eval": str(films), "task": "sst2", "epochs": 6}
    given |= {"out": str(tmp_path / "run"), "cache": "ram", "lr": 3e-3, "batch_size": 4, "device": "cpu", "warmup": 0}
    result = train(validate(given), reporter=Reporter(quiet=True))
    assert result.best["accuracy"] >= 0.9
    assert Predictor(tmp_path / "run", device="cpu").score(films)["metrics"]["accuracy"] == result.best["accuracy"]
    model, ids = load(tmp_path / "run"), torch.tensor([[101, 1037, 2307, 2143, 102]])
    with torch.no_grad():
        wanted = model(input_ids=ids).logits
        if plan == "bft":
            with pytest.raises(PlanError, match="late_prompt"):
                merge(model)
        else:
            torch.testing.assert_close(merge(model)(input_ids=ids).logits, wanted, atol=1e-4, rtol=1e-4)
