#!/bin/sh
# transformers 5.24.0: `save_pretrained` writes the truncation and the padding of the last call into tokenizer.json.
#
# `tokenizer(texts, truncation=True, max_length=8, padding="max_length")` sets both on the Rust tokenizer inside. The
# docstring of `set_truncation_and_padding` says that they are taken back after the call; they stay until the next
# one. So what is written after a training run, and into each of its checkpoints, depends on the last batch that was
# tokenised. transformers sets both anew for every call and never shows it. Whatever reads tokenizer.json by itself,
# as the tokenizers library does, cuts every text after 8 tokens and fills short ones, without a word. One expects
# saved folders of the same tokenizer to be the same.
# Exits 0 while the behaviour is as described, 1 once it has changed.
set -eu
: "${PY:=python3}"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
"$PY" -m venv "$WORK/venv"
"$WORK/venv/bin/pip" install --quiet "transformers==5.24.0" "tokenizers==0.23.3"
export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error
cd "$WORK"
cat >try.py <<'P'
import inspect
import json
import sys
from pathlib import Path

import tokenizers
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

print(f"transformers {transformers.__version__}, tokenizers {tokenizers.__version__}")
words = ["<pad>", "<unk>", *(f"w{number}" for number in range(30))]
inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, "<unk>"))
inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>", model_max_length=512)
long, short = " ".join(words[2:22]), "w1 w2"
promise = " ".join(inspect.getdoc(tokenizer.set_truncation_and_padding).split())
print(f"  the docstring: ...{promise[promise.index('it will be reset') :].split('.')[0]}.")


def saved(name):
    """Tokens of the long and of the short text by the saved file alone, and of the long one by transformers."""
    tokenizer.save_pretrained(name)
    alone = Tokenizer.from_file(f"{name}/tokenizer.json")
    state = {key: json.loads(Path(name, "tokenizer.json").read_text())[key] for key in ("truncation", "padding")}
    again = AutoTokenizer.from_pretrained(name)
    return state, len(alone.encode(long).ids), len(alone.encode(short).ids), len(again(long)["input_ids"])


found = {"nothing": saved("new")}
tokenizer([long, short], truncation=True, max_length=8, padding="max_length")
found["8 tokens, filled"] = saved("filled")
tokenizer([long, short], truncation=True, max_length=16)
found["16 tokens"] = saved("sixteen")
tokenizer(long)
found["no truncation"] = saved("plain")
for name, (state, *counts) in found.items():
    print(f"  saved after a call with {name}: {state}")
    print(f"    the file alone: 20 words are {counts[0]} tokens, 2 are {counts[1]}; by transformers 20 are {counts[2]}")
counts = {name: tuple(parts[1:]) for name, parts in found.items()}
wanted = {"nothing": (20, 2, 20), "8 tokens, filled": (8, 8, 20), "16 tokens": (16, 2, 20)}
wanted["no truncation"] = wanted["nothing"]
sys.exit(0 if counts == wanted else 1)
P
"$WORK/venv/bin/python" -W ignore try.py
