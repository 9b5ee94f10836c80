#!/bin/sh
# transformers 5.24.0: `bf16_full_eval=True` turns the model into bf16 for good, for training and saving as well.
#
# The setting is described as evaluation in bf16 instead of 32 bits, to save time and memory. `evaluate()` and
# `predict()` outside of a running training cast the Trainer's own model in place and never take that back. So the
# common look at the metric before training makes `train()` run on bf16 weights, without fp32 copies; the metric after
# training makes `save_model()` write a file with half of the bits. Evaluations during training do no such thing. One
# expects that a measurement leaves the weights as they are. Nothing warns. `fp16_full_eval` does the same.
# Exits 0 while the behaviour is as described, 1 once it has changed.
set -eu
: "${PY:=python3}"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
"$PY" -m venv "$WORK/venv"
"$WORK/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.24.0" "accelerate==1.15.0"
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1
cd "$WORK"
cat >try.py <<'P'
import json
import sys
import warnings
from pathlib import Path

import accelerate
import torch
import transformers
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

warnings.simplefilter("ignore")
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
ROWS = [{"input_ids": torch.arange(1, 9) + number, "labels": number % 2} for number in range(16)]


def dtypes(model):
    return sorted({str(weight.dtype).removeprefix("torch.") for weight in model.parameters()})


def tried(full, calls):
    """The dtypes of the weights after each call, the saved dtype, and the share of weights that the last call changed."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**SIZES))
    settings = TrainingArguments(
        "out", max_steps=2, bf16_full_eval=full, use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True
    )
    trainer = Trainer(model, settings, train_dataset=ROWS, eval_dataset=ROWS)
    trainer.log = lambda *args, **kwargs: None
    print(f"  bf16_full_eval={full}, {dtypes(model)} at first")
    changed = 0.0
    for call in calls:
        before = torch.cat([weight.detach().float().flatten() for weight in model.parameters()])
        getattr(trainer, call)()
        after = torch.cat([weight.detach().float().flatten() for weight in model.parameters()])
        changed = (before != after).double().mean().item()
        print(f"    {call + '()':10} -> {dtypes(model)}, {changed:.0%} of the values are other ones")
    trainer.save_model("saved")
    saved = json.loads(Path("saved/config.json").read_text())["dtype"]
    print(f"    save_model() wrote {saved}, {Path('saved/model.safetensors').stat().st_size // 1024} KiB")
    return saved, changed


print(f"torch {torch.__version__}, transformers {transformers.__version__}, accelerate {accelerate.__version__}")
plain = tried(False, ["train", "evaluate"])
first = tried(True, ["evaluate", "train"])
last = tried(True, ["train", "evaluate"])
only = tried(True, ["train"])
ok = plain == ("float32", 0.0) and first[0] == last[0] == "bfloat16" and last[1] > 0.5 and only[0] == "float32"
sys.exit(0 if ok else 1)
P
"$WORK/venv/bin/python" -W ignore try.py
