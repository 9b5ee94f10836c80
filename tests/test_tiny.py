"""The tiny models stand for real ones, so they must behave like them."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

import tiny


@pytest.mark.parametrize("word", ["great", "terrible", "yes", "no", "maybe", "question"])
def test_label_words_are_single_tokens(family, tokenizer, word):
    text = word if family == "bert" else " " + word
    assert len(tokenizer(text, add_special_tokens=False)["input_ids"]) == 1


def test_special_tokens_stand_where_the_family_puts_them(family, tokenizer):
    ids = tokenizer("the film", "it was great")["input_ids"]
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    assert ids[0] == cls and ids[-1] == sep
    assert ids.count(sep) == (2 if family == "bert" else 3)
    mask = tokenizer(f"it was {tokenizer.mask_token} .", add_special_tokens=False)["input_ids"]
    assert mask.count(tokenizer.mask_token_id) == 1
    assert mask[-2] == tokenizer.mask_token_id and len(mask) == (4 if family == "bert" else 5)  # "it": two pieces


def test_any_text_round_trips_without_unknowns(tokenizer):
    ids = tokenizer("Zyzzyva, 42!", add_special_tokens=False)["input_ids"]
    assert tokenizer.unk_token_id not in ids


def test_saved_folder_loads_to_the_same_model(family, tokenizer, tiny_folder):
    folder = tiny_folder(family, "mlm")
    assert tiny_folder(family, "mlm") == folder
    loaded = AutoModelForMaskedLM.from_pretrained(folder).eval()
    inputs = AutoTokenizer.from_pretrained(folder)("it was great", return_tensors="pt")
    assert inputs["input_ids"].tolist() == [tokenizer("it was great")["input_ids"]]
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, tiny.tiny_model(family)(**inputs).logits)


def test_classifier_folder_keeps_its_labels(family, tiny_folder):
    model = AutoModelForSequenceClassification.from_pretrained(tiny_folder(family, "classification", labels=5))
    assert model.config.num_labels == 5


def test_building_depends_on_the_seed_alone(family):
    state = torch.random.get_rng_state()
    first, second, other = (tiny.tiny_model(family, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    pairs = list(zip(first.parameters(), second.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(next(iter(first.parameters())), next(iter(other.parameters())))
    assert not first.training
