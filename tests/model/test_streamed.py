"""A trunk that is read from its checkpoint block by block says what the one in memory says, to the bit."""

from __future__ import annotations

import pytest
import torch

import tiny
from checkpoints import EVERY, HALF, inputs, saved
from stratatune.model.attach import apply
from stratatune.model.base import load_base
from stratatune.model.precision import cast_frozen
from stratatune.model.question import Question
from stratatune.model.split import Trunk
from stratatune.model.unread import Unread
from stratatune.model.waves import Texts, run_wave

DEPTH = 2


def tuned(folder, head, plan=f"{DEPTH}: full", *, below=0, autocast=False):
    model = apply(load_base(str(folder), head, unread_below=below).model, plan).eval()
    if autocast:
        cast_frozen(model.attached, HALF)
    return model


def batches(family):
    given = inputs(family)
    ids, mask = given["input_ids"], given["attention_mask"].bool()
    return [(ids, mask), (ids[:1, :5], mask[:1, :5]), (ids.flip(0)[:2], mask.flip(0)[:2])]


def in_memory(model):
    return sum(one.nbytes for one in model.parameters() if not one.is_meta)


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", EVERY)
def test_a_wave_says_what_the_trunk_in_memory_says(family, dtype, autocast, tmp_path):
    _, head = saved(tmp_path, family, dtype)
    plan = f"adapter(depth={DEPTH})" if family == "albert" else f"{DEPTH}: full"
    whole = tuned(tmp_path, head, plan, autocast=autocast)
    streamed = tuned(tmp_path, head, plan, below=DEPTH, autocast=autocast)
    assert streamed.attached.base == whole.attached.base
    unread = Unread.of(streamed)
    assert unread is not None
    blocks = streamed.attached.backbone.blocks
    assert any(one.is_meta for one in blocks[0].parameters()) != (family == "albert"), "its blocks run above too"
    assert not any(one.is_meta for block in blocks[DEPTH:] for one in block.parameters())
    before = in_memory(streamed)
    with torch.autocast("cpu", dtype=HALF, enabled=autocast):
        wanted = [Trunk(whole.attached)(ids, mask) for ids, mask in batches(family)]
        asked = [Texts(ids, mask, None, Question()) for ids, mask in batches(family)]
        found = run_wave(streamed.attached.backbone.family, unread, DEPTH, asked)
    for one, other in zip(found, wanted, strict=True):
        if dtype == torch.float32 and family in tiny.EXPERTS:
            # transformers maps a file in fp32, and where a tensor of it begins decides the kernel.
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(one, other)
    assert {one.dtype for one in found} == {one.dtype for one in wanted}
    assert in_memory(streamed) == before
