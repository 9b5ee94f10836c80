"""Gemma 4: blocks of two sizes, a part of each token for every block, and blocks that read an earlier one's keys."""

from __future__ import annotations

import json
import warnings

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

import stratatune as st
import tiny
from decoder_checks import (
    IDS,
    LENGTHS,
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
from stratatune.costs.cost import cost
from stratatune.costs.flops import example
from stratatune.errors import ModelError, PlanError
from stratatune.model.adapters import Adapters
from stratatune.model.artefact import load
from stratatune.model.attach import apply, apply_to
from stratatune.model.base import load_base
from stratatune.model.split import Trunk
from stratatune.model.stored import StoredTable
from stratatune.plan import Plan, shape_of
from stratatune.progress import Reporter
from tuning import shake

WORDS = tiny.decoder_tokenizer().backend_tokenizer.get_vocab_size()
PARTS = {"hidden_size_per_layer_input": 6, "vocab_size_per_layer_input": WORDS}
LAYOUTS = {
    "two sizes": {},
    "one linear for keys and values": {"attention_k_eq_v": True, "num_global_key_value_heads": 1},
    "parts": PARTS,
    "unified": {"model_type": "gemma4_unified_text", "num_kv_shared_layers": 2, "global_head_dim": 16},
    "shared keys": {**PARTS, "num_kv_shared_layers": 3, "use_double_wide_mlp": True},
}
SHARED = ("parts", "shared keys")
TYPES = ["sliding_attention", "full_attention"] * 3  # of the shared ones 3 and 5 read block 1, and 4 reads block 2
PLANS = (
    "3: full",
    ": lora(rank=2)",
    "1: lora(rank=2, on=q,k,v,o,ffn)",
    "4: lora(rank=2, on=q) + full(on=norms)",
    "2: lora(rank=2, on=q) | adapter(depth=4)",
    "2: delta_bias",
    "1: ia3(on=k,v,down)",
    "3: houlsby + parallel(on=ffn)",
    ":3 prefix(tokens=2) | 4: parallel(on=attn)",
    "embeddings full | 3: lora(rank=2)",
)
LAST = (LENGTHS - 1)[:, None]


def base_of(layout, **config):
    """A tiny model of six blocks, each of which scales its output by another factor."""
    settings = {"layer_types": TYPES, "sliding_window": 4, **LAYOUTS[layout], **config}
    model_type = settings.pop("model_type", "gemma4_text")
    model = tiny.tiny_decoder(model_type, blocks=6, **settings)
    for number, block in enumerate(model.model.layers):
        block.layer_scalar.fill_(0.75 + number / 8)
    return model


def saved(layout, folder, dtype=torch.float32):
    base_of(layout).to(dtype).save_pretrained(folder)
    tiny.decoder_tokenizer().save_pretrained(folder)
    return str(folder)


def tuned(layout, plan, **config):
    return shake(apply(base_of(layout, **config).double(), plan)).eval()


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_top_of_trunk_is_the_whole_model(layout, plan):
    model = tuned(layout, plan)
    with torch.no_grad():
        torch.testing.assert_close(halves(model), whole(model), rtol=0, atol=1e-12)
        every = halves(model, None)[torch.arange(3), LENGTHS - 1]
        torch.testing.assert_close(every, whole(model), rtol=0, atol=1e-12)
    check_gradients(model, 1e-3)  # its norms compute in fp32


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("depth", range(7))
@torch.no_grad()
def test_every_cut_between_shared_keys_and_their_readers(depth, attention):
    plan = f"{depth}: lora(rank=2, on=q)" if depth < 6 else "adapter(depth=6)"
    model = tuned("shared keys", plan, attn_implementation=attention)
    torch.testing.assert_close(halves(model), whole(model), rtol=0, atol=1e-12)
    # Block 1 makes the keys and values [2 heads of 16] of 3 and 5, block 2 those [2 of 8] of 4.
    assert Trunk(model.attached)(IDS, MASK).shape[-1] == 32 + [0, 0, 64, 96, 96, 64, 0][depth]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sizes_are_those_of_the_model(layout):
    model = base_of(layout)
    shape = shape_of(model.config.to_dict())
    assert shape.parameters("causal") == sum(one.numel() for one in model.parameters())
    for number, block in enumerate(model.model.layers):
        assert shape.of_block(number).block_parameters == sum(one.numel() for one in block.parameters())


def test_sizes_of_published_configs(tmp_path):
    """Their own names for the sizes, which transformers completes."""
    common = {"model_type": "gemma4_text", "head_dim": 256, "global_head_dim": 512, "vocab_size": 262_144}
    e2b = {"hidden_size": 1536, "intermediate_size": 6144, "num_hidden_layers": 35, "num_attention_heads": 8}
    e2b |= {"num_key_value_heads": 1, "num_kv_shared_layers": 20, "use_double_wide_mlp": True, "sliding_window": 512}
    e2b |= {"layer_types": (["sliding_attention"] * 4 + ["full_attention"]) * 7, "hidden_size_per_layer_input": 256}
    big = {"hidden_size": 5376, "intermediate_size": 21504, "num_hidden_layers": 60, "num_attention_heads": 32}
    big |= {"num_key_value_heads": 16, "num_global_key_value_heads": 4, "attention_k_eq_v": True}
    big |= {"hidden_size_per_layer_input": 0, "use_bidirectional_attention": "vision"}
    for text in (e2b, big):
        config = {"model_type": "gemma4", "text_config": {**common, **text}, "vision_config": None}
        (tmp_path / "config.json").write_text(json.dumps(config))
        shape = shape_of(str(tmp_path))
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**common, **text}))
        assert shape.parameters("causal") == sum(one.numel() for one in model.parameters())
        assert cost("1/2: lora", shape).flops_per_token_cached < cost(": lora", shape).flops_per_token_cached


@pytest.mark.parametrize("layout", SHARED)
def test_a_plan_trains_what_a_block_has(layout):
    resolved = Plan.parse(": lora(rank=2, on=q,v)").resolve(shape_of(base_of(layout).config.to_dict()))
    own = 3 if layout == "shared keys" else 6
    v = sum(2 * (32 + [16, 32][number % 2]) for number in range(own))
    assert resolved.trainable("causal") == v + sum(2 * (32 + [32, 64][number % 2]) for number in range(6))


@pytest.mark.parametrize("plan", ["2: lora", "1:3 lora(on=k)", ":1 lora(on=v)", ": full", ":3 prefix", "5: ia3"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_work_is_what_torch_counts(layout, plan):
    model = apply(base_of(layout, attn_implementation="eager"), plan).train()
    ids = torch.randint(5, 50, (1, 8))
    with FlopCounterMode(display=False) as counted:
        model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.sum().backward()
    trunk, top = example(model.attached.resolved, 8, "lm", places=8)
    assert counted.get_total_flops() == trunk.flops + top.flops


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_its_trunk_is_streamed_to_the_bit(layout, dtype, tmp_path):
    folder, found = saved(layout, tmp_path, dtype), []
    for unread in (0, 4):
        base = load_base(folder, "lm", unread_below=unread)
        assert base.model.model.layers[2].layer_scalar.item() == 1.0
        model = apply_to(base.backbone, Plan.parse("4: lora(rank=2)"))
        found.append((Trunk(model.attached)(IDS, MASK), halves(model)))
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@pytest.mark.parametrize("depth", [1, 4])
def test_its_top_is_streamed_to_the_bit(depth, tmp_path):
    folder, found = saved("shared keys", tmp_path, torch.bfloat16), []
    for unread, room in ((0, None), (depth, 0)):
        base = load_base(folder, "lm", unread_below=unread, room_above=room)
        torch.manual_seed(0)
        model = shake(apply_to(base.backbone, Plan.parse(f"{depth}: lora(rank=2, on=q,v,down)")))
        assert (model.attached.backbone.body.through is None) == (room is None)
        logits = halves(model)
        logits.square().sum().backward()
        found.append([logits.detach(), *(one.grad for one in model.attached.trained().values())])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@pytest.mark.parametrize("unread", [0, 4])
def test_weights_of_keys_that_no_block_makes_are_left_out(unread, tmp_path):
    """Published checkpoints hold some."""
    folder = tmp_path / "base"
    wanted = whole(load_base(saved("shared keys", folder), "lm").model)
    tensors = load_file(folder / "model.safetensors")
    names = [f"model.layers.{number}.self_attn.{role}_proj.weight" for number in (3, 4) for role in "kv"]
    tensors |= {name: torch.ones(16, 32) for name in names}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    base = load_base(str(folder), "lm", unread_below=unread)
    assert base.new == base.notices == []
    if not unread:
        assert torch.equal(whole(base.model), wanted)
    else:
        model = apply_to(base.backbone, Plan.parse("4: lora(rank=2)"))
        torch.testing.assert_close(halves(model), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("depth", [2, 4])
@torch.no_grad()
def test_the_models_own_forward_over_remembered_rows(depth):
    """``st.cached``: what a trunk remembers has the keys and values in it."""
    model = shake(apply(base_of("shared keys"), f"{depth}: lora(rank=2)")).eval()
    texts = [{"input_ids": row[:n].tolist(), "attention_mask": [1] * n} for row, n in zip(IDS, LENGTHS, strict=True)]
    said = whole(model)
    st.cached(model, texts, cache="ram", reporter=Reporter(quiet=True))
    found = model(input_ids=IDS, attention_mask=MASK.long(), trunk_row=torch.arange(3)).logits
    torch.testing.assert_close(found[torch.arange(3), LENGTHS - 1], said, rtol=0, atol=1e-4)


@torch.no_grad()
def test_rows_have_an_adapter_each(tmp_path):
    base = base_of("shared keys")
    base.save_pretrained(tmp_path / "base")
    many, wanted = Adapters(base), [whole(base)[0]]
    for name, depth in (("high", 4), ("low", 2)):
        model = load_base(saved("shared keys", tmp_path / "base"), "lm").model
        model = shake(apply(model, f"{depth}: lora(rank=2, on=q)")).eval()
        model.save_pretrained(tmp_path / name)
        many.load(tmp_path / name, name)
        wanted.append(whole(model)[len(wanted)])
    logits = many(input_ids=IDS, attention_mask=MASK.long(), adapters=[None, "high", "low"]).logits
    torch.testing.assert_close(logits[torch.arange(3), LENGTHS - 1], torch.stack(wanted), rtol=0, atol=1e-4)


def test_tables_stay_as_they_are_stored(tmp_path):
    folder = saved("shared keys", tmp_path, torch.bfloat16)
    resident = load_base(folder, "lm").model.model
    streamed = load_base(folder, "lm", unread_below=3).model.model
    for name in ("embed_tokens", "embed_tokens_per_layer"):
        assert isinstance(getattr(resident, name), StoredTable)
        assert getattr(resident, name).weight.dtype is torch.bfloat16
    assert streamed.embed_tokens_per_layer.weight.is_meta  # its rows are read as they occur


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
@pytest.mark.parametrize("plan", ["1: lora(rank=2)", "4: lora(rank=2)"])
def test_gradients_under_checkpointing(plan):
    model, found = tuned("shared keys", plan).train(), []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.zero_grad(set_to_none=True)
        whole(model).square().sum().backward()
        found.append([one.grad.clone() for one in model.attached.trained().values()])
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(plain, again, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("plan", ["1: lora(rank=2, on=q,v)", "4: lora(rank=2) | adapter(depth=5)"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_generation_with_padding_is_that_of_each_text_alone(layout, plan):
    model = tuned(layout, plan)
    for text, alone in check_generation(model, 7):
        length, text = len(text), text[None]
        for _ in range(7):  # without a key-value cache
            with torch.no_grad():
                said = model(input_ids=text, use_cache=False).logits[0, -1].argmax()
            text = torch.cat([text, said[None, None]], dim=1)
        assert torch.equal(text[0, length : length + len(alone)], alone)


@pytest.mark.parametrize("plan", ["1: lora(rank=2, on=q,v,o,down)", "3: full", "2: ia3(on=k,v,down)"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_merged_is_a_plain_model(layout, plan):
    check_merged(tuned(layout, plan), base_of(layout))


@pytest.mark.parametrize("plan", ["1: lora(rank=2, on=q,v,o,down)", "1:3 lora(rank=3, on=k) | 4: full(on=norms,q)"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_stock_peft_reads_it_and_is_read(layout, plan, tmp_path):
    check_stock_peft(tuned(layout, plan), lambda: base_of(layout), tmp_path)


@pytest.mark.parametrize("insertion", ["late_prompt(depth=2, tokens=2)", "prompt(tokens=2)", "idpg(tokens=2)"])
def test_prompts_are_refused_where_blocks_read_a_part_of_each_token(insertion):
    with pytest.raises(PlanError, match="a prompt cannot enter this gemma4_text"):
        apply(base_of("parts"), insertion)


def test_prefixes_are_refused_in_blocks_without_keys():
    with pytest.raises(PlanError, match="put it in blocks below 3"):
        apply(base_of("shared keys"), ": prefix")


def test_a_plan_of_keys_that_no_block_makes_is_refused():
    with pytest.raises(PlanError, match="trains nothing in block 3"):
        apply(base_of("shared keys"), "3: lora(on=k,v)")


@pytest.mark.parametrize(
    ("layout", "said"),
    [("parts", "this gemma4_text cannot be cut"), ("two sizes", r"cannot end after 3 of them \(legal: 2, 4\)")],
)
def test_cuts_are_where_the_model_may_end(layout, said):
    with pytest.raises(PlanError, match=said):
        Plan.parse("1: lora | cut(3)").resolve(shape_of(base_of(layout).config.to_dict()))


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"use_bidirectional_attention": "all"}, "its tokens see the whole text"),
        ({"num_kv_shared_layers": 2}, "without hidden_size_per_layer_input"),
    ],
)
def test_other_layouts_are_refused_in_one_line(config, reason):
    given = base_of("two sizes").config.to_dict() | config
    with pytest.raises(ModelError, match=reason):
        shape_of(given)


MIXTURE = {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 24}


@pytest.mark.parametrize(
    ("layout", "trunk", "plan", "cache_dtype"),
    [
        ("shared keys", "resident", "4: lora(rank=2)", "int8"),
        ("shared keys", "streamed", "2: lora(rank=2, on=q,v)", "auto"),
        ("two sizes", "streamed", "2: lora(rank=2, on=attn,experts)", "auto"),
    ],
)
def test_a_run_from_the_checkpoint_of_a_composite(layout, trunk, plan, cache_dtype, tmp_path):
    settings = {"layer_types": TYPES, "num_hidden_layers": 6, **LAYOUTS[layout]}
    settings |= MIXTURE if "experts" in plan else {}
    folder = tiny.save_tiny_composite(tmp_path / "base", "gemma4", **settings)
    data, run, merged = write_csv(tmp_path / "some.csv", rows(24, 0)), tmp_path / "run", tmp_path / "merged"
    asked = {"train": str(data), "eval": str(data), "text": "text", "label": "label", "device": "cpu"}
    asked |= {"objective": "completion", "epochs": 2, "trunk": trunk, "out": str(run), "max_length": 24}
    st.train(model=str(folder), plan=plan, cache=str(tmp_path / "cache"), cache_dtype=cache_dtype, **asked)
    assert command(["eval", str(run), "--data", str(data)]) == 0
    assert command(["predict", str(run), "--data", str(data), "--out", str(tmp_path / "said.csv")]) == 0
    assert command(["export", str(run), "--to", "merged", "--out", str(merged)]) == 0
    stock, info = AutoModelForCausalLM.from_pretrained(merged, output_loading_info=True)
    assert not any(info.values())
    with torch.no_grad():
        said = whole(load(run))
        torch.testing.assert_close(whole(stock.eval()), said, rtol=0, atol=1e-4)
    assert command(["export", str(run), "--to", "peft", "--out", str(tmp_path / "peft")]) == 0
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        towered = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
        stock = peft.PeftModel.from_pretrained(towered, tmp_path / "peft").eval()
        torch.testing.assert_close(whole(stock), said, rtol=0, atol=1e-4)
