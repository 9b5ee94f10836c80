"""Stock ``Trainer`` over ``st.apply``: it finds its best checkpoint and its last one, and saves what trained."""

from __future__ import annotations

import warnings

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, Trainer, TrainingArguments

import stratatune as st
import tiny
from stratatune.errors import PlanError
from stratatune.model.attach import apply
from stratatune.model.other_plan import PLAN

CASES = pytest.mark.parametrize(
    ("plan", "dtype"),
    [
        ("lora", None),
        ("lora", torch.bfloat16),
        ("-2: full", torch.bfloat16),
        ("1: bitfit + ia3", None),
        ("late_prompt(depth=2) | adapter(depth=3)", None),
    ],
)


def rows(tokenizer):
    found = []
    for number in range(8):
        text = tokenizer("a good film" if number % 2 else "a bad film", padding="max_length", max_length=8)
        found.append({**text, "labels": number % 2})
    return found


def trainer(folder, base, plan, epochs, dtype=None, **settings):
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2, dtype=dtype)
    data = rows(tiny.tiny_tokenizer("bert"))
    seen = []

    def worse_each_time(predicted):
        seen.append(1)
        return {"score": 1 / len(seen)}

    arguments = TrainingArguments(
        str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=4,
        learning_rate=0.01,
        eval_strategy="epoch",
        save_strategy="epoch",
        metric_for_best_model="score",
        logging_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        seed=3,
        **settings,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Trainer(
            apply(model, plan), arguments, train_dataset=data, eval_dataset=data, compute_metrics=worse_each_time
        )


def run(one, **how):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about a learning-rate scheduler and pinned memory
        one.train(**how)
    return {name: tensor.detach().clone() for name, tensor in one.model.attached.trained().items()}


@CASES
def test_the_best_weights_are_loaded_at_the_end(plan, dtype, tiny_folder, tmp_path, caplog):
    found = run(trainer(tmp_path, tiny_folder("bert", "mlm"), plan, 3, dtype, load_best_model_at_end=True))
    first, last = (load_file(tmp_path / f"checkpoint-{step}" / "adapter.safetensors") for step in (2, 6))
    assert {*found, PLAN} == first.keys()
    assert all(torch.equal(tensor, first[name]) for name, tensor in found.items())
    assert any(not torch.equal(tensor, last[name]) for name, tensor in found.items())
    assert not any("missing keys" in one.message for one in caplog.records)


@CASES
def test_a_run_goes_on_from_its_checkpoint(plan, dtype, tiny_folder, tmp_path):
    base = tiny_folder("bert", "mlm")
    straight = run(trainer(tmp_path / "straight", base, plan, 4, dtype, lr_scheduler_type="constant"))
    run(trainer(tmp_path / "halves", base, plan, 2, dtype, lr_scheduler_type="constant"))
    second = trainer(tmp_path / "halves", base, plan, 4, dtype, lr_scheduler_type="constant")
    resumed = run(second, resume_from_checkpoint=True)
    assert second.state.global_step == 8
    for name, tensor in straight.items():
        torch.testing.assert_close(resumed[name], tensor)


def test_a_checkpoint_of_the_trainer_loads(tiny_folder, tmp_path):
    one = trainer(tmp_path, tiny_folder("bert", "mlm"), "lora", 1)
    run(one)
    loaded = st.load(tmp_path / "checkpoint-2")
    ids = torch.tensor([[5, 9, 12]])
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=ids).logits, one.model.eval()(input_ids=ids).logits)
    saved = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    assert {*loaded.attached.trained(), PLAN} == saved.keys()
    assert bytes(saved[PLAN].tolist()).decode() == str(loaded.attached.resolved.plan)


def test_other_processes_write_nothing(tiny_folder, tmp_path):
    model = apply(AutoModelForMaskedLM.from_pretrained(tiny_folder("bert", "mlm")), "lora")
    model.save_pretrained(tmp_path / "other", is_main_process=False)
    assert not (tmp_path / "other").exists()
    model.save_pretrained(tmp_path / "own")
    assert not (tmp_path / "own" / "model.safetensors").exists()


def test_a_whole_state_is_loaded_as_ever(tiny_folder):
    model = apply(AutoModelForMaskedLM.from_pretrained(tiny_folder("bert", "mlm")), "lora")
    state = model.state_dict()
    assert model.load_state_dict(state).missing_keys == []
    del state[next(iter(state))]
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict(state)


@pytest.mark.parametrize(
    ("first", "second", "difference"),
    [
        ("0:1 lora(rank=4)", "1:2 lora(rank=4)", "layer.0.*does not train"),
        ("0:2 lora(rank=4)", "1:2 lora(rank=4)", "layer.0.*does not train"),
        ("1:2 lora(rank=4)", "0:2 lora(rank=4)", "layer.0.*is missing"),
        ("-1: lora(rank=4)", "-1: lora(rank=2)", r"the shape \[4, .*here \[2, "),
        ("-1: full", "-1: bitfit", "does not train"),
        ("late_prompt(depth=2)", "late_prompt(depth=3)", "late_prompt_at_2.*does not train"),
        ("-1: lora(alpha=16)", "-1: lora(alpha=64)", "trained by -1: lora.*: lora has alpha 16 there and 64 here"),
        ("-1: dora(alpha=16)", "-1: dora(alpha=64)", "dora has alpha 16 there and 64 here"),
        ("-1: parallel(scale=1)", "-1: parallel(scale=4)", "parallel has scale 1 there and 4 here"),
    ],
)
def test_a_checkpoint_of_another_plan_is_refused(first, second, difference, tiny_folder, tmp_path):
    base = tiny_folder("bert", "mlm")
    run(trainer(tmp_path, base, first, 1))
    with pytest.raises(PlanError, match=difference):
        run(trainer(tmp_path, base, second, 2), resume_from_checkpoint=True)


def test_a_checkpoint_goes_on_with_another_dropout_and_rate(tiny_folder, tmp_path):
    base = tiny_folder("bert", "mlm")
    run(trainer(tmp_path, base, "-1: lora(alpha=16)", 1))
    one = trainer(tmp_path, base, "-1: lora(alpha=16, dropout=0.1, lr=0.02)", 2)
    run(one, resume_from_checkpoint=True)
    assert one.state.global_step == 4
    state = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    with pytest.raises(PlanError, match="cannot be read: the checkpoint is damaged"):
        one.model.load_state_dict({**state, PLAN: state[PLAN] + 128}, strict=False)
    del state[PLAN]  # as an earlier version wrote it
    assert one.model.load_state_dict(state, strict=False).unexpected_keys == []


def test_part_of_a_whole_state_is_loaded_as_ever(tiny_folder):
    base = AutoModelForMaskedLM.from_pretrained(tiny_folder("bert", "mlm"))
    frozen = {name: tensor for name, tensor in base.state_dict().items() if "decoder" not in name}  # tied
    model = apply(base, "-1: bitfit")
    assert model.load_state_dict(frozen, strict=False).unexpected_keys == []


def test_a_state_that_is_assigned_still_trains(tiny_folder, tmp_path):
    """``assign=True`` would put other tensors in the place of those that are known to train."""
    model = apply(AutoModelForMaskedLM.from_pretrained(tiny_folder("bert", "mlm")), "lora")
    names = model.attached.trained().keys()
    model.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()}, assign=True)
    model.requires_grad_(False)
    assert model.attached.trained().keys() == names
    assert model.load_state_dict({}, strict=False).unexpected_keys == []
