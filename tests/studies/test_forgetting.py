"""Forgetting: the language-model loss of a run against its base, on plain text."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

import tiny
from stratatune.app.cli import run as command
from stratatune.errors import ModelError
from stratatune.model.attach import apply
from stratatune.model.base import load_base
from stratatune.studies.corruption import INFILL_SHARE, SPAN_SHARE, infilled, span_corrupted
from stratatune.studies.forgetting import forgetting

TEXTS = ["the film was good and the book was great .", "she likes this city", "a very slow day ."] * 7


STACKS = {"t5": "span corruption", "t5-gated": "span corruption", "bart": "text infilling"}


def stacks_tokenizer(family):
    """T5's have sentinels, BART's a mask."""
    made = tiny.roberta_tokenizer()
    if family != "bart":
        made.add_tokens([f"<extra_id_{number}>" for number in range(6)], special_tokens=True)
        made.mask_token = None
    return made


def saved(tmp_path, family, kind, plan, *, shake):
    base = tmp_path / "base"
    if family in STACKS:
        tokenizer = stacks_tokenizer(family)
        tiny.tiny_encoder_decoder(family, vocab_size=len(tokenizer)).save_pretrained(base)
        tokenizer.save_pretrained(base)
    else:
        (tiny.save_tiny if family == "bert" else tiny.save_tiny_decoder)(base, family)
    loaded = load_base(str(base), kind)
    model = apply(loaded.model, plan, also_train=loaded.new)
    torch.manual_seed(0)
    for parameter in model.attached.trained().values():
        parameter.data.add_(torch.randn_like(parameter) * shake)
    model.save_pretrained(tmp_path / "run" / "adapter")
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("family", "kind", "plan"),
    [
        ("bert", "classification", "2: lora(rank=2)"),
        ("bert", "mlm", "bft"),
        ("bert", "none", "2: lora(rank=2)"),
        ("llama", "none", "2: full"),
        ("llama", "causal", "2: lora(rank=2)"),
        ("gpt2", "classification", "2: full"),
        ("llama", "causal", "late_prompt(depth=2)"),
        ("t5", "seq2seq", "1: lora(rank=2)"),
        ("t5-gated", "classification", "1: full"),
        ("t5", "seq2seq", "late_prompt(depth=1, tokens=2) | adapter(depth=2, stack=dec)"),
        ("bart", "seq2seq", "1: lora(rank=2)"),
        ("bart", "classification", "embeddings full | dec 1: bitfit"),
    ],
)
def test_what_was_shaken_is_forgotten_the_same_each_time(family, kind, plan, tmp_path):
    run = saved(tmp_path, family, kind, plan, shake=0.3)
    found = forgetting(run, TEXTS, device="cpu")
    assert found == forgetting(run, TEXTS, device="cpu")
    assert found["objective"] == STACKS.get(family, "mlm" if family == "bert" else "causal") and found["tokens"] > 10
    assert found["difference"] == found["tuned"] - found["base"] != 0


@pytest.mark.parametrize(("family", "kind"), [("llama", "causal"), ("t5", "seq2seq"), ("bart", "classification")])
def test_nothing_trained_nothing_forgotten(family, kind, tmp_path):
    found = forgetting(saved(tmp_path, family, kind, "2: lora(rank=2)", shake=0.0), TEXTS, device="cpu")
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


# ---- encoder-decoders -----------------------------------------------------------------------------------------------

SPECIAL = [1] + [0] * 40 + [1]
IDS = [0, *range(100, 140), 2]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("words", [2, 3, 7, 40])
def test_t5_is_told_the_spans_behind_their_sentinels(words, seed):
    ids, special, sentinels = [*range(100, 100 + words), 2], [0] * words + [1], range(900, 906)
    source, target = span_corrupted(ids, special, sentinels, np.random.default_rng(seed))
    assert source[-1] == target[-1] == 2 and source[0] == 100
    spans = {}
    for one in target[:-1]:
        spans.setdefault(one, []) if one >= 900 else spans[list(spans)[-1]].append(one)
    whole = [word for one in source for word in (spans[one] if one >= 900 else [one])]
    assert whole == ids and list(spans) == [*sentinels[: len(spans)]]
    hidden = [len(span) for span in spans.values()]
    assert hidden.pop() == 0 and min(hidden) > 0 and sum(hidden) == max(1, round(SPAN_SHARE * words))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("words", [1, 2, 7, 40])
def test_bart_is_told_the_whole_text(words, seed):
    ids, special = [0, *range(100, 100 + words), 2], [1] + [0] * words + [1]
    source, target = infilled(ids, special, 900, np.random.default_rng(seed))
    assert target == ids and source[0] == 0 and source[-1] == 2 and 900 in source
    left = [one for one in source if one != 900]
    assert [one for one in ids if one in left] == left  # in order, and no two masks meet
    assert all({900} != {one, other} for one, other in zip(source, source[1:], strict=False))
    assert len(ids) - len(left) <= max(1, round(INFILL_SHARE * words))


def test_hidden_spans_have_their_mean_lengths():
    random = np.random.default_rng(0)
    told = [span_corrupted(IDS, SPECIAL, range(900, 906), random) for _ in range(300)]
    assert all(len(target) == 6 + 2 + 1 + 2 - 1 for _, target in told)  # 6 words, 2 spans, the last sentinel, the end
    sources = [infilled(IDS, SPECIAL, 900, random)[0] for _ in range(300)]
    masks = np.mean([source.count(900) for source in sources])
    assert 0.3 * 40 / 3 < masks < 0.3 * 40 / 3 + 1.5  # some are empty, the last is cut


def test_too_little_text_is_left_out():
    random = np.random.default_rng(0)
    assert span_corrupted([7, 2], [0, 1], [900], random) == ([], []) == infilled([0, 2], [1, 1], 900, random)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_the_loss_of_an_encoder_decoder_is_the_models_own(family, tmp_path):
    run = saved(tmp_path, family, "seq2seq", "2: full", shake=0.1)
    tokenizer, corrupt = stacks_tokenizer(family), span_corrupted if family == "t5" else infilled
    how = [tokenizer.convert_tokens_to_ids(f"<extra_id_{number}>") for number in range(6)]
    coded = tokenizer(TEXTS[0], return_special_tokens_mask=True)
    pair = corrupt(
        coded["input_ids"],
        coded["special_tokens_mask"],
        how if family == "t5" else tokenizer.mask_token_id,
        np.random.default_rng(5),
    )
    source, target = (torch.tensor([one]) for one in pair)
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "base")
    with torch.no_grad():
        wanted = model(input_ids=source, labels=target).loss.item()
    found = forgetting(run, [TEXTS[0]], device="cpu", seed=5)
    assert found["base"] == pytest.approx(wanted, abs=1e-5) and found["tokens"] == target.numel()


def test_a_tokenizer_that_can_hide_nothing_is_refused(tmp_path):
    run = saved(tmp_path, "t5", "seq2seq", "2: lora", shake=0.0)
    tokenizer = tiny.roberta_tokenizer()
    tokenizer.mask_token = None
    tokenizer.save_pretrained(tmp_path / "base")
    with pytest.raises(ModelError, match="neither sentinels .* nor a mask"):
        forgetting(run, TEXTS, device="cpu")


def test_from_the_command_line(tmp_path, capsys):
    run = saved(tmp_path, "t5", "seq2seq", "1: lora(rank=2)", shake=0.3)
    (tmp_path / "plain.txt").write_text("\n".join(TEXTS))
    assert command(["eval", str(run), "--forgetting", str(tmp_path / "plain.txt"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["forgetting"]["objective"] == "span corruption"
    assert command(["eval", str(run), "--forgetting", str(tmp_path / "plain.txt")]) == 0
    assert "span corruption loss on plain text: base" in capsys.readouterr().out
