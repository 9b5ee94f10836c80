#!/bin/sh
# transformers 5.24.0: the Trainer decays the norms of Qwen2.5-VL's vision tower and Mamba's last, and none of Llama's.
#
# `weight_decay` is documented as leaving out biases and LayerNorm weights. Only `nn.LayerNorm` is known by its class;
# an RMSNorm is left out if its name is "norm" or ends in "_norm", or holds "layernorm" or "rmsnorm". So
# "input_layernorm" and "q_norm" are left out, and "norm1", "norm2", "ln_q" and "norm_f" are not: all norms of the
# vision tower of Qwen2.5-VL and those in the blocks of GLM-4V's, while the language models beside them are spared,
# and the last norm of Mamba and Falcon-Mamba. With 0.1, decay pulls their scales, which begin at one, towards zero.
# One expects all norms to be treated alike. Nothing tells which weights are decayed.
# Exits 0 while the behaviour is as described, 1 once it has changed.
set -eu
: "${PY:=python3}"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
"$PY" -m venv "$WORK/venv"
"$WORK/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.24.0" "accelerate==1.15.0"
export HF_HUB_OFFLINE=1
cd "$WORK"
cat >try.py <<'P'
import sys

import torch
import transformers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Trainer,
    TrainingArguments,
)

transformers.logging.set_verbosity_error()
TEXT = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
SEEN = {"depth": 2, "hidden_size": 32, "num_heads": 4, "intermediate_size": 48, "out_hidden_size": 32}
MODELS = {
    "Llama": (LlamaForCausalLM, LlamaConfig(**TEXT, **HEADS)),
    "Mamba": (MambaForCausalLM, MambaConfig(**TEXT)),
    "Qwen2.5-VL": (
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLConfig(text_config={**TEXT, **HEADS, "rope_parameters": ROPE}, vision_config=SEEN),
    ),
}
arguments = TrainingArguments("out", weight_decay=0.1, learning_rate=1e-3, report_to=[], use_cpu=True)


def decayed(model):
    """The norms that the Trainer's optimiser decays, those that it spares, and the former's mean after 100 steps."""
    trainer = Trainer(model=model, args=arguments)
    trainer.create_optimizer()
    optimizer = trainer.optimizer
    norms = {
        f"{name}.weight": part.weight for name, part in model.named_modules() if "norm" in type(part).__name__.lower()
    }
    strength = {id(value): group["weight_decay"] for group in optimizer.param_groups for value in group["params"]}
    names = [name for name, value in norms.items() if strength[id(value)] > 0]
    for value in model.parameters():
        value.grad = torch.zeros_like(value)  # no loss asks for a change: what moves is decay
    for _ in range(100):
        optimizer.step()
    means = {round(norms[name].mean().item(), 3) for name in names}
    spared = [name for name in norms if name not in names]
    assert all(norms[name].mean() == 1 for name in spared)
    return names, spared, means


print(f"torch {torch.__version__}, transformers {transformers.__version__}")
found = {}
for name, (cls, config) in MODELS.items():
    names, spared, means = found[name] = decayed(cls(config))
    print(f"  {name}: spared {len(spared)} norms, decayed {len(names)}: {names}")
    if names:
        print(f"    100 steps at a rate of 1e-3 without any gradient: their mean is {means}, was 1")
ok = found["Llama"][0] == [] and found["Mamba"][0] == ["backbone.norm_f.weight"]
seen, spared, _ = found["Qwen2.5-VL"]
ok = ok and len(seen) == 5 and all("visual" in name for name in seen) and not any("visual" in name for name in spared)
sys.exit(0 if ok and all(means <= {0.99} for _, _, means in found.values()) else 1)
P
"$WORK/venv/bin/python" -W ignore try.py
