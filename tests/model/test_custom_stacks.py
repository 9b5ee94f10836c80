"""An encoder-decoder that the table does not know, added by names: relatives of T5 and BART, a class of one's own."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM, T5Config, T5ForConditionalGeneration

import stratatune as st
import tiny
from counting import count_backward_blocks
from stacks import split, whole, without_dropout
from stratatune.errors import ModelError, PlanError
from stratatune.model.artefact import load
from stratatune.model.attach import apply
from stratatune.model.backbone import Backbone
from stratatune.model.base import load_base
from stratatune.model.custom import backbone_from_names
from stratatune.model.merging import merge
from stratatune.plan import shape_of
from stratatune.progress import Reporter
from stratatune.shapes import table
from stratatune.training.config import validate
from stratatune.training.run import train
from tuning import shake

pytestmark = pytest.mark.filterwarnings("ignore:backbone_from_names:DeprecationWarning")


class SagaConfig(T5Config):
    """T5's, under a name that nobody knows."""

    model_type = "saga"


class SagaForConditionalGeneration(T5ForConditionalGeneration):
    """T5's layout in a class of one's own."""

    config_class = SagaConfig


AutoConfig.register("saga", SagaConfig, exist_ok=True)
AutoModelForSeq2SeqLM.register(SagaConfig, SagaForConditionalGeneration, exist_ok=True)


def t5_block(cross, gated):
    last = 2 if cross else 1
    feed = {"gate": "wi_0", "up": "wi_1", "down": "wo"} if gated else {"up": "wi", "down": "wo"}
    return {
        **{role: f"layer.0.SelfAttention.{role}" for role in "qkvo"},
        **({f"cross_{role}": f"layer.1.EncDecAttention.{role}" for role in "qkvo"} if cross else {}),
        **{role: f"layer.{last}.DenseReluDense.{name}" for role, name in feed.items()},
        **({"norm_cross": "layer.1.layer_norm"} if cross else {}),
        **{"norm_attn": "layer.0.layer_norm", "norm_ffn": f"layer.{last}.layer_norm"},
    }


def bart_block(cross):
    ends = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "out_proj"}
    return {
        **{role: f"self_attn.{end}" for role, end in ends.items()},
        **({f"cross_{role}": f"encoder_attn.{end}" for role, end in ends.items()} if cross else {}),
        **({"norm_cross": "encoder_attn_layer_norm"} if cross else {}),
        **{"up": "fc1", "down": "fc2", "norm_attn": "self_attn_layer_norm", "norm_ffn": "final_layer_norm"},
    }


def t5_names(gated):
    return {
        "embeddings": "shared",
        "blocks": "encoder.block",
        "decoder_blocks": "decoder.block",
        "roles": t5_block(False, gated),
        "decoder_roles": t5_block(True, gated),
        "behind_encoder": ("encoder.final_layer_norm", "encoder.dropout"),
        "final_norm": "decoder.final_layer_norm",
        "lm_head": "lm_head",
        "position_bias": "layer.0.SelfAttention",
        "beside": tuple(f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias" for stack in STACKS),
        "tuple_blocks": True,
    }


def bart_names(norms=(), tables=("embed_positions",), **more):
    return {
        "embeddings": "shared",
        "blocks": "encoder.layers",
        "decoder_blocks": "decoder.layers",
        "roles": bart_block(False),
        "decoder_roles": bart_block(True),
        "lm_head": "lm_head",
        "position_table": "encoder.embed_positions",
        "beside": tuple(f"{stack}.{name}" for stack in STACKS for name in (*tables, *norms)),
        **more,
    }


DOCS = Path(__file__).parents[2] / "docs" / "decoders.md"
STACKS = ("encoder", "decoder")
T5_SIZES = {"blocks": "num_layers", "ffn": "d_ff", "decoder_ffn": None, "heads": "num_heads", "positions": None}
PRE_NORM = {"behind_encoder": ("encoder.layer_norm",), "final_norm": "decoder.layer_norm"}
NAMES = {
    "mt5": t5_names(gated=True),
    "saga": t5_names(gated=False),
    "mbart": bart_names(("layernorm_embedding",), position_norm="encoder.layernorm_embedding", **PRE_NORM),
    "pegasus": bart_names(**PRE_NORM),  # sines for positions
}
PLANS = (
    "0:1 frozen | 1: lora(rank=2, on=q,k,v,o)",
    "enc 1: full(on=ffn) | dec 1: ia3",
    "dec 1: lora(rank=2, on=cross_q,cross_v) + delta_bias(on=ffn)",
    "late_prompt(depth=1, tokens=3) | adapter(depth=2, stack=dec)",
    "late_prompt(depth=3, tokens=2, generator=appg) | 1: prefix(tokens=2)",
    "prompt(tokens=3) | adapter(depth=3)",
    "1: parallel + houlsby",
)


@pytest.fixture(autouse=True)
def empty_table(monkeypatch):
    """What a test adds is gone after it."""
    monkeypatch.setattr(table, "_ADDED", {})


def tiny_stacks(model_type):
    common = {"vocab_size": len(tiny.roberta_tokenizer()), "d_model": 32, "pad_token_id": 1, "eos_token_id": 2}
    if "position_bias" in NAMES[model_type]:
        sizes = {"num_layers": 3, "num_decoder_layers": 3, "num_heads": 4, "d_kv": 6, "d_ff": 48}
        sizes |= {"decoder_start_token_id": 1, "feed_forward_proj": "gated-gelu" if model_type == "mt5" else "relu"}
    else:
        sizes = {f"{stack}_{size}": n for stack in STACKS for size, n in (("layers", 3), ("attention_heads", 4))}
        sizes |= {"encoder_ffn_dim": 48, "decoder_ffn_dim": 40, "max_position_embeddings": tiny.MAX_TOKENS}
        sizes |= {"init_std": 0.1, "decoder_start_token_id": 2, "bos_token_id": 0}
    torch.manual_seed(0)
    return AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(model_type, **common, **sizes)).eval()


@pytest.fixture
def folder(model_type, tmp_path):
    tiny_stacks(model_type).save_pretrained(tmp_path / "base")
    tiny.roberta_tokenizer().save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


@pytest.mark.parametrize("model_type", NAMES)
def test_every_weight_is_counted(model_type):
    model = tiny_stacks(model_type)
    with pytest.raises(ModelError, match="not in the table"):
        shape_of(model.config.to_dict())
    row = backbone_from_names(model, **NAMES[model_type])
    shape = Backbone(model).shape
    assert row.family == "encoder-decoder" and shape.stacks == {"enc": range(3), "dec": range(3, 6)}
    assert shape.parameters("seq2seq") == sum(parameter.numel() for parameter in model.parameters())
    tuned = apply(model, "full")
    assert tuned.attached.resolved.trainable("seq2seq") == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("model_type", NAMES)
def test_what_a_method_promises(model_type, plan, folder, tmp_path):
    backbone_from_names(model_type, **NAMES[model_type])
    model = shake(apply(load_base(folder, "seq2seq").model, plan)).eval()
    with torch.no_grad():
        said = whole(model)
        torch.testing.assert_close(split(model), said, rtol=0, atol=1e-5)
    model.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        assert torch.equal(whole(load(tmp_path / "adapter")), said)
    _backward_stops(model)
    try:
        merged = merge(load(tmp_path / "adapter"), in_memory=True)
    except PlanError as error:
        assert "cannot be merged" in error.message
        return
    with torch.no_grad():
        torch.testing.assert_close(whole(merged), said, rtol=0, atol=1e-5)


def _backward_stops(model):
    without_dropout(model)
    first = None
    for run in (whole, split):
        model.zero_grad(set_to_none=True)
        blocks = count_backward_blocks(model.attached, lambda run=run: run(model).backward())
        assert blocks == model.attached.resolved.backprop_blocks
        found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        assert found.keys() == model.attached.trained().keys()
        first = first or found
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, first[name], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("model_type", ["saga", "mbart"])
def test_a_run_from_the_cache_is_a_run_without(model_type, folder, tmp_path):
    backbone_from_names(model_type, **NAMES[model_type])
    rows = [{"text": f"the {a} was {b}", "answer": b} for a in ("film", "book", "city") for b in ("good", "bad")]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    told = []
    for cache in ("off", "ram"):
        given = {"model": folder, "plan": "enc 2: lora(rank=2) | dec 1: lora(rank=2)", "objective": "seq2seq"}
        given |= {"train": str(tmp_path / "data.jsonl"), "text": "text", "label": "answer", "cache": cache, "epochs": 2}
        given |= {"out": str(tmp_path / cache), "device": "cpu", "batch_size": 3, "lr": 0.01}
        train(validate(given), reporter=Reporter(quiet=True))
        lines = (tmp_path / cache / "metrics.jsonl").read_text().splitlines()
        told.append([json.loads(line)["train_loss"] for line in lines])
    assert told[0] == pytest.approx(told[1], abs=1e-4) and told[0][-1] < told[0][0]


@pytest.mark.parametrize(
    ("model_type", "change", "message", "hint"),
    [
        ("mbart", {"behind_encoder": ()}, "does more around its blocks", "behind_encoder="),
        ("mbart", {"behind_encoder": ("encoder.layernorm",)}, "behind_encoder: .* no module", "encoder.layer_norm"),
        ("mbart", {"beside": ()}, "no name covers: model.encoder.embed_positions.weight", "beside="),
        ("mbart", {"lm_head": None}, "lm_head: an encoder-decoder needs one", "output matrix"),
        ("mbart", {"decoder_blocks": "decoder.layer"}, "decoder_blocks: .* no module", "decoder.layers"),
        ("mbart", {"decoder_roles": {"cross_p": "q"}}, "'cross_p' is not a role", "cross_q"),
        ("mt5", {"position_bias": "layer.0.SelfAttn"}, "position_bias: a block has no", "layer.0.SelfAttention"),
        ("mt5", {"position_bias": None}, "config of mt5 lacks encoder_layers", "fields="),
        ("mt5", {"position_bias": None, "fields": T5_SIZES}, "does more around its blocks", "position_bias="),
    ],
)
def test_wrong_names_are_said(model_type, change, message, hint):
    with pytest.raises(ModelError, match=message) as error:
        backbone_from_names(tiny_stacks(model_type), **{**NAMES[model_type], **change})
    assert hint in error.value.hint and "\n" not in str(error.value)
    with pytest.raises(ModelError, match="not in the table"):
        table.architecture_of(model_type)


def test_the_documented_names_are_right():
    blocks = re.findall("```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), flags=re.DOTALL)
    model = tiny_stacks("mbart")
    exec(compile("\n".join(blocks), DOCS.name, "exec"), {"st": st, "model": model})
    assert shake(apply(model, "prompt(tokens=2) | 1: lora")).attached.backbone.row.name == "mbart"


def test_a_prompt_at_the_input_needs_the_positions_named():
    model = tiny_stacks("mbart")
    backbone_from_names(model, **{**NAMES["mbart"], "position_norm": None})
    with pytest.raises(PlanError, match="no prompt at the input of mbart") as error:
        apply(model, "prompt(tokens=2)")
    assert "position_norm=" in error.value.hint
    apply(model, "late_prompt(depth=0, tokens=2)")
