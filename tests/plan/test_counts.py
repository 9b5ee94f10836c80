"""Counts by formula: those of the papers, and those of real models."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM, AutoModelForSequenceClassification

from stratatune.plan import BUILTIN, Plan, architecture_of, shape_of
from stratatune.shapes.builtin import builtin_config

ROBERTA_LARGE = {
    "lpt": 791_680,
    "lpt-adapter": 35_856,
    "head": 1_101_913,
    "bft": 1_893_593,
    "bft+norm2": 1_895_641,
    "bft+ffd": 10_289_369,
    "bft+ln": 10_291_417,
    "bft-adapter": 1_137_769,
    "bft-adapter+ffd": 9_533_545,
    "bft-adapter+ln": 9_535_593,
    "bitfit": 270_336,
    "lora": 786_432,
    "full": 355_412_057,
    "upper-half": 12 * (12 * 1024 * 1024 + 13 * 1024),
    "adapter": 1_622_784,
    "adapterdrop": 811_392,
    "prompt": 20_480,
    "p-tuning-v2": 983_040,
    "s-idpg-phm": 111_872,
    "idpg(tokens=5, shared)": 107_776,
    "lpt-appg": 263_296,
    "lpt-mppg": 263_296,
    "late_prompt(depth=12, generator=table)": 5_120,
    "delta-bias": 270_336,
    "ia3": 24 * (1024 + 1024 + 4096),
    "dora": 786_432 + 24 * 2 * 1024,
    "parallel": 24 * (2 * 1024 * 16 + 16 + 1024),
}
BERT_LARGE_CASED = {
    "full": 333_579_264,
    "bitfit+embeddings": 31_540_224,
    "lora-I": 9_437_184,
    "lora-II": 12_582_912,
    "spafit-8-12-I": 4_438_016,
    "spafit-8-12-II": 5_879_808,
    "spafit-8-16-II": 3_803_136,
    "spafit-4-9-I": 5_647_360,
    "spafit-4-9-II": 7_482_368,
    "spafit-4-14-II": 4_886_528,
}
FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert")  # every row's counts: tests/model/test_encoders.py
TINY = {
    "vocab_size": 37,
    "hidden_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 20,
    "max_position_embeddings": 18,
    "type_vocab_size": 2,
}


@pytest.mark.parametrize(("preset", "count"), ROBERTA_LARGE.items())
def test_counts_of_bft(preset, count):
    assert Plan.parse(preset).resolve(shape_of("roberta-large")).trainable("mlm") == count


def _tunable(text):
    """355M as (355e6, one unit of its last digit: the paper rounds some figures and cuts others)."""
    unit = {"K": 1e3, "M": 1e6}[text[-1]]
    decimals = len(text[:-1].partition(".")[2])
    return float(text[:-1]) * unit, unit / 10**decimals


# What the paper's figure counts beside the plan: a 2-way output layer, for some also the bias of the embeddings' norm.
TABLE_1 = {
    "Model Tuning": ("full", 0),
    "Adapter": ("adapter", 0),
    "AdapterDrop": ("adapterdrop", 0),
    "Prompt Tuning": ("prompt", 0),
    "P-tuning v2": ("p-tuning-v2", 2050),
    "S-IDPG-PHM": ("s-idpg-phm", 2050),
    "BitFit": ("bitfit", 1024 + 2050),
    "LoRA": ("lora", 2050),
    "LPT": ("lpt", 0),
    "BFT": ("bft", 0),
    "BFT with ffd": ("bft+ffd", 0),
    "LPT-adapter": ("lpt-adapter", 0),
    "BFT-adapter": ("bft-adapter", 0),
    "BFT-adapter with ln": ("bft-adapter+ln", 0),
}


def test_every_row_of_bft_table_1(shared):
    rows = json.loads((shared / "papers" / "facts.json").read_text())["bft"]["table1"]
    assert {row["method"] for row in rows} == set(TABLE_1)
    for row in rows:
        preset, beside = TABLE_1[row["method"]]
        figure, unit = _tunable(row["tunable"])
        count = Plan.parse(preset).resolve(shape_of("roberta-large")).trainable("mlm") + beside
        assert abs(count - figure) < unit, (row["method"], count)


@pytest.mark.parametrize(("preset", "count"), BERT_LARGE_CASED.items())
def test_counts_of_spafit(preset, count):
    plan = Plan.parse(preset)
    assert plan.objective == "classification"
    resolved = plan.resolve(shape_of("bert-large-cased"))
    assert resolved.trainable("classification") == resolved.trainable("regression") == count
    assert resolved.summary("classification")["classifier"]["output"] == 2050


def _count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def _models(model_type, config):
    made = AutoConfig.for_model(model_type, **config)
    with torch.device("meta"):
        return AutoModelForMaskedLM.from_config(made), AutoModelForSequenceClassification.from_config(made)


def _tuned_like(plan, model, row, objective):
    """The parameters that ``plan`` (of full and bitfit only) trains, asked of a real model."""
    trained = set()
    base = model.get_submodule(row.base)
    if plan.embeddings:
        trained |= set(base.get_submodule(row.embeddings).parameters())
    for block, methods in zip(
        base.get_submodule(row.blocks), plan.resolve(shape_of(TINY | {"model_type": row.name})).blocks, strict=True
    ):
        for one in methods:
            for role in set(one.roles()) & set(row.roles):
                module = block.get_submodule(row.roles[role])
                trained |= {module.bias} if one.kind == "bitfit" else set(module.parameters())
    if objective == "mlm":
        for part in plan.head.mlm:
            module = model.get_submodule(row.mlm_head["decoder" if part == "bias" else part])
            trained |= (
                {module.bias} if part == "bias" else {module.weight} if part == "decoder" else set(module.parameters())
            )
    elif plan.head.pooler and row.pooler:
        trained |= set(model.get_submodule(row.pooler).parameters())
    return sum(parameter.numel() for parameter in trained)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_total_is_that_of_a_real_model(model_type):
    shape, row = shape_of(TINY | {"model_type": model_type}), architecture_of(model_type)
    mlm, classification = _models(model_type, TINY)
    assert shape.parameters("mlm") == _count(mlm)
    head = _count(classification.get_submodule(row.classifier))
    assert head == 2 * 12 + 2 + shape.classifier_dense
    assert shape.parameters("classification") == _count(classification) - head


@pytest.mark.parametrize("name", [n for n in BUILTIN if (builtin_config(n) or {})["model_type"] in FAMILIES])
def test_built_in_shapes_are_those_of_real_models(name):
    config = dict(builtin_config(name))
    shape = shape_of(name)
    mlm, _ = _models(config.pop("model_type"), config)
    assert shape.parameters("mlm") == _count(mlm)


@pytest.mark.parametrize("model_type", ["bert", "roberta"])
@pytest.mark.parametrize(
    "text",
    [
        "full",
        "head",
        "bitfit+embeddings",
        "1: bitfit",
        "-1: full(on=ffn,norm_ffn)",
        "0:2 bitfit(on=ffn,norm_ffn) | 2: full(on=q,k,v,o,norm_attn)",
        "1: full(on=v) + bitfit(on=norms) | head(mlm=dense, pooler)",
        ": full | head(mlm=decoder)",
    ],
)
def test_trainable_is_that_of_a_real_model(model_type, text):
    plan, row = Plan.parse(text), architecture_of(model_type)
    resolved = plan.resolve(shape_of(TINY | {"model_type": model_type}))
    for objective, model in zip(("mlm", "classification"), _models(model_type, TINY), strict=True):
        assert resolved.trainable(objective) == _tuned_like(plan, model, row, objective)
        assert resolved.total(objective) == resolved.shape.parameters(objective)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_path_of_the_table_exists(model_type):
    row = architecture_of(model_type)
    mlm, classification = _models(model_type, TINY)
    base = classification.get_submodule(row.base)
    blocks = base.get_submodule(row.blocks)
    shape = shape_of(TINY | {"model_type": model_type})
    assert len(blocks) == shape.blocks
    for role, path in row.roles.items():
        module, part = blocks[0].get_submodule(path), shape.part(role)
        assert (module.weight.numel(), module.bias.numel()) == (part.weights, part.biases)
    for part in ("dense", "norm"):
        assert _count(mlm.get_submodule(row.mlm_head[part])) == shape.head_parts[part]
    decoder = mlm.get_submodule(row.mlm_head["decoder"])
    assert (decoder.weight.numel(), decoder.bias.numel()) == (shape.head_parts["decoder"], shape.head_parts["bias"])
    assert _count(base.get_submodule(row.embeddings)) == shape.embeddings
    assert (_count(base.pooler) if row.pooler else 0) == shape.pooler


def test_an_untied_decoder_counts_beside_the_embeddings():
    shape = shape_of(TINY | {"model_type": "bert", "tie_word_embeddings": False})
    model, _ = _models("bert", TINY | {"tie_word_embeddings": False})
    unread = model.cls.predictions.bias.numel()  # transformers keeps a second bias here, which no forward reads
    assert shape.parameters("mlm") == _count(model) - unread
    assert Plan.parse("full").resolve(shape).trainable("mlm") == shape.parameters("mlm")
    assert not Plan.parse("head(mlm=decoder)").resolve(shape).problems("mlm")
