"""The count of operations against torch's own counter, to the last operation."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel

import tiny
from stratatune.costs.cost import cost
from stratatune.costs.flops import example, reads_one
from stratatune.errors import PlanError
from stratatune.model.attach import apply
from stratatune.model.question import Question
from stratatune.model.split import Top
from stratatune.objectives.registry import OBJECTIVES
from stratatune.shapes.sizes import shape_of

T, LABELS = 8, 3
MAKERS = {"bert": tiny.tiny_of, "roberta": tiny.tiny_of, "modernbert": tiny.tiny_of, "gpt2": tiny.tiny_decoder}
DECODERS = ("llama", "gemma2", "olmo2", "gpt_neox", "pythia", "qwen3_moe", "gpt_oss", "gemma4_moe")
MAKERS |= dict.fromkeys(DECODERS, tiny.tiny_decoder)
PLANS = [  # without DoRA, whose norm is left out
    *(f"2: {kind}" for kind in ("full", "lora", "ia3", "bitfit", "parallel", "prefix", "delta_bias")),
    *(f"2: {kind}(on={role})" for kind in ("full", "lora") for role in ("q", "k", "v", "o", "up", "down")),
    *(f"2: full(on={role})" for role in ("norm_attn", "norm_ffn", "router", "experts")),
    *("2: lora(on=experts)", "2:3 lora(on=experts) | 3: lora"),
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
    # Of Gemma 4 transformers has no classifier.
    kind, head = ("causal", "lm") if name == "gemma4_moe" else ("classification", "sequence")
    try:
        model = apply(MAKERS[name](name, kind, attn_implementation="eager"), text).train()
    except PlanError as error:
        pytest.skip(f"refused on {name}: {error.message}")
    ids = torch.randint(5, 50, (1, T))
    with FlopCounterMode(display=False) as counted:
        model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.sum().backward()
    resolved = model.attached.resolved
    places = T if resolved.shape.causal else 1  # transformers' classifier of a decoder runs at every token
    trunk, top = example(resolved, T, head, labels=LABELS, places=places)
    assert counted.get_total_flops() == trunk.flops + top.flops


def test_our_own_top_of_a_classifier_that_pools_every_token():
    torch.manual_seed(0)
    own = {"classifier_pooling": "mean", "attn_implementation": "eager"}
    model = apply(tiny.tiny_of("modernbert", "classification", **own), "3: lora(rank=2)").train()
    hidden = torch.randn(1, T, model.attached.resolved.shape.hidden)
    with FlopCounterMode(display=False) as counted:
        Top(model.attached)(hidden, torch.ones(1, T, dtype=torch.bool), Question()).sum().backward()
    shape = shape_of(model.config.to_dict())
    resolved = model.attached.resolved.plan.resolve(shape)
    _, top = example(resolved, T, "sequence", labels=LABELS, read_last=reads_one(shape, "classification"))
    assert counted.get_total_flops() == top.flops


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "mpnet", "modernbert", "albert"])
@pytest.mark.parametrize(
    "text",
    [
        "adapter(depth=3)",
        *(f"3: {what}" for what in ("full", "lora", "full(on=q)", "lora(on=o)", "prefix", "parallel")),
    ],
)
def test_our_own_top_at_one_position(name, text):
    """As ``vectors(pooling=first)`` has it. Attention that cannot be asked for one query runs for all tokens."""
    torch.manual_seed(0)
    config = tiny.tiny_of(name).config
    try:
        model = apply(AutoModel.from_config(config, attn_implementation="eager"), text).train()
    except PlanError as error:
        pytest.skip(f"refused on {name}: {error.message}")
    hidden = torch.randn(1, T, model.attached.resolved.shape.hidden)
    first = Question(places=torch.zeros(1, 1, dtype=torch.long))
    with FlopCounterMode(display=False) as counted:
        Top(model.attached)(hidden, torch.ones(1, T, dtype=torch.bool), first).sum().backward()
    resolved = model.attached.resolved
    assert reads_one(resolved.shape, "vectors", "one") and not reads_one(resolved.shape, "vectors")
    _, top = example(resolved, T, "none", read_last=True)
    assert counted.get_total_flops() == top.flops
    settings = {"objective": "vectors", "memory": False, "dtype": "fp32"}
    found = cost(resolved, lengths=[T] * 4, batch_size=4, positions="one", **settings)
    assert found.epochs["cached"].flops == 4 * top.flops
    assert cost(resolved, lengths=[T] * 4, batch_size=4, **settings).epochs["cached"].flops > 4 * top.flops


@pytest.mark.parametrize(
    ("pooling", "positions", "rows"), [("mean", "all", 12), ("first", "one", 2), ("last", "one", 2)]
)
def test_vectors_of_one_token_keep_one(pooling, positions, rows):
    kind = OBJECTIVES["vectors"]
    assert kind.positions_under({"pooling": pooling}) == positions
    assert kind.positions_under({}) == "all"
    shape = shape_of(tiny.tiny_of("bert").config.to_dict())
    settings = {"dtype": "fp32", "objective": "vectors", "memory": False, "positions": positions}
    assert cost("frozen", shape, [5, 7], **settings).cache_bytes == rows * shape.hidden * 4


@pytest.mark.parametrize(("pooling", "rows"), [("cls", 2), ("mean", 12)])
def test_the_cache_keeps_what_the_head_pools(pooling, rows):
    shape = shape_of(tiny.tiny_of("modernbert", "classification", classifier_pooling=pooling).config.to_dict())
    settings = {"dtype": "fp32", "objective": "classification", "memory": False}
    assert cost("frozen", shape, [5, 7], **settings).cache_bytes == rows * shape.hidden * 4
