"""Runs on encoder-decoders: text told and scored, classes by the model's own classification head."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import tiny
from counting import count_backward_blocks
from stacks import FAMILIES, WORDS, inputs, whole, without_dropout
from stratatune.errors import ModelError
from stratatune.model.artefact import load
from stratatune.model.attach import apply
from stratatune.model.base import load_base
from stratatune.model.question import Question
from stratatune.model.split import Top, Trunk
from stratatune.training.config import validate
from stratatune.training.predict import Predictor
from stratatune.training.run import train

# ---- runs ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    rows = [{"text": f"the {a} is {b}", "summary": f"{b} {a}"} for a in WORDS for b in ("good", "bad")]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_a_run_learns_to_say_it_cached_as_uncached(family, pairs, tmp_path):
    base = tmp_path / "base"
    without_dropout(tiny.tiny_encoder_decoder(family, more=0, **_still(family))).save_pretrained(base)
    tiny.roberta_tokenizer().save_pretrained(base)
    given = {"model": str(base), "train": str(pairs), "eval": str(pairs), "text": "text", "label": "summary"}
    given |= {"objective": "seq2seq", "device": "cpu", "epochs": 3, "batch_size": 8, "lr": 5e-3, "max_length": 32}
    given |= {"plan": "enc 0:2 frozen | enc 2: lora(rank=4) | dec 1: full"}
    results = {c: train(validate({**given, "out": str(tmp_path / c), "cache": c})) for c in ("ram", "off")}
    assert results["ram"].frozen_depth == 2 and results["ram"].backprop_blocks == 4
    lines = {c: [json.loads(x) for x in (tmp_path / c / "metrics.jsonl").read_text().splitlines()] for c in results}
    assert [x["eval_loss"] for x in lines["ram"]] == pytest.approx([x["eval_loss"] for x in lines["off"]], abs=1e-3)
    assert lines["ram"][-1]["train_loss"] < lines["ram"][0]["train_loss"]
    predictor = Predictor(tmp_path / "ram", device="cpu")
    scores = predictor.score(pairs)["metrics"]
    assert scores["loss"] == pytest.approx(results["ram"].best["loss"], abs=1e-4)
    said = predictor.predict(["the film is good", "the film is good " * 32])
    assert len(said.labels) == 2
    assert any(line.startswith("1 of 2 texts of ") and "cut to 32 tokens" in line for line in said.table.notices)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tokenizer_without_a_pad_token(family, pairs, tmp_path):
    """Shorter rows are filled with 0, which is masked; and after scoring, texts are written without dropout."""
    base = tmp_path / "base"
    tiny.tiny_encoder_decoder(family, more=0, decoder_start_token_id=0).save_pretrained(base)
    tokenizer = tiny.roberta_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(base)
    given = {"model": str(base), "train": str(pairs), "eval": str(pairs), "text": "text", "label": "summary"}
    given |= {"objective": "seq2seq", "device": "cpu", "precision": "fp32", "epochs": 1, "max_length": 32}
    given |= {"plan": "enc 2: lora | dec 1: full", "cache": "off"}
    train(validate({**given, "out": str(tmp_path / "run")}))
    predictor = Predictor(tmp_path / "run", device="cpu")
    assert predictor.tokenizer.pad_token_id is None
    assert predictor.score(pairs)["n"] == 2 * len(WORDS)
    texts = ["the film is good", "that very long night in the city was bad", "no"]
    together = predictor.predict(texts).labels
    assert together == [predictor.predict([text]).labels[0] for text in texts]


def _still(family):
    return {"dropout": 0.0} if family == "bart" else {"dropout_rate": 0.0}


def test_an_artefact_comes_back(tmp_path):
    tiny.tiny_encoder_decoder("t5").save_pretrained(tmp_path / "base")
    tiny.roberta_tokenizer().save_pretrained(tmp_path / "base")
    model = apply(load_base(str(tmp_path / "base"), "seq2seq").model, "dec 2: full").eval()
    model.attached.trained()["decoder.block.3.layer.0.layer_norm.weight"].data.mul_(2)
    model.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        assert torch.equal(whole(model), whole(load(tmp_path / "adapter")))
    with pytest.raises(ModelError, match="encoder-decoder"):
        load_base(str(tmp_path / "base"), "mlm")


# ---- classes, by the model's own classification head --------------------------------------------------------------


def classes(family, plan):
    model = apply(tiny.tiny_encoder_decoder(family, "classification"), plan)
    torch.manual_seed(1)
    for parameter in model.attached.trained().values():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def texts():
    """Texts as a tokenizer closes them: the end of each is what the head reads at."""
    ids, mask, _ = inputs()
    last = mask & ~nn.functional.pad(mask, (0, 1))[:, 1:]
    return ids.masked_fill(last, 2), mask


CLASSES = {
    "enc 1: lora(rank=2) | dec 2: lora(rank=2)": 1,
    "dec 3: full": 6,
    "late_prompt(depth=3, tokens=2)": 3,
    "prompt(tokens=2) | adapter(depth=4, stack=dec)": 0,
    "head(mlm=norm)": 7,
}


@pytest.mark.parametrize("plan", CLASSES)
@pytest.mark.parametrize("family", FAMILIES)
def test_classes_by_trunk_and_top_are_the_whole_models(family, plan):
    model = without_dropout(classes(family, plan))
    ids, mask = texts()
    strata = model.attached
    assert strata.backbone.head.name == "sequence" and strata.resolved.frozen_depth == CLASSES[plan]
    assert strata.resolved.total("classification") + sum(p.numel() for p in strata.backbone.output_layer()) == sum(
        p.numel() for p in model.parameters()
    )

    def by_whole():
        return model(input_ids=ids, attention_mask=mask.long()).logits

    def by_halves():
        return Top(strata)(Trunk(strata)(ids, mask), mask, Question(targets=ids))

    gradients = []
    for run in (by_whole, by_halves):
        model.zero_grad(set_to_none=True)
        assert count_backward_blocks(strata, lambda run=run: run().square().sum().backward()) == 7 - CLASSES[plan]
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(by_whole(), by_halves())
    assert gradients[0].keys() == gradients[1].keys() == strata.trained().keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_a_task_makes_it_a_classifier_and_the_run_comes_back(family, tmp_path):
    base, films = tmp_path / "base", tmp_path / "films.jsonl"
    tiny.tiny_encoder_decoder(family).save_pretrained(base)
    tiny.roberta_tokenizer().save_pretrained(base)
    rows = [{"sentence": f"the {a} is {b}", "label": int(b == "good")} for a in WORDS for b in ("good", "bad")]
    films.write_text("\n".join(map(json.dumps, rows)))
    given = {"model": str(base), "train": str(films), "eval": str(films), "task": "sst2", "device": "cpu"}
    given |= {"epochs": 2, "batch_size": 8, "plan": "late_prompt(depth=2, tokens=2) | dec 2: full", "max_length": 32}
    runs = {c: train(validate({**given, "out": str(tmp_path / c), "cache": c})) for c in ("ram", "off")}
    assert runs["ram"].objective == "classification" and runs["ram"].labels == ["negative", "positive"]
    assert runs["ram"].best == runs["off"].best
    scores = Predictor(tmp_path / "ram", device="cpu").score(films)["metrics"]
    assert scores["accuracy"] == runs["ram"].best["accuracy"]


def test_a_pair_of_columns_without_a_task_is_told_as_text(pairs, tmp_path):
    """``auto`` on an encoder-decoder: the label is text, unless a task says that it is a class."""
    base = tmp_path / "base"
    tiny.tiny_encoder_decoder("bart").save_pretrained(base)
    tiny.roberta_tokenizer().save_pretrained(base)
    given = {"model": str(base), "train": str(pairs), "eval": str(pairs), "text": "text", "label": "summary"}
    result = train(
        validate({**given, "plan": "dec 3: bitfit", "out": str(tmp_path / "run"), "epochs": 1, "cache": "ram"})
    )
    assert result.objective == "seq2seq" and "perplexity" in result.best
