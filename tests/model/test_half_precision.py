"""A base in bf16, as transformers 5 loads what was saved so: fp32 masters train, and all comes back to the bit."""

from __future__ import annotations

import json
import warnings

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

import stratatune as st
import tiny
from stratatune.errors import PlanError
from stratatune.model.artefact import load
from stratatune.model.attach import apply
from stratatune.model.base import load_base
from stratatune.model.merging import merge
from stratatune.model.question import Question
from stratatune.model.split import Top, Trunk
from tuning import MIXES, PLANS, batch, shake, starts_as_the_base

WHOLE = (": full | embeddings full", "1: full(on=norms) | head(mlm=norm)")
ALL = pytest.mark.parametrize("text", (*PLANS, *MIXES, *WHOLE))
ADDED = ("1: lora + bitfit", ": lora(on=q,v) + lora(rank=2, on=k)", "2: full", "1: ia3", "1: delta_bias")
DECODED = ("1: lora", "2: full | embeddings full", "prompt(tokens=2)", "3: prefix(tokens=2)", "late_prompt(depth=2)")


def half(family, dtype=torch.bfloat16, **config):
    return tiny.tiny_model(family, **config).to(dtype)


def logits(model, inputs):
    with torch.no_grad():
        return model.eval()(**inputs).logits


@ALL
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_trains_is_fp32_and_the_rest_stays(family, text, dtype):
    base, inputs = half(family, dtype), batch(family)
    before = logits(base, inputs)
    model = apply(base, text)
    trained = model.attached.trained()
    assert {one.dtype for one in trained.values()} == {torch.float32}
    assert {one.dtype for name, one in model.named_parameters() if name not in trained} <= {dtype}
    found = logits(model, inputs)
    assert found.dtype == dtype
    if starts_as_the_base(text):
        assert torch.equal(found, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("text", ["head(mlm=decoder, untie)", "head(mlm=bias)", "embeddings full", "-1: lora"])
@pytest.mark.parametrize(
    "make",
    [lambda: tiny.tiny_of("bert"), lambda: tiny.tiny_of("albert"), lambda: tiny.tiny_decoder("llama")],
    ids=["bert", "albert", "llama"],
)
def test_a_head_that_trains_answers_by_itself(make, text, dtype):
    """As the top of a split model calls it, for every word and for some."""
    try:
        model = shake(apply(make().to(dtype), text)).eval()
    except PlanError:
        pytest.skip("this family has no such part")
    ids, words = torch.randint(5, 60, (2, 7)), torch.tensor([7, 50, 21])
    mask = torch.ones_like(ids).bool()
    with torch.no_grad():
        wanted, hidden = model(ids).logits, Trunk(model.attached)(ids, mask)
        for rows in (None, words):
            found = Top(model.attached)(hidden, mask, Question(places=torch.tensor([[6], [6]]), rows=rows))[:, 0]
            expected = wanted[:, 6] if rows is None else wanted[:, 6, words]
            assert found.dtype == dtype
            torch.testing.assert_close(found, expected, atol=0.1, rtol=0.05)


@ALL
def test_small_steps_are_not_lost(family, text):
    """Steps of 1e-4, of which bf16 would lose most on values near 1: every value with a gradient moves."""
    model, inputs = shake(apply(half(family), text)).train(), batch(family)
    trained = model.attached.trained()
    before = {name: one.detach().clone() for name, one in trained.items()}
    optimiser = torch.optim.AdamW(trained.values(), lr=1e-4, weight_decay=0.0)
    model(**inputs).logits.float().square().mean().backward()
    pulled = {name: one.grad.abs() > 1e-7 for name, one in trained.items() if one.grad is not None}
    optimiser.step()
    assert pulled
    for name, one in pulled.items():
        assert ((trained[name] != before[name]) | ~one).all(), name


@ALL
def test_saved_and_loaded_to_the_bit(family, text, tmp_path):
    folder = tmp_path / "base"
    half(family).save_pretrained(folder)
    tiny.tiny_tokenizer(family).save_pretrained(folder)
    model = shake(apply(AutoModelForMaskedLM.from_pretrained(folder), text)).eval()
    assert model.attached.origin.dtype == "bfloat16"
    model.save_pretrained(tmp_path / "adapter")
    again = load(tmp_path / "adapter")
    assert torch.equal(logits(again, batch(family)), logits(model, batch(family)))
    assert all(torch.equal(one, again.attached.trained()[name]) for name, one in model.attached.trained().items())


def test_a_checkpoint_is_the_same_whatever_it_is_loaded_as(family, tmp_path):
    half(family).save_pretrained(tmp_path)
    loaded = [AutoModelForMaskedLM.from_pretrained(tmp_path, dtype=one) for one in (torch.bfloat16, torch.float32)]
    first, second = (apply(one, "lora").attached.base for one in loaded)
    assert first.weights == second.weights and first.digest == second.digest


@pytest.mark.parametrize("text", ADDED)
def test_merged_with_one_rounding(family, text):
    """The merged weights are those of the same values merged in fp32, rounded once."""
    model = shake(apply(half(family), text))
    wide = apply(half(family).float(), text)
    with torch.no_grad():
        for name, one in wide.attached.trained().items():
            one.copy_(model.attached.trained()[name])
    merged, exact = merge(model).state_dict(), merge(wide).state_dict()
    for name, one in exact.items():
        assert merged[name].dtype == torch.bfloat16
        assert torch.equal(merged[name], one.to(torch.bfloat16)), name


@pytest.mark.parametrize(
    "text", ["lora", "1: lora(rank=3, alpha=5, on=q,k,v,o,up,down)", "1:3 lora(on=q) | 3: full(on=ffn)"]
)
@pytest.mark.parametrize("family", ["bert", "llama", "gemma3_text"])
def test_merges_as_peft_merges_our_export(family, text, tmp_path):
    model = tiny.tiny_bert() if family == "bert" else tiny.tiny_decoder(family)
    model.to(torch.bfloat16).save_pretrained(tmp_path / "base")
    auto = AutoModelForMaskedLM if family == "bert" else AutoModelForCausalLM
    tuned = shake(apply(auto.from_pretrained(tmp_path / "base"), text))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft asks transformers by old names
        st.export(tuned, tmp_path / "peft")
        loaded = peft.PeftModel.from_pretrained(auto.from_pretrained(tmp_path / "base"), str(tmp_path / "peft"))
        theirs = loaded.merge_and_unload().state_dict()
    ours = merge(tuned).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(one, theirs[name]) for name, one in ours.items())


@pytest.mark.parametrize("family", ["deberta-v2", "modernbert", "albert"])
@pytest.mark.parametrize("text", [": lora + delta_bias", ": full", "adapter(depth=2)"])
def test_other_encoders(family, text):
    model = apply(tiny.tiny_of(family).to(torch.bfloat16), text).train()
    ids = torch.randint(5, 60, (2, 7))
    model(input_ids=ids).logits.float().sum().backward()
    assert {one.grad.dtype for one in model.attached.trained().values() if one.grad is not None} == {torch.float32}


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3_text"])
@pytest.mark.parametrize("text", DECODED)
def test_decoders_train_and_generate(family, text):
    model = apply(tiny.tiny_decoder(family).to(torch.bfloat16), text).train()
    ids = torch.randint(5, 60, (2, 7))
    model(input_ids=ids, labels=ids).loss.backward()
    assert {one.grad.dtype for one in model.attached.trained().values() if one.grad is not None} == {torch.float32}
    assert model.eval().generate(ids, max_new_tokens=3, do_sample=False).shape == (2, 10)


@pytest.mark.parametrize("family", ["t5", "t5-gated", "bart"])
@pytest.mark.parametrize("text", ["1: lora + bitfit(on=norms)", "2: full", ": full | embeddings full"])
def test_encoder_decoders_train(family, text):
    model = tiny.tiny_encoder_decoder(family).to(torch.bfloat16)
    try:
        model = apply(model, text).train()
    except PlanError:
        pytest.skip("this family has no such part")
    ids = torch.randint(5, 60, (2, 7))
    model(input_ids=ids, labels=ids).loss.backward()
    assert {one.grad.dtype for one in model.attached.trained().values() if one.grad is not None} == {torch.float32}


@ALL
def test_under_autocast(family, text):
    model, inputs = apply(half(family), text).train(), batch(family)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(**inputs).logits
    found.float().sum().backward()
    assert found.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_merged_export_has_the_dtype_of_the_checkpoint(family, dtype, tmp_path):
    """A run computes from fp32 weights, whatever the checkpoint holds; the merged model is as large as the base."""
    tiny.tiny_model(family).to(dtype).save_pretrained(tmp_path / "base")
    tiny.tiny_tokenizer(family).save_pretrained(tmp_path / "base")
    model = shake(apply(load_base(str(tmp_path / "base"), "mlm").model, "1: lora + bitfit"))
    st.export(model, tmp_path / "merged", to="merged")
    merged = AutoModelForMaskedLM.from_pretrained(tmp_path / "merged")
    assert merged.dtype == dtype
    exact = merge(model).state_dict()
    assert all(torch.equal(one, exact[name].to(dtype)) for name, one in merged.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_peft_export_names_the_base_that_the_run_was_trained_on(dtype, tmp_path):
    tiny.tiny_bert().to(dtype).save_pretrained(tmp_path / "base")
    base = load_base(str(tmp_path / "base"), "mlm", texts=False).model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft asks transformers by old names
        st.export(shake(apply(base, "lora")), tmp_path / "peft")
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "base")
