"""Checkpoints of a language model beside a tower for images: the language model alone is loaded, tuned and exported."""

from __future__ import annotations

import json
import re
import warnings

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoModelForSequenceClassification

import stratatune as st
import tiny
from runs import rows, write_csv
from stratatune.app.cli import run as command
from stratatune.errors import ModelError
from stratatune.model.artefact import load
from stratatune.model.attach import apply, apply_to
from stratatune.model.base import load_base
from stratatune.model.split import Trunk
from stratatune.plan import Plan, shape_of
from stratatune.shapes.composite import in_the_part, in_the_whole, language_part, part_of
from tuning import shake

KINDS = ("gemma3", "mistral3", "llava")
IDS = torch.randint(5, 60, (2, 7), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=KINDS)
def composite(request, tmp_path_factory):
    return tiny.save_tiny_composite(tmp_path_factory.mktemp(request.param), request.param)


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS).logits


def whole(folder, **settings):
    """The model with its tower, as stock code loads it."""
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, **settings).eval()


def renamed(folder, new, change):
    """A copy of a checkpoint whose tensors have other names."""
    new.mkdir()
    for file in folder.iterdir():
        (new / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    save_file({change(name): value for name, value in tensors.items()}, new / "model.safetensors", {"format": "pt"})
    return new


def older(name):
    """The names that versions of transformers before 4.52 wrote, and those that 5 writes for some models."""
    if name.startswith("model."):
        return re.sub(r"^model\.language_model\.", "language_model.model.", name)
    return re.sub(r"^language_model\.model\.", "model.language_model.", name)


def test_language_model_is_that_of_the_whole(composite):
    base = load_base(str(composite), "lm")
    assert base.new == base.notices == []
    assert torch.allclose(logits(base.model), logits(whole(composite)), atol=1e-5)
    assert not any("vision" in name for name, _ in base.model.named_modules())


def test_names_of_either_version_are_read(composite, tmp_path):
    other = renamed(composite, tmp_path / "other", older)
    assert torch.equal(logits(load_base(str(other), "lm").model), logits(load_base(str(composite), "lm").model))


def test_sizes_are_those_of_the_language_model(composite):
    shape, model = shape_of(str(composite)), load_base(str(composite), "lm").model
    assert shape.parameters("causal") == sum(one.numel() for one in model.parameters())
    assert shape.max_tokens == tiny.MAX_TOKENS


def test_classes_are_learnt_without_a_word_about_the_tower(composite):
    base = load_base(str(composite), "sequence", num_labels=3)
    assert base.new == []
    assert base.notices == []
    assert base.model.config.num_labels == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_its_trunk_is_streamed_to_the_bit(composite, dtype, tmp_path):
    whole(composite).to(dtype).save_pretrained(tmp_path)
    tiny.decoder_tokenizer().save_pretrained(tmp_path)
    found = []
    for unread in (0, 2):
        base = load_base(str(tmp_path), "lm", unread_below=unread)
        tuned = apply_to(base.backbone, Plan.parse("2: lora(rank=2)"))
        found.append(Trunk(tuned.attached)(IDS, torch.ones_like(IDS).bool()))
    assert torch.equal(*found)


@pytest.mark.parametrize("trunk", ["resident", "streamed"])
def test_a_run_is_trained_scored_and_exported(composite, trunk, tmp_path):
    data, run, merged = write_csv(tmp_path / "some.csv", rows(24, 0)), tmp_path / "run", tmp_path / "merged"
    settings = {"train": str(data), "eval": str(data), "text": "text", "label": "label", "device": "cpu"}
    plan = "2: lora(rank=2, on=q,v)"
    st.train(
        model=str(composite), plan=plan, objective="classification", epochs=1, trunk=trunk, out=str(run), **settings
    )
    assert command(["eval", str(run), "--data", str(data)]) == 0
    assert command(["export", str(run), "--to", "merged", "--out", str(merged)]) == 0
    stock, info = AutoModelForSequenceClassification.from_pretrained(merged, output_loading_info=True)
    assert not any(info.values())
    assert torch.allclose(logits(stock), logits(load(run)), atol=1e-5)


def test_stock_peft_reads_the_adapter_over_the_whole(composite, tmp_path):
    plan = "1:3 lora(rank=3, alpha=5, on=q,down) | 2:3 lora(rank=2, on=o) | 3: full(on=norms)"
    tuned = shake(apply(load_base(str(composite), "lm").model, plan)).eval()
    wanted = logits(tuned)
    st.export(tuned, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft asks transformers by old names
        stock = peft.PeftModel.from_pretrained(whole(composite), tmp_path)
    assert torch.allclose(logits(stock), wanted, atol=1e-5)
    assert not torch.allclose(logits(whole(composite)), wanted, atol=1e-3)
    back = load(tmp_path, base=str(composite))
    assert torch.allclose(logits(back), wanted, atol=1e-5)


def test_a_model_with_its_tower_is_refused_in_one_line(composite):
    with pytest.raises(ModelError, match=r"holds several models, of which its language model \(\w+\) can be tuned"):
        apply(whole(composite), "2: lora")


def test_configs_of_one_model_stay_as_they_are():
    one = {"model_type": "llama", "text_config": {"model_type": "llama"}}
    assert language_part(one) is one
    assert part_of({"model_type": "unknown", "text_config": {"model_type": "unheard"}}) == ""
    assert part_of({"model_type": "unknown", "text_config": "llama"}) == ""


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.q_proj", "model.norm", "model.embed_tokens"])
def test_names_go_there_and_back(name):
    assert in_the_part(in_the_whole(name)) == name
    assert in_the_whole(f"base_model.model.{name}.lora_A.weight").startswith("base_model.model.model.language_model.")
    assert in_the_part("lm_head") == in_the_whole("lm_head") == "lm_head"
    assert in_the_part(f"language_model.{name}") == name
    assert in_the_part("language_model.lm_head.weight") == "lm_head.weight"


def test_the_plan_of_a_composite_is_drawn(composite, capsys):
    assert command(["plan", "2: lora", "--model", str(composite), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["blocks"] == 4


def test_the_published_config_of_gemma_3_4b_is_completed(tmp_path):
    """It leaves out what equals the defaults of its class: heads, their width and the words."""
    text = {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34}
    text |= {"rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024}
    config = {"model_type": "gemma3", "text_config": text, "vision_config": {}, "torch_dtype": "bfloat16"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert shape_of(str(tmp_path)).parameters("causal") == shape_of("gemma-3-4b-pt").parameters("causal")


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": "wide"},
        {"num_attention_heads": 0},
        {"layer_types": 3},
        {"rope_scaling": [1]},
        {"vocab_size": None},
    ],
)
@pytest.mark.parametrize("model_type", ["gemma3", "lfm2"])
def test_a_damaged_config_is_one_line(model_type, change, tmp_path):
    text = {"model_type": "gemma3_text" if model_type == "gemma3" else "lfm2", **change}
    config = {"model_type": "gemma3", "text_config": text} if model_type == "gemma3" else text
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError) as refused:
        shape_of(str(tmp_path))
    assert "\n" not in str(refused.value)
