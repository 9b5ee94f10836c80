#!/bin/sh
# torchao 0.18.0 with peft 0.21.2 and transformers 5.24.0: LoRA over linears with int8 weights and dynamic int8
# activations trains with gradients that point elsewhere.
#
# A model loaded with `Int8DynamicActivationInt8WeightConfig` calls itself trainable (transformers' quantiser names
# this very config), and peft has a LoRA layer for it that merges, too. But the product of such a linear has no
# backward: what leaves it does not require a gradient, though its input does, and nothing says so. So the gradient of a
# LoRA pair reaches it only along paths of residuals and other LoRA pairs. With LoRA on all linears every pair has a
# gradient and the loss falls, but below the last block the gradients are nearly at right angles to those of the model
# that was quantised (cosines around 0; with int8 weights alone, `Int8WeightOnlyConfig`, 0.99 and more). With LoRA on
# queries and values, peft's default, nothing reaches the loss and torch raises an error. Seen on a CPU.
# Exits 0 while the behaviour is as described, 1 once it has changed.
set -eu
: "${PY:=python3}"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
"$PY" -m venv "$WORK/venv"
"$WORK/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.24.0" "peft==0.21.2" "torchao==0.18.0"
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1
cd "$WORK"
cat >try.py <<'P'
import sys

import peft
import torch
import torchao
import transformers
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, TorchAoConfig

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
SIZES = {"vocab_size": 256, "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 4, "intermediate_size": 256, "initializer_range": 0.1}
torch.manual_seed(0)
TEXTS = torch.randint(256, (2, 9))
LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained("base")


def model_with(config, targets="all-linear"):
    """The model with LoRA on it, the same one each time, and whether transformers calls it trainable."""
    more = {"quantization_config": TorchAoConfig(config)} if config else {}
    model = AutoModelForCausalLM.from_pretrained("base", dtype=torch.float32, device_map="cpu", **more)
    trainable = not config or model.hf_quantizer.is_trainable
    model = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=targets))
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.05)  # as if it had been trained a little
    return model, trainable


def gradients(config):
    model, trainable = model_with(config)
    model(input_ids=TEXTS, labels=TEXTS).loss.backward()
    found = {name: one.grad.flatten() for name, one in model.named_parameters() if one.requires_grad}
    return found, trainable


def tried(config):
    """The mean cosine to the gradients of the model that was quantised, below the last block and in its last linear."""
    found, trainable = gradients(config)
    cosines = {name: torch.cosine_similarity(one, whole[name], dim=0).item() for name, one in found.items()}
    lower = [value for name, value in cosines.items() if "layers.3." not in name]
    last = [value for name, value in cosines.items() if "layers.3.mlp.down_proj" in name]
    model, _ = model_with(config)
    step = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=5e-3)
    losses = []
    for _ in range(20):
        loss = model(input_ids=TEXTS, labels=TEXTS).loss
        loss.backward()
        step.step()
        step.zero_grad()
        losses.append(loss.item())
    try:
        model_with(config, ["q_proj", "v_proj"])[0](input_ids=TEXTS, labels=TEXTS).loss.backward()
        default = "trains"
    except RuntimeError as error:
        default = str(error)
    result = sum(lower) / len(lower), sum(last) / len(last)
    print(f"{type(config).__name__}, called trainable: {trainable}")
    print(f"  {len(found)} gradients; cosine below the last block {result[0]:.3f}, in its last linear {result[1]:.3f}")
    print(f"  loss of 20 steps {losses[0]:.2f} -> {losses[-1]:.2f}; on queries and values alone: {default}")
    return trainable, *result, losses[-1] < losses[0], default == "trains"


print(f"torch {torch.__version__}, torchao {torchao.__version__}, transformers {transformers.__version__}, ", end="")
print(f"peft {peft.__version__}")
whole, _ = gradients(None)
weights, dynamic = tried(Int8WeightOnlyConfig()), tried(Int8DynamicActivationInt8WeightConfig())
good = weights[0] and weights[1] > 0.98 and weights[3] and weights[4]
lost = dynamic[0] and dynamic[1] < 0.4 and dynamic[2] > 0.98 and dynamic[3] and not dynamic[4]
sys.exit(0 if good and lost else 1)
P
"$WORK/venv/bin/python" -W ignore try.py 2>errors.txt || { status=$?; tail -3 errors.txt; exit $status; }
