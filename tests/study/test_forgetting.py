"""Forgetting: the language-model loss of a run against its base, on plain text."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

import tiny
from stratatune.model.base import load_base
from stratatune.model.tuned import apply
from stratatune.study.forgetting import forgetting

TEXTS = ["the film was good and the book was great .", "she likes this city", "a very slow day ."] * 7


def saved(tmp_path, family, kind, plan, *, shake):
    base = tmp_path / "base"
    save = tiny.save_tiny if family == "bert" else tiny.save_tiny_decoder
    save(base, family)
    model = apply(load_base(str(base), kind).model, plan)
    torch.manual_seed(0)
    for parameter in model.strata.trained().values():
        parameter.data.add_(torch.randn_like(parameter) * shake)
    model.save_pretrained(tmp_path / "run" / "adapter")
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("family", "kind", "plan"),
    [
        ("bert", "classification", "2: lora(rank=2)"),
        ("bert", "mlm", "bft"),
        ("llama", "causal", "2: lora(rank=2)"),
        ("gpt2", "classification", "2: full"),
        ("llama", "causal", "late_prompt(depth=2)"),
    ],
)
def test_what_was_shaken_is_forgotten_the_same_each_time(family, kind, plan, tmp_path):
    run = saved(tmp_path, family, kind, plan, shake=0.3)
    found = forgetting(run, TEXTS, device="cpu")
    assert found == forgetting(run, TEXTS, device="cpu")
    assert found["objective"] == ("mlm" if family == "bert" else "causal") and found["tokens"] > 10
    assert found["difference"] == found["tuned"] - found["base"] != 0


def test_nothing_trained_nothing_forgotten(tmp_path):
    found = forgetting(saved(tmp_path, "llama", "causal", "2: lora(rank=2)", shake=0.0), TEXTS, device="cpu")
    assert found["difference"] == 0


def test_the_causal_loss_is_the_models_own(tmp_path):
    run = saved(tmp_path, "gpt2", "classification", "3: full", shake=0.1)
    path = tmp_path / "plain.txt"
    path.write_text(TEXTS[0] + "\n")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tiny.decoder_tokenizer()
    ids = torch.tensor([tokenizer(TEXTS[0])["input_ids"]])
    with torch.no_grad():
        wanted = model(input_ids=ids, labels=ids).loss.item()
    assert forgetting(run, path, device="cpu")["base"] == pytest.approx(wanted, abs=1e-5)
