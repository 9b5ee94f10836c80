#!/bin/sh
# peft 0.21.2 with transformers 5.24.0: a regex in `target_modules` loses the numbers of its blocks on Mixtral or Qwen3-MoE.
#
# A regex is the usual way to adapt some blocks only, such as r".*\.layers\.[23]\..*(q|v)_proj"; it has to match the whole
# name of a module. Since transformers 5 keeps all experts of a block in one tensor, peft rewrites the settings for Mixtral
# and for some 27 families after Qwen2-MoE, whatever they target: it looks up what the regex matches, keeps the last part
# of each name, "q_proj" and "v_proj", and throws the regex away. So every block is adapted. The saved folder names the
# two words alone, and the caller's own config is changed as well. Dense models, and Qwen2-MoE itself, take the regex as
# it stands; so does a list of whole names, on any model. Nothing warns.
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
import re
import sys
import warnings

import peft
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

transformers.logging.set_verbosity_error()
SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "head_dim": 8}
SIZES |= {"num_key_value_heads": 4, "intermediate_size": 48, "pad_token_id": 0}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
MODELS = {
    "llama": {},
    "qwen2_moe": EXPERTS | {"shared_expert_intermediate_size": 16},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": EXPERTS,
    "olmoe": EXPERTS,
    "glm4_moe": EXPERTS | {"n_routed_experts": 4, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1},
}
REGEX = r".*\.layers\.[23]\..*(q|v)_proj"
NAMES = [f"layers.{block}.self_attn.{part}_proj" for block in (2, 3) for part in "qv"]
ABOUT = ("regex", "match", "target_modules", "convert")


def tried(kind, targets):
    """The blocks that get an adapter, their trainable weights, the setting that is saved, and the warnings about it."""
    torch.manual_seed(0)
    lora = peft.LoraConfig(r=4, target_modules=targets)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        base = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SIZES | MODELS[kind]))
        model = peft.get_peft_model(base, lora)
        model.save_pretrained("adapter")
    about = [one for one in caught if any(word in str(one.message) for word in ABOUT)]
    names = [name for name, value in model.named_parameters() if value.requires_grad]
    blocks = sorted({int(re.search(r"layers\.(\d+)\.", name)[1]) for name in names})
    count = sum(value.numel() for value in model.parameters() if value.requires_grad)
    with open("adapter/adapter_config.json") as file:
        saved = json.load(file)["target_modules"]
    return blocks, count, saved if isinstance(saved, str) else sorted(saved), len(about)


print(f"transformers {transformers.__version__}, peft {peft.__version__}; four blocks, {REGEX!r}")
ok = True
for kind in MODELS:
    blocks, count, saved, warned = tried(kind, REGEX)
    listed = tried(kind, NAMES)
    print(f"  {kind}: blocks {blocks}, {count} weights, saved as {saved!r}; warnings {warned}")
    print(f"    the same as a list of names: blocks {listed[0]}, {listed[1]} weights")
    kept = kind in ("llama", "qwen2_moe")
    ok = ok and not warned and listed[0] == [2, 3]
    ok = ok and (saved == REGEX and blocks == [2, 3] if kept else saved == ["q_proj", "v_proj"] and len(blocks) == 4)
    ok = ok and count == listed[1] * (1 if kept else 2)
sys.exit(0 if ok else 1)
P
"$WORK/venv/bin/python" -W ignore try.py
