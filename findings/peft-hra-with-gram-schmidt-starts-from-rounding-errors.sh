#!/bin/sh
# peft 0.21.2: `HRAConfig(apply_GS=True)` starts from rounding errors, with a gradient a million times too large.
#
# Householder reflection adaptation multiplies a weight by `r` reflections. As the two of a pair begin with the same
# vector they cancel, so that training starts from the model as it is. `apply_GS` makes the vectors orthogonal first,
# with the same start. Of two equal vectors the second is then nothing but rounding errors, scaled to length one; if
# they happen to be zero, the loss is NaN. So the start is another model, another one again in double precision, and the
# gradient through that scaling is millions of times that without the setting, so that clipping leaves nothing of the
# rest. The documentation calls it an option, and says only that `r` should be even, for this very start. One expects
# to begin with the model, as without it. Nothing warns.
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
import copy
import math
import sys
import warnings

import peft
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

transformers.logging.set_verbosity_error()
SIZES = {"vocab_size": 32, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0}
SIZES |= {"num_key_value_heads": 4, "intermediate_size": 64, "initializer_range": 0.2}
IDS = (torch.arange(12)[None] + torch.arange(31)[:, None]) % 31 + 1
torch.manual_seed(0)
BASE = LlamaForCausalLM(LlamaConfig(**SIZES))


def tried(seed, dtype=torch.float32, **settings):
    """The loss at the start, the largest gradient there, and warnings about the setting."""
    torch.manual_seed(seed)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        hra = peft.HRAConfig(target_modules=["q_proj", "v_proj", "down_proj"], **settings)
        model = peft.get_peft_model(copy.deepcopy(BASE), hra).to(dtype)
        loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
    about = [one for one in caught if "GS" in str(one.message) or "nan" in str(one.message).lower()]
    gradients = [value.grad.abs().max().item() for value in model.parameters() if value.grad is not None]
    largest = math.nan if any(math.isnan(one) for one in gradients) else max(gradients)
    return loss.item(), largest, len(about)


with torch.no_grad():
    base = BASE(input_ids=IDS, labels=IDS).loss.item()
print(f"torch {torch.__version__}, peft {peft.__version__}; the model's own loss {base:.4f}")
ok = True
for rank in (2, 8):
    for seed in (1, 2, 3):
        plain, gradient, _ = tried(seed, r=rank)
        loss, larger, warned = tried(seed, r=rank, apply_GS=True)
        double = tried(seed, torch.float64, r=rank, apply_GS=True)[0]
        print(f"  r={rank}, seed {seed}: loss {plain:.4f}, largest gradient {gradient:.1e}")
        print(
            f"    with apply_GS: loss {loss:.4f} ({double:.4f} in double precision), largest gradient {larger:.1e}; "
            f"warnings {warned}"
        )
        ok = ok and abs(plain - base) < 1e-4 and not warned and not larger < 1e4 * gradient
        ok = ok and not abs(loss - base) < 1e-4 and not abs(loss - double) < 1e-4  # a loss may be NaN
sys.exit(0 if ok else 1)
P
"$WORK/venv/bin/python" -W ignore try.py
