#!/bin/sh
# peft 0.21.2 with transformers 5.24.0: on DeepSeek-V3 and GLM-4-MoE "gate_proj" no longer adapts what is still a layer.
#
# These models begin with dense blocks, and beside the experts of each later one stands a shared expert that sees every token:
# plain linear layers called gate_proj, up_proj and down_proj, as in a dense model. transformers 5 put the other experts
# into two tensors, so peft turns the three names in `target_modules` into `target_parameters`, and takes them out of
# the modules. The dense blocks and the shared experts then get no adapter, nor do they with "all-linear". Qwen2-MoE
# is left alone: there the shared experts are adapted, and the others are not. An adapter of transformers 4, which
# holds weights for all of them, loads, and those of the dense and shared parts are dropped. Nothing tells which layers
# are left out. One expects each linear layer of that name to be adapted.
# Exits 0 while the behaviour is as described, 1 once it has changed.
set -eu
: "${PY:=python3}"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
"$PY" -m venv "$WORK/venv"
"$WORK/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.24.0" "peft==0.21.2"
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1
cd "$WORK"
cat >try.py <<'P'
import json
import sys
import warnings
from pathlib import Path

import peft
import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

transformers.logging.set_verbosity_error()
SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
SIZES |= {"num_key_value_heads": 4, "pad_token_id": 0, "moe_intermediate_size": 16, "num_experts_per_tok": 2}
ROUTED = {"n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1}
HEADS = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
MODELS = {
    "llama": {},
    "qwen2_moe": {"num_experts": 4, "shared_expert_intermediate_size": 16},
    "glm4_moe": {**ROUTED, "head_dim": 8},
    "deepseek_v3": {**ROUTED, **HEADS},
}
NAMES = ["gate_proj", "up_proj", "down_proj"]
PARTS = ("left out", "no module", "unexpected", "shared", "mlp.gate_proj")


def made(kind):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SIZES | MODELS[kind]))


def layers(model):
    """The linear layers with one of the three names, and whether each has an adapter."""
    found = {}
    for name, module in model.named_modules():
        if name.endswith(tuple(NAMES)) and hasattr(module, "weight"):
            found[name.removeprefix("base_model.model.model.")] = hasattr(module, "lora_A")
    return found


def adapted(kind, targets):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = peft.get_peft_model(made(kind), peft.LoraConfig(r=2, target_modules=targets))
    about = [one for one in caught if any(part in str(one.message) for part in PARTS)]
    found = layers(model)
    experts = sum(".mlp.experts." in name and "lora_A" in name for name, _ in model.named_parameters())
    print(f"  {kind}, {targets}: {sum(found.values())} of {len(found)} such layers, {experts} tensors of experts")
    print(f"    left out: {[name for name, has in found.items() if not has]}; warnings about them {len(about)}")
    return sum(found.values()), len(found), experts, len(about)


def old_adapter(kind):
    """A folder as transformers 4 and peft wrote it: each expert is a module, and each layer has two matrices."""
    base, tensors = made(kind), {}
    sizes = {name: module.weight.shape for name, module in base.named_modules() if name.endswith(tuple(NAMES))}
    for block in (1, 2):
        for expert in range(4):
            for part in NAMES:
                out, inside = (32, 16) if part == "down_proj" else (16, 32)
                sizes[f"model.layers.{block}.mlp.experts.{expert}.{part}"] = (out, inside)
    for name, (out, inside) in sizes.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = torch.randn(2, inside)
        tensors[f"base_model.model.{name}.lora_B.weight"] = torch.randn(out, 2)
    folder = Path(f"old-{kind}")
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "target_modules": NAMES, "base_model_name_or_path": None}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = peft.PeftModel.from_pretrained(made(kind), folder)
    texts = [str(one.message) for one in caught]
    about = [one for one in texts if any(part in one for part in PARTS)]
    whole = sum(value.numel() for value in tensors.values())
    dense = sum(value.numel() for name, value in tensors.items() if ".mlp.experts." not in name)
    loaded = [value for name, value in model.named_parameters() if ".mlp.experts." in name and "lora_B" in name]
    experts = len(loaded) == 4 and all(value.any() for value in loaded)
    having = sum(layers(model).values())
    print(f"  an adapter of transformers 4 for {kind}: {dense} of its {whole} weights are for such layers")
    print(f"    loaded into {having} of them; the experts' are loaded: {experts}; warnings about them {len(about)}")
    return dense, experts, having, len(about)


print(f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}")
ok = adapted("llama", NAMES) == (9, 9, 0, 0) and adapted("qwen2_moe", NAMES) == (9, 9, 0, 0)
for kind in ("glm4_moe", "deepseek_v3"):
    for targets in (NAMES, "all-linear"):
        ok = adapted(kind, targets) == (0, 9, 4, 0) and ok
    ok = old_adapter(kind) == (1056, True, 0, 0) and ok
sys.exit(0 if ok else 1)
P
"$WORK/venv/bin/python" -W ignore try.py
