#!/bin/sh
# transformers 5.24.0: a model that was loaded with `key_mapping` is saved under names that nothing can load.
#
# `from_pretrained(key_mapping=...)` takes regular expressions for the names in a checkpoint and what to put in their place.
# The model keeps that mapping, and `save_pretrained` applies it backwards: the replacement is searched for, and the
# pattern itself is written. Special signs of the pattern that have no single reading backwards stay in the names: with
# an optional group, "model.layers.0..." is saved as "?model.layers.0...". Loading the folder, with or without the
# mapping, finds no weight, draws all of them anew, and reports that in a table that is printed for a new output layer,
# too. One expects the names of the model, as any folder that `save_pretrained` writes has them.
# Exits 0 while the behaviour is as described, 1 once it has changed.
set -eu
: "${PY:=python3}"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
"$PY" -m venv "$WORK/venv"
"$WORK/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.24.0"
export HF_HUB_OFFLINE=1
cd "$WORK"
cat >try.py <<'P'
import sys

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
torch.manual_seed(0)
SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 48}
config = LlamaConfig(**SIZES, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True)
model = LlamaForCausalLM(config).eval()
ids = torch.arange(8)[None]
MAPPINGS = {
    "plain": {r"^language_model\.model\.": "model."},
    "optional": {r"^(?:language_model\.)?model\.": "model."},
}


@torch.no_grad()
def same(other):
    """Whether another model has the weights of the first."""
    return torch.allclose(other(input_ids=ids).logits, model(input_ids=ids).logits, atol=1e-5)


model.save_pretrained("whole")
tensors = load_file("whole/model.safetensors")
save_file({f"language_model.{name}": one for name, one in tensors.items()}, "whole/model.safetensors", {"format": "pt"})
print(f"torch {torch.__version__}, transformers {transformers.__version__}")
found = {}
for kind, mapping in MAPPINGS.items():
    loaded = LlamaForCausalLM.from_pretrained("whole", key_mapping=mapping)
    loaded.save_pretrained(kind)
    names = sorted(load_file(f"{kind}/model.safetensors"))
    again = [same(LlamaForCausalLM.from_pretrained(kind, **more)) for more in ({}, {"key_mapping": mapping})]
    found[kind] = same(loaded), names[0], *again
    print(f"  {kind}: {mapping}")
    print(f"    loaded as it was: {same(loaded)}; saved as {names[0]!r}")
    print(f"    loaded again: the same without the mapping {again[0]}, with it {again[1]}")
own = min(tensors)
ok = found["plain"] == (True, f"language_model.{own}", False, True)
right, name, without, with_it = found["optional"]
ok = ok and right and "?" in name and not without and not with_it
sys.exit(0 if ok else 1)
P
"$WORK/venv/bin/python" -W ignore try.py
