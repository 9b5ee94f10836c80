"""The ways out: stock peft reads a plan back to the same logits, or the reason is told; merged is a plain model."""

from __future__ import annotations

import copy
import functools
import itertools
import json
import warnings

import peft
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

import stratatune as st
import tiny
from stratatune.app.cli import run as command
from stratatune.errors import ModelError, PlanError
from stratatune.model.attach import apply
from stratatune.plan import BLOCK_METHODS, INSERTIONS
from tuning import shake

FAMILIES = ("bert", "roberta", "deberta-v2", "modernbert", "albert", "gpt2", "llama", "olmo2", "phi3", "t5", "bart")


def base_of(family, head, **config):
    """A tiny model with its language-model head (``lm``) or a classifier (``classes``)."""
    if family in ("t5", "bart"):
        return tiny.tiny_encoder_decoder(
            family, "seq2seq" if head == "lm" else "classification", blocks=4, more=0
        ).double()
    if family in tiny.DECODERS:
        return tiny.tiny_decoder(family, "causal" if head == "lm" else "classification", **config).double()
    make = {"bert": tiny.tiny_bert, "roberta": tiny.tiny_roberta}.get(family, functools.partial(tiny.tiny_of, family))
    return make("mlm" if head == "lm" else "classification", **config).double()


BIASES = ("bert", "roberta", "deberta-v2", "gpt2", "bart")
MIXED = "0:1 frozen | 1:2 bitfit | 2:3 lora(rank=4, alpha=8, on=q,v) + lora(rank=2, alpha=6, on=o) + bitfit(on=norms)"
PLANS = (
    (f"{MIXED} | 3: full", BIASES),
    (f"{MIXED} | head(mlm=norm)", BIASES),
    ("1: lora(rank=3, alpha=5, on=q,k,v,o,up,down)", FAMILIES),
    ("1:2 lora(rank=2, on=q) + lora(rank=3, alpha=9, on=v) | 2: lora(rank=4, on=k,v)", FAMILIES),
    ("2: full(on=ffn,norms) + lora(on=o)", FAMILIES),
    ("2: dora(rank=2)", ("bert", "roberta", "llama", "olmo2", "t5")),
    ("2: dora(rank=2, on=o,down)", ("phi3",)),
    ("2: bitfit", BIASES),
    ("head(mlm=dense,norm,bias) | 3: lora", ("bert", "roberta", "deberta-v2")),
    ("head", FAMILIES),
)
CASES = [(plan, family) for plan, families in PLANS for family in families]


def given(family, head):
    ids = torch.randint(5, 60, (2, 7), generator=torch.Generator().manual_seed(0))
    ids[:, -1] = 2  # the end, at which BART's and T5's classes are read
    targets = {"labels": ids[:, :4].clone()} if family in ("t5", "bart") and head == "lm" else {}
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **targets}


def fit_for(plan, family):
    """The plan where ALBERT's blocks are all the same weights."""
    if family != "albert":
        return plan
    if "|" in plan:
        pytest.skip("one set of weights")
    return plan.replace("1: ", ": ").replace("2: ", ": ")


@pytest.mark.parametrize("head", ["lm", "classes"])
@pytest.mark.parametrize(("plan", "family"), CASES)
def test_stock_peft_says_the_same(plan, family, head, tmp_path):
    plan = fit_for(plan, family)
    if plan == "head" and head == "lm":
        pytest.skip("nothing trains")
    model = shake(apply(base_of(family, head), plan).eval())
    with torch.no_grad():
        wanted = model(**given(family, head)).logits
        st.export(model, tmp_path)
        assert torch.equal(model(**given(family, head)).logits, wanted)  # as it was
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = peft.PeftModel.from_pretrained(base_of(family, head), tmp_path, autocast_adapter_dtype=False)
        torch.testing.assert_close(loaded.eval()(**given(family, head)).logits, wanted, atol=1e-12, rtol=0)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA" and (config["bias"] == "all") == (
        "bias" in str(model.attached.resolved.plan) or "bitfit" in plan
    )


def test_only_what_the_plan_names_is_in_the_config(tmp_path):
    st.export(apply(tiny.tiny_bert("classification"), f"{MIXED} | 3: full(on=ffn)"), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    block = "bert.encoder.layer"
    assert set(config["target_modules"]) == {
        f"{block}.2.attention.self.query",
        f"{block}.2.attention.self.value",
        f"{block}.2.attention.output.dense",
    }
    assert config["rank_pattern"] == {f"{block}.2.attention.output.dense": 2}
    assert config["alpha_pattern"] == {f"{block}.2.attention.output.dense": 6.0}
    whole = {f"{block}.3.intermediate.dense", f"{block}.3.output.dense", "classifier"}
    assert whole <= set(config["modules_to_save"]) and config["task_type"] == "SEQ_CLS"


@pytest.mark.parametrize(("family", "task"), [("t5", "SEQ_2_SEQ_LM"), ("bart", "SEQ_2_SEQ_LM"), ("gpt2", "CAUSAL_LM")])
def test_the_config_names_its_task(family, task, tmp_path):
    st.export(apply(base_of(family, "lm"), "2: lora"), tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["task_type"] == task
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = peft.PeftModel.from_pretrained(base_of(family, "lm"), tmp_path, autocast_adapter_dtype=False)
    assert type(loaded).__name__ == {"SEQ_2_SEQ_LM": "PeftModelForSeq2SeqLM", "CAUSAL_LM": "PeftModelForCausalLM"}[task]


def test_every_treatment_without_a_form_is_told(tmp_path):
    options = {"prompt": "tokens=3", "idpg": "tokens=2, bottleneck=8, phm=4"}
    for kind in (*BLOCK_METHODS, *INSERTIONS):
        if kind in ("frozen", "bitfit", "lora", "dora", "full"):
            continue
        plan = f"{kind}({options.get(kind, 'depth=2')})" if kind in INSERTIONS else f"2: {kind}"
        with pytest.raises(PlanError, match=rf"cannot be exported to peft: {kind}"):
            st.export(apply(tiny.tiny_bert(), plan), tmp_path / kind)
        assert not (tmp_path / kind).exists()


@pytest.mark.parametrize(
    ("plan", "family", "reason"),
    [
        ("1: lora | 2: dora | head(mlm=norm)", "bert", "lora beside dora"),
        ("1: dora", "gpt2", "dora: in this model"),
        ("embeddings full | : full", "t5", "embeddings full: two stacks share them"),
        ("2: lora(on=q) + full(on=v)", "gpt2", "block 2: lora and full on roles of attn.c_attn"),
        ("2: dora(on=up)", "phi3", "dora: in this model"),
    ],
)
def test_mixes_that_no_config_holds(plan, family, reason, tmp_path):
    plan = plan.replace("1: lora | 2:", "1:2 lora | 2:")
    with pytest.raises(PlanError) as caught:
        st.export(apply(base_of(family, "lm"), plan), tmp_path / "out")
    assert reason in caught.value.message and "merged" in caught.value.hint


@pytest.mark.parametrize(
    "plan",
    [
        "-1: lora | head(mlm=decoder, untie)",
        "embeddings full | : lora",
        "embeddings full | : lora | head(mlm=decoder, untie)",
    ],
)
@pytest.mark.parametrize("family", ["bert", "roberta", "llama", "gemma3_text"])
def test_embeddings_and_decoders_that_trained_come_back_to_the_bit(family, plan, tmp_path):
    """Also where the base ties them: peft then trains a copy of each, and both are in the adapter."""
    tied = {"tie_word_embeddings": True} if family in tiny.DECODERS else {}
    base = {"bert": tiny.tiny_bert, "roberta": tiny.tiny_roberta}.get(
        family, functools.partial(tiny.tiny_decoder, family)
    )
    model = shake(apply(base(**tied), plan).eval())
    st.export(model, tmp_path)
    ids = given(family, "lm")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = peft.PeftModel.from_pretrained(base(**tied), tmp_path).eval()
        assert torch.equal(loaded(**ids).logits, model(**ids).logits)


def test_embeddings_beside_a_classifier_have_a_form(tmp_path):
    model = shake(apply(tiny.tiny_bert("classification").double(), "embeddings full | : full").eval())
    st.export(model, tmp_path)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = peft.PeftModel.from_pretrained(
            tiny.tiny_bert("classification").double(), tmp_path, autocast_adapter_dtype=False
        )
        both = (one.eval()(**given("bert", "classes")).logits for one in (model, loaded))
        torch.testing.assert_close(*both, atol=1e-12, rtol=0)


def test_merged_is_a_plain_model(tmp_path):
    model = shake(apply(tiny.tiny_bert(), "2: lora + bitfit(on=ffn)").eval())
    st.export(model, tmp_path, to="merged")
    with torch.no_grad():
        both = (
            one(**given("bert", "lm")).logits for one in (model, AutoModelForMaskedLM.from_pretrained(tmp_path).eval())
        )
        torch.testing.assert_close(*both, atol=1e-5, rtol=0)
    with pytest.raises(PlanError, match="cannot be exported to merged: adapter") as caught:
        st.export(apply(tiny.tiny_bert(), "adapter(depth=2)"), tmp_path / "no", to="merged")
    assert caught.value.hint == "it can be exported to: native, onnx"
    with pytest.raises(PlanError, match="no plan"):
        st.export(tiny.tiny_bert(), tmp_path / "no")


def test_a_run_is_exported_from_the_command_line(tiny_folder, tmp_path, capsys):
    base = tiny_folder("bert", "classification", labels=2)
    model = shake(st.apply(AutoModelForSequenceClassification.from_pretrained(base), "2: lora + bitfit(on=ffn)"))
    model.attached.spec = {"objective": "classification", "labels": ["bad", "good"]}
    model.save_pretrained(tmp_path / "adapter")
    for to in ("native", "peft", "merged"):
        assert command(["export", str(tmp_path / "adapter"), "--to", to, "--out", str(tmp_path / to), "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["to"] == to and told["base"] == str(base)
        assert (tmp_path / to / "tokenizer.json").is_file() == (to != "native")
    native = st.load(tmp_path / "native")
    for name, tensor in model.attached.trained().items():
        assert torch.equal(tensor, native.attached.trained()[name])
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    assert merged.config.id2label == {0: "bad", 1: "good"}
    with torch.no_grad():
        both = (one.eval()(**given("bert", "classes")).logits for one in (model, merged))
        torch.testing.assert_close(*both, atol=1e-5, rtol=0)
    for wrong, told in ((["--to", "Megred"], "did you mean 'merged'"), ([], "is not empty")):
        arguments = ["export", str(tmp_path / "adapter"), "--out", str(tmp_path / "peft"), *wrong]
        assert command(arguments) == 2 and told in capsys.readouterr().err
    with pytest.raises(ModelError, match="holds no trained adapter") as error:
        st.Predictor(tmp_path / "merged")
    assert "whole model" in error.value.hint


@pytest.mark.parametrize(
    ("family", "form"),
    [*itertools.product(("bert", "roberta", "llama"), ("merged", "peft")), ("bert", "onnx")],
)
def test_a_temperature_goes_with_the_output_layer(form, family, tmp_path):
    """Softmax of what leaves gives the run's probabilities; the model that is exported stays as it is."""
    model, given = base_of(family, "classes", blocks=1).float(), {"input_ids": torch.randint(5, 60, (2, 6))}
    given["attention_mask"] = torch.ones_like(given["input_ids"])
    base = copy.deepcopy(model)
    shake(apply(model, ": lora(rank=2, on=q)").eval())
    with torch.no_grad():
        raw = model(**given).logits
    heads = [{"labels": ["a", "b"], "temperature": 4.0}, {"labels": []}]
    for number, (spec, scale) in enumerate((({"temperature": 2.0}, [0.5] * 3), ({"heads": heads}, [0.25, 0.25, 1.0]))):
        model.attached.spec, folder = spec, tmp_path / f"{number}"
        st.export(model, folder, form)
        if form == "onnx":
            onnxruntime = pytest.importorskip("onnxruntime")
            session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
            wanted = {one.name: (given.get(one.name, 0 * given["input_ids"])).numpy() for one in session.get_inputs()}
            found = torch.from_numpy(session.run(["logits"], wanted)[0])
        else:
            read = AutoModelForSequenceClassification.from_pretrained
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                plain = (
                    read(folder) if form == "merged" else peft.PeftModel.from_pretrained(copy.deepcopy(base), folder)
                )
                found = plain.eval()(**given).logits
        torch.testing.assert_close(found, raw * torch.tensor(scale), rtol=1e-4, atol=1e-5)
        assert "temperature" in str(model.attached.spec)
        with torch.no_grad():
            assert torch.equal(model(**given).logits, raw)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_run_learned_is_loaded_by_peft(family, tmp_path):
    """A run names the new output layer's own modules too, which lie inside the layer that the head names."""
    model = base_of(family, "classes")
    names = [name for name, _ in model.named_parameters() if "classif" in name or name.startswith("score")]
    tuned = shake(apply(copy.deepcopy(model), "2: lora" if family != "albert" else ": lora", also_train=names).eval())
    inputs = {"input_ids": torch.tensor([[5, 6, 7, 8, 2]]), "attention_mask": torch.ones(1, 5, dtype=torch.long)}
    with torch.no_grad():
        wanted = tuned(**inputs).logits
    st.export(tuned, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = peft.PeftModel.from_pretrained(model, tmp_path, autocast_adapter_dtype=False).eval()
    with torch.no_grad():
        torch.testing.assert_close(found(**inputs).logits, wanted, rtol=0, atol=1e-9)
