"""What is given in place of a plain model or a plan: a module around one, one under peft, something else."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import stratatune as st
import tiny
from stratatune.errors import ModelError, PlanError
from stratatune.model.attach import apply
from stratatune.model.merging import merge
from stratatune.plan import Plan


class Outcome:
    """In place of a run's result."""

    out = "runs/mine"


RESULT = Outcome()


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
    with pytest.raises(ModelError, match="takes the model of transformers itself, not an? .* around it") as error:
        door(wrap(tiny.tiny_bert("classification")))
    assert error.value.hint == fix


@pytest.mark.parametrize("door", [merge, st.remove, lambda one: st.export(one, "new"), lambda one: st.cached(one, [])])
def test_a_module_around_a_model_with_a_plan_is_told_from_it(door):
    with pytest.raises(PlanError, match="the model with the plan is inside it") as error:
        door(around(apply(tiny.tiny_bert("classification"), "2: lora")))
    assert error.value.hint == "give model.inner"


@pytest.mark.parametrize("door", [merge, st.remove, lambda one: st.export(one, "new"), lambda one: st.cached(one, [])])
@pytest.mark.parametrize(
    ("given", "said", "fix"),
    [
        (RESULT, "an? Outcome was given", "give st.load(RESULT.out)"),
        (Path("runs/mine"), "is a path", "give st.load(PATH)"),
        (st.Classifier(), "an? Classifier was given, which is an estimator", "save it"),
        ([], "an? list was given", "give one that apply or load returned"),
        (torch.nn.Linear(1, 1), "this model has no plan", "give one that apply or load returned"),
    ],
)
def test_what_is_no_model_with_a_plan(given, said, fix, door):
    with pytest.raises(PlanError, match=said) as error:
        door(given)
    assert error.value.hint.startswith(fix)


def test_what_holds_a_model_with_a_plan():
    with pytest.raises(PlanError, match="which holds a model and is none") as error:
        merge(SimpleNamespace(model=apply(tiny.tiny_bert("classification"), "2: lora")))
    assert error.value.hint == "give its attribute model"


@pytest.mark.parametrize("door", [st.load, st.Predictor, st.Classifier.load])
def test_the_result_of_a_run_is_no_folder(door):
    with pytest.raises(ModelError, match="was given, and a folder is needed") as error:
        door(RESULT)
    assert error.value.hint == "give its attribute out"


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


@pytest.mark.parametrize("plan", [None, 3])
def test_parse_takes_a_text(plan):
    with pytest.raises(PlanError, match=f"a plan is a text or a mapping, not {type(plan).__name__}"):
        Plan.parse(plan)


def test_the_constructor_of_a_plan_takes_no_text():
    with pytest.raises(PlanError, match=r"Plan\(...\) takes no text") as error:
        Plan("2: lora")
    assert error.value.hint == "write st.Plan.parse('12: lora')"
    plan = Plan.parse("2: lora")
    assert copy.deepcopy(plan) == pickle.loads(pickle.dumps(plan)) == plan


def test_a_plan_as_data_is_taken_and_auto_is_told():
    as_data = Plan.parse("2: lora(rank=2)").to_data()
    assert str(apply(tiny.tiny_bert(), as_data).attached.resolved.plan) == str(Plan.parse("2: lora(rank=2)"))
    with pytest.raises(PlanError, match="chosen from training data"):
        apply(tiny.tiny_bert(), "auto")
