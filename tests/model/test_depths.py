"""Every depth read in one forward is what the trunk of a plan at that depth gives, for every row of the table."""

from __future__ import annotations

import pytest
import torch

import tiny
from stratatune.errors import ModelError
from stratatune.model.attach import apply
from stratatune.model.backbone import Backbone
from stratatune.model.depths import Depths
from stratatune.model.split import Trunk
from stratatune.plan import ARCHITECTURES

ENCODERS = [name for row in ARCHITECTURES if row.family == "encoder" and row.mlm_head for name in row.model_types]


def build(name):
    return tiny.tiny_decoder(name) if name in tiny.DECODERS else tiny.tiny_of(name)


@pytest.mark.parametrize("name", [*ENCODERS, *tiny.DECODERS])
def test_depths_are_the_trunks(name):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([9, 5, 7])
    mask = torch.arange(9) < lengths[:, None]
    ids = torch.randint(5, 100, (3, 9), generator=generator).masked_fill(~mask, 1)
    read = lengths - 1
    model = build(name).train()  # Depths itself leaves dropout out
    depths = Depths(Backbone(model))
    found = depths(ids, mask, None, read)
    assert found.shape == (3, depths.count, 1 if name in tiny.DECODERS else 2, 32)
    assert depths(ids, mask, None, read).equal(found)
    for depth in range(depths.count):
        hidden = Trunk(apply(build(name), f"adapter(depth={depth})").attached)(ids, mask, None)
        torch.testing.assert_close(found[:, depth, 0], hidden[torch.arange(3), read])
        if name not in tiny.DECODERS:
            means = torch.stack([row[:length].mean(0) for row, length in zip(hidden, lengths, strict=True)])
            torch.testing.assert_close(found[:, depth, 1], means)


def test_no_hook_stays_behind():
    model = tiny.tiny_bert()
    depths = Depths(Backbone(model))
    ids = torch.tensor([[5, 6, 7]])
    depths(ids, torch.ones_like(ids, dtype=torch.bool), None, torch.tensor([0]))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_an_encoder_decoder_is_refused():
    with pytest.raises(ModelError, match="generates its labels as text"):
        Depths(Backbone(tiny.tiny_encoder_decoder("bart")))
