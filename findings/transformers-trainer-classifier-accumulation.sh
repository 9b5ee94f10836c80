#!/bin/sh
# transformers' Trainer multiplies a sequence classifier's gradient by gradient_accumulation_steps.
#
# BertForSequenceClassification.forward takes **kwargs, so Trainer believes that its loss divides by
# num_items_in_batch and does not divide by the number of accumulated batches itself. The loss does not: it is the mean
# over its own batch. The same eight examples in one batch of 8, two of 4 and four of 2 give a gradient of 1, 2 and 4
# times the size (and a logged train_loss likewise). With Adam and no clipping the update hides it; with SGD, weight
# decay beside it, or max_grad_norm (1.0 by default) it does not.
# Seen with transformers 5.23.0 and 5.24.0, torch 2.13.0, accelerate 1.15.0.
# Exits 0 while the behaviour is as described, 1 once it has changed.
set -eu
: "${PY:=python3}"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
"$PY" -m venv "$WORK/venv"
"$WORK/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.24.0" "accelerate==1.15.0"
export HF_HUB_OFFLINE=1
cd "$WORK"
"$WORK/venv/bin/python" - <<'P'
import sys

import torch
import transformers
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, set_seed

transformers.logging.set_verbosity_error()
ROWS = [{"input_ids": torch.tensor([2, 5 + i, 9, 3]), "labels": i % 2} for i in range(8)]


def gradient(accumulated):
    """The norm of the classifier's gradient at the first step, all eight examples in it."""
    set_seed(0)
    model = BertForSequenceClassification(
        BertConfig(vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
                   hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=2)
    )
    seen = []

    class Noted(torch.optim.SGD):
        def step(self, *args, **kwargs):
            seen.append(model.classifier.weight.grad.norm().item())
            return super().step(*args, **kwargs)

    settings = TrainingArguments(
        "out", per_device_train_batch_size=8 // accumulated, gradient_accumulation_steps=accumulated, max_steps=1,
        max_grad_norm=0.0, use_cpu=True, report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True,
    )
    optimiser = Noted(model.parameters(), lr=0.1)
    Trainer(model, settings, train_dataset=ROWS, optimizers=(optimiser, None)).train()
    return seen[0]


print("transformers", transformers.__version__)
whole = gradient(1)
found = {accumulated: gradient(accumulated) / whole for accumulated in (1, 2, 4)}
for accumulated, times in found.items():
    print(f"{accumulated} accumulated batches of {8 // accumulated}: gradient {times:.3f} times that of one batch of 8")
sys.exit(0 if abs(found[2] - 2) < 0.01 and abs(found[4] - 4) < 0.01 else 1)
P
