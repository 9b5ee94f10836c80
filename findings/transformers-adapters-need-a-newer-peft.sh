#!/bin/sh
# transformers 5.24.0 asks for peft 0.22.0 to add, switch or read an adapter; the newest peft is 0.21.2 (2026-11-28).
#
# One would expect two current releases to work together, as transformers 5.23.0 does with the same peft. With 5.24.0
# `model.add_adapter(LoraConfig())` raises "The version of PEFT you are using is not compatible, please use a version >=
# 0.22.0", a version that cannot be installed. `from_pretrained` of an adapter's folder still loads it, but the model
# that it returns refuses `set_adapter`, `disable_adapters` and `get_adapter_state_dict` in the same way, so that the
# adapter can be neither switched off nor saved by it. sentence-transformers' `add_adapter` rests on these. peft's own
# `get_peft_model` and `PeftModel.from_pretrained` work.
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

import peft
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
LORA = {"r": 2, "target_modules": ["query", "value"]}


def base():
    return BertForSequenceClassification(BertConfig(**SIZES))


def outcome(what, call):
    try:
        call()
    except ValueError as error:
        found = f"ValueError: {error}"
    else:
        found = "works"
    print(f"  {what}: {found}")
    return found


print(f"transformers {transformers.__version__}, peft {peft.__version__}")
base().save_pretrained("base")
get_peft_model(BertForSequenceClassification.from_pretrained("base"), LoraConfig(**LORA)).save_pretrained("adapter")
loaded = AutoModelForSequenceClassification.from_pretrained("adapter")
print(f"  from_pretrained(adapter folder): loads {sum('lora_' in name for name, _ in loaded.named_parameters())} tensors")
theirs = [
    outcome("model.add_adapter(LoraConfig())", lambda: base().add_adapter(LoraConfig(**LORA))),
    outcome("loaded.disable_adapters()", lambda: loaded.disable_adapters()),
    outcome("loaded.set_adapter('default')", lambda: loaded.set_adapter("default")),
    outcome("loaded.get_adapter_state_dict()", lambda: loaded.get_adapter_state_dict()),
]
own = outcome("PeftModel.from_pretrained", lambda: PeftModel.from_pretrained(base(), "adapter"))
wanted = sys.argv[1]
sys.exit(0 if own == "works" and all(wanted in one for one in theirs) else 1)
P
"$WORK/venv/bin/python" -W ignore try.py "use a version >= 0.22.0"
"$WORK/venv/bin/pip" install --quiet "transformers==5.23.0" "peft==0.21.2"
"$WORK/venv/bin/python" -W ignore try.py works
newest=$("$WORK/venv/bin/pip" index versions peft 2>/dev/null | sed -n '1s/.*(\(.*\))/\1/p')
echo "the newest peft that can be installed: $newest"
test "$newest" = 0.21.2
