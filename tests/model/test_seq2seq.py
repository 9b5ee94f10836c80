"""Encoder-decoders: plans over two stacks, counts, trunk and top, backward, runs."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from torch import nn

import tiny
from stratatune.errors import ModelError, PlanError
from stratatune.model.artefact import load
from stratatune.model.base import load_base
from stratatune.model.counting import count_backward_blocks
from stratatune.model.split import Top, Trunk
from stratatune.model.tuned import apply
from stratatune.plan import Plan, shape_of
from stratatune.plan.picture import terminal
from stratatune.train.config import validate
from stratatune.train.generate import rouge
from stratatune.train.predict import Predictor
from stratatune.train.run import train

FAMILIES = ("t5", "t5-gated", "bart")
FROZEN_DEPTHS = {
    "enc 1: lora(rank=2) | dec 2: lora(rank=2, on=cross_q,cross_v)": 1,
    "dec 0: lora(rank=2, on=q,o)": 3,
    "dec 2: full": 5,
    "0:1 frozen | 1: lora(rank=2, on=q,k,v,o)": 1,  # in each stack
    "enc 2: full(on=ffn)": 2,
    "head(mlm=norm)": 7,
    "full": 0,
}


def inputs():
    torch.manual_seed(0)
    mask = torch.arange(9) < torch.tensor([9, 6, 8])[:, None]
    ids = torch.where(mask, torch.randint(5, 50, (3, 9)), 1)
    targets = torch.randint(5, 50, (3, 5)).masked_fill(torch.arange(5) >= torch.tensor([5, 3, 4])[:, None], -100)
    return ids, mask, targets


def tuned(family, plan, **settings):
    model = apply(tiny.tiny_encoder_decoder(family, **settings), plan)
    torch.manual_seed(1)
    for parameter in model.strata.trained().values():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def without_dropout(model):
    for module in model.modules():
        for name in ("dropout", "activation_dropout", "attention_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model.train()


def whole(model):
    ids, mask, targets = inputs()
    return model(input_ids=ids, attention_mask=mask.long(), labels=targets, use_cache=False).loss


def split(model):
    ids, mask, targets = inputs()
    hidden = Trunk(model.strata)(ids, mask)
    hidden = torch.where(mask[..., None], hidden, 0)  # as it comes out of a cache
    total, count = Top(model.strata)(hidden, mask, mask.sum(1), ids=targets).sum(0)
    return -total / count


def checkpoint(model, reentrant):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model.gradient_checkpointing_disable()
        if reentrant is not None:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})


# ---- the plan -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", FROZEN_DEPTHS)
def test_the_text_form_names_a_stack_and_comes_back(text):
    plan = Plan.parse(text)
    assert Plan.parse(str(plan)) == plan == Plan.from_data(plan.to_data())


def test_plans_over_two_stacks_on_paper():
    shape = shape_of(tiny.tiny_encoder_decoder("t5").config.to_dict())
    assert shape.stacks == {"enc": range(3), "dec": range(3, 7)}
    picture = terminal(Plan.parse("enc 0:2 frozen | dec 1: lora").resolve(shape), colour=False)
    assert "dec 1..3" in picture and "enc 0..2" in picture
    for text, error in (
        ("enc 3: lora", "hold no block"),
        ("dec 5: lora", "outside a model of 4 blocks"),
        ("enc lora", "legal: layers"),
        ("enc 0: lora(on=cross_q)", "no cross_q"),
        ("adapter(depth=1)", "nothing is inserted"),
        (": bitfit", "none of these roles has a bias"),
    ):
        with pytest.raises(PlanError) as caught:
            Plan.parse(text).resolve(shape)
        assert error in f"{caught.value.message} {caught.value.hint}", text
    with pytest.raises(PlanError, match="one stack"):
        Plan.parse("dec 1: lora").resolve(shape_of("roberta-base"))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_counts_are_those_of_a_real_model(family, tied):
    model = tiny.tiny_encoder_decoder(family, tie_word_embeddings=tied)
    if family == "bart" and not tied:  # four tables of words, two of which nothing reads
        with pytest.raises(ModelError, match="tie"):
            shape_of(model.config.to_dict())
        return
    shape = shape_of(model.config.to_dict())
    assert shape.parameters("seq2seq") == sum(p.numel() for p in model.parameters())
    resolved = Plan.parse("full").resolve(shape)
    assert resolved.trainable("seq2seq") == resolved.total("seq2seq")


# ---- the model ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", FROZEN_DEPTHS)
@pytest.mark.parametrize("family", FAMILIES)
def test_top_of_trunk_is_the_whole_model_and_backward_stops(family, plan):
    model = tuned(family, plan)
    resolved = model.strata.resolved
    assert resolved.frozen_depth == FROZEN_DEPTHS[plan]
    assert torch.allclose(whole(model), split(model), atol=1e-5)
    if plan == "head(mlm=norm)" and family == "bart":
        return  # nothing trains: BART has no last norm
    without_dropout(model)
    wanted = None
    for reentrant in (None, True, False):
        checkpoint(model, reentrant)
        for run in (whole, split):
            case = f"checkpointing: {reentrant}, {run.__name__}"
            model.zero_grad(set_to_none=True)
            count = count_backward_blocks(model.strata, lambda run=run: run(model).backward())
            assert count == resolved.backprop_blocks, case
            found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
            assert found.keys() == model.strata.trained().keys(), case
            wanted = wanted or found
            for name, gradient in found.items():
                torch.testing.assert_close(gradient, wanted[name], atol=1e-5, rtol=1e-3, msg=f"{case}: {name}")


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_generation_is_the_argmax_loop(family):
    model = tuned(family, "0:1 frozen | 1: lora(rank=2, on=q,k,v,o)", more=0)
    model.generation_config.forced_eos_token_id = None
    ids, mask, _ = inputs()
    settings = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    said = model.generate(ids, attention_mask=mask.long(), **settings)
    told = torch.full((3, 1), model.config.decoder_start_token_id)
    for _ in range(5):
        logits = model(input_ids=ids, attention_mask=mask.long(), decoder_input_ids=told, use_cache=False).logits[:, -1]
        logits[:, model.config.eos_token_id] = -torch.inf
        told = torch.cat([told, logits.argmax(-1, keepdim=True)], 1)
    assert said.tolist() == told.tolist()


# ---- runs ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    words = "film book city food day night movie story".split()
    rows = [{"text": f"the {a} is {b}", "summary": f"{b} {a}"} for a in words for b in ("good", "bad")]
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
    assert len(predictor.predict(["the film is good"]).labels) == 1


def _still(family):
    return {"dropout": 0.0} if family == "bart" else {"dropout_rate": 0.0}


def test_an_artefact_comes_back(tmp_path):
    tiny.tiny_encoder_decoder("t5").save_pretrained(tmp_path / "base")
    tiny.roberta_tokenizer().save_pretrained(tmp_path / "base")
    model = apply(load_base(str(tmp_path / "base"), "seq2seq").model, "dec 2: full").eval()
    model.strata.trained()["decoder.block.3.layer.0.layer_norm.weight"].data.mul_(2)
    model.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        assert torch.equal(whole(model), whole(load(tmp_path / "adapter")))
    with pytest.raises(ModelError, match="encoder-decoder"):
        load_base(str(tmp_path / "base"), "classification")


def test_rouge_by_its_library():
    pytest.importorskip("rouge_score")
    assert rouge(["the good film"], ["the good film"])["rougeL"] == 1.0
    assert 0 < rouge(["the good film"], ["a good book"])["rouge1"] < 1


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("loss", [whole, split])
def test_the_first_block_of_the_encoder_trains(family, loss):
    """Nothing behind the blocks (T5's last norm of the encoder) may be cut off with the frozen embeddings."""
    model = tuned(family, "enc 0: lora(rank=2) | dec 1: lora(rank=2)")
    loss(model).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.strata.trained().values())
