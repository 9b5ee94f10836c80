#!/bin/sh
# peft 0.21.2: LoRA on tied embeddings with `ensure_weight_tying=True` is merged into the shared weight twice.
#
# Where input and output embeddings are one weight (Gemma, the small Llama 3.2 and Qwen3), peft warns of LoRA on
# `embed_tokens` or `lm_head` alone and names this setting as the remedy. It ties the two adapters; training, saving and
# loading are right. But `merge_and_unload` visits both layers, and at each visit adds the same product to the one
# weight: twice the change arrives there, with `safe_merge=True` too. A warning at the merge speaks of complications and
# of untying the model first, not of a wrong result. The merged folder loads without a word and answers otherwise than
# the adapter does. An embedding in `modules_to_save` with the same setting is merged exactly.
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
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "intermediate_size": 48, "pad_token_id": 0, "tie_word_embeddings": True}
IDS = torch.tensor([[5, 9, 11, 7, 22, 31]])


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=IDS).logits


def base(cls, config):
    torch.manual_seed(0)
    return cls(config(**SIZES))


@torch.no_grad()
def tried(cls, config, safe=False, **parts):
    """How far the loaded adapter and the merged model are from the adapter, and how often its change was added."""
    lora = peft.LoraConfig(r=4, lora_alpha=4, ensure_weight_tying=True, **parts)
    model = peft.get_peft_model(base(cls, config), lora)
    before = model.get_input_embeddings().weight.clone()
    for value in model.parameters():
        if value.requires_grad:  # as if it had been trained
            value += 0.05 * torch.randn_like(value)
    wanted = logits(model)
    model.save_pretrained("adapter")
    loaded = logits(peft.PeftModel.from_pretrained(base(cls, config), "adapter"))
    layer = model.base_model.model.model.embed_tokens
    if "target_modules" in parts:
        change = layer.get_delta_weight("default")
    else:
        change = layer.modules_to_save["default"].weight - before
    merged = model.merge_and_unload(safe_merge=safe)
    merged.save_pretrained("merged")
    again = cls.from_pretrained("merged")
    assert again.lm_head.weight is again.get_input_embeddings().weight
    times = ((again.lm_head.weight - before) * change).sum() / change.square().sum()
    return (loaded - wanted).abs().max().item(), (logits(again) - wanted).abs().max().item(), times.item()


print(f"transformers {transformers.__version__}, peft {peft.__version__}; largest difference to the adapter's logits")
models = ((LlamaForCausalLM, LlamaConfig), (Qwen2ForCausalLM, Qwen2Config))
targets, ok = ["q_proj", "embed_tokens"], True
for cls, config in models:
    for name, parts in (
        (f"target_modules={targets}", {"target_modules": targets}),
        ("target_modules=['lm_head']", {"target_modules": ["lm_head"]}),
        (f"target_modules={targets}, safe_merge", {"target_modules": targets, "safe": True}),
        ("modules_to_save=['embed_tokens']", {"modules_to_save": ["embed_tokens"]}),
    ):
        loaded, merged, times = tried(cls, config, **parts)
        print(f"  {cls.__name__}, {name}: loaded {loaded:.1e}, merged {merged:.3f}, change added {times:.3f} times")
        twice = abs(times - 2) < 1e-3 and merged > 0.1
        once = abs(times - 1) < 1e-3 and merged < 1e-4
        ok = ok and loaded < 1e-5 and (once if "modules_to_save" in parts else twice)
sys.exit(0 if ok else 1)
P
"$WORK/venv/bin/python" -W ignore try.py
