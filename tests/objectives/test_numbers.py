"""Regression on numbers of any size: large ones are learnt as deviations from their mean, and come out as they are."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch

import tiny
from stratatune.app.cli import run as command
from stratatune.model.artefact import load
from stratatune.objectives.multitask import Multitask
from stratatune.objectives.numbers import Numbers
from stratatune.training.predict import Predictor

WORDS = {"poor": -1.0, "bad": -0.5, "fine": 0.5, "great": 1.0}
TEXTS = [f"a {word} film" for word in WORDS]


@pytest.fixture
def numbered(run, tmp_path):
    """Gives ``numbered(out, scale, shift, **changes)``: a run whose labels are small numbers times scale, shifted."""

    def make(out, scale, shift, **changes):
        chance, rows = random.Random(0), []
        for _ in range(48):
            word = chance.choice(list(WORDS))
            rows.append(f"a {word} film,{shift + scale * (WORDS[word] + 0.125 * chance.randrange(-2, 3))}\n")
        (tmp_path / f"{out}.csv").write_text("text,value\n" + "".join(rows))
        file = str(tmp_path / f"{out}.csv")
        own = {"train": file, "eval": file, "text": "text", "label": "value", "objective": "regression"}
        own |= {"plan": "2: lora", "epochs": 2, "lr": 1e-2}
        return run(**{**own, "out": str(tmp_path / out), **changes})

    return make


def test_units_of_the_labels_change_nothing_else(numbered, tmp_path):
    """Cents are learnt as euros are; numbers near 0 are learnt as they are."""
    runs = {"euros": (64.0, 512.0), "cents": (8192.0, 65536.0), "near": (1.0, 0.0)}
    results = {name: numbered(name, *units) for name, units in runs.items()}
    for name, (scale, shift) in runs.items():
        objective = Predictor(tmp_path / name).objective
        assert isinstance(objective, Numbers)
        far = name != "near"
        assert (objective.deviation > scale / 2 and objective.mean > shift / 2) == far
        assert ((objective.mean, objective.deviation) == (0.0, 1.0)) != far
        assert any("predictions are in the unit of the labels" in line for line in results[name].notices) == far
    euros, cents = (np.array(Predictor(tmp_path / name).predict(TEXTS).values) for name in ("euros", "cents"))
    np.testing.assert_allclose((cents - 65536) / 8192, (euros - 512) / 64, rtol=0, atol=1e-3)
    one, other = results["euros"].best, results["cents"].best
    assert one["pearson"] == pytest.approx(other["pearson"], abs=1e-4) and one["pearson"] > 0.5
    assert one["mse"] / 64**2 == pytest.approx(other["mse"] / 8192**2, rel=1e-2)


@pytest.mark.parametrize("heavy", [0.0, 1.0])
def test_a_row_that_weighs_nothing_moves_no_mean(run, tmp_path, heavy):
    rows = [f"a {word} film,{20 + at},1\n" for at, word in enumerate(WORDS)] + [f"a good film,900,{heavy}\n"]
    (tmp_path / "rows.csv").write_text("text,value,heed\n" + "".join(rows))
    own = {"train": str(tmp_path / "rows.csv"), "text": "text", "label": "value", "weight": "heed", "eval": None}
    run(**own, objective="regression", plan="2: lora", epochs=1, out=str(tmp_path / "run"))
    objective = Predictor(tmp_path / "run").objective
    assert isinstance(objective, Numbers)
    values = [20.0, 21, 22, 23, *([900.0] if heavy else [])]
    assert (objective.mean, objective.deviation) == (pytest.approx(np.mean(values)), pytest.approx(np.std(values)))


def test_a_column_of_several_is_standardised_once(numbered, tmp_path):
    numbered("several", 64.0, 512.0, objective="multitask(value=regression)")
    objective = Predictor(tmp_path / "several").objective
    assert isinstance(objective, Multitask)
    (head,) = objective.heads
    assert head.mean > 256 and isinstance(head.objective, Numbers)
    assert (head.objective.mean, head.objective.deviation) == (0.0, 1.0)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks for it
def test_every_exit_is_in_the_unit_of_the_labels(numbered, tiny_folder, tmp_path):
    peft = pytest.importorskip("peft")
    pytest.importorskip("onnxruntime")
    from transformers import AutoModelForSequenceClassification

    folder = str(tiny_folder("bert", blocks=2))
    numbered("run", 64.0, 512.0, model=folder, plan="1: lora")
    predictor = Predictor(tmp_path / "run")
    wanted = np.array(predictor.predict(TEXTS).values)
    for form in ("merged", "peft", "onnx"):
        assert command(["export", str(tmp_path / "run"), "--to", form, "--out", str(tmp_path / form)]) == 0
    given = predictor.tokenizer(TEXTS, return_tensors="pt")
    base = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, ignore_mismatched_sizes=True)
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    with torch.no_grad():
        for model in (stock, peft.PeftModel.from_pretrained(base, str(tmp_path / "peft")).eval()):
            np.testing.assert_allclose(model(**given).logits[:, 0].numpy(), wanted, rtol=1e-5)
        deviations = load(tmp_path / "run")(**given).logits[:, 0]
    objective = predictor.objective
    assert isinstance(objective, Numbers)
    np.testing.assert_allclose(objective.mean + objective.deviation * deviations.numpy(), wanted, rtol=1e-5)
    again = Predictor(tmp_path / "onnx")
    np.testing.assert_allclose(again.predict(TEXTS).values, wanted, rtol=1e-4)
    assert isinstance(again.objective, Numbers) and (again.objective.mean, again.objective.deviation) == (0.0, 1.0)
    for form in ("merged", "onnx"):
        assert "units" not in json.loads((tmp_path / form / "config.json").read_text())


def test_an_output_layer_without_a_bias_says_its_units(numbered, tmp_path):
    from transformers import AutoModelForSequenceClassification

    tiny.save_tiny_decoder(tmp_path / "gpt2", "gpt2")
    numbered("run", 64.0, 512.0, model=str(tmp_path / "gpt2"))
    predictor = Predictor(tmp_path / "run")
    assert command(["export", str(tmp_path / "run"), "--to", "merged", "--out", str(tmp_path / "merged")]) == 0
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    units = model.config.units["value"]
    with torch.no_grad():
        given = [model(**predictor.tokenizer(text, return_tensors="pt")).logits[0, 0].item() for text in TEXTS]
    found = units["mean"] + units["deviation"] * np.array(given)
    np.testing.assert_allclose(found, predictor.predict(TEXTS).values, rtol=1e-4)
