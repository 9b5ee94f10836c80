"""What every method promises, generated from the registry: a new method is tested by being registered."""

from __future__ import annotations

import pytest
import torch

import tiny
from stratatune.methods.registry import INSERTIONS, METHODS
from stratatune.model.tuned import apply
from stratatune.plan import treatments

IDENTITY_AT_START = {*METHODS, "adapter"}  # a late prompt changes the sequence from the first step


def plan_of(kind):
    return f"{kind}(depth=2)" if kind in INSERTIONS else f"1: {kind}"


def inputs():
    return torch.tensor([[5, 17, 30, 44], [6, 71, 80, 9]])


def shaken(model):
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.strata.trained().values():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) * 0.1)
    return model


def test_every_treatment_of_the_plan_language_has_a_method():
    assert {*METHODS, "frozen"} == treatments.BLOCK_TREATMENTS.keys()
    assert INSERTIONS.keys() == treatments.INSERTIONS.keys()


@pytest.mark.parametrize("kind", [*METHODS, *INSERTIONS])
def test_starts_as_the_base_model(family, kind):
    base, model = tiny.tiny_model(family), apply(tiny.tiny_model(family), plan_of(kind))
    with torch.no_grad():
        same = torch.equal(model(inputs()).logits, base(inputs()).logits)
    assert same == (kind in IDENTITY_AT_START)


@pytest.mark.parametrize("kind", [*METHODS, *INSERTIONS])
def test_trains_exactly_what_its_formula_counts(family, kind):
    model = apply(tiny.tiny_model(family), plan_of(kind))
    resolved = model.strata.resolved
    placed = [one for block in resolved.blocks for one in block] or [one for _, one in resolved.insertions]
    trained = sum(parameter.numel() for parameter in model.strata.trained().values())
    assert trained == sum(one.parameters(resolved.shape) for one in placed) > 0
    assert {id(p) for group in model.strata.groups for p in group.parameters} == {
        id(p) for p in model.strata.trained().values()
    }


@pytest.mark.parametrize("kind", METHODS)
def test_merged_is_unmerged_and_leaves_the_base_model_s_modules(family, kind):
    base, model = tiny.tiny_model(family), shaken(apply(tiny.tiny_model(family), plan_of(kind)).double())
    with torch.no_grad():
        unmerged = model(inputs()).logits
        for number, block in enumerate(model.strata.resolved.blocks):
            for treatment in block:
                METHODS[treatment.kind].merge(treatment, model.strata.backbone.site(number))
        torch.testing.assert_close(model(inputs()).logits, unmerged, atol=1e-10, rtol=0)
        assert not torch.equal(unmerged.float(), base(inputs()).logits)
    assert [name for name, _ in model.named_modules()] == [name for name, _ in base.named_modules()]


@pytest.mark.parametrize("kind", INSERTIONS)
def test_an_insertion_says_why_it_cannot_be_merged(kind):
    assert INSERTIONS[kind].refuses_merge
