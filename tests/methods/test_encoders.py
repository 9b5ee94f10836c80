"""Every method of the registries on every encoder of the table: it works, or a PlanError says why not."""

from __future__ import annotations

import copy

import pytest
import torch

import tiny
from stratatune.errors import PlanError
from stratatune.model.attach import apply
from stratatune.model.merging import merge, remove
from stratatune.plan import ARCHITECTURES
from tuning import MIXES, PLANS, halves, read_at, shake, whole

TYPES = [row.model_types[0] for row in ARCHITECTURES if row.family == "encoder" and row.mlm_head]
REASONS = {
    "albert": ("they are the same weights",),
    "deberta-v2": ("q reads a table of positions",),
    "modernbert": ("trains nothing in a block of modernbert",),
}
"""What may be refused, and nothing else."""


def batch(model_type: str) -> dict[str, torch.Tensor]:
    mask = torch.arange(9) < torch.tensor([9, 5, 7])[:, None]
    ids = torch.randint(5, 100, (3, 9), generator=torch.Generator().manual_seed(3)).masked_fill(~mask, 1)
    return {"input_ids": ids, "attention_mask": mask.long()}


def plan_for(model_type: str, text: str) -> str:
    """The plan; in all blocks, where they are the same weights."""
    return text.replace("1: ", ": ").replace("2: ", ": ").replace("3: ", ": ") if model_type == "albert" else text


@pytest.mark.parametrize("kind", ["mlm", "classification"])
@pytest.mark.parametrize("model_type", TYPES)
@pytest.mark.parametrize("text", (*PLANS, *MIXES, "embeddings full | 2: lora", "embeddings full | head(mlm=decoder)"))
def test_works_or_says_why_not(model_type, text, kind):
    base, inputs, read = tiny.tiny_of(model_type, kind).double(), batch(model_type), read_at(kind)
    try:
        model = shake(apply(copy.deepcopy(base), plan_for(model_type, text)))
    except PlanError as error:
        assert any(reason in error.message for reason in REASONS.get(model_type, ())), error
        return
    trained = sum(parameter.numel() for parameter in model.attached.trained().values())
    new = sum(parameter.numel() for parameter in model.attached.backbone.output_layer())
    assert trained == model.attached.resolved.trainable(kind) + new
    with torch.no_grad():
        found = whole(model, inputs, read)
        torch.testing.assert_close(halves(model, inputs, read), found, rtol=0, atol=1e-10)
        _back_to_an_ordinary_model(model, base, inputs, read, found)


def _back_to_an_ordinary_model(model, base, inputs, read, found):
    """Merged, the same logits; taken off, the base's: where either is possible."""
    names = [name for name, _ in base.named_parameters()]
    for way, wanted in ((merge, found), (remove, whole(base, inputs, read))):
        back = copy.deepcopy(model)
        if way is remove and model.attached.backbone.head.name == "sequence":
            continue  # the new output layer stays as it was trained
        try:
            way(back)
        except PlanError:
            continue
        wanted_names = names if way is remove else [name for name, _ in type(base)(back.config).named_parameters()]
        assert [name for name, _ in back.named_parameters()] == wanted_names
        torch.testing.assert_close(whole(back, inputs, read), wanted, rtol=0, atol=1e-10)
