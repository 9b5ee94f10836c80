#!/bin/sh
# peft 0.21.2: outside of LoRA and RoAd, `adapter_names` in a forward pass is dropped, and one adapter answers every row.
#
# `model(..., adapter_names=["one", "other", "__base__"])` gives each row of a batch an adapter of its own, or none. LoRA and
# RoAd do that, and LoRA raises an error for what it cannot mix, such as DoRA. The model around them takes the argument for any
# method and removes it before the base model is called, and the other methods never read it: IA3, OFT, BOFT, LoHa,
# LoKr, VeRA, HRA, MiSS, FourierFT, SHiRA and LN tuning answer all rows with the active adapter, in `generate` as well,
# where LoRA answers each row as if it were alone. A name that no adapter has passes too. One expects an error. Nothing
# warns: a server that moves from LoRA to OFT gives every client the answers of the adapter that was loaded last.
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
from transformers import LlamaConfig, LlamaForCausalLM

transformers.logging.set_verbosity_error()
SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0}
SIZES |= {"num_key_value_heads": 4, "intermediate_size": 48, "initializer_range": 0.2}
IDS = torch.tensor([[5, 9, 11, 7, 22, 31], [3, 4, 5, 6, 7, 8], [40, 41, 42, 43, 44, 45]])
NAMES = ["other", "default", "__base__"]
Q = {"target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
METHODS = {
    "LoRA": lambda: peft.LoraConfig(r=4, **Q),
    "RoAd": lambda: peft.RoadConfig(group_size=8, **Q),
    "IA3": lambda: peft.IA3Config(feedforward_modules=[], **Q),
    "OFT": lambda: peft.OFTConfig(r=4, oft_block_size=0, **Q),
    "BOFT": lambda: peft.BOFTConfig(boft_block_size=4, **Q),
    "LoHa": lambda: peft.LoHaConfig(r=4, **Q),
    "LoKr": lambda: peft.LoKrConfig(r=4, **Q),
    "VeRA": lambda: peft.VeraConfig(r=4, **Q),
    "HRA": lambda: peft.HRAConfig(r=4, **Q),
    "MiSS": lambda: peft.MissConfig(r=4, **Q),
    "FourierFT": lambda: peft.FourierFTConfig(n_frequency=50, **Q),
    "SHiRA": lambda: peft.ShiraConfig(r=4, **Q),
    "LN tuning": lambda: peft.LNTuningConfig(task_type="CAUSAL_LM"),
}


@torch.no_grad()
def tried(make):
    """How far each row of a mixed batch is from its own adapter's answer, and the batch from the active adapter's."""
    torch.manual_seed(0)
    model = peft.get_peft_model(LlamaForCausalLM(LlamaConfig(**SIZES)).eval(), make()).eval()
    model.add_adapter("other", make())
    answers, said = {}, {}
    for name in ("default", "other"):
        model.set_adapter(name)
        for value in model.parameters():
            if value.requires_grad:  # as if it had been trained
                value += 0.3 * torch.randn_like(value)
    for name in ("default", "other"):
        model.set_adapter(name)
        answers[name] = model(input_ids=IDS).logits
        said[name] = model.generate(input_ids=IDS, max_new_tokens=8, do_sample=False)
    with model.disable_adapter():
        answers["__base__"] = model(input_ids=IDS).logits
        said["__base__"] = model.generate(input_ids=IDS, max_new_tokens=8, do_sample=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        mixed = model(input_ids=IDS, adapter_names=NAMES).logits  # the active adapter is "other"
        written = model.generate(input_ids=IDS, adapter_names=NAMES, max_new_tokens=8, do_sample=False)
    warned = sum("adapter" in str(one.message) for one in caught)
    try:
        model(input_ids=IDS, adapter_names=["nobody"] * 3)
    except ValueError as error:
        nobody = type(error).__name__
    else:
        nobody = "taken"
    rows = [(mixed[row] - answers[name][row]).abs().max().item() for row, name in enumerate(NAMES)]
    generated = [torch.equal(written[row], said[name][row]) for row, name in enumerate(NAMES)]
    return rows, (mixed - answers["other"]).abs().max().item(), generated, nobody, warned


print(f"transformers {transformers.__version__}, peft {peft.__version__}; adapter_names={NAMES}, active: 'other'")
ok = True
for name, make in METHODS.items():
    rows, active, generated, nobody, warned = tried(make)
    far = ", ".join(f"{one:.1e}" for one in rows)
    print(f"  {name}: rows are off their own adapter by {far}; the batch is off the active one by {active:.1e}")
    print(f"    generated as each alone: {generated}; an unknown name: {nobody}; warnings {warned}")
    if name in ("LoRA", "RoAd"):
        ok = ok and max(rows) < 1e-4 and active > 0.1 and all(generated) and nobody == "ValueError"
    else:
        ok = ok and rows[0] < 1e-4 and min(rows[1:]) > 0.1 and active < 1e-4 and nobody == "taken" and not warned
sys.exit(0 if ok else 1)
P
"$WORK/venv/bin/python" -W ignore try.py
