"""Several adapters over one base: chosen, off, and by row, with the weights of the base once in memory."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from transformers import AutoModel, AutoModelForQuestionAnswering, AutoModelForTokenClassification

import stratatune as st
import tiny
from stratatune.errors import ModelError, PlanError
from stratatune.model.attach import apply
from stratatune.model.backbone import Backbone
from tuning import shake

PLANS = {
    "low": "1: lora",
    "high": "3: lora + bitfit",
    "whole": "2: full",
    "prompted": "late_prompt(depth=2, tokens=3)",
    "input": "prompt(tokens=2)",
    "words": "embeddings full | : bitfit",
}


def base(family="bert"):
    make = tiny.tiny_decoder if family in tiny.DECODERS else tiny.tiny_model
    return make(family, "classification")


def inputs(rows):
    ids = torch.randint(5, 60, (rows, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, 6:] = 0
    ids[0, 6:] = 1  # padding
    return {"input_ids": ids, "attention_mask": mask}


@pytest.fixture(params=["bert", "roberta", "gpt2"])
def many(request, tmp_path):
    """A manager with the adapters of ``PLANS``, and what each said by itself."""
    found, alone = st.Adapters(base(request.param)), {}
    for number, (name, plan) in enumerate(PLANS.items()):
        model = shake(apply(base(request.param), plan).eval(), 0.05 * (number + 1))
        model.save_pretrained(tmp_path / name)
        with torch.no_grad():
            alone[name] = model(**inputs(6)).logits
        found.load(tmp_path / name)
    with torch.no_grad():
        alone[None] = base(request.param)(**inputs(6)).logits
    return found, alone


def test_each_is_what_it_was_alone(many):
    found, alone = many
    assert found.names == tuple(PLANS) and found.active == "low"
    assert repr(found).endswith(f"names={tuple(PLANS)}, active='low')")
    with torch.no_grad():
        for name in (*PLANS, None, *PLANS):
            found.set(name)
            assert torch.equal(found(**inputs(6)).logits, alone[name])
        found.set("whole")
        with found.off() as plain:
            assert torch.equal(found(**inputs(6)).logits, alone[None]) and plain is found.base
        assert found.active == "whole"


def test_rows_have_an_adapter_each(many):
    found, alone = many
    names = ["whole", None, "prompted", "low", "whole", "high"]
    said = found(**inputs(6), adapters=names).logits
    for row, name in enumerate(names):
        torch.testing.assert_close(said[row], alone[name][row], atol=1e-5, rtol=0)
    again = found(**inputs(6), adapters=["input", "low", None, "input", "words", "high"]).logits
    for row, name in ((0, "input"), (3, "input"), (4, "words"), (5, "high")):
        torch.testing.assert_close(again[row], alone[name][row], atol=1e-5, rtol=0)


@pytest.mark.parametrize("wears", ["causal", "classification"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_rows_padded_on_the_left(family, wears, tmp_path):
    make = lambda: tiny.tiny_decoder(family, wears)  # noqa: E731
    plans = {"late": "late_prompt(depth=2, tokens=2, bottleneck=4)", "idpg": "idpg(tokens=2)", "low": "3: lora"}
    found, ids = st.Adapters(make()), inputs(4)["input_ids"]
    mask = torch.ones_like(ids)
    mask[:3, :3], ids[:3, :3] = 0, 1
    for name, plan in plans.items():
        shake(apply(make(), plan)).save_pretrained(tmp_path / name)
        found.load(tmp_path / name)
    names = [*plans, None]
    said = found(input_ids=ids, attention_mask=mask, adapters=names).logits
    for row, name in enumerate(names):
        found.set(name)
        with torch.no_grad():
            alone = found(input_ids=ids[row : row + 1], attention_mask=mask[row : row + 1]).logits[0]
        real = mask[row].bool() if wears == "causal" else slice(None)
        torch.testing.assert_close(said[row][real], alone[real], atol=1e-5, rtol=0)


@pytest.mark.parametrize("auto", [AutoModelForQuestionAnswering, AutoModelForTokenClassification, AutoModel])
@pytest.mark.parametrize("plan", ["prompt(tokens=2)", "embeddings full", "late_prompt(depth=2, tokens=2)"])
def test_rows_of_models_whose_output_has_other_names(auto, plan, tmp_path):
    plain = auto.from_config(tiny.tiny_bert(labels=2).config).eval()
    found = st.Adapters(plain)
    for name, text in {"first": plan, "low": "1: lora"}.items():
        shake(apply(copy.deepcopy(plain), text)).save_pretrained(tmp_path / name)
        found.load(tmp_path / name)
    names = ["low", "first", None, "first"]
    said = found(**inputs(4), adapters=names).logits
    for row, name in enumerate(names):
        found.set(name)
        with torch.no_grad():
            output = found(**inputs(4))
        alone = torch.stack([output.start_logits, output.end_logits], -1) if "start_logits" in output else output[0]
        torch.testing.assert_close(said[row], alone[row], atol=1e-5, rtol=0)


def test_what_none_of_them_changes_runs_once(many):
    found, _ = many
    runs = []
    for number, block in enumerate(Backbone(found.base).blocks):
        block.register_forward_hook(lambda *_, number=number: runs.append(number))
    found(**inputs(6), adapters=["high", "prompted", "whole", "high", "whole", "prompted"])
    assert runs == [0, 1]


def test_the_weights_of_the_base_are_there_once(many):
    found, _ = many
    shared = {parameter.data_ptr() for parameter in found.base.parameters()}
    for name in found.names:
        model = found.model(name)
        trained = {id(one) for one in model.attached.trained().values()}
        taken = any("c_attn" in path or "q." in path for path, _ in model.named_parameters())
        for path, parameter in model.named_parameters():
            if id(parameter) in trained:
                assert parameter.data_ptr() not in shared
            elif not taken:  # a linear that was taken apart is a copy
                assert parameter.data_ptr() in shared, path


def test_names_and_bases_are_checked(many, tmp_path):
    found, _ = many
    for wrong, message in (
        (lambda: found.load(tmp_path / "low"), "is loaded already"),
        (lambda: found.set("hihg"), "no adapter 'hihg' is loaded"),
        (lambda: found(**inputs(6), adapters=["low"]), "1 adapter for 6 rows"),
    ):
        with pytest.raises(ModelError, match=message):
            wrong()
    found.delete("low")
    assert found.active is None and "low" not in found.names
    with pytest.raises(PlanError, match="already has a plan"):
        st.Adapters(apply(base(), "lora-I"))


def test_a_peft_folder_is_loaded_beside_ours(tmp_path):
    peft = pytest.importorskip("peft")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        theirs = peft.get_peft_model(base(), peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query"], bias="all"))
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter += 0.05
        theirs.save_pretrained(tmp_path / "theirs")
        wanted = theirs.eval()(**inputs(4)).logits
    plain = base()
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    found = st.Adapters(plain)
    found.load(tmp_path / "theirs")
    with torch.no_grad():
        torch.testing.assert_close(found(**inputs(4)).logits, wanted, atol=1e-5, rtol=0)
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())


def test_an_adapter_with_other_labels_names_their_number(tmp_path):
    two, three = (tiny.tiny_model("roberta", "classification", labels=labels) for labels in (2, 3))
    three.roberta.load_state_dict(two.roberta.state_dict())
    shake(apply(two, "2: lora")).save_pretrained(tmp_path / "two")
    with pytest.raises(ModelError) as caught:
        st.Adapters(three).load(tmp_path / "two")
    assert caught.value.hint.endswith("num_labels=2")


def test_an_adapter_of_another_base_is_refused(tmp_path):
    model = apply(tiny.tiny_bert("classification", seed=1), "3: lora")
    model.save_pretrained(tmp_path / "other")
    with pytest.raises(ModelError, match="was trained on"):
        st.Adapters(base()).load(tmp_path / "other")


def test_the_base_stays_active_once_it_was_chosen(many, tmp_path):
    found, _ = many
    found.set(None)
    found.load(tmp_path / "low", name="again")
    assert found.active is None
