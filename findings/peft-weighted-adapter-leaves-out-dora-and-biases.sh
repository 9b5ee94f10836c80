#!/bin/sh
# peft 0.21.2: `add_weighted_adapter` leaves out the magnitudes of DoRA and the biases of `lora_bias=True`.
#
# A copy of one adapter with weight 1.0 is expected to be that adapter, as with plain LoRA. The method combines the two
# matrices and nothing else. The new adapter is of the same kind as the first one, so it has a magnitude vector and a
# bias of its own, and these stay as they were made: the norms of the base weight, and zero. What training did to them
# is lost. Other unfit settings, such as `target_parameters`, are refused; here nothing is. A folder saved from the
# combined adapter holds these initial values.
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
SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "intermediate_size": 48}
TEXT = torch.tensor([[5, 9, 11, 7]])


def left(layer, name):
    """What an adapter has beside its two matrices."""
    if name in layer.lora_magnitude_vector:
        return layer.lora_magnitude_vector[name].weight
    return layer.lora_B[name].bias


@torch.no_grad()
def tried(**settings):
    """How far the answers of a copy are from the adapter's, over how far these are from the base's; the warnings."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
    base = model(TEXT).logits
    lora = peft.LoraConfig(r=4, lora_alpha=4, target_modules=["v_proj"], **settings)
    model = peft.get_peft_model(model, lora, "a").eval()
    for name, weight in model.named_parameters():  # as if it had been trained
        if "lora_magnitude_vector" in name:
            weight.mul_(torch.rand_like(weight) + 1)
        elif "lora_" in name:
            weight.normal_(std=0.1)
    trained = model(TEXT).logits
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.add_weighted_adapter(["a"], [1.0], "copy", combination_type="linear")
    model.set_adapter("copy")
    gap = ((model(TEXT).logits - trained).norm() / (trained - base).norm()).item()
    announced = any("weighted" in str(one.message) or "copy" in str(one.message) for one in caught)
    print(f"  {settings}: {gap:.1e} of the change is missing in the copy; a warning says so: {announced}")
    layer = model.base_model.model.model.layers[0].self_attn.v_proj
    untouched = None
    if settings:
        norms = layer.get_base_layer().weight.norm(dim=1) if "use_dora" in settings else 0.0
        untouched = bool((left(layer, "copy") - norms).abs().max() < 1e-5 < (left(layer, "a") - norms).abs().max())
        print(f"    values beside the two matrices: as they begin in the copy, and not in the adapter: {untouched}")
    return gap, untouched, announced


print(f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}")
plain, dora, biased = tried(), tried(use_dora=True), tried(lora_bias=True)
ok = plain[0] < 1e-4 and all(gap > 0.1 and untouched and not said for gap, untouched, said in (dora, biased))
sys.exit(0 if ok else 1)
P
"$WORK/venv/bin/python" -W ignore try.py
