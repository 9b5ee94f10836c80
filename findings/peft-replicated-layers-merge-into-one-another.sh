#!/bin/sh
# peft 0.21.2: `merge_and_unload` writes the adapters of replicated layers into the one weight that the copies share.
#
# `layer_replication=[[0, 2], [1, 2]]` repeats block 1 with the same base weights, each copy with a LoRA of its own.
# Such adapters cannot be merged, and peft means to refuse it: "Cannot merge LORA layers when base model layers are
# replicated". But the test looks for "layer_replication" among the names of the adapters, where it never is. So the
# merge goes through and adds the change of each copy to the shared weight: both copies get the sum, and the model
# answers otherwise than the adapter, with `safe_merge=True` and with `merge_adapter()` too. One expects the refusal,
# or copies that are split. Nothing warns.
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
import warnings

import peft
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

transformers.logging.set_verbosity_error()
SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
IDS = torch.tensor([[5, 9, 11, 7, 22, 31]])


@torch.no_grad()
def tried(stack, merge):
    """How far the merged model's logits are from the adapter's, the parts of each block's change, the warnings."""
    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
    before = [block.self_attn.q_proj.weight.clone() for block in base.model.layers]
    lora = peft.LoraConfig(r=4, lora_alpha=4, target_modules=["q_proj", "down_proj"], layer_replication=stack)
    model = peft.get_peft_model(base, lora).eval()
    for name, value in model.named_parameters():
        if "lora_" in name:  # as if it had been trained
            value.normal_(std=0.2)
    wanted = model(input_ids=IDS).logits
    layers = [block.self_attn.q_proj for block in model.base_model.model.model.layers]
    deltas = [layer.get_delta_weight("default").clone() for layer in layers]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            merged = merge(model)
        except ValueError as error:
            print(f"  layer_replication={stack}: {error}")
            return None
    gap = (merged(input_ids=IDS).logits - wanted).abs().max().item()
    last = layers[-1].get_base_layer().weight - before[-1]
    held = [i for i, delta in enumerate(deltas) if (last * delta).sum() / delta.square().sum() > 0.5]
    exact = torch.allclose(last, sum(deltas[i] for i in held), atol=1e-6)
    about = sum("replicat" in str(one.message) or "merge" in str(one.message).lower() for one in caught)
    print(f"  layer_replication={stack}: logits differ by {gap:.1e}, warnings {about}")
    print(f"    the last of {len(layers)} blocks has the sum of the changes of blocks {held}: {exact}")
    return gap, held if exact else None, about


def in_place(model):
    model.merge_adapter()
    return model


WAYS = {
    "merge_and_unload()": lambda model: model.merge_and_unload(),
    "merge_and_unload(safe_merge=True)": lambda model: model.merge_and_unload(safe_merge=True),
    "merge_adapter()": in_place,
}
print(f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}")
ok = True
for name, merge in WAYS.items():
    print(f" {name}")
    plain, copied = tried(None, merge), tried([[0, 2], [1, 2]], merge)
    ok = ok and plain[0] < 1e-5 and plain[1] == [1]
    ok = ok and copied is not None and copied[0] > 0.01 and copied[1:] == ([1, 2], 0)
sys.exit(0 if ok else 1)
P
"$WORK/venv/bin/python" -W ignore try.py
