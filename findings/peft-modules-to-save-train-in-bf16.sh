#!/bin/sh
# peft 0.21.2: over a bf16 model LoRA trains in fp32, but the head of `modules_to_save` beside it trains in bf16.
#
# `get_peft_model` turns the weights of an adapter into fp32 (`autocast_adapter_dtype`), since a step of AdamW is often
# smaller than the spacing of bf16 numbers. The copies that `modules_to_save` makes, such as the new classifier that
# `task_type="SEQ_CLS"` adds by itself, keep the model's dtype. transformers 5 loads a bf16 checkpoint as bf16 without being
# asked, so one optimiser then has both: at a rate of 2e-5 most values of the classifier are after 20 steps what they were
# before, while those of LoRA have moved. Nothing warns.
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
from transformers import BertConfig, BertForSequenceClassification

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
SIZES = {"vocab_size": 64, "hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
torch.manual_seed(0)
BertForSequenceClassification(BertConfig(**SIZES)).bfloat16().save_pretrained("base")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    base = BertForSequenceClassification.from_pretrained("base")
    lora = peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query"])
    model = peft.get_peft_model(base, lora)
trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
before = {name: value.detach().clone() for name, value in trained.items()}
optimiser = torch.optim.AdamW(trained.values(), lr=2e-5)
for _ in range(20):
    ids, labels = torch.randint(0, 64, (8, 16)), torch.randint(0, 2, (8,))
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(input_ids=ids, labels=labels).loss
    loss.backward()
    optimiser.step()
    optimiser.zero_grad()
print(f"transformers {transformers.__version__}, peft {peft.__version__}; 20 steps of AdamW at 2e-5")
found = {}
for part in ("lora_B", "classifier.modules_to_save.default.weight"):
    names = [name for name in trained if part in name]
    same = sum((trained[name] == before[name]).sum().item() for name in names)
    share = same / sum(trained[name].numel() for name in names)
    found[part] = {trained[name].dtype for name in names}, share
    print(f"  {part}: {', '.join(map(str, found[part][0]))}, {100 * share:.0f} % of the values did not move")
about = [str(one.message) for one in caught if "bfloat16" in str(one.message) or "dtype" in str(one.message)]
print(f"  warnings about it: {len(about)}")
(lora_dtype, lora_share), (head_dtype, head_share) = found.values()
ok = lora_dtype == {torch.float32} and head_dtype == {torch.bfloat16} and lora_share < 0.1 and head_share > 0.3
sys.exit(0 if ok and not about else 1)
P
"$WORK/venv/bin/python" try.py
