"""A LoRA folder of peft becomes a plan: real peft and this package say the same, from either side."""

from __future__ import annotations

import functools
import json
import warnings

import pytest
import torch

import stratatune as st
import tiny
from stratatune.app.cli import run as command
from stratatune.errors import ModelError
from stratatune.model.attach import apply
from tuning import shake

peft = pytest.importorskip("peft")

ENCODERS = ("bert", "roberta", "deberta-v2", "modernbert", "albert")


def base_of(family, head="classes", **config):
    """A tiny model with its language-model head (``lm``) or a classifier (``classes``), the same each time."""
    if family in ("t5", "bart"):
        kind = "seq2seq" if head == "lm" else "classification"
        return tiny.tiny_encoder_decoder(family, kind, blocks=4, more=0, **config).double()
    if family in tiny.DECODERS:
        return tiny.tiny_decoder(family, "causal" if head == "lm" else "classification", **config).double()
    make = {"bert": tiny.tiny_bert, "roberta": tiny.tiny_roberta}.get(family, functools.partial(tiny.tiny_of, family))
    return make("mlm" if head == "lm" else "classification", **config).double()


def given(family, head="classes"):
    ids = torch.randint(5, 60, (2, 7), generator=torch.Generator().manual_seed(0))
    ids[:, -1] = 2  # the end, at which BART's and T5's classes are read
    targets = {"labels": ids[:, :4].clone()} if family in ("t5", "bart") and head == "lm" else {}
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **targets}


def trained_by_peft(family, head, folder, **settings):
    """An adapter that peft made and saved, every trained value moved; gives what its model says."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.manual_seed(1)
        tasks = {"classes": "SEQ_CLS", "lm": None}
        if head == "lm" and family in tiny.DECODERS:
            tasks["lm"] = "CAUSAL_LM"
        config = peft.LoraConfig(task_type=tasks[head], **settings)
        model = peft.get_peft_model(base_of(family, head), config, autocast_adapter_dtype=False).eval()
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
        model.save_pretrained(folder)
        return model(**given(family, head)).logits


def by_peft(family, head, folder):
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model = peft.PeftModel.from_pretrained(base_of(family, head), folder, autocast_adapter_dtype=False).eval()
        return model(**given(family, head)).logits


def close(one, other):
    torch.testing.assert_close(one, other, atol=1e-10, rtol=0)


LORA = [
    ("bert", {"target_modules": ["query", "value"], "r": 3, "lora_alpha": 5}),
    ("bert", {"target_modules": r".*layer\.\d+\..*(query|key|value|dense)", "r": 2}),
    ("roberta", {"target_modules": ["query"], "use_rslora": True, "r": 4, "lora_alpha": 8}),
    ("roberta", {"target_modules": ["key"], "bias": "all"}),
    ("deberta-v2", {"target_modules": ["query_proj"], "bias": "lora_only"}),
    ("modernbert", {"target_modules": ["Wqkv", "Wo"], "r": 2}),
    ("albert", {"target_modules": ["query", "ffn"], "r": 2}),
    ("gpt2", {"target_modules": ["c_attn", "c_proj"], "r": 2, "fan_in_fan_out": True}),
    ("gpt2", {"target_modules": ["c_fc"], "modules_to_save": ["h.3.attn.c_attn"], "fan_in_fan_out": True}),
    ("llama", {"target_modules": ["q_proj", "down_proj"], "use_dora": True, "r": 2}),
    ("phi3", {"target_modules": ["qkv_proj", "gate_up_proj", "o_proj"], "r": 2}),
    ("phi3", {"target_modules": ["down_proj"], "modules_to_save": ["layers.3.self_attn.qkv_proj"]}),
    ("olmo2", {"target_modules": ["q_proj"], "modules_to_save": ["layers.3.post_attention_layernorm"]}),
    ("bart", {"target_modules": ["q_proj", "fc1"], "r": 2}),
    (
        "bert",
        {
            "target_modules": r".*\.layer\.[23]\..*(query|value|dense)",
            "rank_pattern": {"layer.3.attention.self.query": 5},
            "alpha_pattern": {r"layer\.[2]\.attention\.self\.(query|value)": 3, "layer.3.output.dense": 7},
            "modules_to_save": ["encoder.layer.3.output.LayerNorm"],
            "bias": "all",
        },
    ),
    ("bert", {"target_modules": ["query"], "layers_to_transform": [3], "modules_to_save": ["pooler"]}),
]


@pytest.mark.parametrize(("family", "settings"), LORA)
def test_what_peft_trained_says_the_same_here_and_back_in_peft(family, settings, tmp_path):
    wanted = trained_by_peft(family, "classes", tmp_path / "peft", **settings)
    model = st.load(tmp_path / "peft", base=base_of(family))
    with torch.no_grad():
        close(model(**given(family)).logits, wanted)
    st.export(model, tmp_path / "back", to="peft")
    close(by_peft(family, "classes", tmp_path / "back"), wanted)
    model.save_pretrained(tmp_path / "ours")
    with torch.no_grad():
        assert torch.equal(
            st.load(tmp_path / "ours", base=base_of(family))(**given(family)).logits, model(**given(family)).logits
        )


PLANS = [
    "1:2 bitfit | 2:3 lora(rank=4, alpha=8, on=q,v) + lora(rank=2, alpha=6, on=o) + bitfit(on=norms) | 3: full",
    "2: full(on=ffn,norms) + lora(on=o)",
    "3: dora(rank=2)",
    "head(mlm=dense,norm,bias) | 3: lora",
    "-1: lora | head(mlm=decoder, untie)",
    "embeddings full | : lora",
]


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize("plan", PLANS)
def test_a_plan_comes_back_through_peft(plan, family, tmp_path):
    model = shake(apply(base_of(family, "lm"), plan).eval())
    st.export(model, tmp_path, to="peft")
    again = st.load(tmp_path, base=base_of(family, "lm"))
    with torch.no_grad():
        close(again(**given(family, "lm")).logits, model(**given(family, "lm")).logits)
    resolved, found = model.attached.resolved, again.attached.resolved
    assert found.frozen_depth == resolved.frozen_depth
    assert found.trainable("masked_lm") == resolved.trainable("masked_lm")


@pytest.mark.parametrize(("family", "plan"), [("gpt2", "2: lora(on=q,v)"), ("llama", "1: lora"), ("t5", "2: lora")])
def test_language_models_come_back(family, plan, tmp_path):
    model = shake(apply(base_of(family, "lm"), plan).eval())
    st.export(model, tmp_path, to="peft")
    again = st.load(tmp_path, base=base_of(family, "lm"))
    with torch.no_grad():
        close(again(**given(family, "lm")).logits, model(**given(family, "lm")).logits)
    assert again.attached.resolved.frozen_depth == model.attached.resolved.frozen_depth


def test_biases_that_did_not_train_leave_the_depth_alone(tmp_path):
    model = shake(apply(base_of("bert"), "3: bitfit + lora").eval())
    st.export(model, tmp_path, to="peft")  # bias="all": the file holds every bias
    found = st.load(tmp_path, base=base_of("bert")).attached.resolved
    assert found.frozen_depth == 3 and str(found.plan).endswith(" lora(rank=8, alpha=16) + bitfit")


def test_the_base_is_found_by_the_name_in_the_folder(tiny_folder, tmp_path, capsys):
    from transformers import AutoModelForSequenceClassification

    base = tiny_folder("bert", "classification", labels=5)
    plain = AutoModelForSequenceClassification.from_pretrained(base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(plain, peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query"]))
    model.save_pretrained(tmp_path / "peft")
    found = st.load(tmp_path / "peft")
    assert found.config.num_labels == 5
    inputs = given("bert")
    with torch.no_grad():
        torch.testing.assert_close(found(**inputs).logits, model.eval()(**inputs).logits, atol=1e-5, rtol=0)
    assert command(["export", str(tmp_path / "peft"), "--to", "native", "--out", str(tmp_path / "ours"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"].endswith("lora(rank=8, alpha=8, on=q)")
    with torch.no_grad():
        assert torch.equal(st.load(tmp_path / "ours")(**inputs).logits, found(**inputs).logits)


def damage(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"peft_type": "IA3"}, "cannot become a plan: peft_type 'IA3'"),
        ({"layer_replication": [[0, 2], [1, 4]]}, "cannot become a plan: layer_replication"),
        ({"lora_alpha": "many"}, "is damaged: lora_alpha"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights='pissa_niter_4' changes the base's weights too"),
        ({"init_lora_weights": "OLoRA"}, "init_lora_weights='OLoRA' changes the base's weights too"),
    ],
)
def test_what_no_plan_holds_is_refused_in_one_line(changes, expected, tmp_path):
    trained_by_peft("bert", "classes", tmp_path, target_modules=["query"])
    damage(tmp_path, **changes)
    with pytest.raises(ModelError, match=expected) as caught:
        st.load(tmp_path, base=base_of("bert"))
    assert "\n" not in caught.value.message


def test_another_model_and_pickled_weights_are_refused(tmp_path):
    trained_by_peft("bert", "classes", tmp_path, target_modules=["query"])
    with pytest.raises(ModelError, match="is not a linear of a block here"):
        st.load(tmp_path, base=base_of("llama"))
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(ModelError, match="pickled weights"):
        st.load(tmp_path, base=base_of("bert"))


def test_lora_of_another_width_is_refused_and_leaves_the_model(tmp_path):
    trained_by_peft("llama", "lm", tmp_path, target_modules=["q_proj"])
    wider = tiny.tiny_decoder("llama", hidden_size=64)
    before = {name: one.clone() for name, one in wider.state_dict().items()}
    with pytest.raises(ModelError, match="LoRA at .* is of 32 to 32 values, and here it has 64 to 32"):
        st.load(tmp_path, base=wider)
    assert not hasattr(wider, "attached")
    assert all(torch.equal(one, before[name]) for name, one in wider.state_dict().items())


@pytest.mark.parametrize("start", ["gaussian", False])
def test_other_ways_to_start_leave_the_base_alone(start, tmp_path):
    wanted = trained_by_peft("bert", "classes", tmp_path, target_modules=["query"], init_lora_weights=start)
    with torch.no_grad():
        close(st.load(tmp_path, base=base_of("bert"))(**given("bert")).logits, wanted)
