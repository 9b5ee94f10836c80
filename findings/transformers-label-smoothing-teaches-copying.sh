#!/bin/sh
# transformers 5.24.0: under `label_smoothing_factor` Qwen2.5-VL, Qwen3-VL and LLaVA learn to repeat what they read.
#
# Every generative decoder shifts the labels by one in its own loss. With a smoothing factor the Trainer takes the
# labels away from the model and computes the loss itself, and shifts them only if the name of the class is in the table
# behind `AutoModelForCausalLM`. The vision-language classes are not in it (Gemma 3's is), nor is a class that a user
# derives from `LlamaForCausalLM`. One expects 0.1 to soften the targets a little. Instead each position is trained to
# give its own token, which it sees: the loss falls quickly, no warning comes, and what the model generates is its last
# token over and over.
# Exits 0 while the behaviour is as described, 1 once it has changed.
set -eu
: "${PY:=python3}"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
"$PY" -m venv "$WORK/venv"
"$WORK/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.24.0" "accelerate==1.15.0"
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1 TRANSFORMERS_VERBOSITY=error
cd "$WORK"
cat >try.py <<'P'
import contextlib
import io
import sys
import warnings

import torch
import transformers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

transformers.logging.set_verbosity_error()
TEXT = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
TEXT |= {"head_dim": 8, "intermediate_size": 48, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
MULTI = {**TEXT, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}}
SEEN = {"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": 32}
MARKS = {"image_token_id": 60, "video_token_id": 61, "vision_start_token_id": 62, "vision_end_token_id": 63}
SIGLIP = {"model_type": "siglip_vision_model", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SIGLIP |= {"intermediate_size": 16, "image_size": 28, "patch_size": 14}


class MyLlama(LlamaForCausalLM):
    """A class of one's own, with nothing changed."""


MODELS = {
    "LlamaForCausalLM": lambda: LlamaForCausalLM(LlamaConfig(**TEXT)),
    "MyLlama(LlamaForCausalLM)": lambda: MyLlama(LlamaConfig(**TEXT)),
    "Qwen2.5-VL": lambda: Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=MULTI, vision_config=SEEN, **MARKS)
    ),
    "Qwen3-VL": lambda: Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(text_config=MULTI, vision_config=SEEN | {"deepstack_visual_indexes": []}, **MARKS)
    ),
    "LLaVA": lambda: LlavaForConditionalGeneration(
        LlavaConfig(text_config={**TEXT, "model_type": "llama"}, vision_config=SIGLIP, image_token_index=60)
    ),
}
# The next token is always seven further on, around a circle of fifty.
IDS = [[(first + 7 * place) % 50 + 3 for place in range(10)] for first in range(50)]
ROWS = [{"input_ids": ids, "attention_mask": [1] * 10, "labels": ids} for ids in IDS]


def trained(make, smoothing):
    """The share of positions that give the next token, that of those that give their own, and the warnings."""
    torch.manual_seed(0)
    model = make()
    arguments = TrainingArguments(
        "out", label_smoothing_factor=smoothing, learning_rate=1e-2, num_train_epochs=30, seed=1,
        per_device_train_batch_size=25, use_cpu=True, report_to=[], save_strategy="no", logging_strategy="no",
        disable_tqdm=True,
    )
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("always")
        Trainer(model, arguments, train_dataset=ROWS, data_collator=default_data_collator).train()
    ids = torch.tensor(IDS)
    with torch.no_grad():
        said = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.argmax(-1)
    about = sum("smooth" in str(one.message) or "shift" in str(one.message) for one in caught)
    return (said[:, :-1] == ids[:, 1:]).float().mean().item(), (said == ids).float().mean().item(), about


print(f"transformers {transformers.__version__}; text alone, 60 steps; what a position gives after training")
ok = True
for name, make in MODELS.items():
    for smoothing in (0.0, 0.1):
        following, own, about = trained(make, smoothing)
        print(f"  {name}, factor {smoothing}: next token {following:.0%}, its own {own:.0%}, warnings about it {about}")
        copies = smoothing > 0 and name != "LlamaForCausalLM"
        ok = ok and not about and (own > 0.9 and following < 0.1 if copies else following > 0.9 and own < 0.1)
sys.exit(0 if ok else 1)
P
"$WORK/venv/bin/python" try.py
