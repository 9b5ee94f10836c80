"""The count of operations against torch's own counter, to the last operation."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import tiny
from stratatune.costs.flops import example
from stratatune.errors import PlanError
from stratatune.model.attach import apply

T, LABELS = 8, 3
MAKERS = {"bert": tiny.tiny_of, "roberta": tiny.tiny_of, "modernbert": tiny.tiny_of, "gpt2": tiny.tiny_decoder}
MAKERS |= dict.fromkeys(("llama", "gemma2", "olmo2"), tiny.tiny_decoder)
PLANS = [  # without DoRA, whose norm is left out
    *(f"2: {kind}" for kind in ("full", "lora", "ia3", "bitfit", "parallel", "prefix", "delta_bias")),
    *(f"2: {kind}(on={role})" for kind in ("full", "lora") for role in ("q", "k", "v", "o", "up", "down")),
    *(f"2: full(on={norm})" for norm in ("norm_attn", "norm_ffn")),
    *("2: parallel(on=attn)", "2: houlsby(on=down)", "2: full(on=attn) + prefix", "2:3 lora(on=down) | 3: prefix"),
    *(
        "2: lora(on=q) + parallel",
        "adapter(depth=2)",
        ": full",
        "embeddings full",
        "2: ia3(on=down) + parallel(on=ffn)",
    ),
]


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("text", PLANS)
def test_it_is_that_of_torch(name, text):
    torch.manual_seed(0)
    try:
        model = apply(MAKERS[name](name, "classification", attn_implementation="eager"), text).train()
    except PlanError as error:
        pytest.skip(f"refused on {name}: {error.message}")
    ids = torch.randint(5, 50, (1, T))
    with FlopCounterMode(display=False) as counted:
        model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.sum().backward()
    resolved = model.attached.resolved
    places = T if resolved.shape.causal else 1  # transformers' classifier of a decoder runs at every token
    trunk, top = example(resolved, T, "sequence", labels=LABELS, places=places)
    assert counted.get_total_flops() == trunk.flops + top.flops
