#!/bin/sh
# peft 0.21.2: an adapter for RoBERTa with `modules_to_save=["classifier.dense", "classifier.out_proj"]` and the task type
# SEQ_CLS is trained and saved, and cannot be loaded.
#
# These are the modules that transformers reports as newly initialised. For SEQ_CLS peft adds "classifier" and "score" to
# the list, so that one module to save lies inside another. `get_peft_model` accepts that, and `save_pretrained` writes a
# folder without a word about it. `PeftModel.from_pretrained` ends in a KeyError. With ["classifier"] all is well.
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
from transformers import RobertaConfig, RobertaForSequenceClassification

transformers.logging.set_verbosity_error()
sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def base():
    torch.manual_seed(0)
    return RobertaForSequenceClassification(RobertaConfig(**sizes, max_position_embeddings=16))


def saved_and_loaded(parts):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        config = peft.LoraConfig(r=2, target_modules=["query"], modules_to_save=parts, task_type="SEQ_CLS")
        peft.get_peft_model(base(), config).save_pretrained("adapter")
    about = [one for one in caught if "modules_to_save" in str(one.message)]
    try:
        peft.PeftModel.from_pretrained(base(), "adapter")
    except KeyError as error:
        return f"KeyError {error}", len(about)
    return "loaded", len(about)


print(f"peft {peft.__version__}, transformers {transformers.__version__}")
found = {}
for parts in (["classifier"], ["classifier.dense", "classifier.out_proj"]):
    found[len(parts)], warned = saved_and_loaded(list(parts))
    print(f"  modules_to_save={parts}: saved with {warned} warnings about it; then {found[len(parts)]}")
    if warned:
        sys.exit(1)
sys.exit(0 if found[1] == "loaded" and found[2].startswith("KeyError") else 1)
P
"$WORK/venv/bin/python" try.py
