"""What an artefact remembers of its base, and says where the base is another one by now."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

import tiny
from stratatune.errors import ModelError
from stratatune.model import saving
from stratatune.model.artefact import load, load_artefact
from stratatune.model.attach import apply
from stratatune.model.base import load_base
from stratatune.model.tokenizers import reading_of
from stratatune.shapes.sizes import shape_of
from tuning import shake

IDS = torch.tensor([[5, 9, 12, 7]])


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def saved(base, folder, *, name=None, tokenizer=True):
    """An adapter on the base at ``base``, as a run leaves it."""
    loaded = load_base(name or str(base), "mlm")
    model = shake(apply(loaded.model, "1: lora + bitfit"))
    if tokenizer:
        model.attached.tokenizer = reading_of(loaded.tokenizer)
    model.save_pretrained(folder)
    return model


def record_of(folder):
    return json.loads((folder / saving.RECORD).read_text())


def rewrite(folder, change):
    record = record_of(folder)
    change(record)
    (folder / saving.RECORD).write_text(json.dumps(record))


def test_a_base_named_by_a_relative_path_is_found_from_elsewhere(family, tmp_path, monkeypatch):
    tiny.save_tiny(tmp_path / "base", family)
    monkeypatch.chdir(tmp_path)
    model = saved("base", tmp_path / "adapter", name="base")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert torch.equal(logits(load(tmp_path / "adapter")), logits(model))


def test_a_base_that_moved_together_with_its_adapter_is_found(family, tmp_path):
    tiny.save_tiny(tmp_path / "all" / "base", family)
    model = saved(tmp_path / "all" / "base", tmp_path / "all" / "runs" / "adapter")
    (tmp_path / "all").rename(tmp_path / "moved")
    assert torch.equal(logits(load(tmp_path / "moved" / "runs" / "adapter")), logits(model))


def test_a_base_that_moved_away_is_asked_for(family, tmp_path):
    tiny.save_tiny(tmp_path / "base", family)
    model = saved(tmp_path / "base", tmp_path / "adapter")
    (tmp_path / "base").rename(tmp_path / "new")
    with pytest.raises(ModelError, match="no longer at") as error:
        load(tmp_path / "adapter")
    assert 'base="FOLDER"' in error.value.hint and "\n" not in error.value.message
    assert torch.equal(logits(load(tmp_path / "adapter", base=tmp_path / "new")), logits(model))
    live = AutoModelForMaskedLM.from_pretrained(tmp_path / "new", attn_implementation="eager")
    assert torch.equal(logits(load(tmp_path / "adapter", base=live)), logits(model))


def test_a_base_without_a_name_is_asked_for(family, tmp_path):
    model = shake(apply(tiny.tiny_model(family), "1: lora"))
    model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="does not say what its base model is"):
        load(tmp_path)
    assert torch.equal(logits(load(tmp_path, base=tiny.tiny_model(family))), logits(model))


@pytest.fixture
def hub(tmp_path, monkeypatch, family):
    """A hub cache in which ``acme/tiny`` has two revisions with other weights: main and v1."""
    from huggingface_hub import constants

    root = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root))
    commits = {"main": "a" * 40, "v1": "b" * 40}
    (root / "models--acme--tiny" / "refs").mkdir(parents=True)
    for number, (name, commit) in enumerate(commits.items()):
        (root / "models--acme--tiny" / "refs" / name).write_text(commit)
        tiny.save_tiny(root / "models--acme--tiny" / "snapshots" / commit, family, seed=number, blocks=4 + number)
    return commits


def test_the_hub_revision_is_remembered(hub, tmp_path):
    assert (shape_of("acme/tiny").blocks, shape_of("acme/tiny", "v1").blocks) == (4, 5)
    base = load_base("acme/tiny", "mlm", revision="v1")
    model = shake(apply(base.model, "lora", revision="v1"))
    model.save_pretrained(tmp_path / "adapter")
    assert record_of(tmp_path / "adapter")["base"]["revision"] == hub["v1"]
    assert torch.equal(logits(load(tmp_path / "adapter")), logits(model))


def test_a_branch_that_moves_on_does_not_take_the_adapter_along(hub, tmp_path):
    model = shake(apply(load_base("acme/tiny", "mlm").model, "lora"))
    model.save_pretrained(tmp_path / "adapter")
    (tmp_path / "hub" / "models--acme--tiny" / "refs" / "main").write_text(hub["v1"])
    assert torch.equal(logits(load(tmp_path / "adapter")), logits(model))


def test_a_setting_of_the_config_that_changed_is_named(family, tmp_path):
    tiny.save_tiny(tmp_path / "base", family)
    saved(tmp_path / "base", tmp_path / "adapter")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    (tmp_path / "base" / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 0.001}))
    with pytest.raises(ModelError, match="layer_norm_eps was 1e-12, is 0.001"):
        load(tmp_path / "adapter")


def test_a_field_that_a_later_transformers_adds_changes_nothing(family, tmp_path):
    tiny.save_tiny(tmp_path / "base", family)
    model = saved(tmp_path / "base", tmp_path / "adapter")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    (tmp_path / "base" / "config.json").write_text(json.dumps({**config, "of_the_future": True}))
    assert torch.equal(logits(load(tmp_path / "adapter")), logits(model))


def cased(folder):
    file = folder / "tokenizer.json"
    data = json.loads(file.read_text())
    data["normalizer"] = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True}
    data["normalizer"] |= {"strip_accents": None, "lowercase": False}
    file.write_text(json.dumps(data))


def one_word_less(folder):
    file = folder / "tokenizer.json"
    data = json.loads(file.read_text())
    vocab = data["model"]["vocab"]
    del vocab[next(word for word in vocab if word == "terrible")]
    file.write_text(json.dumps(data))


def renumbered(folder):
    file = folder / "tokenizer.json"
    data = json.loads(file.read_text())
    vocab = data["model"]["vocab"]
    vocab["great"], vocab["terrible"] = vocab["terrible"], vocab["great"]
    file.write_text(json.dumps(data))


def cut_on_the_left(folder):
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "truncation_side": "left"}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (cut_on_the_left, "it reads texts that are too long differently"),
        (cased, "it reads capitals.* differently"),
        (one_word_less, "its vocabulary has .* words instead of"),
        (renumbered, "other ids for them"),
    ],
)
def test_a_tokenizer_that_reads_otherwise_is_named(change, said, tmp_path):
    tiny.save_tiny(tmp_path / "base", "bert")
    saved(tmp_path / "base", tmp_path / "adapter")
    load(tmp_path / "adapter")
    change(tmp_path / "base")
    with pytest.raises(ModelError, match=said) as error:
        load(tmp_path / "adapter")
    assert "\n" not in str(error.value)


def test_an_adapter_trained_on_ids_needs_no_tokenizer(tmp_path):
    tiny.tiny_bert().save_pretrained(tmp_path / "base")
    model = shake(apply(AutoModelForMaskedLM.from_pretrained(tmp_path / "base"), "lora"))
    model.save_pretrained(tmp_path / "adapter")
    assert torch.equal(logits(load(tmp_path / "adapter")), logits(model))


@pytest.mark.parametrize("byte", [0.5, 0.9, 0.999])
def test_one_flipped_bit_is_refused(family, byte, tmp_path):
    tiny.save_tiny(tmp_path / "base", family)
    saved(tmp_path / "base", tmp_path / "adapter")
    file = tmp_path / "adapter" / saving.TENSORS
    data = bytearray(file.read_bytes())
    data[int(byte * len(data))] ^= 1
    file.write_bytes(data)
    with pytest.raises(ModelError, match="damaged|not finite") as error:
        load(tmp_path / "adapter")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.update(plan="1: lora(alpha=8) + bitfit"),
        lambda record: record["reading"].update(max_length=8),
        lambda record: record["reading"].update(precision="bf16"),
        lambda record: record.update(num_labels=7),
        lambda record: record["base"].update(dtype="bfloat16"),
        lambda record: record["tokenizer"].update(capitals="0"),
    ],
)
def test_a_changed_field_is_refused(family, change, tmp_path):
    tiny.save_tiny(tmp_path / "base", family)
    saved(tmp_path / "base", tmp_path / "adapter")
    rewrite(tmp_path / "adapter", change)
    with pytest.raises(ModelError, match="checksum"):
        load(tmp_path / "adapter")


def test_a_note_where_the_base_is_changes_no_checksum(family, tmp_path):
    tiny.save_tiny(tmp_path / "base", family)
    model = saved(tmp_path / "base", tmp_path / "adapter")
    shutil.move(tmp_path / "base", tmp_path / "new")
    where = {"name": "new", "path": str(tmp_path / "new")}
    rewrite(tmp_path / "adapter", lambda record: record["base"].update(where))
    assert torch.equal(logits(load(tmp_path / "adapter")), logits(model))


def first_edition(record):
    """As releases before this one wrote it."""
    for key in ("checksums", "tokenizer"):
        record.pop(key)
    for key in ("path", "beside", "dtype", "class", "weights", "settings"):
        record["base"].pop(key, None)


def test_an_older_artefact_loads_with_a_notice(family, tmp_path):
    from stratatune.model.backbone import Backbone
    from stratatune.model.fingerprint import first_edition as old_hash

    tiny.save_tiny(tmp_path / "base", family)
    model = saved(tmp_path / "base", tmp_path / "adapter")
    rewrite(tmp_path / "adapter", first_edition)
    was = old_hash(Backbone(load_base(str(tmp_path / "base"), "mlm").model))
    rewrite(tmp_path / "adapter", lambda record: record["base"].update(hash=was))
    artefact = load_artefact(tmp_path / "adapter")
    assert torch.equal(logits(artefact.model), logits(model))
    assert any("checksums" in notice for notice in artefact.notices)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_tensors_that_are_not_finite_are_refused(family, value, tmp_path):
    tiny.save_tiny(tmp_path / "base", family)
    model = saved(tmp_path / "base", tmp_path / "adapter")
    with torch.no_grad():
        next(iter(model.attached.trained().values())).view(-1)[3] = value
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ModelError, match="not finite"):
        load(tmp_path / "adapter")


@pytest.mark.parametrize("labels", [1, 2, 7])
def test_a_classifier_of_another_task_is_a_base(family, labels, tiny_folder, tmp_path):
    folder = tiny_folder(family, "classification")  # of three classes
    base = load_base(str(folder), "classification", num_labels=labels)
    assert any(f"has 3 outputs, this task {labels}" in notice for notice in base.notices)
    model = shake(apply(base.model, "-1: lora", also_train=base.new))
    assert model(input_ids=IDS).logits.shape == (1, labels)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(load(tmp_path)), logits(model))


def test_a_classifier_of_as_many_classes_keeps_its_output_layer(family, tiny_folder):
    base = load_base(str(tiny_folder(family, "classification")), "classification", num_labels=3)
    folder = tiny_folder(family, "classification")
    theirs = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager")
    assert not base.notices and torch.equal(logits(base.model), logits(theirs))


@pytest.mark.parametrize("written", [("a", "b", "c"), ("A", "B", "C")], ids=["same", "upper case"])
@pytest.mark.parametrize("order", [(2, 0, 1), (1, 0, 2)])
def test_the_rows_of_an_output_layer_follow_the_names_of_the_classes(family, tiny_folder, tmp_path, written, order):
    theirs = AutoModelForSequenceClassification.from_pretrained(
        tiny_folder(family, "classification"), attn_implementation="eager"
    )
    theirs.config.id2label = {row: written[number] for row, number in enumerate(order)}
    theirs.config.label2id = {written[number]: row for row, number in enumerate(order)}
    theirs.save_pretrained(tmp_path)
    tiny.tiny_tokenizer(family).save_pretrained(tmp_path)
    base = load_base(str(tmp_path), "classification", num_labels=3, labels=("a", "b", "c"))
    assert any("rows are reordered" in notice for notice in base.notices)
    torch.testing.assert_close(logits(base.model)[:, list(order)], logits(theirs), rtol=0, atol=1e-6)


def test_other_classes_of_the_same_number_are_named(family, tiny_folder, tmp_path):
    theirs = AutoModelForSequenceClassification.from_pretrained(tiny_folder(family, "classification"))
    theirs.config.id2label = dict(enumerate(("x", "y", "z")))
    theirs.save_pretrained(tmp_path)
    tiny.tiny_tokenizer(family).save_pretrained(tmp_path)
    base = load_base(str(tmp_path), "classification", num_labels=3, labels=("a", "b", "c"))
    assert any("x, y, z" in notice and "a, b, c" in notice for notice in base.notices)


@pytest.mark.parametrize("family", ["bert", "roberta", "albert", "deberta-v2", "gpt2", "qwen2", "gemma", "t5", "bart"])
def test_a_folder_without_tokenizer_files_is_refused(family, tmp_path):
    """transformers makes an empty tokenizer of one, which reads every text as unknown words."""
    from transformers import AutoConfig

    from stratatune.model.base import load_tokenizer

    AutoConfig.for_model(family).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="empty vocabulary|knows no words|cannot load") as error:
        load_tokenizer(str(tmp_path))
    assert "\n" not in str(error.value)


def test_a_tokenizer_that_fails_at_unknown_words_is_refused(tmp_path):
    """transformers makes one of the kind that the config names, with the vocabulary of the file, whosever it is."""
    from stratatune.model.base import load_tokenizer

    tiny.save_tiny(tmp_path, "bert")
    file = tmp_path / "tokenizer.json"
    data = json.loads(file.read_text())
    data["model"]["unk_token"] = "[ELSE]"
    file.write_text(json.dumps(data))
    settings = tmp_path / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "unk_token": "[ELSE]"}))
    with pytest.raises(ModelError, match=r"cannot read texts: .*put all of one model's tokenizer files"):
        load_tokenizer(str(tmp_path))


def test_a_tokenizer_with_more_words_than_rows_is_refused(family, tmp_path):
    tiny.tiny_model(family, vocab=60).save_pretrained(tmp_path)
    tiny.tiny_tokenizer(family).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="the embeddings have 60 rows"):
        load_base(str(tmp_path), "mlm")
