"""A prefix where a model computes attention itself: what its own module says of tokens in place of the prefix."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
from torch import nn

import tiny
from stratatune.methods.own_attention import FORWARDS
from stratatune.model.attach import apply
from stratatune.model.merging import remove
from tuning import shake

TOKENS, TEXT = 3, 7


def modules(model_type, plan, **settings):
    """The attention of the last block in fp64: the model's own, and the same with what ``plan`` puts into it."""
    base = tiny.tiny_of(model_type, "mlm", **settings).double().eval()
    tuned = shake(apply(copy.deepcopy(base), plan)).eval()
    found = []
    for model in (base, tuned):
        found += [one for one in model.modules() if type(one).__name__ in FORWARDS][-1:]
    return found


def prefixed(attention, key, value):
    """Hidden states [P, D] whose keys and values are those of the prefix: ``key``, ``value`` are one state's."""
    prefix = attention.get_submodule("prefix")
    states = torch.randn(TOKENS, key.in_features, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        prefix.key.copy_(key(states))
        prefix.value.copy_(value(states))
    return states


def text(width):
    """Hidden states [2, T, D], and which of the tokens are real [2, T]."""
    hidden = torch.randn(2, TEXT, width, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    return hidden, torch.arange(TEXT) < torch.tensor([TEXT, 4])[:, None]


@torch.no_grad()
def test_mpnet():
    own, tuned = modules("mpnet", f"1: prefix(tokens={TOKENS})")
    states = prefixed(tuned, own.k, own.v)
    hidden, real = text(own.q.in_features)
    bias = torch.randn(1, own.num_attention_heads, TEXT, TEXT, dtype=torch.float64)
    mask = torch.zeros(2, 1, TEXT, TEXT, dtype=torch.float64).masked_fill(~real[:, None, None], torch.finfo().min)

    def wide(added):  # the tokens of the prefix have no bias and are seen
        return nn.functional.pad(added, (TOKENS, 0, TOKENS, 0))

    longer = torch.cat([states.expand(2, -1, -1), hidden], dim=1)
    wanted, weights = own(longer, wide(mask), wide(bias), output_attentions=True)
    found, mine = tuned(hidden, mask, bias, output_attentions=True)
    torch.testing.assert_close(found, wanted[:, TOKENS:], rtol=0, atol=1e-12)
    torch.testing.assert_close(mine, weights[:, :, TOKENS:], rtol=0, atol=1e-12)


@pytest.mark.parametrize("relative", [["p2c", "c2p"], ["c2p"], []], ids="-".join)
@torch.no_grad()
def test_deberta(relative, monkeypatch):
    settings = {"relative_attention": bool(relative), "pos_att_type": relative}
    own, tuned = modules("deberta-v2", f"1: prefix(tokens={TOKENS})", **settings)
    states = prefixed(tuned, own.key_proj, own.value_proj)
    hidden, real = text(own.query_proj.in_features)
    positions = torch.randn(own.pos_ebd_size * 2, hidden.shape[2], dtype=torch.float64) if relative else None
    alone = type(own).disentangled_attention_bias

    def bias(query, key, relative_pos, rel_embeddings, parts):  # of the text, and none between it and the prefix
        found = alone(own, query[:, TOKENS:], key[:, TOKENS:], relative_pos, rel_embeddings, parts)
        return nn.functional.pad(found, (TOKENS, 0, TOKENS, 0))

    monkeypatch.setattr(own, "disentangled_attention_bias", bias)
    longer = torch.cat([states.expand(2, -1, -1), hidden], dim=1)
    seen = (real[:, None, :, None] & real[:, None, None, :]).long()
    wider = nn.functional.pad(seen, (TOKENS, 0, TOKENS, 0), value=1)
    wanted, _ = own(longer, wider, rel_embeddings=positions)
    found, _ = tuned(hidden, seen, rel_embeddings=positions)
    # The scale in transformers is the square root of a number in fp32.
    torch.testing.assert_close(found[real], wanted[:, TOKENS:][real], rtol=0, atol=1e-7)


@pytest.mark.parametrize("model_type", ["mpnet", "deberta-v2"])
def test_their_calls_are_those_of_transformers(model_type):
    """A release that calls its attention otherwise, or renames what it is made of, is noticed here."""
    own, _ = modules(model_type, ": prefix")
    ours = inspect.signature(FORWARDS[type(own).__name__]).parameters
    theirs = [
        one.name for one in inspect.signature(type(own).forward).parameters.values() if one.kind != one.VAR_KEYWORD
    ]
    assert [*ours][2 : len(theirs) + 1] == theirs[1:]


@pytest.mark.parametrize("model_type", ["mpnet", "deberta-v2"])
def test_taken_off_the_module_is_as_before(model_type):
    base = tiny.tiny_of(model_type, "mlm")
    tuned = apply(copy.deepcopy(base), "2: prefix")
    copied = copy.deepcopy(tuned)
    with torch.no_grad():  # a copy attends over a prefix of its own
        for parameter in copied.attached.trained().values():
            parameter.fill_(1.0)
    ids = torch.randint(5, 60, (2, 6), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    with torch.no_grad():
        assert not torch.equal(copied.eval()(ids, mask).logits, tuned.eval()(ids, mask).logits)
        remove(tuned)
        assert all("forward" not in vars(one) for one in tuned.modules())
        assert torch.equal(tuned.eval()(ids, mask).logits, base.eval()(ids, mask).logits)
