#!/bin/sh
# A model tuned with peft's prefix tuning generates as its base does, as if it had no prefix, with transformers 5.24.0.
#
# transformers 5.24 renamed `past_key_values` to `cache`. peft 0.21.2 still hands its prefix to `generate` under the old
# name. A forward pass accepts it, so training and scores are right. `generate` has made an empty cache of its own by
# then, under the new name, and drops the prefix; all that tells is a FutureWarning that both arguments are set. Greedy
# generation then equals what the base model says, and differs from the same greedy steps made by forward passes. With
# transformers 5.23.0 the two agree. Prompt tuning, which puts nothing into the cache, agrees in both.
# Exits 0 while the behaviour is as described, 1 once it has changed.
set -eu
: "${PY:=python3}"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
"$PY" -m venv "$WORK/venv"
"$WORK/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.24.0" "peft==0.21.2"
export HF_HUB_OFFLINE=1
cd "$WORK"
"$WORK/venv/bin/python" - <<'P'
import sys
import warnings

import peft
import torch
import transformers
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

transformers.logging.set_verbosity_error()
warnings.simplefilter("ignore", FutureWarning)
TEXT, STEPS = torch.tensor([[5, 9, 11, 7]]), 6
SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


@torch.no_grad()
def step_by_step(model):
    """Greedy, a forward pass of the whole text for each token."""
    said = TEXT
    for _ in range(STEPS):
        logits = model(input_ids=said, attention_mask=torch.ones_like(said)).logits
        said = torch.cat([said, logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    return said[0, TEXT.shape[1] :].tolist()


def answers(settings):
    """What the tuned model generates, what it says step by step, and what its base says."""
    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(**SIZES, pad_token_id=0, bos_token_id=1, eos_token_id=None)).eval()
    alone = step_by_step(base)
    tuned = get_peft_model(base, settings).eval()
    for parameter in tuned.prompt_encoder.parameters():
        torch.nn.init.normal_(parameter, std=3)  # as training would, away from where it starts
    mask = torch.ones_like(TEXT)
    said = tuned.generate(input_ids=TEXT, attention_mask=mask, max_new_tokens=STEPS, do_sample=False)
    return said[0, TEXT.shape[1] :].tolist(), step_by_step(tuned), alone


print(f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}")
found = {cls.__name__: answers(cls(task_type="CAUSAL_LM", num_virtual_tokens=5)) for cls in (PrefixTuningConfig, PromptTuningConfig)}
for name, (generated, stepped, alone) in found.items():
    print(f"{name}: generate {generated}, step by step {stepped}, base {alone}")
generated, stepped, alone = found["PrefixTuningConfig"]
prompted = found["PromptTuningConfig"]
sys.exit(0 if generated == alone != stepped and prompted[0] == prompted[1] else 1)
P
