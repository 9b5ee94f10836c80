#!/bin/sh
# transformers 5.24.0: rows packed by `DataCollatorWithFlattening` attend to each other, unless `use_cache=False`.
#
# With sdpa and eager attention a decoder finds the borders of packed rows in `position_ids` and masks them, but only
# where there is no key-value cache. A model's own default is to make one in each forward pass, also in training mode.
# So in a loop of one's own the loss of a packed batch is that of rows which read their neighbours; under `Trainer`,
# which sets `config.use_cache` to False, or as soon as gradient checkpointing turns the cache off, the same batch and
# weights have another loss, the right one. One expects both settings to cost memory and time alone. Encoders that take
# `position_ids`, such as BERT, mix the rows in either case. Nothing warns.
# Exits 0 while the behaviour is as described, 1 once it has changed.
set -eu
: "${PY:=python3}"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
"$PY" -m venv "$WORK/venv"
"$WORK/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.24.0"
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1
cd "$WORK"
cat >try.py <<'P'
import sys
import warnings

import torch
import transformers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DataCollatorWithFlattening,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"intermediate_size": 48, "pad_token_id": 0, "initializer_range": 0.2}
OFF = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
GPT2 = {"vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2, "n_embd": 32, "n_layer": 2, "n_head": 4}
GPT2 |= {"initializer_range": 0.2, **OFF}
GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
MODELS = {
    "Llama": lambda how: LlamaForCausalLM(LlamaConfig(**SIZES, attn_implementation=how)),
    "Qwen3": lambda how: Qwen3ForCausalLM(Qwen3Config(**SIZES, **GROUPED, attn_implementation=how)),
    "GPT-2": lambda how: GPT2LMHeadModel(GPT2Config(**GPT2, attn_implementation=how)),
    "BERT": lambda how: BertForMaskedLM(BertConfig(**SIZES, **NO_DROPOUT, attn_implementation=how)),
}
ROWS = [[5, 9, 11], [7, 8, 3, 6], [40, 41, 42, 43, 44]]
BATCH = DataCollatorWithFlattening(return_tensors="pt")([{"input_ids": row} for row in ROWS])


def losses(make, how):
    """The loss of the rows one at a time, over their labels, and that of the packed batch in three settings."""
    torch.manual_seed(0)
    model = make(how).train()
    first = 0 if model.config.model_type == "bert" else 1  # a decoder does not predict the first token of a row
    labels = BATCH["labels"].clone()
    if first == 0:
        labels = BATCH["input_ids"].clone()
    with torch.no_grad():
        singles = [torch.tensor([row]) for row in ROWS]
        summed = sum(model(input_ids=row, labels=row).loss.item() * (row.numel() - first) for row in singles)
        alone = summed / sum(row.numel() - first for row in singles)
        packed = {name: BATCH[name] for name in ("input_ids", "position_ids")} | {"labels": labels}
        found = [model(**packed).loss.item(), model(**packed, use_cache=False).loss.item()]
    model.gradient_checkpointing_enable()
    return [alone, *found, model(**packed).loss.item()]


print(f"torch {torch.__version__}, transformers {transformers.__version__}; the loss of three rows, in training mode")
ok = True
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for how in ("sdpa", "eager"):
        for name, make in MODELS.items():
            alone, plain, no_cache, checkpointed = losses(make, how)
            print(
                f"  {name}, {how}: one at a time {alone:.4f}; packed {plain:.4f}, with use_cache=False {no_cache:.4f}, "
                f"with gradient checkpointing {checkpointed:.4f}"
            )
            apart = [abs(one - alone) < 1e-4 for one in (plain, no_cache, checkpointed)]
            ok = ok and apart == ([False] * 3 if name == "BERT" else [False, True, True])
about = [str(one.message) for one in caught if "pack" in str(one.message) or "position_ids" in str(one.message)]
print(f"  warnings about it: {len(about)}")
sys.exit(0 if ok and not about else 1)
P
"$WORK/venv/bin/python" try.py
