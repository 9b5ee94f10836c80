#!/bin/sh
# peft 0.21.2: TinyLoRA on the embeddings of a Gemma 3 merges a change that is sqrt(D) times the one that was trained.
#
# Gemma multiplies what it reads from its embedding table by sqrt(D). peft's LoRA, DoRA and trainable tokens know that and
# multiply their own part as well, so that the merged model answers as the trained one. TinyLoRA also takes embeddings,
# but adds its part after the multiplication and merges it into the table before it: at D = 64 a merged model moves each
# embedding by 8 times what was trained, at the D = 640 of gemma-3-270m by 25 times. On Llama, whose embeddings have no
# factor, the two agree. Nothing warns: `merge_and_unload` works, and answers differ afterwards.
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

import torch
import transformers
from peft import LoraConfig, TinyLoraConfig, get_peft_model
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM

transformers.logging.set_verbosity_error()
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "vocab_size": 128,
    "tie_word_embeddings": False,  # a tied output layer would change with the merge, too
}
IDS = torch.arange(5, 100)[None]


@torch.no_grad()
def ratio(model, config):
    """The size of the change of the embeddings after the merge, in that before it."""
    read = model.get_input_embeddings()
    before = read(IDS)
    tuned = get_peft_model(model.eval(), config).eval()
    for one in tuned.parameters():
        if one.requires_grad:
            one.add_(0.05 * torch.randn_like(one))
    trained = tuned.get_input_embeddings()(IDS) - before
    merged = tuned.merge_and_unload().get_input_embeddings()(IDS) - before
    return round((merged.norm() / trained.norm()).item(), 2)


torch.manual_seed(0)
found = {}
for made, config in ((Gemma3ForCausalLM, Gemma3TextConfig), (LlamaForCausalLM, LlamaConfig)):
    for method in (LoraConfig, TinyLoraConfig):
        torch.manual_seed(0)
        name = f"{made.__name__} {method.__name__}"
        found[name] = ratio(made(config(**SIZES)), method(target_modules=["embed_tokens"]))
        print(f"{name}: merged change / trained change = {found[name]}")
sys.exit([*found.values()] != [1.0, 8.0, 1.0, 1.0])
P
"$WORK/venv/bin/python" -W ignore try.py
