"""A half-precision checkpoint stays as it is in memory, and the numbers are those of the model loaded in fp32."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, GenerationConfig
from transformers.pytorch_utils import Conv1D

import tiny
from checkpoints import EVERY, HALF, inputs, saved
from stratatune.errors import ModelError
from stratatune.model.artefact import load
from stratatune.model.attach import apply
from stratatune.model.base import load_base
from stratatune.model.checkpoint import Checkpoint
from stratatune.model.precision import cast_frozen
from tuning import shake


def checkpoint_of(folder):
    found = Checkpoint.of(str(folder))
    assert found is not None
    return found


def logits(model, given, autocast=None):
    with torch.no_grad(), torch.autocast("cpu", dtype=HALF, enabled=autocast is not None):
        return model.eval()(**given).logits


def held(model):
    """Bytes of the parameters."""
    return sum(one.nbytes for one in dict.fromkeys(model.parameters()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", EVERY)
def test_the_numbers_are_those_of_fp32(family, dtype, tmp_path):
    auto, head = saved(tmp_path, family, dtype)
    model = load_base(str(tmp_path), head).model
    eager = {"attn_implementation": "eager", "experts_implementation": "eager"}
    wide = auto.from_pretrained(tmp_path, dtype=torch.float32, **eager).eval()
    given = inputs(family)
    assert torch.equal(logits(model, given), logits(wide, given))
    assert torch.equal(logits(model, given, HALF), logits(wide, given, HALF))
    assert model.config.to_dict() == wide.config.to_dict()
    assert {name: one.dtype for name, one in model.named_buffers()} == {
        name: one.dtype for name, one in wide.named_buffers()
    }


@pytest.mark.parametrize("family", EVERY)
def test_every_large_matrix_stays_as_stored(family, tmp_path):
    _, head = saved(tmp_path, family)
    model = load_base(str(tmp_path), head).model
    stored = {module.weight.dtype for module in model.modules() if isinstance(module, nn.Linear | Conv1D)}
    assert model.get_input_embeddings().weight.dtype == HALF
    assert stored <= ({HALF, torch.float32} if family == "t5" or family == "t5-gated" else {HALF})
    assert all(one.dtype == torch.float32 for one in model.parameters() if one.dim() == 1)
    assert all(one.dtype == HALF for one in model.parameters() if one.dim() == 3)  # of experts


@pytest.mark.parametrize(
    "plan", ["2: lora", "2: full | head(mlm=norm)", ": dora", "adapter(depth=2)", "1: houlsby + ia3"]
)
@pytest.mark.parametrize("family", ["roberta", "modernbert"])
def test_a_step_is_that_of_fp32(family, plan, tmp_path):
    _, head = saved(tmp_path, family)
    given, steps = inputs(family), []
    for wide in (False, True):
        model = load_base(str(tmp_path), head).model
        if wide:
            model = AutoModelForMaskedLM.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager")
        torch.manual_seed(1)
        tuned = shake(apply(model, plan))
        assert {one.dtype for one in tuned.attached.trained().values()} == {torch.float32}
        tuned(**given).logits.square().mean().backward()
        steps.append({name: one.grad for name, one in tuned.attached.trained().items()})
    for name, found in steps[0].items():
        assert torch.allclose(found, steps[1][name], rtol=1e-4, atol=1e-7), name


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3_text"])
def test_a_decoder_trains_and_saves(family, tmp_path):
    saved(tmp_path / "base", family)
    base = load_base(str(tmp_path / "base"), "lm").model
    before = held(base)
    model = shake(apply(base, "2: lora"))
    trained = sum(one.nbytes for one in model.attached.trained().values())
    assert held(model) <= before + trained
    model(**inputs(family)).logits.square().mean().backward()
    model.save_pretrained(tmp_path / "adapter")
    again = load(tmp_path / "adapter")
    assert again.attached.origin.dtype == "float32"
    assert torch.equal(logits(again, inputs(family)), logits(model, inputs(family)))


def test_the_fingerprint_is_that_of_fp32(tmp_path):
    saved(tmp_path, "llama")
    stored = apply(load_base(str(tmp_path), "lm").model, "2: lora")
    wide = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager")
    assert stored.attached.base == apply(wide, "2: lora").attached.base


def test_autocast_widens_and_copies_nothing(tmp_path):
    saved(tmp_path, "llama")
    model = apply(load_base(str(tmp_path), "lm").model, "2: lora")
    places = {name: one.data_ptr() for name, one in model.named_parameters()}
    cast_frozen(model.attached, HALF)
    assert places == {name: one.data_ptr() for name, one in model.named_parameters()}


def test_memory_is_the_checkpoint_and_its_small_parts(tmp_path):
    """Counted: what the parameters hold is what the file does, but for vectors, which are twice as wide."""
    saved(tmp_path, "llama")
    model = load_base(str(tmp_path), "lm").model
    entries = checkpoint_of(tmp_path).entries.values()
    in_file = sum(2 * torch.Size(one.shape).numel() for one in entries)
    vectors = sum(2 * one.numel() for one in model.parameters() if one.dim() == 1)
    assert held(model) == in_file + vectors


class TestACheckpointOnDisk:
    def test_rows_are_those_of_the_whole(self, tmp_path):
        saved(tmp_path, "llama")
        checkpoint = checkpoint_of(tmp_path)
        key = "model.embed_tokens.weight"
        rows = torch.tensor([0, 1, 5, 90, 91, 200])
        assert torch.equal(checkpoint.read_rows(key, rows), checkpoint.read(key)[rows])

    def test_a_missing_shard_is_one_line(self, tmp_path):
        tiny.tiny_decoder("llama").save_pretrained(tmp_path, max_shard_size="40KB")
        gone = sorted(tmp_path.glob("model-*.safetensors"))[1]
        gone.unlink()
        with pytest.raises(ModelError, match=f"lacks its shard {gone.name}"):
            Checkpoint.of(str(tmp_path))

    def test_a_short_file_is_one_line(self, tmp_path):
        saved(tmp_path, "llama")
        file = tmp_path / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
        with pytest.raises(ModelError, match="not a whole safetensors file"):
            Checkpoint.of(str(tmp_path))

    def test_a_file_that_was_cut_while_open_is_one_line(self, tmp_path):
        saved(tmp_path, "llama")
        checkpoint, file = checkpoint_of(tmp_path), tmp_path / "model.safetensors"
        file.write_bytes(file.read_bytes()[:200])
        with pytest.raises(ModelError, match="cannot be read"):
            checkpoint.read("model.norm.weight")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_settings_of_generation_are_the_checkpoint_s(dtype, tmp_path):
    """Whatever it is stored in: they say where a text ends."""
    tiny.tiny_decoder("llama").to(dtype).save_pretrained(tmp_path)
    tiny.decoder_tokenizer().save_pretrained(tmp_path)
    GenerationConfig(eos_token_id=[2, 7], repetition_penalty=1.3).save_pretrained(tmp_path)
    for more in ({}, {"unread_below": 2}):
        found = load_base(str(tmp_path), "lm", **more).model.generation_config
        assert (found.eos_token_id, found.repetition_penalty) == ([2, 7], 1.3)
    (tmp_path / "generation_config.json").unlink()
    assert load_base(str(tmp_path), "lm").model.generation_config is not None
