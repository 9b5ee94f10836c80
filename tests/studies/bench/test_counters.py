"""The cost model held to what is counted while models run: operations, bytes, padding. Never seconds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from benchmarks.counters import counted_flops, resident_bytes, saved_bytes
from torch import nn

import tiny
from asking import logits_at
from stratatune.costs.flops import example, head_work, reads_one
from stratatune.data.batching import padding_ratio, plan_batches
from stratatune.model.attach import apply
from stratatune.model.question import Question
from stratatune.plan import Plan, shape_of
from stratatune.studies.bench.arms import lengths_like

B, T, LABELS = 3, 13, 3
SIZES = {"hidden": 64, "ffn": 256, "heads": 4, "blocks": 4, "attn_implementation": "eager"}
PLANS = (
    "bft-adapter@2",
    "bft-adapter+ffd@2",
    "bft@2",
    "adapter(depth=4, bottleneck=8)",
    "late_prompt(depth=2, tokens=3, bottleneck=8)",
    "spafit-1-2-II",
    "2: bitfit",
    "3: bitfit(on=down)",
    "2: lora(rank=4, alpha=4, on=o)",
    "1:2 lora(rank=4, alpha=4, on=up) | 2: bitfit(on=q)",
    "2: houlsby",
    "lora",
    "1: full",
    "full",
    "head",
)


def tuned(family, kind, plan):
    return apply(tiny.tiny_model(family, kind, **SIZES), plan).train()


def loss_of(model, tokens=T, words=None):
    """A function that runs the top, as from a cache, and gives a loss."""
    hidden = torch.randn(B, tokens, 64, requires_grad=model.attached.resolved.trains_embeddings)
    mask, read = torch.ones(B, tokens, dtype=torch.bool), torch.full((B,), tokens - 2)
    return lambda: logits_at(model.attached, hidden, mask, read, words).logsumexp(-1).sum()


@pytest.mark.parametrize("kind", ["mlm", "classification"])
@pytest.mark.parametrize("plan", PLANS)
def test_a_step_from_the_cache_does_the_operations_of_the_formula(family, kind, plan):
    """To the last one: truncation, the first block's own gradients, and the last block at one position."""
    model = tuned(family, kind, plan)
    loss = loss_of(model)
    _, top = example(model.attached.resolved, T, kind, read_last=True, labels=LABELS)
    assert counted_flops(lambda: loss().backward()) == B * top.flops


def stock(family, lora):
    """Arms F and A: the whole model of transformers, plain or under peft."""
    model = tiny.tiny_model(family, "classification", **SIZES)
    if not lora:
        return model.requires_grad_(True).train()
    peft = pytest.importorskip("peft")
    wanted = peft.LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=16, target_modules=["query", "value"])
    return peft.get_peft_model(model, wanted).train()


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("plan", [": lora", "full"])
def test_the_ways_of_today_do_the_operations_of_the_formula(family, plan):
    model = stock(family, "lora" in plan)
    resolved = Plan.parse(plan).resolve(shape_of(tiny.tiny_model(family, "classification", **SIZES).config.to_dict()))
    ids, mask = torch.randint(5, 100, (B, T)), torch.ones(B, T, dtype=torch.long)

    def step():
        model(input_ids=ids, attention_mask=mask).logits.logsumexp(-1).sum().backward()

    parts = example(resolved, T, "classification", read_last=False, labels=LABELS)
    assert counted_flops(step) == B * sum(part.flops for part in parts)


DECODER_PLANS = (
    "bft-adapter@2",
    "bft@1",
    "late_prompt(depth=2, tokens=3, bottleneck=8)",
    "2: lora(rank=4, alpha=4, on=o)",
    "2: houlsby",
    "lora",
    "1: full",
    "full",
    "head",
)


BESIDE = ("lora(rank=4, alpha=4, on=q)", "lora(rank=4, alpha=4, on=v)", "delta_bias(on=k)", "ia3")


FURTHER = (
    *("1: full", "late_prompt(depth=2, tokens=3, bottleneck=8)", "2: full(on=norms)", "2: full(on=o)"),
    *("1: ia3(on=down)", *(f"1: {which}" for which in BESIDE)),
)


@pytest.mark.parametrize("kind", ["causal", "classification"])
@pytest.mark.parametrize(
    ("family", "plan"),
    [(family, plan) for family in ("gpt2", "llama") for plan in DECODER_PLANS]
    + [("gpt2", "2: bitfit"), ("gpt2", "1:2 lora(rank=4, alpha=4, on=up) | 2: bitfit(on=q)"), ("qwen3", "1: full")]
    + [(family, f"{start}: {which}") for family in ("gpt2", "qwen3") for start in (1, 2) for which in BESIDE]
    + [(family, plan) for family in ("olmo2", "phi3", "phi") for plan in FURTHER],
)
def test_a_decoders_step_from_the_cache_does_the_operations_of_the_formula(family, kind, plan):
    """To the last one: norms before and behind their parts, grouped queries, q, k and v as one tensor, parallel parts.

    So too where the last block runs at one position: its queries are made twice, with all keys and values and alone.
    """
    model = apply(tiny.tiny_decoder(family, kind, blocks=3, attn_implementation="eager"), plan).train()
    resolved = model.attached.resolved
    tokens = 1 if model.attached.all_in_trunk else T
    hidden = torch.randn(B, tokens, 32, requires_grad=resolved.trains_embeddings)
    mask, read = torch.ones(B, T, dtype=torch.bool), torch.full((B,), T - 1)
    _, formula = example(resolved, T, kind, read_last=reads_one(resolved.shape, kind), labels=LABELS)
    found = counted_flops(lambda: logits_at(model.attached, hidden, mask, read).logsumexp(-1).sum().backward())
    assert found == B * formula.flops


def test_truncation_and_the_cache_save_memory(family):
    """Against full tuning of the same four blocks: two blocks, of which the last at one position, keep a third."""
    ours, full = tuned(family, "classification", "bft-adapter@2"), tuned(family, "classification", "full")
    mine, theirs = (saved_bytes(loss_of(model), model) for model in (ours, full))
    assert 3 * mine < theirs
    assert resident_bytes(*ours.attached.top_weights()) < 0.6 * resident_bytes(full)


def test_the_last_block_computes_one_position(family):
    """From T to 2 T tokens its operations grow by keys and values alone, and what attends to them."""
    model = tuned(family, "classification", "bft-adapter@3")
    short, long = (counted_flops(loss_of(model, tokens)) for tokens in (T, 2 * T))
    keys_and_values, attention, adapter = 2 * 2 * 64 * 64, 2 * 2 * 64, 2 * 2 * 64 * 16
    assert long - short == B * T * (keys_and_values + attention + adapter)


@pytest.mark.parametrize("size", [{"batch_size": 32}, {"token_budget": 512}])
def test_batches_cut_by_length_hold_little_padding(size):
    lengths = lengths_like("sst2", 20_000)
    assert padding_ratio(plan_batches(lengths, **size, seed=0, epoch=0), lengths) < 1.1
    order = np.random.default_rng(0).permutation(len(lengths))
    assert padding_ratio(np.split(order, 625), lengths) > 2.5


LARGE = Plan.parse("bft-adapter@18").resolve(shape_of("roberta-large"))


@pytest.mark.parametrize(("tokens", "words", "share"), [(64, 0, 0.02), (13, 2, 0.003)])
def test_the_head_takes_a_small_share_of_a_step(tokens, words, share):
    """Over the vocabulary at 64 tokens; at SST-2's 13 tokens the loss over label words alone keeps it small."""
    _, top = example(LARGE, tokens, "mlm", read_last=True, words=words)
    head = head_work(LARGE, "mlm", arrives=True, labels=0, words=words)
    assert head.flops < share * top.flops


@pytest.mark.parametrize("words", [None, [5, 6]])
def test_the_heads_share_is_counted_on_a_twin(family, words):
    """The operations of the head alone, of a model with RoBERTa's ratio of vocabulary to width, as by the formula."""
    model = tuned(family, "mlm", "bft-adapter@2")
    hidden = torch.randn(B, 1, 64, requires_grad=True)
    asked = Question(rows=None if words is None else torch.tensor(words))
    mask = torch.ones(B, 1, dtype=torch.bool)

    def head() -> None:
        model.attached.backbone.head.logits(hidden, mask, asked).logsumexp(-1).sum().backward()

    formula = head_work(model.attached.resolved, "mlm", True, labels=0, words=len(words or ()))
    assert counted_flops(head) == B * formula.flops


def test_each_storage_is_counted_once():
    layer = nn.Linear(8, 8)
    x = torch.randn(4, 8, requires_grad=True)
    assert saved_bytes(lambda: layer(x).relu().sum(), layer) == 2 * 4 * 8 * 4  # the input and the output of relu
    assert resident_bytes(layer, layer.weight) == (64 + 8) * 4


def test_what_autograd_drops_meanwhile_does_not_count():
    layer, x = nn.Linear(8, 8), torch.randn(4, 8)

    def step():
        for _ in range(3):
            layer(x * 1).relu()  # for nothing
        return layer(x).relu()

    assert saved_bytes(step, layer) == 2 * 4 * 8 * 4
