#!/bin/sh
# Under TRL 1.16.0's assistant-only loss, Qwen2.5 and GPT-OSS also learn tokens that the generation prompt gives.
#
# `SFTTrainer(assistant_only_loss=True)` swaps a known chat template for a copy of its own with `{% generation %}` marks.
# In the copies for Llama 3, Gemma and Phi-3 the mark opens where `add_generation_prompt=True` ends: what bears loss is what
# the model has to write. In that for Qwen2.5 it opens one token early, before the line feed of "<|im_start|>assistant\n",
# and in that for GPT-OSS two tokens early, before "<|start|>assistant". In use these tokens are part of the prompt and are
# never predicted. TRL checks that the end of a turn is inside the mask, not that its header is outside.
# Exits 0 while the behaviour is as described, 1 once it has changed.
set -eu
: "${PY:=python3}"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
"$PY" -m venv "$WORK/venv"
"$WORK/venv/bin/pip" install --quiet "transformers==5.24.0" "tokenizers==0.23.3" "jinja2==3.1.6"
"$WORK/venv/bin/pip" install --quiet --no-deps "trl==1.16.0" # its templates are files; nothing of it is imported
export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error
cd "$WORK"
"$WORK/venv/bin/python" - <<'P'
import importlib.metadata
import importlib.util
import sys
from pathlib import Path

import transformers
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

# A token a byte: the marks are compared by characters, so any vocabulary serves.
bytes_ = [f"<0x{number:02X}>" for number in range(256)]
inner = Tokenizer(models.BPE({word: number for number, word in enumerate(bytes_)}, [], byte_fallback=True))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<bos>", eos_token="<eos>")
folder = Path(importlib.util.find_spec("trl").origin).parent / "chat_templates"
MESSAGES = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A rock."}]
print(f"transformers {transformers.__version__}, trl {importlib.metadata.version('trl')}")


def early(name):
    """The part of the generation prompt that bears loss."""
    template = (folder / f"{name}_training.jinja").read_text()
    given = tokenizer.apply_chat_template(MESSAGES[:1], chat_template=template, add_generation_prompt=True, tokenize=False)
    out = tokenizer.apply_chat_template(
        MESSAGES, chat_template=template, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    whole = tokenizer.apply_chat_template(MESSAGES, chat_template=template, tokenize=False)
    assert whole.startswith(given)
    encoded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    start = encoded["offset_mapping"][out["assistant_masks"].index(1)][0]
    return given[start:]


found = {name: early(name) for name in ("llama3", "gemma", "phi3", "qwen2_5", "gptoss")}
for name, part in found.items():
    print(f"{name}_training.jinja: of the generation prompt bears loss {part!r}")
wanted = {"llama3": "", "gemma": "", "phi3": "", "qwen2_5": "\n", "gptoss": "<|start|>assistant"}
sys.exit(0 if found == wanted else 1)
P
