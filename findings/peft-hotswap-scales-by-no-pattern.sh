#!/bin/sh
# peft 0.21.2: `hotswap_adapter` ignores `rank_pattern` and `alpha_pattern`: an adapter swapped for itself changes.
#
# The function replaces a loaded adapter by another folder's and sets the scale of each layer anew. It means to look up the
# layer in both patterns, but compares them with the name of the weight, "...q_proj.lora_A.default.weight", where a
# pattern has to match the end of a layer's name. So none matches and each layer gets `lora_alpha / r`: with r=4 and a
# pattern of rank 16 the layer counts four times as much, with an alpha of 32 in place of 4 an eighth. One expects what
# `PeftModel.from_pretrained` gives. It even insists that both adapters have the same `alpha_pattern`. Nothing warns.
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
import sys

import peft
import torch
import transformers
from peft.utils.hotswap import hotswap_adapter
from transformers import LlamaConfig, LlamaForCausalLM

transformers.logging.set_verbosity_error()
SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "intermediate_size": 48}
TEXT = torch.tensor([[5, 9, 11, 7]])


def base():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES)).eval()


@torch.no_grad()
def tried(folder, **patterns):
    """How much stronger q_proj's adapter is after the adapter was swapped for itself, and whether the answers differ."""
    lora = peft.LoraConfig(r=4, lora_alpha=4, target_modules=["q_proj", "v_proj"], **patterns)
    made = peft.get_peft_model(base(), lora)
    for name, weight in made.named_parameters():
        if "lora_" in name:
            weight.normal_()  # as if it had been trained
    made.save_pretrained(folder)
    model = peft.PeftModel.from_pretrained(base(), folder).eval()
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    scale, weight, answer = layer.scaling["default"], layer.lora_B["default"].weight.clone(), model(TEXT).logits
    hotswap_adapter(model, folder, adapter_name="default", torch_device="cpu")
    again, same = layer.scaling["default"], torch.equal(weight, layer.lora_B["default"].weight)
    gap = (model(TEXT).logits - answer).abs().max().item()
    print(f"  {patterns}: scale of q_proj {scale} -> {again}, the same matrices: {same}, logits differ by {gap:.1e}")
    return again / scale, same, gap > 1e-3


print(f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}; r=4, lora_alpha=4")
plain = tried("plain")
rank = tried("rank", rank_pattern={"q_proj": 16})
alpha = tried("alpha", alpha_pattern={"q_proj": 32})
sys.exit(0 if (plain, rank, alpha) == ((1.0, True, False), (4.0, True, True), (0.125, True, True)) else 1)
P
"$WORK/venv/bin/python" -W ignore try.py
