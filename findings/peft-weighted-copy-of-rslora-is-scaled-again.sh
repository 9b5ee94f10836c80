#!/bin/sh
# peft 0.21.2: `add_weighted_adapter` of adapters with `use_rslora=True` makes one that is sqrt(r) times too strong.
#
# The documentation calls "cat" and "svd" precise, and one expects a copy of a single adapter with weight 1.0 to be
# that adapter. The method multiplies each adapter's scale into the new matrices and gives the new adapter `lora_alpha
# = r`, so that its own scale be 1. But it also takes over `use_rslora` from the first adapter, under which alpha = r
# means sqrt(r): 4 times at rank 16, 8 times at rank 64, 5.7 times for two of rank 16 joined by "cat". If only a later
# adapter uses rsLoRA, or none does, the result is right, so the order of the list decides. Nothing warns.
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
import math
import sys

import peft
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

transformers.logging.set_verbosity_error()
SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "intermediate_size": 48}
RANK = 16


@torch.no_grad()
def tried(flags, kind, weights):
    """How often the weighted sum of the others is in the new adapter (1 if right), and what else is in it."""
    torch.manual_seed(0)
    model = None
    for name, flag in flags.items():
        lora = peft.LoraConfig(r=RANK, lora_alpha=8, use_rslora=flag, target_modules=["q_proj"])
        if model is None:
            model = peft.get_peft_model(LlamaForCausalLM(LlamaConfig(**SIZES)), lora, name)
        else:
            model.add_adapter(name, lora)
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    for name in flags:
        layer.lora_B[name].weight.normal_()  # as if it had been trained
    if kind == "svd":  # of full rank, so that nothing is cut off
        model.add_weighted_adapter(list(flags), weights, "new", combination_type=kind, svd_rank=32)
    else:
        model.add_weighted_adapter(list(flags), weights, "new", combination_type=kind)
    wanted = sum(weight * layer.get_delta_weight(name) for name, weight in zip(flags, weights))
    made = layer.get_delta_weight("new")
    times = ((made * wanted).sum() / wanted.square().sum()).item()
    return times, ((made - times * wanted).norm() / wanted.norm()).item()


print(f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}; rank {RANK}")
ok = True
for flags, kind, weights, expected in (
    ({"a": False}, "linear", [1.0], 1.0),
    ({"a": True}, "linear", [1.0], math.sqrt(RANK)),
    ({"a": False, "b": False}, "cat", [0.5, 0.5], 1.0),
    ({"a": True, "b": True}, "cat", [0.5, 0.5], math.sqrt(2 * RANK)),
    ({"a": True, "b": True}, "svd", [0.5, 0.5], math.sqrt(32)),
    ({"a": True, "b": False}, "cat", [0.5, 0.5], math.sqrt(2 * RANK)),
    ({"a": False, "b": True}, "cat", [0.5, 0.5], 1.0),
):
    times, beside = tried(flags, kind, weights)
    print(f"  use_rslora {flags}, {kind} of {weights}: {times:.3f} times the sum, {beside:.0e} of it beside")
    ok = ok and abs(times - expected) < 1e-3 and beside < 1e-3
sys.exit(0 if ok else 1)
P
"$WORK/venv/bin/python" -W ignore try.py
