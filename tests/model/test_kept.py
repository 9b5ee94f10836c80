"""Bytes kept for the backward pass, measured on fake tensors, against what real steps of small models keep.

Real ones are counted by saved-tensor hooks too, of a padded batch, the weights left out; what is measured must be
within 3 % of it.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from benchmarks.counters import saved_bytes
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import tiny
from stratatune.costs.cost import cost, top_text
from stratatune.errors import PlanError
from stratatune.model.attach import apply
from stratatune.model.backbone import Backbone
from stratatune.model.kept import Step, kept_bytes
from stratatune.model.precision import cast_frozen
from stratatune.model.question import Question
from stratatune.model.split import Top, Trunk
from stratatune.plan import ARCHITECTURES, Plan, shape_of
from stratatune.studies.bench.arms import with_peft
from stratatune.training.working import working_copies
from tuning import PLANS

B, T, LABELS = 3, 13, 3
SEQ2SEQ = ("t5", "t5-gated", "bart")
ENCODERS = [name for row in ARCHITECTURES if row.family == "encoder" for name in row.model_types]
ATTENTION_DROPOUT = {
    "bert": {"attention_probs_dropout_prob": 0.0},
    "llama": {"attention_dropout": 0.0},
    "modernbert": {"attention_dropout": 0.0},
    "t5": {"dropout_rate": 0.0},
}
OURS = {"attn_implementation": "eager"}  # as load_base asks for it on a CPU


def lm_head(family):
    return "seq2seq_lm" if family in SEQ2SEQ else "lm" if family in (*tiny.DECODERS, *tiny.EXPERTS) else "masked_lm"


def made(family, head, **settings):
    """A tiny model with a head; padding is 1, and in two stacks 2 ends a text."""
    speaks = head != "sequence"
    if family in SEQ2SEQ:
        return tiny.tiny_encoder_decoder(family, "seq2seq" if speaks else "classification", **settings)
    if family in (*tiny.DECODERS, *tiny.EXPERTS):
        return tiny.tiny_decoder(family, "causal" if speaks else "classification", **settings)
    return tiny.tiny_of(family, "mlm" if speaks else "classification", **settings)


def texts(tokens):
    """Ids and mask [B, T]; the first text is two tokens shorter."""
    ids, mask = torch.randint(5, 50, (B, tokens)), torch.ones(B, tokens, dtype=torch.bool)
    ids[:, -1], ids[0, -3:], mask[0, -2:] = 2, torch.tensor([2, 1, 1]), False
    return ids, mask


def loss_of(logits):
    wide = logits.float().reshape(-1, logits.shape[-1])
    return nn.functional.cross_entropy(wide, torch.zeros(len(wide), dtype=torch.long))


def mixed(low):
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=low)


def ours(model, low, tokens=T):
    """What a step of our loop keeps."""
    torch.manual_seed(0)
    attached = model.train().attached
    if low:
        cast_frozen(attached, torch.bfloat16)
    (ids, mask), resolved = texts(tokens), attached.resolved
    places = mask.sum(1, keepdim=True) - 1 if attached.backbone.head.speaks else None
    question = Question(places, targets=ids if len(resolved.shape.stacks) > 1 else None)
    hidden = torch.randn(B, 1 if attached.all_in_trunk else tokens, resolved.shape.hidden)
    hidden = hidden.bfloat16() if low else hidden

    def step():
        with mixed(low):
            below = Trunk(attached)(ids, mask) if resolved.trains_embeddings else hidden
            logits = Top(attached)(below, mask, question)
        return loss_of(logits)

    with working_copies(attached, torch.bfloat16 if low else None) as copies:
        return saved_bytes(step, model, *attached.top_weights(), *copies.by_master.values())


def measured(resolved, head, low, *, stock=False, lengths=(T,)):
    return kept_bytes(resolved, Step(head, B, LABELS, not stock, stock, low), lengths)


def check(family, head, plan, low, rel=0.03):
    try:
        model = apply(made(family, head, **OURS), plan)
    except PlanError as error:
        pytest.skip(error.message)
    resolved = model.attached.resolved
    assert measured(resolved, head, low)[T] == pytest.approx(ours(model, low), rel=rel)


HEADLESS = {name for row in ARCHITECTURES if row.family == "encoder" and not row.mlm_head for name in row.model_types}


@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("plan", ["bft-adapter@2", "lora"])
@pytest.mark.parametrize("family", [*ENCODERS, *tiny.DECODERS, *SEQ2SEQ])
def test_every_architecture(family, plan, low):
    """With its LM head in half of the cases, with a classifier in the others."""
    check(family, lm_head(family) if (plan == "lora") == low and family not in HEADLESS else "sequence", plan, low)


@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("plan", ["lora", "2: lora(on=o)", "full", "2: full(on=experts)", "2: lora(on=experts)"])
@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss", "gemma4_moe"])
def test_experts(family, plan, low):
    """Of fake tensors none is chosen, so one stands for all; of tiny experts each keeps indices beside its rows."""
    check(family, "lm", plan, low, rel=0.06)


@pytest.mark.parametrize("plan", [*PLANS, "full", "bft@2"])
@pytest.mark.parametrize("family", ["bert", "llama", "t5"])
def test_every_method(family, plan):
    check(family, lm_head(family), plan, True)


@pytest.mark.parametrize("plan", ["1: houlsby", "1: parallel(on=attn)", "adapter(depth=2)", "idpg(tokens=2)"])
def test_it_does_not_depend_on_what_ran_before(plan):
    """torch moves a module of fake tensors only once its operations are in the cache of the fake mode."""
    FakeTensorMode.cache_clear()
    check("bert", "masked_lm", plan, True)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("arm", ["A", "C", "F"])
@pytest.mark.parametrize(
    ("family", "head"), [("roberta", "sequence"), ("gpt2", "lm"), ("llama", "lm"), ("gemma2", "lm")]
)
def test_the_ways_of_today(family, head, arm, low):
    """Stock peft, the topmost blocks and the whole model, by the model's own forward and attention."""
    torch.manual_seed(0)
    model = made(family, head, use_cache=False)
    backbone = Backbone(model)
    plan = {"A": "lora", "C": top_text(backbone.shape), "F": "full"}[arm]
    resolved = Plan.parse(plan).resolve(backbone.shape)
    model.requires_grad_(arm == "F")
    for block in backbone.blocks[resolved.frozen_depth :] if arm == "C" else ():
        block.requires_grad_(True)
    for parameter in backbone.output_layer():
        parameter.requires_grad_(True)
    if arm == "A":
        pytest.importorskip("peft")
        model = with_peft(model)
    ids, mask = texts(T)

    def step():
        with mixed(low):
            logits = model(input_ids=ids, attention_mask=mask.long()).logits
        return loss_of(logits)

    found = measured(resolved, head, low, stock=True)[T]
    assert found == pytest.approx(saved_bytes(step, model.train()), rel=0.03)


@pytest.mark.parametrize(
    ("family", "plan"),
    [
        ("bert", "late_prompt(depth=2, tokens=3)"),
        ("bert", "0:2 frozen | 2:7 bitfit | 7: lora"),
        ("gemma3_text", "1: lora"),
        ("albert", "lora"),
        ("t5", "1: lora"),
    ],
)
def test_few_blocks_and_lengths_tell_of_all(family, plan):
    """Of nine and ten blocks three of a run are built; of five lengths three are measured."""
    head = lm_head(family)
    settings = {"blocks": 9} if family not in ("bert", "albert") else {"num_hidden_layers": 9}
    lengths = (4, 7, 11, 18, 30)
    models = {length: apply(made(family, head, **OURS, **settings), plan) for length in lengths}
    found = measured(models[4].attached.resolved, head, True, lengths=lengths)
    for length, model in models.items():
        assert found[length] == pytest.approx(ours(model, True, length), rel=0.03)


def test_a_model_of_any_size_takes_no_memory():
    """70 billion parameters: 560 frozen blocks would not fit anywhere."""
    resolved = Plan.parse("7/8: lora").resolve(shape_of("llama-3-70b"))
    found = measured(resolved, "lm", True, lengths=(64,))[64]
    assert 10 * B * 64 * 2 * 10 * resolved.shape.hidden < found < 200 * B * 64 * 2 * 10 * resolved.shape.hidden


def test_a_shape_without_a_config():
    bare = replace(shape_of("roberta-base"), config={})
    with pytest.raises(PlanError, match="config"):
        measured(Plan.parse("lora").resolve(bare), "sequence", True)


def test_flops_alone_need_no_torch():
    """What draws a plan, and what prices many, must stay light."""
    code = "from stratatune.costs.cost import cost; cost('bft-adapter', 'roberta-large', [9] * 64, memory=False)"
    code += "; import sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("family", ["bert", "llama", "modernbert", "t5"])
def test_a_gpu_keeps_no_scores(family, low):
    """Against real steps in the CPU's fused kernel, which is taken where there is no dropout."""
    still = {"attn_implementation": "sdpa", **ATTENTION_DROPOUT[family]}
    model, plan = made(family, lm_head(family), **still), "dec 1: lora" if family == "t5" else "lora"
    model = apply(model, plan)
    step = Step(lm_head(family), B, LABELS, True, False, low, fused=True)
    assert kept_bytes(model.attached.resolved, step, (T,))[T] == pytest.approx(ours(model, low), rel=0.03)


def test_scores_are_most_of_what_a_cpu_keeps_of_long_texts(monkeypatch):
    resolved = Plan.parse("lora").resolve(shape_of(tiny.tiny_of("bert").config.to_dict()))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    kept = {device: cost(resolved, lengths=[60] * 4, device=device) for device in ("cpu", "cuda", "auto")}
    stock, own = ({name: one.epochs[arm].saved_bytes for name, one in kept.items()} for arm in ("F", "cached"))
    for found in (stock, own):
        assert found["cuda"] == found["auto"] < found["cpu"] / 2
