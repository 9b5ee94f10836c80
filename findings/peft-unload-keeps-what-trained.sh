#!/bin/sh
# peft 0.21.2: `unload()` gives back the base model with the trained head, and with trained biases, still in it.
#
# Its docstring says that it removes the adapter without merging and gives back the original base model. LoRA's matrices
# are gone, but a part named by `modules_to_save` (the classifier, which `task_type="SEQ_CLS"` adds by itself) is replaced
# by its trained copy, and biases trained by `bias="all"` stay trained, since they were never copies. `disable_adapter()`
# uses the original head, and warns of the biases; `unload()` warns of neither. Whoever unloads one adapter to compare with
# the base, or to train the next one, starts from a half-tuned model.
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
from transformers import BertConfig, BertForSequenceClassification, BertModel

SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
IDS = torch.arange(12).reshape(2, 6)


def unloaded(make, output, **settings):
    """How far the outputs of the base are from those of the unloaded and of the disabled model, and the warnings."""
    torch.manual_seed(0)
    base = make(BertConfig(**SIZES)).eval()
    with torch.no_grad():
        before = output(base)
        model = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["query"], **settings)).eval()
        for value in model.parameters():
            if value.requires_grad:  # as if it had been trained
                value += 0.3 * torch.randn_like(value)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with model.disable_adapter():
                disabled = (output(model) - before).abs().max().item()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            after = output(model.unload())
    return (after - before).abs().max().item(), disabled, len(caught)


def logits(model):
    return model(IDS).logits


def states(model):
    return model(IDS).last_hidden_state


print(f"transformers {transformers.__version__}, peft {peft.__version__}; largest difference to the base model's output")
found = {
    "LoRA alone": unloaded(BertModel, states),
    "with the classifier, task_type='SEQ_CLS'": unloaded(BertForSequenceClassification, logits, task_type="SEQ_CLS"),
    "with bias='all'": unloaded(BertModel, states, bias="all"),
}
for name, (difference, disabled, count) in found.items():
    print(f"  {name}: unloaded {difference:.3f}, disabled {disabled:.3f}, warnings of unload {count}")
alone, head, biases = found.values()
ok = alone[0] == 0 and head[0] > 0.1 and head[1] < 1e-5 and biases[0] > 0.1 and not head[2] and not biases[2]
sys.exit(0 if ok else 1)
P
"$WORK/venv/bin/python" try.py
