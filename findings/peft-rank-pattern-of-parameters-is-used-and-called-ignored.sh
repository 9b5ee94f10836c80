#!/bin/sh
# peft 0.21.2: `rank_pattern` and `alpha_pattern` for `target_parameters` are applied, and a warning says they were ignored.
#
# LoRA on the experts of a mixture names tensors (`target_parameters=["mlp.experts.gate_up_proj", ...]`), and a pattern by the
# tensor's full name gives one of them another rank or alpha. It does: the matrices have that rank, and the change is scaled by
# that alpha. Yet `get_peft_model` and `PeftModel.from_pretrained` warn that the keys "did not match any targeted module and were
# ignored", because they compare the keys with the names of modules alone. One expects either the pattern or the warning.
# Who believes the warning, and leaves the pattern out of the settings of the saved folder, can no longer load it. A key that
# really matches nothing gives the same warning, so the two cannot be told apart.
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

import peft
import torch
import transformers
from transformers import MixtralConfig, MixtralForCausalLM

transformers.logging.set_verbosity_error()
SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0}
SIZES |= {"num_key_value_heads": 4, "intermediate_size": 48, "num_local_experts": 3, "initializer_range": 0.2}
KEY = "model.layers.1.mlp.experts.down_proj"
IDS = torch.tensor([[5, 9, 11, 7, 22, 31]])


def base():
    torch.manual_seed(0)
    return MixtralForCausalLM(MixtralConfig(**SIZES)).eval()


def warned(make):
    """What ``make`` returns, and which keys it says were ignored."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = make()
    said = [str(one.message) for one in caught if "did not match any targeted module and were ignored" in str(one.message)]
    return made, [next(name for name in ("rank_pattern", "alpha_pattern") if name in one) for one in said]


@torch.no_grad()
def tried(key):
    """The rank and the factor at the tensor that ``key`` is of, and what was said, when made and when loaded."""
    settings = {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}
    patterns = {"rank_pattern": {key: 5}, "alpha_pattern": {key: 20}} if key else {}
    config = peft.LoraConfig(r=2, lora_alpha=2, **settings, **patterns)
    model, said = warned(lambda: peft.get_peft_model(base(), config).eval())
    found = [one for name, one in model.named_modules() if getattr(one, "parameter_name", "") == "down_proj"]
    for name, value in model.named_parameters():
        if "lora_" in name:
            value.normal_(std=0.3)
    model.save_pretrained("adapter")
    again, loaded = warned(lambda: peft.PeftModel.from_pretrained(base(), "adapter").eval())
    same = torch.equal(again(input_ids=IDS).logits, model(input_ids=IDS).logits)
    return found[1].r["default"], found[1].scaling["default"], said, loaded, same


print(f"transformers {transformers.__version__}, peft {peft.__version__}")
ok = True
for key, wanted in ((None, (2, 1.0, [], [], True)), (KEY, (5, 4.0, ["rank_pattern", "alpha_pattern"], None, True))):
    rank, factor, said, loaded, same = tried(key)
    print(f"  pattern of {key}: rank {rank}, factor {factor}")
    print(f"    said to be ignored: {said} when made, {loaded} when loaded; loaded, the same logits: {same}")
    ok = ok and (rank, factor, sorted(said, reverse=True), same) == (*wanted[:3], wanted[4]) and sorted(loaded) == sorted(said)
nothing = tried("model.layers.1.mlp.experts.no_such")
print(f"  a key that matches nothing: rank {nothing[0]}, factor {nothing[1]}, said to be ignored: {nothing[2]}")
ok = ok and nothing[:2] == (2, 1.0) and sorted(nothing[2], reverse=True) == ["rank_pattern", "alpha_pattern"]
settings = json.load(open("adapter/adapter_config.json"))
tried(KEY)
settings |= {"rank_pattern": {}, "alpha_pattern": {}}
json.dump(settings, open("adapter/adapter_config.json", "w"))
try:
    peft.PeftModel.from_pretrained(base(), "adapter")
except RuntimeError as error:
    print(f"  the folder without its pattern: {type(error).__name__}, {str(error).splitlines()[-1].strip()[:110]}")
    ok = ok and "size mismatch" in str(error)
else:
    print("  the folder without its pattern is loaded")
    ok = False
sys.exit(0 if ok else 1)
P
"$WORK/venv/bin/python" -W ignore try.py
