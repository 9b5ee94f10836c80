"""``cut(depth)``: the blocks above are not loaded, run, saved or served, and what is left is a model of its own."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

import tiny
from checkpoints import HALF
from stratatune.app.export import export
from stratatune.errors import PlanError
from stratatune.model.artefact import load_artefact
from stratatune.model.attach import apply
from stratatune.model.base import load_base
from stratatune.model.checkpoint import Checkpoint
from stratatune.plan import Plan, shape_of
from stratatune.progress import Reporter
from stratatune.training.run import train

QUIET = Reporter(quiet=True)
PLAN = "1: lora | cut(1/2)"
FAMILIES = [
    "llama",
    "qwen3",
    "gemma3_text",
    "olmo3",
    "phi3",
    "gpt2",
    "bert",
    "roberta",
    "mpnet",
    "modernbert",
    "distilbert",
    "deberta-v2",
]


@pytest.fixture(params=FAMILIES)
def base(request, tmp_path):
    kind = request.param
    if kind in tiny.DECODERS:
        model, tokenizer = tiny.tiny_decoder(kind), tiny.decoder_tokenizer()
    else:
        tokenizer = tiny.tiny_tokenizer("roberta")
        blocks = "n_layers" if kind == "distilbert" else "num_hidden_layers"
        model = tiny.tiny_of(kind, vocab_size=len(tokenizer), **{blocks: 4})
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def texts(model):
    rows = torch.arange(3, 3 + 12).reshape(2, 6)
    return {"input_ids": rows, "attention_mask": torch.ones_like(rows)}


def without_upper_blocks(whole):
    """The model with its upper half cut off by hand."""
    attached = apply(whole, "frozen").attached
    blocks = attached.backbone.blocks
    for module in whole.modules():
        for name, child in list(module.named_children()):
            if child is blocks:
                setattr(module, name, nn.ModuleList(list(blocks)[: len(blocks) // 2]))
    return whole


def test_it_is_the_model_without_its_upper_blocks(base):
    whole = load_base(str(base), "sequence", num_labels=3).model
    cut = load_base(str(base), "sequence", num_labels=3, cut=2).model
    live = apply(load_base(str(base), "sequence", num_labels=3).model, PLAN).eval()
    assert len(apply(cut, PLAN).attached.backbone.blocks) == 2
    wanted = without_upper_blocks(whole).eval()(**texts(whole)).logits
    assert torch.equal(cut.eval()(**texts(cut)).logits, wanted)
    assert torch.equal(live(**texts(live)).logits, wanted)
    assert live.attached.base == cut.attached.base


def test_upper_blocks_are_not_read(tmp_path, monkeypatch):
    model = nn.Module.to(tiny.tiny_decoder("llama"), HALF)
    model.save_pretrained(tmp_path)
    read, whole = [], Checkpoint.read
    monkeypatch.setattr(Checkpoint, "read", lambda self, key: read.append(key) or whole(self, key))
    load_base(str(tmp_path), "sequence", texts=False, cut=2)
    assert any(".layers.1." in key for key in read)
    assert not any(".layers.2." in key or ".layers.3." in key for key in read)


@pytest.mark.parametrize("trunk", ["resident", "streamed"])
def test_a_run_is_saved_and_loaded_and_exported(settings, base, tmp_path, trunk):
    data = {"model": str(base), "plan": PLAN, "objective": "classification", "out": str(tmp_path / "run")}
    done = train(settings(**{**data, "cache": str(tmp_path / "cache"), "trunk": trunk}), reporter=QUIET)
    assert done.backprop_blocks == 1
    tuned = load_artefact(tmp_path / "run", base).model
    assert len(tuned.attached.backbone.blocks) == 2
    given = texts(tuned)
    export(tuned, tmp_path / "merged", "merged")
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    field = {"gpt2": "n_layer", "distilbert": "n_layers"}.get(stock.config.model_type, "num_hidden_layers")
    assert getattr(stock.config, field) == 2
    assert torch.allclose(stock(**given).logits, tuned(**given).logits, atol=1e-5)
    with pytest.raises(PlanError, match="peft would load"):
        export(tuned, tmp_path / "peft", "peft")


@pytest.mark.parametrize(
    ("plan", "strata"),
    [
        ("1/3: lora | cut(2/3)", ["0:4", "4:8"]),
        ("-1: lora | cut(8)", ["0:7", "7:8"]),
        (": lora | cut(1/2)", ["0:6"]),
        ("adapter(depth=1/2) | cut(2/3)", ["0:6", "6:8"]),
    ],
)
def test_places_of_a_plan_that_cuts(plan, strata):
    resolved = Plan.parse(plan).resolve(shape_of("roberta-base"))
    assert [one["layers"] for one in resolved.summary("classification")["strata"]] == strata
    assert Plan.parse(str(resolved.plan)) == resolved.plan == Plan.from_data(resolved.plan.to_data())
    assert resolved.total("classification") < Plan.parse("frozen").resolve(shape_of("roberta-base")).total(
        "classification"
    )


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ("2/3:5/6 lora | cut(2/3)", "layers 2/3:5/6 are outside"),
        ("3/4: lora | cut(2/3)", "outside a model of 8 blocks"),
        ("1: lora | cut(12)", "legal: 1..11"),
        ("1: lora | cut(0)", "not a depth to cut at"),
        ("1: lora | cut", "cannot follow cut"),
        ("1: lora | cut(1/2) | cut(1/3)", "given twice"),
        ("adapter(depth=10) | cut(2/3)", "cuts it at 8"),
    ],
)
def test_what_cannot_be_cut_is_refused(plan, said):
    with pytest.raises(PlanError) as raised:
        Plan.parse(plan).resolve(shape_of("roberta-base"))
    assert said in f"{raised.value.message} {raised.value.hint}"


def test_an_lm_head_is_refused(tmp_path):
    tiny.save_tiny_decoder(tmp_path, "llama")
    with pytest.raises(PlanError, match="reads the last"):
        apply(load_base(str(tmp_path), "lm").model, PLAN)
    with pytest.raises(PlanError, match="two stacks"):
        Plan.parse(PLAN).resolve(shape_of("t5-small"))


def test_a_model_is_cut_once(tmp_path):
    tiny.save_tiny_decoder(tmp_path, "llama")
    cut = load_base(str(tmp_path), "sequence", texts=False, cut=2).model
    with pytest.raises(PlanError, match="was cut to 2"):
        apply(cut, "1: lora | cut(3/4)")


def test_mid_leaves_the_end_frozen():
    resolved = Plan.parse("mid").resolve(shape_of("roberta-base"))
    assert [bool(methods) for methods in resolved.blocks] == [False] * 4 + [True] * 5 + [False] * 3
    assert resolved.frozen_depth == 4
