"""Weights that only the trunk reads leave memory and come back; the top computes the same bits meanwhile."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
from benchmarks.counters import resident_bytes

import tiny
from asking import at, logits_at
from stratatune.errors import ModelError
from stratatune.model import fingerprint, offload
from stratatune.model.attach import apply
from stratatune.model.offload import offload_trunk, reload_trunk
from stratatune.model.precision import cast_frozen
from stratatune.model.question import Question
from stratatune.model.split import Top, Trunk
from stratatune.plan import ARCHITECTURES

ENCODERS = [name for row in ARCHITECTURES if row.family == "encoder" and row.mlm_head for name in row.model_types]
MODELS = {
    **{f"{name} {kind}": (name, kind) for name in ENCODERS for kind in ("mlm", "classification")},
    **{f"{name} causal": (name, "causal") for name in tiny.DECODERS},
    **{f"{name} seq2seq": (name, "seq2seq") for name in ("t5", "bart")},
}
PLANS = ("bft-adapter@2", "2: lora | 3: full(on=ffn)", "late_prompt(depth=3, tokens=2)", "head")
IDS = torch.randint(5, 50, (3, 9), generator=torch.Generator().manual_seed(0))
MASK = torch.arange(9) < torch.tensor([9, 5, 7])[:, None]


def base_of(model_type, kind):
    if kind == "seq2seq":
        return tiny.tiny_encoder_decoder(model_type)
    return tiny.tiny_decoder(model_type) if kind == "causal" else tiny.tiny_of(model_type, kind)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_the_top_reads_nothing_that_left(name):
    base = base_of(*MODELS[name])
    for plan in PLANS if MODELS[name][1] != "seq2seq" else ("dec 1: lora",):
        if name.startswith("albert") and plan.startswith("2:"):
            continue  # its blocks are the same weights
        model = apply(copy.deepcopy(base), plan)
        strata, whole, read = model.attached, resident_bytes(model), torch.tensor([4, 2, 6])
        asked = Question(targets=IDS) if MODELS[name][1] == "seq2seq" else at(read)
        asked = Question() if MODELS[name][1] == "classification" else asked
        hidden, count = Trunk(strata)(IDS, MASK), strata.parameter_count()
        wanted = Top(strata)(hidden, MASK, asked)
        freed = offload_trunk(strata, lambda: copy.deepcopy(base))
        assert resident_bytes(model) == whole - freed and strata.parameter_count() == count
        assert (freed > 0) == (MODELS[name][1] != "seq2seq")
        assert torch.equal(Top(strata)(hidden, MASK, asked), wanted)
        assert offload_trunk(strata, lambda: copy.deepcopy(base)) == 0
        assert torch.equal(Trunk(strata)(IDS, MASK), hidden), "the trunk fetches what it needs"
        assert strata.offloaded is None and resident_bytes(model) == whole
        for one, other in zip(model.parameters(), apply(copy.deepcopy(base), plan).parameters(), strict=True):
            assert one.requires_grad or torch.equal(one, other)


@torch.no_grad()
def test_an_mlm_head_keeps_the_rows_that_it_reads():
    base = tiny.tiny_of("roberta")
    words, read = torch.tensor([7, 3]), torch.tensor([4, 2, 6])
    for low, asked in ((False, None), (False, words), (True, None), (True, words)):
        model = apply(copy.deepcopy(base), "bft-adapter@3")
        if low:
            cast_frozen(model.attached, torch.bfloat16)
        strata, decoder = model.attached, model.get_output_embeddings().weight
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            hidden = Trunk(strata)(IDS, MASK)
            wanted = logits_at(strata, hidden, MASK, read, words)
            offload_trunk(strata, lambda: copy.deepcopy(base), asked)
            assert torch.equal(logits_at(strata, hidden, MASK, read, words), wanted)
            assert (decoder.numel() == 0) == (low or asked is not None)
            assert len(strata.top_weights()[-1]) == (len(base.get_output_embeddings().weight) if asked is None else 2)
            whole = logits_at(strata, Trunk(strata)(IDS, MASK), MASK, read)
        torch.testing.assert_close(whole[:, words], wanted, atol=1e-2 if low else 1e-6, rtol=0)


def test_nothing_goes_where_everything_is_read_again():
    for plan in ("full", "embeddings full | head", "lora", "prompt(tokens=2)"):
        model = apply(tiny.tiny_of("bert"), plan)
        assert offload_trunk(model.attached, lambda: tiny.tiny_of("bert")) == 0
        assert all(parameter.numel() for parameter in model.parameters())


def test_another_base_model_is_refused():
    base = tiny.tiny_of("bert")
    model = apply(copy.deepcopy(base), "bft-adapter@2")
    offload_trunk(model.attached, lambda: tiny.tiny_of("bert", seed=1))
    with pytest.raises(ModelError, match="has changed since this run began"):
        reload_trunk(model.attached)


@pytest.mark.parametrize("plan", ["bft-adapter@2", "1: lora | cut(3/4)", "2: lora"])
def test_freeing_hashes_nothing_and_one_changed_value_is_noticed(plan, monkeypatch):
    """The fingerprint of the base was taken before the plan was attached, of the blocks that the plan leaves."""
    base = tiny.tiny_of("bert", "classification")
    model, hashed = apply(copy.deepcopy(base), plan), []
    cast_frozen(model.attached, torch.bfloat16)
    plain = fingerprint.hash_of

    def counted(named, *more, **options):
        found = list(named)
        hashed.extend(name for name, _ in found)
        return plain(found, *more, **options)

    for module in (fingerprint, offload):
        monkeypatch.setattr(module, "hash_of", counted)
    changed = copy.deepcopy(base)
    changed.bert.encoder.layer[0].output.dense.weight.data[0, 0] += 1e-6
    given = [changed, base]
    assert offload_trunk(model.attached, lambda: copy.deepcopy(given.pop(0))) > 0
    assert hashed == []
    for refused in (True, False):
        with pytest.raises(ModelError, match="has changed since") if refused else contextlib.nullcontext():
            reload_trunk(model.attached)
        assert (model.attached.offloaded is not None) == refused
    assert hashed, "what comes back is hashed"


def test_weights_that_no_fingerprint_covers_are_hashed(monkeypatch):
    """As before there was one: of a model whose fingerprint nobody took, and of weights outside the encoder."""
    base = tiny.tiny_of("bert", "classification")
    for untaken in (True, False):
        model = apply(copy.deepcopy(base), "bft-adapter@2")
        if untaken:
            model.attached.base = fingerprint.Fingerprint("", {})
        else:
            monkeypatch.setattr(type(model.attached.backbone), "encoder_ids", lambda self: set())
        given = [tiny.tiny_of("bert", "classification", seed=1), copy.deepcopy(base)]
        offload_trunk(model.attached, lambda given=given: given.pop(0))
        assert model.attached.offloaded.digest != fingerprint.hash_of([])
        with pytest.raises(ModelError, match="has changed since"):
            reload_trunk(model.attached)
        reload_trunk(model.attached)
        assert model.attached.offloaded is None


def test_what_left_cannot_be_computed_with():
    model = apply(tiny.tiny_of("bert"), "bft-adapter@2")
    offload_trunk(model.attached, lambda: tiny.tiny_of("bert"))
    with pytest.raises((RuntimeError, IndexError)):
        model(input_ids=IDS, attention_mask=MASK.long())
