"""A tuned model is an ordinary Hugging Face model: Trainer, pipeline, plain loops and copies work on it."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel, Trainer, TrainingArguments, pipeline

import tiny
from stratatune.errors import PlanError
from stratatune.model.artefact import load
from stratatune.model.attach import apply
from stratatune.model.base import load_base
from stratatune.model.other_plan import PLAN
from stratatune.model.saving import read_tensors

TEXTS = ["a great film", "a terrible film", "a fine story", "a sad story"]


@pytest.mark.parametrize("plan", ["full", "lora", "spafit-0-1-II", "head", "bft", "bft-adapter+ffd"])
def test_trainer_trains_and_saves_what_trained(family, plan, tiny_folder, tmp_path):
    base = load_base(str(tiny_folder(family, "classification")), "classification", num_labels=3)
    model = apply(base.model, plan)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rows = [{**base.tokenizer(text), "label": number % 3} for number, text in enumerate(TEXTS)]
    arguments = TrainingArguments(
        str(tmp_path / "work"),
        **{"max_steps": 3, "per_device_train_batch_size": 2, "learning_rate": 0.01, "use_cpu": True},
        **{"report_to": [], "save_strategy": "no", "disable_tqdm": True, "logging_strategy": "no"},
        dataloader_pin_memory=False,
    )
    trainer = Trainer(model, arguments, train_dataset=rows, processing_class=base.tokenizer)
    trainer.train()
    trained = model.attached.trained()
    for name, after in model.named_parameters():
        assert torch.equal(after, before[name]) == (name not in trained and "decoder" not in name), name
    trainer.save_model(str(tmp_path / "saved"))
    assert read_tensors(tmp_path / "saved").keys() == trained.keys()
    # For Trainer to find it, with the plan, by which a checkpoint is known.
    assert load_file(tmp_path / "saved" / "model.safetensors").keys() == {*trained, PLAN}
    inputs = base.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "saved")(**inputs).logits, model.eval()(**inputs).logits)


def test_pipeline_classifies(family, preset):
    model, tokenizer = apply(tiny.tiny_model(family, "classification"), preset), tiny.tiny_tokenizer(family)
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu", top_k=None)
    found = classify(TEXTS, batch_size=2)
    wanted = model(**tokenizer(TEXTS[:2], padding=True, return_tensors="pt")).logits.softmax(-1).detach()
    for row, probabilities in zip(found, wanted, strict=False):
        scores = {one["label"]: one["score"] for one in row}
        for number, probability in enumerate(probabilities):
            assert scores[model.config.id2label[number]] == pytest.approx(float(probability), abs=1e-5)


def test_training_mode_leaves_the_trunk_in_eval(family, preset):
    model = apply(tiny.tiny_model(family), preset)
    for mode in (True, False, True):
        assert model.train(mode) is model and model.training == mode
        resolved = model.attached.resolved
        blocks = [block.training for block in model.attached.backbone.blocks]
        depth = resolved.frozen_depth
        assert blocks == [False] * depth + [mode] * (len(blocks) - depth)
        assert model.attached.backbone.embeddings.training == (mode and resolved.trains_embeddings)


def test_a_copy_is_whole_and_apart(family, preset, make_inputs):
    model, inputs = apply(tiny.tiny_model(family), preset), make_inputs(family, "mlm")
    wanted = inputs.whole(model, "mlm").detach()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(inputs.whole(twin, "mlm"), wanted)
    ids = {id(parameter) for parameter in twin.parameters()}
    assert {id(p) for group in twin.attached.groups for p in group.parameters} <= ids
    assert inputs.gradients(twin, inputs.whole(twin, "mlm")).keys() == twin.attached.trained().keys()
    assert not any(parameter.grad is not None for parameter in model.parameters())


def test_stays_what_it_was(family):
    base_class = type(tiny.tiny_model(family))
    model = apply(tiny.tiny_model(family), "bft")
    assert isinstance(model, (PreTrainedModel, base_class)) and type(model).__name__ == base_class.__name__


def test_prints_what_trains_and_how_deep(family, capsys):
    apply(tiny.tiny_model(family), "bft-adapter").print_trainable_parameters()
    said = capsys.readouterr().out
    assert said.startswith("trainable params: ") and "backward through 1 of 4 blocks" in said


def test_one_plan_to_a_model(family):
    model = apply(tiny.tiny_model(family), "lora")
    with pytest.raises(PlanError, match="already has a plan"):
        apply(model, "bft")


def test_a_tied_decoder_alone_is_refused(family):
    with pytest.raises(PlanError, match="tied"):
        apply(tiny.tiny_model(family), "adapter(depth=2) | head(mlm=dense,norm,bias,decoder)")
