"""What users call on any model of torch or transformers: conversions, pickling, saving with options."""

from __future__ import annotations

import pickle
import shutil

import pytest
import torch
from transformers import AutoModelForMaskedLM

import tiny
from stratatune.errors import ModelError
from stratatune.model.artefact import load
from stratatune.model.attach import apply
from stratatune.model.merging import merge

IDS = {"input_ids": torch.tensor([[5, 9, 12, 7], [6, 20, 21, 2]]), "attention_mask": torch.ones(2, 4, dtype=torch.long)}


def outputs(model):
    with torch.no_grad():
        return model(**IDS).logits


def fitted(model):
    torch.manual_seed(0)
    model.train()
    optimiser = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.05)
    for _ in range(3):
        model(**IDS).logits.square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()
    return model.eval()


@pytest.mark.parametrize("convert", ["float", "half", "double"])
@pytest.mark.parametrize("plan", ["2: full", "1: bitfit | 2: lora"])
def test_a_model_in_half_precision_is_converted_with_what_trains(plan, convert):
    model = apply(tiny.tiny_bert("classification").bfloat16(), plan)
    wanted = tiny.tiny_bert("classification").bfloat16()
    for one in (model, wanted):
        getattr(one, convert)()
    assert torch.allclose(outputs(model).double(), outputs(wanted).double(), atol=2e-2)
    model.train()(input_ids=torch.ones(2, 4, dtype=torch.long), labels=torch.tensor([0, 1])).loss.backward()
    plain = merge(model)
    assert {one.dtype for one in plain.parameters()} == {one.dtype for one in wanted.parameters()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("plan", ["1: bitfit | 2: lora", "bft-adapter@2"])
def test_a_model_under_a_plan_can_be_pickled(plan, dtype):
    model = apply(tiny.tiny_bert("classification").to(dtype), plan)
    again = pickle.loads(pickle.dumps(model))
    assert type(again) is type(model) and again.attached.backbone.model is again
    assert torch.equal(outputs(again), outputs(model))
    fitted(again)
    assert not torch.equal(outputs(again), outputs(model))


def test_the_folder_of_the_base_keeps_its_weights_and_its_card(tiny_folder, tmp_path):
    """An ``output_dir`` that is the base's own folder."""
    folder = shutil.copytree(tiny_folder("bert", "mlm"), tmp_path / "base")
    (folder / "README.md").write_text("the base's")
    before = (folder / "model.safetensors").read_bytes()
    model = fitted(apply(AutoModelForMaskedLM.from_pretrained(folder), "2: lora"))
    model.save_pretrained(folder, is_main_process=True)
    assert (folder / "model.safetensors").read_bytes() == before
    assert (folder / "README.md").read_text() == "the base's"
    assert torch.equal(outputs(load(folder)), outputs(model.eval()))


def test_given_values_are_saved_in_place_of_the_models(tiny_folder, tmp_path):
    """Averages of the weights, as ``state_dict=`` gives them to transformers."""
    model = apply(AutoModelForMaskedLM.from_pretrained(tiny_folder("bert", "mlm")), "2: lora")
    averages = {name: one + 1 for name, one in model.state_dict().items()}
    model.save_pretrained(tmp_path / "adapter", state_dict=averages)
    found = load(tmp_path / "adapter").attached.trained()
    assert found and all(torch.equal(one, averages[name]) for name, one in found.items())


def test_saving_uploads_where_it_is_asked_to(tmp_path, monkeypatch):
    model, uploaded = apply(tiny.tiny_bert(), "2: lora"), []
    monkeypatch.setattr(type(model), "push_to_hub", lambda self, name, **options: uploaded.append((name, options)))
    model.save_pretrained(tmp_path / "adapter")
    assert not uploaded
    model.save_pretrained(tmp_path / "mine", push_to_hub=True, private=True, max_shard_size="1GB")
    model.save_pretrained(tmp_path / "mine", push_to_hub=True, repo_id="me/other")
    assert uploaded == [("mine", {"private": True}), ("me/other", {})]


def test_a_second_plan_over_a_merged_one(tiny_folder, tmp_path):
    """Two stages: what was merged is in no folder until it is saved, and the adapter says so when it is loaded."""
    fitted(apply(AutoModelForMaskedLM.from_pretrained(tiny_folder("bert", "mlm")), "2: lora")).save_pretrained(
        tmp_path / "first"
    )

    def merged():
        return merge(load(tmp_path / "first"))

    second = fitted(apply(merged(), "3: full"))
    second.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ModelError, match="was trained on") as error:
        load(tmp_path / "adapter")
    assert "merged or changed before st.apply" in error.value.hint
    assert torch.equal(outputs(load(tmp_path / "adapter", base=merged())), outputs(second))
    merged().save_pretrained(tmp_path / "stage1")
    saved = fitted(apply(AutoModelForMaskedLM.from_pretrained(tmp_path / "stage1"), "3: full"))
    saved.save_pretrained(tmp_path / "second")
    assert torch.equal(outputs(load(tmp_path / "second")), outputs(saved))
