"""What is saved is what trained; loading gives the same numbers or one line that says why not."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForSequenceClassification, pipeline

import stratatune as st
import tiny
from stratatune.errors import ModelError, ResourceError
from stratatune.model import saving
from stratatune.model.artefact import load, load_artefact
from stratatune.model.attach import apply
from stratatune.model.base import load_base


def from_folder(folder, kind, plan, labels=3):
    """A tuned model as a run makes it, everything that trains shaken."""
    base = load_base(str(folder), kind, num_labels=labels)
    model = apply(base.model, plan, also_train=base.new)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.attached.trained().values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


@torch.no_grad()
def logits(model, inputs):
    return model.eval()(**inputs.for_model).logits


def one_line(error):
    return "\n" not in error.value.message and error.value.message


def test_reload_gives_the_same_bits(family, kind, preset, tiny_folder, tmp_path, make_inputs):
    model, inputs = from_folder(tiny_folder(family, kind), kind, preset), make_inputs(family, kind)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(load(tmp_path), inputs), logits(model, inputs))
    assert saving.read_tensors(tmp_path).keys() == model.attached.trained().keys()
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".json", ".md"}


@pytest.mark.parametrize("plan", ["lora", "bft", "head", "full", "frozen"])
def test_layers_that_the_checkpoint_lacks_train_and_are_saved(family, plan, tiny_folder, tmp_path, make_inputs):
    """A masked-LM checkpoint brings no pooler and no classifier: both are new, so both train, and both come back."""
    folder, inputs = tiny_folder(family, "mlm"), make_inputs(family, "classification")
    model = from_folder(folder, "classification", plan)
    new = {name for name in model.attached.trained() if "pooler" in name or "classifier" in name}
    assert len(new) == 4  # BERT: pooler and classifier; RoBERTa: the classifier's dense layer and its output
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(load(tmp_path), inputs), logits(model, inputs))


def test_a_base_that_was_loaded_with_another_dropout_is_found_again(family, tiny_folder, tmp_path, make_inputs):
    """It computes the same; many set it where they load a checkpoint."""
    folder, inputs = tiny_folder(family, "classification"), make_inputs(family, "classification")
    given = {"hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.2, "classifier_dropout": 0.3}
    model = apply(AutoModelForSequenceClassification.from_pretrained(folder, **given), "2: lora")
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(load(tmp_path), inputs), logits(model, inputs))


def test_a_head_built_on_the_embeddings_comes_back(family, tiny_folder, tmp_path, make_inputs):
    folder, inputs = tiny_folder(family, "classification"), make_inputs(family, "mlm")
    base = load_base(str(folder), "mlm")
    assert any("no masked-LM head" in notice for notice in base.notices)
    model = apply(base.model, "lpt-adapter")
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(load(tmp_path), inputs), logits(model, inputs))


NAMES = ["calm", "glad", "sad"]


def named(folder, **config):
    """A model under a plan, made by transformers with the user's own words about its outputs."""
    return apply(AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3, **config), "2: lora").eval()


@pytest.mark.parametrize("problem", [None, "multi_label_classification"])
def test_a_loaded_model_gives_its_outputs_the_same_names(problem, tiny_folder, tmp_path):
    folder = tiny_folder("bert", "mlm")
    model = named(folder, id2label=dict(enumerate(NAMES)), problem_type=problem)
    tokenizer = tiny.tiny_tokenizer("bert")
    model.save_pretrained(tmp_path / "saved")
    loaded = load(tmp_path / "saved")
    before, after = (
        pipeline("text-classification", model=one, tokenizer=tokenizer, device="cpu", top_k=None)(["a good film"])[0]
        for one in (model, loaded)
    )
    assert after == before and {one["label"] for one in after} == set(NAMES)
    assert loaded.config.label2id == {name: number for number, name in enumerate(NAMES)}
    st.export(loaded, tmp_path / "merged", to="merged")
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").config
    assert [merged.id2label[number] for number in range(3)] == NAMES
    assert merged.problem_type == loaded.config.problem_type


def test_names_that_transformers_gives_every_head_are_not_written(tiny_folder, tmp_path):
    """So the record, and its checksum, are those of earlier versions, and these read it."""
    named(tiny_folder("bert", "mlm")).save_pretrained(tmp_path)
    assert not {"label_names", "problem_type"} & saving.read_record(tmp_path).keys()


def test_a_loaded_run_names_its_outputs_after_its_labels(tiny_folder, tmp_path):
    model = from_folder(tiny_folder("bert", "mlm"), "sequence", "2: lora")
    model.attached.spec = {"objective": "classification", "labels": NAMES}
    model.save_pretrained(tmp_path)
    assert load(tmp_path).config.id2label == dict(enumerate(NAMES))


@pytest.mark.parametrize(
    "wrong",
    [
        {"label_names": ["calm", "glad"]},
        {"label_names": "calm"},
        {"label_names": ["calm", "glad", 3]},
        {"problem_type": "ranking"},
        {"problem_type": 1},
    ],
)
def test_malformed_words_about_outputs_are_told_in_one_line(wrong, tiny_folder, tmp_path):
    named(tiny_folder("bert", "mlm")).save_pretrained(tmp_path)
    change_record(**wrong)(tmp_path)
    with pytest.raises(ModelError, match=next(iter(wrong))) as error:
        load(tmp_path)
    assert one_line(error) and "damaged" in error.value.message


def test_the_pretrained_pooler_is_frozen_unless_named(tiny_folder):
    folder = tiny_folder("bert", "classification")
    frozen, named = (from_folder(folder, "classification", plan) for plan in ("lora", ": lora | head(pooler)"))
    assert not any("pooler" in name for name in frozen.attached.trained())
    assert sum("pooler" in name for name in named.attached.trained()) == 2


def test_another_base_is_refused(family, tiny_folder, tmp_path):
    from_folder(tiny_folder(family, "mlm"), "mlm", "bft").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="trained on .* but .* has weights") as error:
        load(tmp_path, base=str(tiny_folder(family, "mlm", seed=1)))
    assert one_line(error)


def test_another_pretrained_head_is_refused(family, tmp_path, tiny_folder):
    """The same encoder under another masked-LM head computes other logits, so it is another base."""
    from_folder(tiny_folder(family, "mlm"), "mlm", "lpt-adapter").save_pretrained(tmp_path / "adapter")
    other = tiny.tiny_model(family)
    with torch.no_grad():
        dense = apply(tiny.tiny_model(family), "lora").attached.backbone.head.paths["dense"]
        other.get_submodule(dense).weight.add_(0.1)
    other.save_pretrained(tmp_path / "other")
    tiny.tiny_tokenizer(family).save_pretrained(tmp_path / "other")
    with pytest.raises(ModelError, match="head") as error:
        load(tmp_path / "adapter", base=str(tmp_path / "other"))
    assert one_line(error)


def drop(name):
    return lambda folder: (folder / name).unlink()


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def cut(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-40])


def change_record(**values):
    def change(folder):
        record = json.loads((folder / saving.RECORD).read_text())
        record.update(values)
        (folder / saving.RECORD).write_text(json.dumps({k: v for k, v in record.items() if v is not None}))

    return change


@pytest.mark.parametrize(
    "damage",
    [
        drop(saving.RECORD),
        drop(saving.TENSORS),
        write(saving.RECORD, b"{"),
        write(saving.RECORD, b"\xff\xfe\x00"),
        write(saving.RECORD, b"[]"),
        write(saving.TENSORS, b""),
        cut(saving.TENSORS),
        change_record(format=99),
        change_record(plan=None),
        change_record(base=None),
        change_record(plan="adapter(depth=1)"),
        change_record(plan="9: bitfit"),
        change_record(base={"hash": "", "name": "/nowhere/at/all", "model_type": "bert"}),
    ],
)
def test_damage_is_told_in_one_line(damage, tiny_folder, tmp_path):
    from_folder(tiny_folder("bert", "mlm"), "mlm", "bft").save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(ModelError) as error:
        load_artefact(tmp_path)
    assert one_line(error)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("content", [None, b"", b'{"model_type": "bert"'])
def test_a_damaged_base_is_told_in_one_line(name, content, tmp_path):
    folder = tiny.save_tiny(tmp_path / "base", "bert")
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(ModelError) as error:
        load_base(str(folder), "mlm")
    assert one_line(error)


def test_a_full_disk_leaves_the_artefact_before_it(tiny_folder, tmp_path, monkeypatch, make_inputs):
    model, inputs = from_folder(tiny_folder("bert", "mlm"), "mlm", "bft"), make_inputs("bert", "mlm")
    model.save_pretrained(tmp_path)
    before = logits(model, inputs)

    def full(tensors, path, **_):
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "save_file", full)
    with torch.no_grad():
        next(iter(model.attached.trained().values())).add_(1.0)
    with pytest.raises(ResourceError, match="No space left") as error:
        model.save_pretrained(tmp_path)
    assert one_line(error)
    assert torch.equal(logits(load(tmp_path), inputs), before)
    assert not any(path.name.endswith(".part") for path in tmp_path.iterdir())
