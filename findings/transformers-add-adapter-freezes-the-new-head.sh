#!/bin/sh
# transformers 5.23.0 with peft 0.21.2: `model.add_adapter(LoraConfig(task_type="SEQ_CLS"))` freezes the new output layer
# and leaves it out of what `save_pretrained` writes; peft's `get_peft_model` trains and saves it.
#
# One would expect both doors to do the same with the same config: the documents of transformers describe `add_adapter`
# as the way to train an adapter without peft's wrapper. But only peft's class for the task adds the output layer to
# `modules_to_save`. After `add_adapter` a classifier that was made for the task stays as it was drawn, LoRA learns
# around it, the saved folder holds LoRA alone, and every load draws another classifier: the answers of a saved model
# change from load to load. Without a warning in `add_adapter` or `save_pretrained`. `modules_to_save=["classifier"]`
# mends both.
# The weights differ, too: of a model in bf16 `add_adapter` makes LoRA in bf16, `get_peft_model` in fp32, so that under
# a plain optimiser most of the small steps of the first are rounded away.
# (transformers 5.24.0 refuses peft 0.21.2 here, see transformers-adapters-need-a-newer-peft.sh.)
# Exits 0 while the behaviour is as described, 1 once it has changed.
set -eu
: "${PY:=python3}"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
"$PY" -m venv "$WORK/venv"
"$WORK/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.23.0" "peft==0.21.2"
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1
cd "$WORK"
cat >try.py <<'P'
import sys

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import BertConfig, BertForSequenceClassification, BertModel

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
IDS = torch.tensor([[2, 7, 9, 11, 3]])
BertModel(BertConfig(**SIZES)).save_pretrained("base")


def config(**more):
    return LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"], r=2, **more)


def base(dtype=torch.float32):
    return BertForSequenceClassification.from_pretrained("base", num_labels=3, dtype=dtype)


def added(**more):
    model = base()
    model.add_adapter(config(**more))
    return model


def head(model):
    return any(one.requires_grad for name, one in model.named_parameters() if "classifier" in name)


def answers(model):
    with torch.no_grad():
        return model.eval()(IDS).logits


def again(folder):
    model = base()
    model.load_adapter(folder)
    return answers(model)


def saved(folder):
    return any("classifier" in name for name in load_file(f"{folder}/adapter_model.safetensors"))


wrapped, inside, mended = get_peft_model(base(), config()), added(), added(modules_to_save=["classifier"])
for model, folder in ((wrapped, "wrapped"), (inside, "inside"), (mended, "mended")):
    model.save_pretrained(folder)
found = {
    "get_peft_model: head trains, is saved": (head(wrapped), saved("wrapped")),
    "add_adapter: head trains, is saved": (head(inside), saved("inside")),
    "add_adapter with modules_to_save: head trains, is saved": (head(mended), saved("mended")),
    "two loads of add_adapter's folder agree": torch.equal(again("inside"), again("inside")),
    "get_peft_model's folder gives the saved answers": torch.allclose(
        answers(PeftModel.from_pretrained(base(), "wrapped")), answers(wrapped), atol=1e-6
    ),
}
low = {}
for name, model in (("add_adapter", base(torch.bfloat16)), ("get_peft_model", base(torch.bfloat16))):
    model.add_adapter(config()) if name == "add_adapter" else get_peft_model(model, config())
    low[name] = {str(one.dtype) for key, one in model.named_parameters() if "lora_" in key}
found["dtype of LoRA in a model in bf16"] = low
for what, value in found.items():
    print(f"{what}: {value}")
expected = [(True, True), (False, False), (True, True), False, True]
expected.append({"add_adapter": {"torch.bfloat16"}, "get_peft_model": {"torch.float32"}})
sys.exit([*found.values()] != expected)
P
"$WORK/venv/bin/python" -W ignore try.py
