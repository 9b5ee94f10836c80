"""Decoders whose blocks have experts: Qwen3-MoE, Mixtral, OLMoE, gpt-oss, Granite MoE."""

from __future__ import annotations

import copy
import json
import pickle
import re

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import stratatune as st
import tiny
from decoder_checks import (
    IDS,
    LENGTHS,
    MASK,
    check_gradients,
    check_stock_peft,
    halves,
    whole,
)
from runs import rows, write_csv
from stacks import exact_rms_norms
from stratatune.app.cli import run as command
from stratatune.errors import ModelError, PlanError
from stratatune.model.artefact import load
from stratatune.model.attach import apply, apply_to
from stratatune.model.base import load_base
from stratatune.model.checkpoint import Checkpoint
from stratatune.model.merging import merge
from stratatune.model.packing import pack_top
from stratatune.model.sharding import write_model
from stratatune.model.split import Trunk
from stratatune.model.unread import Unread
from stratatune.plan import Plan, architecture_of, shape_of
from tuning import shake

HALF = torch.bfloat16
PLANS = (
    "2: full",
    "1: lora(rank=2, on=q,k,v,o)",
    "1: lora(rank=2, on=v) + full(on=norms) | adapter(depth=3)",
    "2: full(on=experts)",
    "2: full(on=router) + lora(rank=2)",
    "1: lora(rank=2, on=q,experts) + full(on=router)",
    "1: delta_bias",
    "2: houlsby(on=o) + parallel(on=attn)",
    "full",
)
MIXED = {"decoder_sparse_step": 2}
"""Every other block has a feed-forward part and no experts."""


def tuned(family, plan, **config):
    return shake(apply(tiny.tiny_decoder(family, **config).double(), plan)).eval()


def saved(folder, family, dtype=HALF, **config):
    tiny.tiny_decoder(family, **config).to(dtype).save_pretrained(folder)
    tiny.decoder_tokenizer().save_pretrained(folder)
    return str(folder)


def stock(folder, **settings):
    """The model as transformers alone loads it."""
    eager = {"attn_implementation": "eager", "experts_implementation": "eager", **settings}
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **eager).eval()


def path_of(model, role):
    """The path of the router or the experts inside a block."""
    config = model.config.to_dict()
    return architecture_of(config["model_type"], config).roles[role]


def part_of(model, role, number=0):
    """The router or the experts of a block."""
    return model.model.layers[number].get_submodule(path_of(model, role))


def names_in(folder):
    found = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            found |= set(opened.keys())
    return found


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(("family", "config"), [*((one, {}) for one in tiny.EXPERTS), ("qwen3_moe", MIXED)])
def test_top_of_trunk_is_the_whole_model(family, config, plan, monkeypatch):
    exact_rms_norms(monkeypatch)
    model = tuned(family, plan, **config)
    with torch.no_grad():
        torch.testing.assert_close(halves(model), whole(model), rtol=0, atol=1e-12)
    check_gradients(model, 1e-9)


@pytest.mark.parametrize("family", tiny.EXPERTS)
def test_full_trains_experts_and_router(family):
    model = tiny.tiny_decoder(family)
    shape = shape_of(model.config.to_dict())
    # A score a head, or the norms around the experts, which no role names.
    left = {"gpt_oss": 4 * 4, "gemma4_moe": 4 * 3 * 32}.get(family, 0)
    assert Plan.parse("full").resolve(shape).trainable("causal") == shape.parameters("causal") - left
    assert {"router", "experts"} <= set(shape.roles)
    for role in ("router", "experts"):
        resolved = Plan.parse(f"3: full(on={role})").resolve(shape)
        assert resolved.trainable("causal") == sum(one.numel() for one in part_of(model, role).parameters())


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("family", tiny.EXPERTS)
def test_lora_on_experts_is_that_of_peft(family, tmp_path):
    """Stock peft adapts the two tensors of a block's experts by ``target_parameters``."""
    import peft

    model = tuned(family, ": lora(rank=3, alpha=5, on=experts)")
    resolved = model.attached.resolved
    assert resolved.trainable("causal") == sum(one.numel() for one in model.attached.trained().values())
    path = path_of(model, "experts")
    stock = tiny.tiny_decoder(family).double()
    config = peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=[], target_parameters=[f"{path}.gate_up_proj", f"{path}.down_proj"]
    )
    theirs = peft.get_peft_model(stock, config).eval()
    for number, block in enumerate(theirs.base_model.model.model.layers):
        one = block.get_submodule(path)
        while hasattr(one, "parameter_name"):
            mine = model.model.layers[number].get_submodule(path).get_submodule(one.parameter_name)
            with torch.no_grad():
                one.lora_A["default"].weight.copy_(mine.a.flatten(0, 1))
                one.lora_B["default"].weight.copy_(mine.b.permute(1, 2, 0).flatten(1))
            one = one.base_layer
    with torch.no_grad():
        plain, found, wanted = whole(tiny.tiny_decoder(family).double().eval()), whole(model), whole(theirs)
        assert (found - plain).abs().max() > 1e-3
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)
        torch.testing.assert_close(whole(merge(copy.deepcopy(model))), wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("family", tiny.EXPERTS)
def test_lora_starts_with_no_change_and_drops_inputs(family):
    base = tiny.tiny_decoder(family).eval()
    said = whole(copy.deepcopy(base)).detach()
    model = apply(base, "1: lora(rank=2, on=experts, dropout=0.5)")
    with torch.no_grad():
        assert torch.equal(whole(model.eval()), said) or (whole(model) - said).abs().max() < 1e-5
        shake(model)
        assert not torch.equal(whole(model.train()), whole(model.train()))
        assert torch.equal(whole(model.eval()), whole(model.eval()))


@pytest.mark.parametrize("pack", [None, "nf4", "int8"])
@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss"])
def test_lora_over_stored_and_packed_experts_comes_back(family, pack, tmp_path):
    model = apply(load_base(saved(tmp_path / "base", family), "lm").model, "2: lora(rank=2, on=q,experts)")
    if pack:
        pack_top(model.attached, pack)
    shake(model).eval()
    whole(model).square().sum().backward()
    trained = model.attached.trained()
    assert all(one.grad is not None and one.dtype == torch.float32 for one in trained.values())
    assert any(name.endswith("experts.down_proj.b") for name in trained)
    model.save_pretrained(tmp_path / "adapter")
    again = load(tmp_path / "adapter")
    if pack:
        pack_top(again.attached, pack)
    with torch.no_grad():
        assert torch.equal(whole(again), whole(model))


def test_blocks_without_experts_are_described_as_such():
    model = tiny.tiny_decoder("qwen3_moe", **MIXED)
    shape = shape_of(model.config.to_dict())
    assert [sorted(shape.of_block(number).routed) for number in range(2)] == [[], ["experts", "router"]]
    for number, block in enumerate(model.model.layers):
        assert shape.of_block(number).block_parameters == sum(one.numel() for one in block.parameters())
    resolved = Plan.parse(": lora(rank=2, on=q,down)").resolve(shape)
    assert resolved.trainable("causal") == 2 * (4 * (32 + 32) + 2 * (48 + 32))


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ("lora(on=ffn)", r"lora\(.*on=ffn\): a block of mixtral has experts in place of up, gate and down"),
        ("lora(on=up,gate,down,q)", "a block of mixtral has experts in place of up, gate and down"),
        ("lora(on=q,down)", "a block of mixtral has no down"),
        ("dora(on=experts)", "experts are not one matrix"),
        ("lora(on=router)", "a router trains as a whole or not at all"),
        ("parallel", "a block of mixtral has experts in place of up"),
    ],
)
def test_what_adapts_linears_says_that_experts_are_none(plan, said):
    with pytest.raises(PlanError, match=said) as refused:
        Plan.parse(f": {plan}").resolve(shape_of("Mixtral-8x7B-v0.1"))
    if "experts" in said and "parallel" not in plan:
        assert {"lora(on=experts)", "full(on=experts)"} <= set(re.findall(r"\w+\(on=\w+\)", str(refused.value.hint)))


def test_experts_that_a_model_has_not_are_refused():
    with pytest.raises(PlanError, match="a block of llama has no experts"):
        Plan.parse(": full(on=experts)").resolve(shape_of("Llama-3.2-1B"))


@pytest.mark.parametrize("missing", ["num_experts", "num_experts_per_tok", "moe_intermediate_size"])
def test_a_config_without_a_size_is_one_line(missing):
    config = tiny.tiny_decoder("qwen3_moe").config.to_dict()
    for name in (missing, *(["num_local_experts"] if missing == "num_experts" else [])):
        config.pop(name, None)
    with pytest.raises(ModelError, match=f"lacks {missing}"):
        shape_of(config)


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize("family", tiny.EXPERTS)
def test_trunk_and_top_are_streamed_to_the_bit(family, dtype, tmp_path):
    """Matrices of single experts are joined as they are read, and both ways of loading have one fingerprint."""
    folder, found, bases = saved(tmp_path, family, dtype), [], set()
    for unread, room in ((0, None), (2, None), (2, 0)):
        base = load_base(folder, "lm", unread_below=unread, room_above=room)
        torch.manual_seed(0)
        model = shake(apply_to(base.backbone, Plan.parse("2: lora(rank=2)")))
        experts = [part_of(model, "experts", number).gate_up_proj for number in range(4)]
        assert [one.is_meta for one in experts] == [bool(unread)] * 2 + [room == 0] * 2
        assert {one.dtype for one in experts} == {dtype}
        hidden = Trunk(model.attached)(IDS, MASK)
        logits = halves(model)
        logits.square().sum().backward()
        found.append([hidden, logits.detach(), *(one.grad for one in model.attached.trained().values())])
        bases.add(model.attached.base.digest)
    for other in found[1:]:
        assert torch.equal(found[0][0], other[0])
        for first, second in zip(found[0], other, strict=True):
            # transformers maps an fp32 file, whose tensors begin anywhere, and a product's rounding depends on that.
            assert torch.equal(first, second) if dtype == HALF else torch.allclose(first, second, rtol=1e-4, atol=1e-4)
    assert len(bases) == 1
    with torch.no_grad():
        assert torch.equal(whole(stock(folder)), whole(load_base(folder, "lm").model))


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("plan", ["2: lora(rank=2, on=q,o)", "3: full"])
@pytest.mark.parametrize("family", tiny.EXPERTS)
def test_merged_has_the_names_of_the_checkpoint(family, plan, streamed, tmp_path):
    folder = saved(tmp_path / "base", family)
    said = []
    for unread in (0, 2) if streamed else (0,):
        base = load_base(folder, "lm", unread_below=unread)
        torch.manual_seed(0)
        model = shake(apply_to(base.backbone, Plan.parse(plan))).eval()
        if not unread:
            with torch.no_grad():
                said.append(whole(model))
    write_model(merge(model), Unread.of(model), tmp_path / "merged", None)
    assert names_in(tmp_path / "merged") == names_in(tmp_path / "base")
    loaded, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "merged", dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(info.values())
    with torch.no_grad():
        torch.testing.assert_close(whole(loaded.eval()), said[0], rtol=0, atol=2e-2)  # folded in bf16


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks for it
@pytest.mark.parametrize(
    "plan",
    [
        "1: lora(rank=2, on=q,k,v,o)",
        "1:3 lora(rank=3, on=k) | 3: full(on=norms,experts)",
        "1:3 lora(rank=3, alpha=2, on=experts) | 3: lora(rank=2, on=v,experts, dropout=0.1) + full(on=router)",
    ],
)
@pytest.mark.parametrize("family", tiny.EXPERTS)
def test_stock_peft_reads_it_and_is_read(family, plan, tmp_path):
    check_stock_peft(tuned(family, plan), lambda: tiny.tiny_decoder(family), tmp_path, 1e-10)


def of_peft(family, folder, **settings):
    """A folder that peft saved, with LoRA on the experts, and its model's logits."""
    import peft

    config = peft.LoraConfig(**{"r": 2, "target_modules": [], **settings})
    model = peft.get_peft_model(tiny.tiny_decoder(family).double(), config).eval()
    with torch.no_grad():
        for name, one in model.named_parameters():
            if "lora_" in name:
                one.normal_(std=0.3)
        said = whole(model)
    model.save_pretrained(folder)
    tiny.tiny_decoder(family).save_pretrained(folder / "base")
    return said


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])
@pytest.mark.parametrize("matrix", ["gate_up_proj", "down_proj"])
def test_a_peft_folder_of_one_tensor_is_read(family, matrix, tmp_path):
    said = of_peft(family, tmp_path, target_parameters=[f"experts.{matrix}"], use_rslora=True, layers_to_transform=[3])
    model = load(tmp_path, base=str(tmp_path / "base"))
    assert "on=experts" in str(model.attached.resolved.plan)
    with torch.no_grad():
        torch.testing.assert_close(whole(model).double(), said, rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks for it
@pytest.mark.filterwarnings("ignore:The following rank_pattern keys:RuntimeWarning")  # which peft then uses
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {
                "target_parameters": ["experts.down_proj", "experts.gate_up_proj"],
                "rank_pattern": {"model.layers.1.mlp.experts.down_proj": 3},
            },
            r"LoRA at 'model.layers.1.mlp.experts' has ranks \[\d, \d\] and factors \[2.66.*, 4.0\]",
        ),
        ({"target_parameters": ["q_proj.weight"]}, "LoRA at tensors of '.*q_proj', which are not the experts of a"),
    ],
)
def test_a_peft_folder_of_other_tensors_is_one_line(settings, said, tmp_path):
    of_peft("mixtral", tmp_path, **settings)
    with pytest.raises(ModelError, match=said):
        load(tmp_path, base=str(tmp_path / "base"))


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks for it
def test_a_peft_folder_of_other_experts_is_one_line(tmp_path):
    of_peft("mixtral", tmp_path, target_parameters=["experts.down_proj"])
    tiny.tiny_decoder("mixtral", num_local_experts=3).save_pretrained(tmp_path / "other")
    with pytest.raises(ModelError, match="is of rank 10 .* and here 3 experts have"):
        load(tmp_path, base=str(tmp_path / "other"))


@pytest.mark.parametrize("family", tiny.EXPERTS)
def test_experts_that_train_in_a_bf16_model_have_fp32_masters(family):
    model = apply(tiny.tiny_decoder(family).to(HALF), "3: full(on=experts)")
    trained = model.attached.trained()
    assert {one.dtype for one in trained.values()} == {torch.float32}
    whole(model).float().square().sum().backward()
    assert all(one.grad.any() for name, one in trained.items() if not name.endswith("bias"))
    assert {one.dtype for one in merge(model).parameters()} == {HALF}


@pytest.mark.parametrize("family", tiny.EXPERTS)
def test_experts_that_train_over_a_stored_checkpoint_come_back(family, tmp_path):
    folder = saved(tmp_path / "base", family)
    model = shake(apply(load_base(folder, "lm").model, "3: full(on=experts)")).eval()
    whole(model).square().sum().backward()
    assert all(one.grad is not None and one.dtype == torch.float32 for one in model.attached.trained().values())
    model.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        assert torch.equal(whole(load(tmp_path / "adapter")), whole(model))


@pytest.mark.parametrize("pack", [None, "nf4"])
def test_a_stored_model_is_copied_and_pickled(pack, tmp_path):
    model = load_base(saved(tmp_path, "mixtral"), "lm").model
    if pack:
        tuned = apply(model, "2: lora")
        pack_top(tuned.attached, pack)
        experts = part_of(tuned, "experts", 3)
        assert experts.packed["down_proj"][0].packed.dtype == torch.uint8
        hidden, chosen = torch.randn(4, 32), torch.tensor([[0, 1]] * 4)
        again = copy.deepcopy(experts)
        assert torch.equal(again(hidden, chosen, torch.ones(4, 2)), experts(hidden, chosen, torch.ones(4, 2)))
        return
    with torch.no_grad():
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(whole(other), whole(model))


def test_experts_saved_as_one_tensor_are_read_and_saved_so(tmp_path):
    """transformers saves what it made from a config by the names of single experts; others have its own names."""
    saved(tmp_path, "qwen3_moe")
    model = tiny.tiny_decoder("qwen3_moe").to(HALF)
    save_file({name: one.contiguous() for name, one in model.state_dict().items()}, tmp_path / "model.safetensors")
    first = load_base(str(tmp_path), "lm", unread_below=2)
    second = load_base(str(tmp_path), "lm")
    found = [Trunk(apply_to(base.backbone, Plan.parse("2: lora")).attached)(IDS, MASK) for base in (first, second)]
    assert torch.equal(*found)
    write_model(merge(second.model), None, tmp_path / "merged", None)
    assert "model.layers.0.mlp.experts.gate_up_proj" in names_in(tmp_path / "merged")


def in_mxfp4(folder):
    """A gpt-oss as it is published: the experts in blocks of 4-bit values, with an exponent for each."""
    saved(folder, "gpt_oss", intermediate_size=64)
    tensors, drawn = load_file(folder / "model.safetensors"), torch.Generator().manual_seed(0)
    for name in [one for one in tensors if one.endswith("_proj") and "experts" in one]:
        count, ins, outs = tensors.pop(name).shape
        blocks = torch.randint(0, 256, (count, outs, ins // 32, 16), dtype=torch.uint8, generator=drawn)
        tensors[f"{name}_blocks"] = blocks
        tensors[f"{name}_scales"] = torch.randint(121, 126, blocks.shape[:3], dtype=torch.uint8, generator=drawn)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.embed_tokens"]}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.mark.parametrize("trunk", ["resident", "streamed"])
def test_experts_in_mxfp4_are_unpacked(trunk, tmp_path):
    from transformers import Mxfp4Config

    folder = in_mxfp4(tmp_path / "base")
    theirs = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, quantization_config=Mxfp4Config(dequantize=True), attn_implementation="eager"
    )
    wanted = {name: one.float() for name, one in theirs.state_dict().items()}
    ours = load_base(folder, "lm").model
    assert ours.state_dict().keys() == wanted.keys() and not hasattr(ours.config, "quantization_config")
    assert all(torch.equal(one.float(), wanted[name]) for name, one in ours.state_dict().items())
    assert {one.dtype for one in part_of(ours, "experts").parameters() if one.dim() > 2} == {HALF}
    data, run, merged = write_csv(tmp_path / "some.csv", rows(24, 0)), tmp_path / "run", tmp_path / "merged"
    settings = {"train": str(data), "text": "text", "label": "label", "device": "cpu", "max_length": 24, "epochs": 1}
    st.train(
        model=folder, plan="2: lora(rank=2, on=attn,experts)", objective="completion", trunk=trunk, out=str(run),
        cache=str(tmp_path / "cache"), **settings,
    )  # fmt: skip
    assert command(["export", str(run), "--to", "merged", "--out", str(merged)]) == 0
    assert "quantization_config" not in json.loads((merged / "config.json").read_text())
    with torch.no_grad():
        torch.testing.assert_close(whole(stock(merged)), whole(load(run)), rtol=0, atol=3e-2)


def test_biases_by_which_experts_are_chosen_are_read(tmp_path):
    """They are buffers, which a streamed model has in memory; half of the tokens would go elsewhere without them."""
    model = tiny.tiny_decoder("lfm2_moe")
    for block in model.model.layers[1:]:
        block.feed_forward.expert_bias.normal_(generator=torch.Generator().manual_seed(0))
    model.to(HALF).save_pretrained(tmp_path)
    tiny.decoder_tokenizer().save_pretrained(tmp_path)
    found = []
    for unread in (0, 3):
        base = load_base(str(tmp_path), "lm", unread_below=unread)
        biases = [block.feed_forward.expert_bias for block in base.model.model.layers[1:]]
        assert all(one.dtype == torch.float32 and one.any() for one in biases)
        found.append(Trunk(apply_to(base.backbone, Plan.parse("3: lora")).attached)(IDS, MASK))
    assert torch.equal(*found)


def test_a_missing_expert_is_one_line(tmp_path):
    saved(tmp_path, "qwen3_moe")
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.experts.2.up_proj.weight"]
    save_file(tensors, file)
    with pytest.raises(ModelError) as refused:
        load_base(str(tmp_path), "lm")
    assert "\n" not in str(refused.value)
    joined = Checkpoint.of(str(tmp_path)).with_experts_joined().entries
    assert joined["model.layers.0.mlp.experts.gate_up_proj"].shape == (6, 48, 32)
    assert "model.layers.1.mlp.experts.gate_up_proj" not in joined


def test_pieces_of_joined_experts_are_those_of_the_whole(tmp_path):
    saved(tmp_path, "mixtral")
    checkpoint = Checkpoint.of(str(tmp_path)).with_experts_joined()
    key = "model.layers.2.block_sparse_moe.experts.gate_up_proj"
    wanted = tiny.tiny_decoder("mixtral").to(HALF).model.layers[2].mlp.experts.gate_up_proj
    assert torch.equal(checkpoint.read(key), wanted)
    for values in (1, 5000, 10**6):
        assert torch.equal(torch.cat(list(checkpoint.pieces(key, values))), wanted.flatten())
    assert checkpoint.bytes == Checkpoint.of(str(tmp_path)).bytes


@pytest.mark.parametrize("family", tiny.EXPERTS)
def test_generation_with_padding_is_that_of_each_text_alone(family):
    model, settings = tuned(family, "1: lora(rank=2, on=q,v)"), {"max_new_tokens": 5, "do_sample": False}
    left = torch.stack([row.roll(9 - int(length)) for row, length in zip(IDS, LENGTHS, strict=True)])
    seen = torch.stack([row.roll(9 - int(length)) for row, length in zip(MASK, LENGTHS, strict=True)]).long()
    together = model.generate(left, attention_mask=seen, **settings)[:, 9:]
    for row, length, written in zip(IDS, LENGTHS, together, strict=True):
        alone = model.generate(row[None, :length], attention_mask=torch.ones(1, int(length)), **settings)[0, length:]
        assert torch.equal(written[: len(alone)], alone)


@pytest.mark.parametrize(
    ("family", "trunk", "settings"),
    [
        ("qwen3_moe", "resident", {}),
        ("qwen3_moe", "streamed", {}),
        ("mixtral", "streamed", {"pack": "nf4"}),
        ("gpt_oss", "streamed", {"precision": "bf16"}),
        ("olmoe", "resident", {"precision": "bf16", "pack": "int8"}),
    ],
)
def test_a_run_is_trained_scored_predicted_and_exported(family, trunk, settings, tmp_path):
    folder, data = saved(tmp_path / "base", family), write_csv(tmp_path / "some.csv", rows(24, 0))
    run, merged = tmp_path / "run", tmp_path / "merged"
    settings = {"train": str(data), "eval": str(data), "text": "text", "label": "label", "device": "cpu", **settings}
    settings |= {"objective": "completion", "epochs": 1, "trunk": trunk, "out": str(run), "max_length": 24}
    st.train(model=folder, plan="2: lora(rank=2, on=attn,experts)", **settings)
    assert json.loads((run / "result.json").read_text())["epochs"] == 1
    assert command(["eval", str(run), "--data", str(data), "--trunk", trunk]) == 0
    predicted = ["--data", str(data), "--out", str(tmp_path / "said.csv"), "--max-new-tokens", "3"]
    assert command(["predict", str(run), *predicted]) == 0
    assert command(["export", str(run), "--to", "merged", "--out", str(merged)]) == 0
    with torch.no_grad():
        torch.testing.assert_close(whole(stock(merged)), whole(load(run, pack=False)), rtol=0, atol=3e-2)


def test_a_plan_is_drawn_with_its_costs(capsys):
    lm = ["--objective", "completion"]
    assert command(["plan", "2/3: lora(on=q,k,v,o)", "--model", "Qwen/Qwen3-30B-A3B", *lm, "--json"]) == 0
    drawn = json.loads(capsys.readouterr().out)
    assert (drawn["blocks"], drawn["total"] - drawn["trainable"]) == (48, 30_532_122_624)
    assert command(["plan", "2/3: full(on=experts)", "--model", "gpt-oss-20b"]) == 0
    assert re.search(r"experts", capsys.readouterr().out)
