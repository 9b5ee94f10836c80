#!/bin/sh
# peft 0.21.2: `layers_to_transform` drops block numbers that the model does not have, negative ones among them.
#
# One would expect an index that no block has to be refused, or -1 to be the last block as in Python. A list in which no
# number fits is refused ("No modules were targeted for adaptation"), but as soon as one fits, the others are dropped
# without a warning: of `[0, -1]` and of `[0, 30]` on a model of four blocks, block 0 alone gets an adapter. A user who
# asks for "the first and the last block", or who moves a configuration for 32 blocks to a smaller model, trains fewer
# blocks than the configuration names, and `adapter_config.json` still names all of them.
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
import json
import sys
import warnings
from pathlib import Path

import peft
import transformers
from transformers import BertConfig, BertForSequenceClassification

SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48}


def adapted(blocks):
    """The blocks that get LoRA, the warnings about them, and what the saved configuration says."""
    lora = peft.LoraConfig(r=2, target_modules=["query"], layers_to_transform=blocks)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = peft.get_peft_model(BertForSequenceClassification(BertConfig(**SIZES)), lora)
        except ValueError as error:
            return f"{type(error).__name__}: {str(error)[:45]}", 0, None
    about = sum("layer" in str(one.message) for one in caught)
    model.save_pretrained("adapter")
    saved = json.loads(Path("adapter/adapter_config.json").read_text())["layers_to_transform"]
    found = {name.split(".layer.")[1].split(".")[0] for name, _ in model.named_parameters() if "lora_A" in name}
    return sorted(map(int, found)), about, saved


print(f"transformers {transformers.__version__}, peft {peft.__version__}; a model of 4 blocks")
results = {}
for blocks in ([0, 3], [-1], [30], [0, -1], [0, 30]):
    results[str(blocks)] = found = adapted(blocks)
    print(f"  layers_to_transform={blocks}: adapted {found[0]}, warnings {found[1]}, saved {found[2]}")
refused = all(str(results[one][0]).startswith("NoMatchingPeftModuleError") for one in ("[-1]", "[30]"))
dropped = all(results[str(one)] == ([0], 0, one) for one in ([0, -1], [0, 30]))
sys.exit(0 if refused and dropped and results["[0, 3]"][0] == [0, 3] else 1)
P
"$WORK/venv/bin/python" -W ignore try.py
