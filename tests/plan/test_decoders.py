"""Counts of decoders by formula, against real models on the meta device."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from stratatune.errors import ModelError, PlanError
from stratatune.plan import Plan, architecture_of, shape_of
from stratatune.shapes.builtin import builtin_config
from stratatune.shapes.builtin_decoders import DECODERS

GPT2 = {"n_layer": 3, "n_embd": 12, "n_head": 2, "n_positions": 18, "vocab_size": 37}
LLAMA = {
    "vocab_size": 37,
    "hidden_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "intermediate_size": 20,
    "max_position_embeddings": 18,
    "pad_token_id": 0,
}
CONFIGS = {
    "gpt2": GPT2,
    "gpt2 with n_inner": GPT2 | {"n_inner": 30},
    "llama": LLAMA,
    "llama with biases": LLAMA | {"attention_bias": True, "mlp_bias": True},
    "mistral": LLAMA,
    "smollm3": LLAMA | {"head_dim": 6},
    "qwen2": {**LLAMA, "head_dim": 6},
    "qwen3": LLAMA,
    "gemma": LLAMA,
    "gemma2": LLAMA,
    "gemma3_text": LLAMA,
    "olmo2": LLAMA,
    "olmo3": LLAMA | {"attention_bias": True},
    "phi3": {**LLAMA, "head_dim": 6},
    "phi": {**LLAMA, "head_dim": 6, "num_key_value_heads": 2},
    "ministral": LLAMA,
    "ministral3": LLAMA,
    "arcee": LLAMA | {"mlp_bias": True},
    "seed_oss": LLAMA | {"attention_bias": True, "attention_out_bias": False},
    "hunyuan_v1_dense": LLAMA,
    "exaone4": LLAMA,
    "glm4": LLAMA | {"attention_bias": True},
    "granite": LLAMA,
    "cohere2": LLAMA | {"head_dim": 6},
    "starcoder2": LLAMA | {"head_dim": 6},
    "gemma4_text": LLAMA | {"num_hidden_layers": 7, "attention_k_eq_v": True, "num_global_key_value_heads": 2},
    "gemma4_text with experts": LLAMA
    | {"enable_moe_block": True, "num_experts": 5, "top_k_experts": 2, "moe_intermediate_size": 8},
    "gemma4_text with shared keys": LLAMA | {"num_hidden_layers": 13, "num_kv_shared_layers": 7},
    "starcoder2 without biases": LLAMA | {"head_dim": 6, "use_bias": False},
}
CONFIGS |= {
    "qwen3_moe": LLAMA | {"num_experts": 5, "moe_intermediate_size": 8, "num_experts_per_tok": 2},
    "qwen3_moe beside blocks without experts": LLAMA
    | {"num_experts": 5, "moe_intermediate_size": 8, "num_experts_per_tok": 2, "decoder_sparse_step": 2},
    "granitemoe": LLAMA | {"head_dim": 6, "num_local_experts": 3, "num_experts_per_tok": 2},
    "mixtral": LLAMA | {"num_local_experts": 3, "num_experts_per_tok": 2},
    "olmoe": LLAMA | {"head_dim": 6, "num_experts": 3, "num_experts_per_tok": 2, "attention_bias": True},
    "gpt_oss": LLAMA | {"num_local_experts": 3, "num_experts_per_tok": 2, "layer_types": ["full_attention"] * 3},
}
PLANS = (
    "full",
    ": full | head(mlm=norm)",
    "1: full(on=v,down)",
    "-1: full(on=norms) | head(mlm=dense,norm,bias)",
    "0: full(on=all)",
    "embeddings full | head(mlm=decoder)",
)


def _config(name):
    model_type = name.split()[0]
    return {"model_type": model_type} | CONFIGS[name]


def _model(config, auto=AutoModelForCausalLM):
    with torch.device("meta"):
        return auto.from_config(AutoConfig.for_model(**config))


def _count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("tied", [True, False])
def test_total_is_that_of_a_real_model(name, tied):
    config = _config(name) | {"tie_word_embeddings": tied}
    shape = shape_of(config)
    assert shape.parameters("causal") == shape.parameters("mlm") == _count(_model(config))
    if name.split()[0] in ("granite", "cohere2", "gemma4_text", "olmoe", "granitemoe"):  # no class with a classifier
        return
    classifier = _model(config | {"num_labels": 2}, AutoModelForSequenceClassification)
    assert shape.parameters("classification") + 2 * shape.hidden == _count(classifier)
    assert not shape.classifier_bias


@pytest.mark.parametrize("name", DECODERS)
def test_built_in_decoders_are_those_of_real_models(name):
    config = dict(builtin_config(name))
    assert shape_of(name).parameters("causal") == _count(_model(config))


KNOWN = {
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "Llama-2-7b-hf": 6_738_415_616,
    "Llama-2-13b-hf": 13_015_864_320,
    "Mistral-7B-v0.1": 7_241_732_096,
    "Mistral-Small-24B-Base-2501": 23_572_403_200,
    "Qwen2.5-3B": 3_085_938_688,
    "Qwen2.5-7B": 7_615_616_512,
    "Qwen2.5-14B": 14_770_033_664,
    "Qwen2.5-32B": 32_763_876_352,
    "Qwen2.5-72B": 72_706_203_648,
    "Qwen3-0.6B": 596_049_920,
    "Qwen3-4B": 4_022_468_096,
    "Qwen3-8B": 8_190_735_360,
    "Qwen3-14B": 14_768_307_200,
    "Qwen3-32B": 32_762_123_264,
    "SmolLM2-135M": 134_515_008,
    "SmolLM2-360M": 361_821_120,
    "SmolLM2-1.7B": 1_711_376_384,
    "SmolLM3-3B": 3_075_098_624,
    "OLMo-2-0425-1B": 1_484_916_736,
    "olmo-2-7b": 7_298_617_344,
    "OLMo-2-1124-13B": 13_716_198_400,
    "OLMo-2-0325-32B": 32_234_279_936,
    "olmo-3-7b": 7_298_011_136,
    "phi-2": 2_779_683_840,
    "phi-3-mini": 3_821_079_552,
    "Phi-3-medium-4k-instruct": 13_960_238_080,
    "phi-3.5-mini": 3_821_079_552,
    "phi-4": 14_659_507_200,
    "phi-4-mini": 3_836_021_760,
    "gemma-7b": 8_537_680_896,
    "gemma-2-9b": 9_241_705_984,
    "gemma-2-27b": 27_227_128_320,
    "gemma-3-270m": 268_098_176,
    "Qwen3-30B-A3B": 30_532_122_624,
    "Qwen3-235B-A22B": 235_093_634_560,
    "Mixtral-8x7B-v0.1": 46_702_792_704,
    "OLMoE-1B-7B-0924": 6_919_161_856,
    "gpt-oss-20b": 20_914_757_184,
    "gpt-oss-120b": 116_829_156_672,
}
"""As the models' own cards give them."""


def test_built_in_decoders_by_known_counts():
    assert shape_of("gpt2-large").parameters("causal") == 774_030_080
    assert shape_of("meta-llama/Llama-3.2-1B").parameters("causal") == 1_235_814_400
    for name, count in KNOWN.items():
        assert shape_of(name).parameters("causal") == count, name
    assert Plan.parse("lpt@18").resolve(shape_of("gpt2-large")).backprop_blocks == 18


@pytest.mark.parametrize("name", CONFIGS)
def test_every_path_of_the_table_exists(name):
    config, row = _config(name), architecture_of(name.split()[0])
    model, shape = _model(config), shape_of(config)
    blocks = model.base_model.get_submodule(row.blocks)
    row, first = row.rows_of(config).get(0, row), shape.of_block(0)
    fused = {role for roles in row.fused.values() for role in roles}
    for role, path in row.roles.items():
        if role in fused:
            continue
        if role in first.routed:
            part = first.routed[role]
            assert _count(blocks[0].get_submodule(path)) == part.weights + part.biases, role
            continue
        module, part = blocks[0].get_submodule(path), first.part(role)
        bias = getattr(module, "bias", None)
        assert (module.weight.numel(), 0 if bias is None else bias.numel()) == (part.weights, part.biases), role
    for path, roles in row.fused.items():
        assert {row.roles[role] for role in roles} == {path}
        assert _count(blocks[0].get_submodule(path)) == sum(
            first.part(role).weights + first.part(role).biases for role in roles
        )
    assert _count(blocks[0]) == first.block_parameters
    assert _count(model.get_submodule(row.lm_head)) == shape.head_parts["decoder"] + shape.head_parts["bias"]
    assert _count(model.base_model.get_submodule(row.final_norm)) == shape.final_norm


def test_grouped_queries_have_narrow_keys_and_values():
    shape = shape_of("Llama-3.2-1B")
    assert Plan.parse("-1: lora(rank=8, on=k,v)").resolve(shape).trainable("causal") == 2 * 8 * (2048 + 512)


@pytest.mark.parametrize("text", PLANS)
@pytest.mark.parametrize("objective", ["causal", "classification"])
def test_trainable_and_total_agree(text, objective):
    shape = shape_of(_config("gpt2"))
    resolved = Plan.parse(text).resolve(shape)
    assert resolved.trainable(objective) > 0
    if text == "full":
        assert resolved.trainable("causal") == resolved.total("causal")
        assert resolved.trainable("classification") == resolved.total("classification")


def test_bitfit_without_any_bias_is_refused():
    with pytest.raises(PlanError, match="trains nothing in a block of llama"):
        Plan.parse(": bitfit").resolve(shape_of(_config("llama")))
    trained = Plan.parse(": bitfit").resolve(shape_of(_config("qwen2"))).trainable("causal")
    assert trained == 3 * (12 + 6 + 6)  # q, k and v have biases, nothing else


@pytest.mark.parametrize("name", ["olmo-2-7b", "olmo-3-32b", "phi-4", "phi-3.5-mini", "microsoft/phi-2"])
def test_plans_of_olmo_and_phi_need_no_download(name):
    shape = shape_of(name)
    resolved = Plan.parse("7/8: lora").resolve(shape)
    assert resolved.frozen_depth == shape.blocks * 7 // 8
    wide = sum(shape.linears[role].outputs + shape.hidden for role in "qv")
    assert resolved.trainable("causal") == shape.blocks // 8 * 8 * wide


LONG = {"type": "su", "short_factor": [1.0], "long_factor": [2.0]}


@pytest.mark.parametrize(
    ("settings", "longest"),
    [
        ({}, 18),
        ({"rope_scaling": LONG, "original_max_position_embeddings": 8}, 8),
        ({"rope_parameters": {"rope_type": "longrope", "original_max_position_embeddings": 8}}, 8),
        ({"rope_parameters": {"full_attention": {"rope_type": "longrope", "original_max_position_embeddings": 8}}}, 8),
        ({"rope_parameters": {"rope_type": "yarn", "original_max_position_embeddings": 8}}, 18),
        ({"rope_scaling": LONG}, 18),
    ],
)
def test_texts_end_where_longrope_would_turn_a_whole_batch_otherwise(settings, longest):
    assert shape_of(_config("phi3") | settings).max_tokens == longest


def test_a_phi_of_another_kind_is_refused():
    with pytest.raises(ModelError, match="phi cannot be tuned here: its config norms queries and keys"):
        shape_of(_config("phi") | {"qk_layernorm": True})


def test_all_still_means_all():
    assert str(Plan.parse(": bitfit(on=all)")) == ": bitfit"
    assert Plan.parse(str(Plan.parse("-1: full(on=norms)"))) == Plan.parse("-1: full(on=norms)")
