"""Decoders whose config lets every token see the whole text: the top's masks are those of transformers."""

from __future__ import annotations

import importlib

import pytest
import torch
from transformers.masking_utils import create_bidirectional_mask

import tiny
from asking import logits_at
from stratatune.errors import ModelError
from stratatune.model.attach import apply
from stratatune.model.backbone import Backbone
from stratatune.model.depths import Depths
from stratatune.model.families.stopping import recorded
from stratatune.model.split import Trunk
from stratatune.objectives.asked import Asked
from stratatune.objectives.registry import choose
from stratatune.plan import Plan, shape_of
from tuning import shake

# Gemma 3 halves the window that its config names, and counts the token itself; other decoders do not.
WAYS = {
    "gemma3_text": {"use_bidirectional_attention": True, "sliding_window": 6},
    "gemma3_text, not causal": {"is_causal": False, "sliding_window": 3},
    "llama": {"is_causal": False},
    "gpt2": {"is_causal": False},
    "mistral": {"is_causal": False, "sliding_window": 3},
    "qwen3": {"is_causal": False, "sliding_window": 3, "use_sliding_window": True, "max_window_layers": 1},
    "olmo3": {"is_causal": False, "sliding_window": 3},
}
PLANS = ("2: full", "1: lora(rank=2) | adapter(depth=3)", "2: prefix(tokens=3)", "full")
PROMPTS = ("2: full | late_prompt(depth=2, tokens=3, bottleneck=4)", "prompt(tokens=3)")
LENGTHS = torch.tensor((9, 6, 8))


def tuned(name, plan, **config):
    """A tiny tuned classifier in fp64 whose trained parameters are shaken, so that nothing is as at the start."""
    model = tiny.tiny_decoder(name.partition(",")[0], "classification", **config).double()
    return shake(apply(model, plan)).eval()


def texts():
    """Ids [3, 9] padded on the right, mask, and the last real token of each."""
    torch.manual_seed(0)
    mask = torch.arange(9) < LENGTHS[:, None]
    return torch.where(mask, torch.randint(5, 50, (3, 9)), 1), mask, LENGTHS - 1


def from_trunk(model, ids, mask, read):
    """The logits by the trunk and the top, of states as they come out of a cache."""
    hidden = torch.where(mask[..., None], Trunk(model.attached)(ids, mask), 0)
    return logits_at(model.attached, hidden, mask, read)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("name", WAYS)
@torch.no_grad()
def test_top_of_trunk_is_the_whole_model(name, plan, attention):
    model, (ids, mask, read) = tuned(name, plan, **WAYS[name], attn_implementation=attention), texts()
    whole = model(input_ids=ids, attention_mask=mask.long()).logits
    assert torch.allclose(from_trunk(model, ids, mask, read), whole, atol=1e-10)


@pytest.mark.parametrize("plan", PROMPTS)
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3_text"])
@torch.no_grad()
def test_prompts_see_the_text_and_are_seen(name, plan):
    model, (ids, mask, read) = tuned(name, plan, **WAYS[name]), texts()
    whole = model(input_ids=ids, attention_mask=mask.long()).logits
    assert torch.allclose(from_trunk(model, ids, mask, read), whole, atol=1e-10)
    one_way = tuned(name, plan)
    assert not torch.allclose(one_way(input_ids=ids, attention_mask=mask.long()).logits, whole, atol=1e-4)


@pytest.mark.parametrize("name", WAYS)
@torch.no_grad()
def test_every_token_sees_what_follows_it(name):
    model = tuned(name, "2: full", **WAYS[name])
    depths = Depths(model.attached.backbone)
    assert depths.readings == ("read", "mean")
    ids, mask, read = texts()
    other = ids.clone()
    other[torch.arange(3), read] = 60
    changed = depths(ids, mask, None, 0 * read) != depths(other, mask, None, 0 * read)
    assert changed[:, -1, 0].any()  # the first token's, at the last depth


@pytest.mark.parametrize("objective", ["causal", "completion", "chat", "dpo"])
def test_no_next_token_is_predicted(objective):
    with pytest.raises(ModelError, match="predicts the next token, and this model's config lets every token see") as no:
        choose(Asked(Plan.parse("lora"), "decoder", 64, objective, sees_ahead=True))
    assert "classification" in no.value.hint
    assert "completion" not in no.value.hint


def test_the_objective_of_a_prompted_plan_is_not_one_of_them():
    assert choose(Asked(Plan.parse("lpt"), "decoder", 64)).name == "causal"
    assert choose(Asked(Plan.parse("lpt"), "decoder", 64, sees_ahead=True)).name == "classification"


@pytest.mark.parametrize("model_type", ["gemma", "gemma2"])
def test_a_field_that_transformers_follows_in_part_is_refused(model_type):
    config = tiny.tiny_decoder(model_type).config.to_dict() | {"use_bidirectional_attention": True}
    with pytest.raises(ModelError, match="transformers ignores it in a batch with padding"):
        shape_of(config)
    assert not shape_of(config | {"use_bidirectional_attention": False}).sees_ahead


def test_a_model_whose_own_masks_differ_is_refused(monkeypatch):
    """Remote code may have a known model type and see both ways whatever its config says."""
    module = importlib.import_module("transformers.models.llama.modeling_llama")
    monkeypatch.setattr(module, "create_causal_mask", lambda **given: create_bidirectional_mask(**_known(given)))
    with pytest.raises(ModelError, match="gives block 0 another attention_mask than llama models have"):
        apply(tiny.tiny_decoder("llama"), "2: full")


def _known(given):
    return {name: given[name] for name in ("config", "inputs_embeds", "attention_mask")}


def test_a_model_whose_own_angles_differ_is_refused(monkeypatch):
    model, moved = tiny.tiny_decoder("llama"), {"position_ids": torch.arange(3, 8)[None]}
    forward = type(model.model).forward
    monkeypatch.setattr(type(model.model), "forward", lambda self, **given: forward(self, **given | moved))
    with pytest.raises(ModelError, match="gives block 0 another position_embeddings"):
        apply(model, "2: full")


@torch.no_grad()
def test_a_model_that_accelerate_has_wrapped_is_tuned_as_before():
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    model, (ids, mask, _) = tiny.tiny_decoder("llama"), texts()
    for module in (model.model, *model.model.layers):
        add_hook_to_module(module, AlignDevicesHook(io_same_device=True))
    whole = model(input_ids=ids, attention_mask=mask.long()).logits
    assert torch.equal(apply(model, "2: lora")(input_ids=ids, attention_mask=mask.long()).logits, whole)


def test_nothing_is_drawn_or_left_behind_by_the_check():
    model = tiny.tiny_decoder("gpt2").train()
    before = torch.get_rng_state()
    backbone = Backbone(model)
    assert torch.equal(before, torch.get_rng_state())
    assert all(one.training for one in model.modules())
    assert not any("forward" in vars(block) for block in backbone.blocks)


def test_a_block_s_own_forward_is_put_back_after_its_arguments_are_recorded():
    """As accelerate sets one on each block that it wraps."""
    body = Backbone(tiny.tiny_decoder("llama")).body
    own = vars(body.blocks[0])["forward"] = body.blocks[0].forward
    with recorded(body, 2):
        assert vars(body.blocks[0])["forward"] is not own
    assert vars(body.blocks[0])["forward"] is own
    assert "forward" not in vars(body.blocks[1])
