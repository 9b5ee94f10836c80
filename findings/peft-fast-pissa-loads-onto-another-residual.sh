#!/bin/sh
# peft 0.21.2: an adapter begun with `init_lora_weights="pissa_niter_16"` answers otherwise once it is loaded again.
#
# PiSSA moves the main directions of each weight into the adapter and leaves the rest, the residual, in the base. The
# folder holds the adapter alone; loading it takes the original weight apart once more to get the residual back. Plain
# "pissa" finds the same one. "pissa_niter_[number]", documented as a faster start with a small error, draws random
# numbers for its decomposition, and so the residual is another one at each loading, by 16 iterations still. The saved
# matrices no longer fit it: the loss of the trained model comes back much higher, and a new loading gives a new model.
# One expects a saved adapter to be the one that was trained. Nothing warns.
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
SIZES = {"vocab_size": 64, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"intermediate_size": 256}
torch.manual_seed(1)
TEXT = torch.randint(0, 64, (8, 16))


def base():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES))


@torch.no_grad()
def loss(model):
    return model.eval()(input_ids=TEXT, labels=TEXT).loss.item()


def tried(start):
    """The loss of the base model, of the trained one, and of three loadings of it; warnings about these."""
    torch.manual_seed(2)
    untouched = loss(base())
    lora = peft.LoraConfig(r=8, lora_alpha=8, target_modules="all-linear", init_lora_weights=start)
    model = peft.get_peft_model(base(), lora).train()
    optimiser = torch.optim.Adam([value for value in model.parameters() if value.requires_grad], lr=1e-2)
    for _ in range(100):
        model(input_ids=TEXT, labels=TEXT).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    trained = loss(model)
    model.save_pretrained("adapter")
    again = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for seed in (3, 4, 5):
            fresh = base()
            torch.manual_seed(seed)  # as another process would have another state of the generator
            again.append(loss(peft.PeftModel.from_pretrained(fresh, "adapter")))
    about = sum("pissa" in str(one.message).lower() or "svd" in str(one.message).lower() for one in caught)
    losses = ", ".join(f"{value:.3f}" for value in again)
    print(f"  {start}: loss of the base {untouched:.3f}, trained {trained:.3f}, loaded {losses}; warnings {about}")
    return trained, again, about


print(f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}")
ok = True
for start in (True, "pissa"):
    trained, again, _ = tried(start)
    ok = ok and all(abs(value - trained) < 1e-4 for value in again)
for start in ("pissa_niter_4", "pissa_niter_16"):
    trained, again, about = tried(start)
    ok = ok and min(again) > trained + 0.1 and len({round(value, 4) for value in again}) == 3 and not about
sys.exit(0 if ok else 1)
P
"$WORK/venv/bin/python" -W ignore try.py
