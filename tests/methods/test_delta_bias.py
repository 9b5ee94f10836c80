"""Merging delta-bias where linears have no bias: exact, and saved exactly as far as the config has a place for it."""

from __future__ import annotations

import json

import pytest
import torch

import stratatune as st
import tiny
from stratatune.app.cli import run as command
from stratatune.errors import PlanError, StratatuneError
from stratatune.model.attach import apply
from stratatune.model.base import load_base
from stratatune.model.merging import merge
from tuning import shake

IDS = torch.randint(5, 60, (2, 7), generator=torch.Generator().manual_seed(3))
ATTENTION, FFN = ("q_proj", "k_proj", "v_proj", "o_proj"), ("up_proj", "gate_proj", "down_proj")
SPAFIT = "spafit-0-1-II+delta"
NORMS = "1: lora(on=q,up) + ia3 + delta_bias(on=norms)"
"""A vector behind an RMS norm becomes a bias of the linears that read it, with their own methods folded in."""

SAVED = [  # family, plan, the config's fields that it sets, the linears that have a bias then, in every block
    ("llama", SPAFIT, ("attention_bias", "mlp_bias"), (*ATTENTION, *FFN)),
    ("llama", NORMS, ("attention_bias", "mlp_bias"), (*ATTENTION, *FFN)),
    ("llama", "2: delta_bias(on=o)", ("attention_bias",), ATTENTION),
    ("llama", "2: delta_bias(on=norm_ffn)", ("mlp_bias",), FFN),
    ("llama", "2: lora + delta_bias(on=ffn)", ("mlp_bias",), FFN),
    ("qwen3", "3: delta_bias(on=attn)", ("attention_bias",), ATTENTION),
    ("gemma", "3: delta_bias(on=attn,norm_attn)", ("attention_bias",), ATTENTION),
    ("gemma2", "3: delta_bias(on=attn,norm_attn)", ("attention_bias",), ATTENTION),
    ("gemma3_text", "3: delta_bias(on=v)", ("attention_bias",), ATTENTION),
    ("olmo2", "2: delta_bias(on=attn)", ("attention_bias",), ATTENTION),
    ("qwen2", "2: delta_bias(on=q,k,v,norm_attn)", (), ATTENTION[:3]),
]
UNSAVED = [  # family, plan, what the reason names
    ("mistral", SPAFIT, ("mistral config", "q (self_attn.q_proj)", "down (mlp.down_proj) in block 1,")),
    ("mistral", NORMS, ("delta_bias(on=norms)", "gate (mlp.gate_proj) in block 1, block 2, block 3")),
    ("qwen2", "2: delta_bias(on=attn)", ("o (self_attn.o_proj)", "in block 2, block 3")),
    ("qwen3", "2: delta_bias(on=o,ffn)", ("up (mlp.up_proj)", "down (mlp.down_proj)")),
    ("gemma", "3: delta_bias", ("up (mlp.up_proj)", "in block 3")),
    ("phi3", "2: delta_bias(on=q,gate)", ("phi3 config", "q (self_attn.qkv_proj)", "gate (mlp.gate_up_proj)")),
    ("phi3", NORMS, ("delta_bias(on=norms)", "gate (mlp.gate_up_proj) in block 1, block 2, block 3")),
    ("t5", "2: delta_bias", ("t5 config", "q (layer.0.SelfAttention.q)", "cross_q (layer.1.EncDecAttention.q)")),
    ("t5-gated", "dec 2: lora(on=cross_q) + delta_bias(on=norms,norm_cross)", ("decoder block 2", "cross_q (layer.1.")),
]
STUCK = [
    ("qwen3", "norm_q, norm_k"),
    ("olmo2", "norm_attn, norm_q, norm_k, norm_ffn"),
    ("gemma2", "norm_post_attn, norm_post_ffn"),
]


def tuned(family, plan):
    make = tiny.tiny_encoder_decoder if family.startswith("t5") else tiny.tiny_decoder
    return shake(apply(make(family).double(), plan)).eval()


def said(model):
    more = {"labels": IDS[:, :4].clone()} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False, **more).logits


@pytest.mark.parametrize(("family", "plan", "fields", "linears"), SAVED)
def test_merged_saved_and_read_by_stock_transformers(family, plan, fields, linears, tmp_path):
    model = tuned(family, plan)
    wanted = said(model)
    merged = merge(model)
    torch.testing.assert_close(said(merged), wanted, rtol=0, atol=1e-10)
    assert all(getattr(merged.config, field) for field in fields)
    biases = {name for name, _ in merged.named_parameters() if name.endswith("_proj.bias")}
    assert {name.split(".")[-2] for name in biases} == set(linears) and len(biases) == len(linears) * 4
    merged = merged.float()
    merged.save_pretrained(tmp_path)
    again, info = type(merged).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert torch.equal(said(again), said(merged))


@pytest.mark.parametrize(("family", "plan", "named"), UNSAVED)
def test_without_a_place_in_the_config_only_in_memory(family, plan, named, tmp_path):
    model = tuned(family, plan)
    wanted = said(model)
    ways = {"in_memory=True": lambda: merge(model), "native": lambda: st.export(model, tmp_path / "out", to="merged")}
    for hint, refused in ways.items():
        with pytest.raises(PlanError, match="cannot be (exported to )?merged") as error:
            refused()
        assert all(word in error.value.message for word in named) and hint in error.value.hint
    assert not (tmp_path / "out").exists() and torch.equal(said(model), wanted)  # as it was
    merged = merge(model, in_memory=True)
    torch.testing.assert_close(said(merged), wanted, rtol=0, atol=1e-10)
    assert not hasattr(merged, "strata")
    with pytest.raises(StratatuneError) as error:  # its config no longer says what it is
        apply(merged, "full")
    assert "load the base again" in error.value.hint


@pytest.mark.parametrize(("family", "norms"), STUCK)
def test_a_norm_that_not_linears_alone_read_keeps_its_vector(family, norms):
    with pytest.raises(PlanError, match=f"vector of {norms}: an RMS norm has none") as error:
        merge(tuned(family, "1: delta_bias"), in_memory=True)
    assert "in_memory" not in error.value.hint


@pytest.mark.parametrize("plan", [SPAFIT, "2: delta_bias(on=q,norm_ffn)"])
def test_modernbert_holds_them_in_its_fused_linears_and_norms(plan, tmp_path):
    model = shake(apply(tiny.tiny_of("modernbert").double(), plan)).eval()
    wanted = said(model)
    merged = merge(model)
    torch.testing.assert_close(said(merged), wanted, rtol=0, atol=1e-10)
    assert merged.config.attention_bias and merged.config.norm_bias
    merged.float().save_pretrained(tmp_path)
    assert torch.equal(said(type(merged).from_pretrained(tmp_path)), said(merged))


def test_a_merged_llama_takes_bitfit():
    merged = merge(tuned("llama", "3: delta_bias"))
    model = apply(merged, "3: bitfit")
    assert model.attached.resolved.trainable("causal") == 32 + 16 + 16 + 32 + 48 + 48 + 32


def test_from_the_command_line(tmp_path, capsys):
    for family, code in (("llama", 0), ("mistral", 2)):
        base, run, out = (tmp_path / f"{family}-{name}" for name in ("base", "run", "out"))
        tiny.save_tiny_decoder(base, family)
        model = shake(apply(load_base(str(base), "causal").model, SPAFIT))
        model.save_pretrained(run)
        assert command(["export", str(run), "--to", "merged", "--out", str(out), "--json"]) == code
        told = capsys.readouterr()
        if code:
            assert not out.exists() and "no field of a mistral config gives a bias to q" in told.err
        else:
            assert json.loads(told.out)["to"] == "merged"
            torch.testing.assert_close(said(load_base(str(out), "causal").model), said(model), rtol=0, atol=1e-5)


@pytest.mark.parametrize("plan", ["spafit-1-3-II+delta", "0:2 frozen | 2: delta_bias(on=norms)"])
def test_stories260k_merged_is_a_stock_llama(shared, plan, tmp_path):
    folder = shared / "models" / "stories260K"
    if not folder.is_dir():
        pytest.skip("no stories260K in the shared folder")
    model = shake(apply(load_base(str(folder), "causal").model.double(), plan), 0.02).eval()
    wanted = said(model)
    merged = merge(model)
    torch.testing.assert_close(said(merged), wanted, rtol=0, atol=1e-10)
    merged.float().save_pretrained(tmp_path)
    again = type(merged).from_pretrained(tmp_path, attn_implementation="eager")
    assert torch.equal(said(again), said(merged))


@pytest.mark.parametrize("family", tiny.DECODERS)
@pytest.mark.parametrize("plan", ["-2: delta_bias(on=norms)", "-2: delta_bias(on=norms) + lora(on=up)"])
def test_a_norm_is_folded_once_into_each_linear_that_reads_it(family, plan):
    """Where several roles are one linear too, as Phi-3's queries, keys and values are."""
    model = tiny.tiny_decoder(family).double().eval()
    try:
        model = shake(apply(model, plan))
    except PlanError as error:
        pytest.skip(error.message)
    ids = torch.randint(5, 60, (2, 6), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = model(input_ids=ids).logits
        try:
            merge(model, in_memory=True)
        except PlanError as error:
            pytest.skip(error.message)
        torch.testing.assert_close(model(input_ids=ids).logits, wanted, rtol=0, atol=1e-10)
