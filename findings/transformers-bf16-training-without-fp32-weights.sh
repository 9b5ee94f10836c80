#!/bin/sh
# transformers 5.24.0: `TrainingArguments(bf16=True)` over a bf16 checkpoint keeps no fp32 weights, and most never move.
#
# `bf16=True` is described as mixed precision: one expects fp32 weights with bf16 products, as in transformers 4, where
# `from_pretrained` gave fp32. transformers 5 loads a checkpoint in its own dtype, and the Trainer adds autocast on top
# without keeping fp32 copies. AdamW then writes into bf16 weights, whose spacing is larger than its steps: at 2e-5, 20 steps
# leave most values as they were. The same call with `dtype=torch.float32` moves nearly all. Nothing warns.
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
import sys
import warnings

import torch
import transformers
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
SIZES = {"vocab_size": 64, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
torch.manual_seed(0)
BertForSequenceClassification(BertConfig(**SIZES)).bfloat16().save_pretrained("base")
ROWS = [{"input_ids": torch.randint(0, 64, (16,)), "labels": number % 2} for number in range(160)]
ARGUMENTS = {"bf16": True, "learning_rate": 2e-5, "per_device_train_batch_size": 8, "num_train_epochs": 1, "use_cpu": True}
QUIET = {"report_to": [], "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True}


def unmoved(**loading):
    """The dtype of the weights of the blocks, the share that no step changed, and the number of warnings."""
    model = BertForSequenceClassification.from_pretrained("base", **loading)
    blocks = dict(model.bert.encoder.named_parameters())
    before = {name: value.detach().clone() for name, value in blocks.items()}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Trainer(model, TrainingArguments("out", **ARGUMENTS, **QUIET), train_dataset=ROWS).train()
    same = sum((blocks[name] == before[name]).sum().item() for name in blocks)
    about = [one for one in caught if "bf16" in str(one.message) or "dtype" in str(one.message)]
    return model.dtype, same / sum(value.numel() for value in blocks.values()), len(about)


print(f"transformers {transformers.__version__}; a bf16 checkpoint under Trainer(bf16=True), 20 steps at 2e-5")
found = {"from_pretrained(folder)": unmoved(), "with dtype=torch.float32": unmoved(dtype=torch.float32)}
for name, (dtype, share, count) in found.items():
    print(f"  {name}: weights {dtype}, {100 * share:.0f} % of the blocks' values did not move, warnings about it {count}")
(own, own_share, count), (wide, wide_share, _) = found.values()
ok = own == torch.bfloat16 and own_share > 0.5 and wide == torch.float32 and wide_share < 0.1
sys.exit(0 if ok and not count else 1)
P
"$WORK/venv/bin/python" try.py
