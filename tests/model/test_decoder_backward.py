"""The backward pass of a decoder stops at the frozen depth: counted, with and without checkpointing, tied heads
included."""

from __future__ import annotations

import warnings

import pytest
import torch

import tiny
from asking import scores_behind
from counting import count_backward_blocks
from stratatune.errors import PlanError
from stratatune.model.attach import apply
from stratatune.model.split import Trunk
from stratatune.plan import Plan

FAMILIES = ("gpt2", "llama", "gemma3_text")
PLANS = (
    "2: full | head(mlm=norm)",
    "1: lora(rank=2, on=q,v,down)",
    "adapter(depth=3)",
    "late_prompt(depth=2, tokens=2)",
    "late_prompt(depth=0, tokens=2)",
    "head(mlm=norm)",
    "3: lora(rank=2) | head(mlm=norm,decoder, untie)",
    "embeddings full | 3: full | head(mlm=decoder)",
)


def inputs():
    torch.manual_seed(0)
    mask = torch.arange(8) < torch.tensor([8, 5, 7])[:, None]
    ids = torch.where(mask, torch.randint(5, 50, (3, 8)), 1)
    return ids, mask, torch.tensor([3, 1, 2])


def whole(model):
    ids, mask, read = inputs()
    labels = torch.where(mask & (torch.arange(8) > read[:, None]), ids, -100)
    return model(input_ids=ids, attention_mask=mask.long(), labels=labels, use_cache=False).loss


def split(model):
    ids, mask, read = inputs()
    total, count = scores_behind(model.attached, Trunk(model.attached)(ids, mask), mask, read, ids).sum(0)
    return -total / count


def checkpoint(model, reentrant):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model.gradient_checkpointing_disable()
        if reentrant is not None:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("family", FAMILIES)
def test_backward_goes_through_the_promised_blocks(family, plan):
    model = apply(tiny.tiny_decoder(family, tie_word_embeddings=True, **no_dropout(family)), plan).train()
    if "late_prompt" in plan:
        model.attached.insertions[0][1].dropout.p = 0.0
    resolved, trained, wanted = model.attached.resolved, model.attached.trained(), None
    for reentrant in (None, True, False):
        checkpoint(model, reentrant)
        for run in (whole, split):
            case = f"checkpointing: {reentrant}, {run.__name__}"
            model.zero_grad(set_to_none=True)
            count = count_backward_blocks(model.attached, lambda run=run: run(model).backward())
            assert count == resolved.backprop_blocks, case
            found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
            assert found.keys() == trained.keys(), case
            wanted = wanted or found
            for name, gradient in found.items():
                torch.testing.assert_close(gradient, wanted[name], atol=1e-5, rtol=1e-3)


def no_dropout(family):
    return {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0} if family == "gpt2" else {}


def test_a_tied_decoder_is_refused_with_the_way_out():
    with pytest.raises(PlanError, match="untie"):
        apply(tiny.tiny_decoder("gpt2"), "head(mlm=norm,decoder)")
    with pytest.raises(PlanError, match="untie"):
        apply(tiny.tiny_decoder("gpt2"), "head(mlm=norm, untie)")


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_an_untied_copy_is_priced_and_leaves_the_embeddings_alone(family):
    model = tiny.tiny_decoder(family) if family == "gpt2" else tiny.tiny_model("bert")
    plain, embeddings = sum(p.numel() for p in model.parameters()), model.get_input_embeddings().weight
    model = apply(model, "head(mlm=norm,decoder, untie)")
    resolved, objective = model.attached.resolved, model.attached.backbone.head.name
    decoder = model.get_output_embeddings().weight
    assert decoder is not embeddings and decoder.requires_grad and not embeddings.requires_grad
    assert resolved.total(objective) == plain + decoder.numel() == sum(p.numel() for p in model.parameters())
    assert str(Plan.parse(str(resolved.plan))) == "head(mlm=norm,decoder, untie)"
    assert "a copy of its own" in model.attached.notices[0] and resolved.backprop_blocks == 0


def test_embeddings_train_and_are_priced():
    model = apply(tiny.tiny_decoder("gpt2"), "embeddings full")
    assert sum(p.numel() for p in model.attached.trained().values()) == model.attached.resolved.shape.embeddings


@pytest.mark.parametrize("plan", ["2: lora", "1: full", "late_prompt(depth=2)"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_plain_loop_may_checkpoint_without_a_word_about_the_cache(family, plan):
    """As with the model itself: a block that is run again must not write the key-value cache a second time."""
    model = apply(tiny.tiny_decoder(family, **no_dropout(family)), plan).eval()
    for _, insertion in model.attached.insertions:
        insertion.dropout.p = 0.0
    ids = torch.tensor([[5, 9, 12, 7, 30, 2], [6, 20, 21, 2, 8, 11]])
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    found = []
    for reentrant in (None, True, False):
        checkpoint(model, reentrant)
        model.zero_grad(set_to_none=True)
        model.train()(**given).loss.backward()
        found.append([parameter.grad for parameter in model.attached.trained().values()])
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])
    # What generates goes on keeping one.
    assert model.eval()(input_ids=ids, use_cache=True).past_key_values is not None
