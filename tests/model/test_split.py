"""Cached = uncached = the model's own forward, for every preset of the papers, both families, both kinds of head."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from asking import logits_at
from stratatune.cache.keys import CacheKey
from stratatune.cache.store import TrunkCache
from stratatune.model.families.last_block import take
from stratatune.model.split import Trunk


def remembered(model, inputs):
    """What a fp32 trunk cache gives back for the trunk's hidden state: [B, T, D], or [B, 1, D] if that is all."""
    resolved = model.attached.resolved
    one_position = resolved.frozen_depth == resolved.shape.blocks
    hidden = Trunk(model.attached)(inputs.ids, inputs.mask, inputs.types)
    rows = take(hidden, inputs.read)[:, 0] if one_position else hidden[inputs.mask]
    key = CacheKey("w", "t", "", "d", 64, resolved.frozen_depth, "read" if one_position else "all", "fp32", ())
    cache = TrunkCache.open(None, key, inputs.mask.sum(1).numpy(), resolved.shape.hidden)
    cache.put(np.arange(len(inputs.ids)), rows)
    return cache.get_padded(np.arange(len(inputs.ids)))


def relative(found, wanted):
    """Distance of two sets of gradients over the length of the wanted one."""
    assert found.keys() == wanted.keys()
    distance = sum(float((found[name] - wanted[name]).double().square().sum()) for name in wanted)
    return (distance / sum(float(wanted[name].double().square().sum()) for name in wanted)) ** 0.5


def test_whole_model_split_and_cache_agree(family, kind, preset, tuned, make_inputs):
    model, inputs = tuned(family, kind, preset), make_inputs(family, kind)
    whole = inputs.whole(model, kind)
    of_whole = inputs.gradients(model, whole)
    assert of_whole.keys() == model.attached.trained().keys()

    ways = {"split": inputs.split(model)}
    if not model.attached.resolved.trains_embeddings:
        ways["cache"] = logits_at(model.attached, remembered(model, inputs), inputs.mask, inputs.read)
    for way, logits in ways.items():
        torch.testing.assert_close(logits, whole, atol=1e-5, rtol=0, msg=lambda text, way=way: f"{way}: {text}")
        assert relative(inputs.gradients(model, logits), of_whole) < 1e-5, way


def test_every_gradient_agrees_in_double_precision(family, kind, preset, tuned, make_inputs):
    model, inputs = tuned(family, kind, preset).double(), make_inputs(family, kind)
    of_whole = inputs.gradients(model, inputs.whole(model, kind))
    of_split = inputs.gradients(model, inputs.split(model))
    for name, wanted in of_whole.items():
        torch.testing.assert_close(
            of_split[name], wanted, atol=1e-12, rtol=1e-8, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("padded", [True, False])
def test_attention_and_padding_change_nothing(family, attention, padded, tuned, make_inputs):
    model, inputs = tuned(family, "mlm", "bft@1", attn_implementation=attention), make_inputs(family, "mlm")
    if not padded:
        inputs.mask[:] = True
    torch.testing.assert_close(inputs.split(model), inputs.whole(model, "mlm"), atol=1e-5, rtol=0)


def test_padding_never_shows(family, preset, tuned, make_inputs):
    """A row alone gives what it gives beside longer ones: nothing reads a padded position."""
    model, inputs = tuned(family, "mlm", preset), make_inputs(family, "mlm")
    together = inputs.split(model)
    for row, length in enumerate(inputs.mask.sum(1).tolist()):
        types = None if inputs.types is None else inputs.types[row : row + 1, :length]
        mask = inputs.mask[row : row + 1, :length]
        hidden = Trunk(model.attached)(inputs.ids[row : row + 1, :length], mask, types)
        alone = logits_at(model.attached, hidden, mask, inputs.read[row : row + 1])
        torch.testing.assert_close(alone, together[row : row + 1], atol=1e-5, rtol=0)


def test_label_words_alone_give_the_same_logits(family, preset, tuned, make_inputs):
    model, inputs = tuned(family, "mlm", preset), make_inputs(family, "mlm")
    words = torch.tensor([7, 50, 21])
    hidden = Trunk(model.attached)(inputs.ids, inputs.mask, inputs.types)
    few = logits_at(model.attached, hidden, inputs.mask, inputs.read, words)
    torch.testing.assert_close(few, inputs.whole(model, "mlm")[:, words], atol=1e-5, rtol=0)


@pytest.mark.parametrize("plan", ["adapter(depth=4)", "adapter(depth=4) | 2: bitfit", "late_prompt(depth=0, tokens=2)"])
def test_insertions_at_the_ends(family, kind, plan, tuned, make_inputs):
    model, inputs = tuned(family, kind, plan), make_inputs(family, kind)
    whole = inputs.whole(model, kind)
    torch.testing.assert_close(inputs.split(model), whole, atol=1e-5, rtol=0)
    of_whole = inputs.gradients(model, whole)
    assert relative(inputs.gradients(model, inputs.split(model)), of_whole) < 1e-5


def test_two_insertions_and_a_prompt_above_a_prompt(family, tuned, make_inputs):
    plan = "late_prompt(depth=1, tokens=2) | late_prompt(depth=3, tokens=3) | adapter(depth=1) | adapter(depth=4)"
    model, inputs = tuned(family, "mlm", plan), make_inputs(family, "mlm")
    whole = inputs.whole(model, "mlm")
    torch.testing.assert_close(inputs.split(model), whole, atol=1e-5, rtol=0)
    assert inputs.gradients(model, whole).keys() == model.attached.trained().keys()


def test_the_trunk_knows_no_dropout_and_no_graph(family, tuned, make_inputs):
    model, inputs = tuned(family, "mlm", "bft"), make_inputs(family, "mlm")
    quiet = Trunk(model.attached)(inputs.ids, inputs.mask, inputs.types)
    model.train()
    loud = Trunk(model.attached)(inputs.ids, inputs.mask, inputs.types)
    assert torch.equal(quiet, loud) and not loud.requires_grad


def test_no_parameter_is_in_two_groups(family, kind, preset, tuned):
    strata = tuned(family, kind, preset).attached
    grouped = [id(parameter) for group in strata.groups for parameter in group.parameters]
    assert sorted(grouped) == sorted(id(parameter) for parameter in strata.trained().values())
