"""Decoders of which some blocks carry a state from token to token in place of attention: Qwen 3.5, LFM2."""

from __future__ import annotations

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import stratatune as st
import tiny
from decoder_checks import (
    IDS,
    MASK,
    check_generation,
    check_gradients,
    check_merged,
    check_stock_peft,
    halves,
    whole,
)
from runs import rows, write_csv
from stratatune.app.cli import run as command
from stratatune.costs.block_flops import block_work
from stratatune.errors import ModelError, PlanError
from stratatune.model.artefact import load
from stratatune.model.attach import apply, apply_to
from stratatune.model.base import load_base
from stratatune.model.split import Trunk
from stratatune.objectives.asked import Asked
from stratatune.objectives.registry import choose
from stratatune.plan import Plan, shape_of
from tuning import shake

ORDERS = {
    "state first": ("qwen3_5_text", ["linear_attention", "full_attention"] * 2),
    "state last": ("qwen3_5_text", ["full_attention", "linear_attention"] * 2),
    "convolution first": ("lfm2", ["conv", "full_attention"] * 2),
    "convolution last": ("lfm2", ["full_attention", "conv"] * 2),
    "state first, experts": ("qwen3_5_moe_text", ["linear_attention", "full_attention"] * 2),
    "convolution first, experts": ("lfm2_moe", ["conv", "full_attention"] * 2),
}
FIRST = ("state first", "convolution first", "state first, experts", "convolution first, experts")
PLANS = (
    "2: full",
    "1: lora(rank=2)",
    "1: lora(rank=2, on=q,k,v,o,ffn)",
    "1: lora(rank=2, on=v) + full(on=norms) | adapter(depth=3)",
    "1: delta_bias",
    "1: ia3(on=k,v,down)",
    "2: houlsby + parallel(on=ffn)",
    "full",
)


def base_of(order, kind="causal"):
    model_type, types = ORDERS[order]
    return tiny.tiny_decoder(model_type, kind, layer_types=types)


def tuned(order, plan, kind="causal"):
    return shake(apply(base_of(order, kind).double(), tiny.with_experts(ORDERS[order][0], plan))).eval()


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(
    ("order", "head"),
    [*((order, "causal") for order in ORDERS), ("state first", "classification"), ("state last", "classification")],
)
def test_top_of_trunk_is_the_whole_model(order, head, plan):
    model = tuned(order, plan, head)
    with torch.no_grad():
        torch.testing.assert_close(halves(model), whole(model), rtol=0, atol=1e-10)
    check_gradients(model, 1e-3)  # its own code computes in fp32


@pytest.mark.parametrize("order", ORDERS)
def test_sizes_are_those_of_the_model(order):
    model = base_of(order)
    shape = shape_of(model.config.to_dict())
    assert shape.parameters("causal") == sum(one.numel() for one in model.parameters())
    for number, block in enumerate(model.model.layers):
        assert shape.of_block(number).block_parameters == sum(one.numel() for one in block.parameters())
    assert shape.carries_state
    assert not shape_of("Qwen/Qwen3-0.6B").carries_state


def test_lora_is_on_what_makes_the_state_as_on_attention():
    resolved = Plan.parse(": lora(rank=2, on=q,v)").resolve(shape_of(base_of("state first").config.to_dict()))
    # A state block has q, k and v in one linear, of 16, 16 and 16 outputs; attention 64 with its gate, and 16.
    assert [resolved.shape.of_block(n).linears["q"].outputs for n in range(2)] == [16, 64]
    assert resolved.trainable("causal") == 2 * (2 * 2 * (32 + 16) + 2 * (32 + 64) + 2 * (32 + 16))


@pytest.mark.parametrize("length", [64, 128])
def test_work_of_a_state_block_is_what_torch_counts(length):
    model = base_of("state first").eval()
    block, shape = model.model.layers[0], shape_of(model.config.to_dict()).of_block(0)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        block(torch.zeros(1, length, 32), position_embeddings=None)
    work = block_work(shape, (), length, length)
    solved = 2.0 * length * 4 * 32 * (8 + 4)  # triangles, which torch does not count
    assert abs((counter.get_total_flops() + solved) / work.forward - 1) < 0.02
    assert work.backward > work.forward  # the state's products need both of their gradients


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("order", FIRST)
def test_its_trunk_is_streamed_to_the_bit(order, dtype, tmp_path):
    base_of(order).to(dtype).save_pretrained(tmp_path)
    tiny.decoder_tokenizer().save_pretrained(tmp_path)
    found = []
    for unread in (0, 3):
        base = load_base(str(tmp_path), "lm", unread_below=unread)
        found.append(Trunk(apply_to(base.backbone, Plan.parse("3: lora(rank=2)")).attached)(IDS, MASK))
    assert torch.equal(*found)


@pytest.mark.parametrize("order", FIRST)
def test_generation_with_padding_is_that_of_each_text_alone(order):
    check_generation(tuned(order, "1: lora(rank=2, on=q,v)"), 5)


@pytest.mark.parametrize("plan", ["1: lora(rank=2, on=q,v,o,down)", "2: full"])
@pytest.mark.parametrize("order", FIRST)
def test_merged_is_a_plain_model(order, plan):
    check_merged(tuned(order, plan), base_of(order))


@pytest.mark.parametrize("plan", ["1: lora(rank=2, on=q,v,o,down)", "1:3 lora(rank=3, on=k) | 3: full(on=norms,q)"])
@pytest.mark.parametrize("order", FIRST)
def test_stock_peft_reads_it_and_is_read(order, plan, tmp_path):
    check_stock_peft(tuned(order, plan), lambda: base_of(order), tmp_path)


@pytest.mark.parametrize("insertion", ["late_prompt(depth=2, tokens=2)", "prompt(tokens=2)", "idpg(tokens=2)"])
def test_prompts_are_refused(insertion):
    with pytest.raises(PlanError, match="a prompt cannot enter a qwen3_5_text, some of whose blocks carry a state"):
        apply(base_of("state first"), insertion)


def test_prefixes_are_refused_in_blocks_that_do_not_attend():
    with pytest.raises(PlanError, match=r"block 0: prefix cannot be put in a Qwen3_5GatedDeltaNet"):
        apply(base_of("state first"), ": prefix")


def test_label_words_are_not_scored_side_by_side():
    with pytest.raises(ModelError, match="blocks of this model carry a state from token to token"):
        choose(Asked(Plan.parse("lora"), "decoder", 64, "causal", carries_state=True))
    assert choose(Asked(Plan.parse("lpt"), "decoder", 64, carries_state=True)).name == "classification"


@pytest.mark.parametrize("trunk", ["resident", "streamed"])
@pytest.mark.parametrize(
    ("whole_type", "objective"),
    [("qwen3_5", "classification"), ("qwen3_5", "completion"), ("qwen3_5_moe", "completion")],
)
def test_a_run_from_the_checkpoint_of_a_composite(whole_type, objective, trunk, tmp_path):
    folder = tiny.save_tiny_composite(tmp_path / "base", whole_type)
    data, run, merged = write_csv(tmp_path / "some.csv", rows(24, 0)), tmp_path / "run", tmp_path / "merged"
    settings = {"train": str(data), "eval": str(data), "text": "text", "label": "label", "device": "cpu"}
    settings |= {"objective": objective, "epochs": 1, "trunk": trunk, "out": str(run), "max_length": 24}
    st.train(model=str(folder), plan="2: lora(rank=2, on=q,v)", **settings)
    assert command(["eval", str(run), "--data", str(data)]) == 0
    assert command(["export", str(run), "--to", "merged", "--out", str(merged)]) == 0
    auto = AutoModelForSequenceClassification if objective == "classification" else AutoModelForCausalLM
    stock, info = auto.from_pretrained(merged, output_loading_info=True)
    assert not any(info.values())
    with torch.no_grad():
        torch.testing.assert_close(whole(stock.eval()), whole(load(run)), rtol=0, atol=1e-4)
    assert json.loads((run / "result.json").read_text())["epochs"] == 1


def test_older_names_in_a_published_config_are_read(tmp_path):
    model = base_of("convolution first")
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["block_ff_dim"], config["full_attn_idxs"] = config.pop("intermediate_size"), [1, 3]
    del config["layer_types"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    shape = shape_of(str(tmp_path))
    assert shape.parameters("causal") == sum(one.numel() for one in model.parameters())
    assert sorted(shape.others) == [0, 2]
    tiny.decoder_tokenizer().save_pretrained(tmp_path)
    loaded = load_base(str(tmp_path), "lm").backbone
    assert loaded.shape.others[0].linears == shape_of(model.config.to_dict()).others[0].linears
    assert torch.equal(loaded.model.model.layers[0].conv.conv.weight, model.model.layers[0].conv.conv.weight)
