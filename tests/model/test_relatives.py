"""Decoders that are another row but for a name, a bias or a norm: sizes, both ways through, merging, generation."""

from __future__ import annotations

import pytest
import torch
from transformers import CONFIG_MAPPING

import tiny
from decoder_checks import check_generation, check_gradients, halves, whole
from stratatune.errors import ModelError
from stratatune.model.attach import apply
from stratatune.model.backbone import Backbone
from stratatune.model.merging import merge
from stratatune.plan import shape_of
from stratatune.shapes.relatives import RELATIVES
from tuning import shake

# transformers 5.23 has no EXAONE 3.
TYPES = [name for row in RELATIVES for name in row.model_types if name in CONFIG_MAPPING]
PLANS = (
    "1:3 lora(rank=2, on=q,o,up,down) | 3: full",
    "1: prefix(tokens=2) + ia3 | adapter(depth=2) | late_prompt(depth=3, tokens=2, bottleneck=4)",
)


def base_of(family, **config):
    return tiny.tiny_decoder(family, **config).double()


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("family", TYPES)
def test_top_of_trunk_is_the_whole_model(family, plan):
    model = shake(apply(base_of(family), plan)).eval()
    resolved = model.attached.resolved
    assert resolved.trainable("causal") == sum(one.numel() for one in model.attached.trained().values())
    with torch.no_grad():  # their norms compute in fp32
        torch.testing.assert_close(halves(model), whole(model), rtol=0, atol=1e-5)
    check_gradients(model, 1e-3)


@pytest.mark.parametrize("family", TYPES)
def test_the_shape_is_that_of_the_model(family):
    model = base_of(family)
    shape = shape_of(model.config.to_dict())
    assert shape.parameters("causal") == sum(one.numel() for one in model.parameters())
    for number, block in enumerate(Backbone(model).blocks):
        assert shape.of_block(number).block_parameters == sum(one.numel() for one in block.parameters())


@pytest.mark.parametrize("family", TYPES)
def test_merged_and_generated(family):
    model = shake(
        apply(tiny.tiny_decoder(family), "2: lora(rank=2) + bitfit" if family == "jais2" else "2: lora")
    ).eval()
    check_generation(model, 3)
    with torch.no_grad():
        said = whole(model)
        plain = merge(model)
        torch.testing.assert_close(whole(plain), said, rtol=0, atol=1e-5)
    assert plain.state_dict().keys() == base_of(family).state_dict().keys()


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("stablelm", {"use_parallel_residual": True}),
        ("stablelm", {"qk_layernorm": True}),
        ("cohere", {"use_qk_norm": True}),
    ],
)
def test_other_layouts_are_refused_in_one_line(family, config):
    given = tiny.tiny_decoder(family).config.to_dict() | config
    with pytest.raises(ModelError, match=next(iter(config))):
        shape_of(given)
