"""What is given in place of a plain model or a plan: a module around one, one under peft, something else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import stratatune as st
import tiny
from stratatune.errors import ModelError, PlanError
from stratatune.model.attach import apply
from stratatune.model.merging import merge
from stratatune.plan import Plan


def around(model):
    """The same model within another module."""
    outer = torch.nn.Module()
    outer.inner = model
    return outer


@pytest.mark.parametrize(
    ("wrap", "fix"),
    [
        (around, "give model.inner"),
        (lambda model: torch.compile(model, backend="eager"), "give model._orig_mod"),
        (torch.nn.DataParallel, "give model.module"),
        (torch.nn.Sequential, "give model.get_submodule('0')"),
    ],
)
@pytest.mark.parametrize(
    "door", [lambda model: apply(model, "lora"), st.Adapters, lambda model: st.load("adapter", base=model)]
)
def test_a_module_around_a_model_is_told_from_it(wrap, fix, door):
    with pytest.raises(ModelError, match="takes the model of transformers itself, not a .* around it") as error:
        door(wrap(tiny.tiny_bert("classification")))
    assert error.value.hint == fix


@pytest.mark.parametrize("door", [merge, st.remove, lambda one: st.export(one, "new"), lambda one: st.cached(one, [])])
def test_a_module_around_a_model_with_a_plan_is_told_from_it(door):
    with pytest.raises(PlanError, match="the model with the plan is inside it") as error:
        door(around(apply(tiny.tiny_bert("classification"), "2: lora")))
    assert error.value.hint == "give model.inner"


@pytest.mark.parametrize(
    "door", [lambda model: apply(model, "lora"), st.Adapters, lambda model: st.load("adapter", base=model)]
)
def test_a_model_with_a_plan_is_no_base(door):
    with pytest.raises(PlanError, match="already has a plan"):
        door(apply(tiny.tiny_bert("classification"), "2: lora"))


@pytest.mark.filterwarnings("ignore::FutureWarning")  # from peft, of transformers 5.24
@pytest.mark.parametrize("injected", [True, False])
def test_a_model_with_an_adapter_of_peft_is_refused(injected):
    """Its adapter would be taken for part of the base, which no load would find again."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["query"])
    model = tiny.tiny_bert("classification")
    model = peft.inject_adapter_in_model(config, model) if injected else peft.get_peft_model(model, config)
    with pytest.raises(ModelError, match="with an adapter of peft") as error:
        apply(model, "2: lora")
    assert "merge_and_unload" in error.value.hint


@pytest.mark.parametrize("plan", [None, 3, Path("plan.yaml")])
def test_what_is_no_plan_is_told(plan):
    with pytest.raises(PlanError, match=f"a plan is a text or a mapping, not {type(plan).__name__}"):
        apply(tiny.tiny_bert(), plan)


def test_a_plan_as_data_is_taken_and_auto_is_told():
    as_data = Plan.parse("2: lora(rank=2)").to_data()
    assert str(apply(tiny.tiny_bert(), as_data).attached.resolved.plan) == str(Plan.parse("2: lora(rank=2)"))
    with pytest.raises(PlanError, match="chosen from training data"):
        apply(tiny.tiny_bert(), "auto")
