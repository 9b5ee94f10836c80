#!/bin/sh
# transformers 5.24.0: Mamba, Falcon-Mamba and Jamba forget a cached prompt when more than one token follows it.
#
# A prompt can be read once and its cache be given along with each of several answers, to score or to continue them. A
# Llama then gives the logits of the whole text, and so do Mamba 2, FalconH1 and Qwen3-Next. The blocks of Mamba use
# the state of the cache only if a single token comes; for two or more they begin the scan from nothing, and only the
# convolution of four tokens still sees the prompt. So the same answer, token by token or in one piece, has other
# log-probabilities. Bamba keeps its state, but counts the positions of what follows from zero, token by token as well,
# unless `position_ids` is given. One expects the cache to be used, or an error. No message says so.
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
import copy
import inspect
import sys

import torch
import transformers

transformers.logging.set_verbosity_error()
PROMPT, ANSWER = 24, 8
TEXT = torch.randint(3, 64, (1, PROMPT + ANSWER), generator=torch.Generator().manual_seed(3))
SIZES = {"vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96}
SCAN = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 8}
LINEAR = {f"linear_{part}": size for part, size in (("num_key_heads", 2), ("num_value_heads", 4))}
LINEAR |= {"linear_key_head_dim": 16, "linear_value_head_dim": 16, "num_hidden_layers": 4, "head_dim": 16}
MODELS = {
    "Llama": HEADS,
    "Mamba2": {"state_size": 8, "num_heads": 8, "head_dim": 16, "n_groups": 2},
    "FalconH1": {**HEADS, **SCAN, "mamba_d_ssm": 128},
    "Qwen3Next": {**HEADS, **LINEAR, "num_experts": 2, "num_experts_per_tok": 1},
    "Mamba": {"state_size": 8},
    "FalconMamba": {"state_size": 8},
    "Jamba": {**HEADS, "num_hidden_layers": 8, "num_experts": 2, "mamba_d_state": 8},
    "Bamba": {**HEADS, **SCAN, "attn_layer_indices": [0]},
}


@torch.no_grad()
def tried(name, settings):
    """How far log-probabilities of the answer are off: token by token, in one piece, in one piece with positions."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**{**SIZES, **settings, "pad_token_id": 0})
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    for value in model.parameters():
        if value.ndim > 1:
            value.mul_(3)  # weights as drawn hardly make a difference between texts
    answer = TEXT[:, PROMPT:]

    def score(logits):
        return logits.log_softmax(-1).gather(-1, answer[..., None])[..., 0]

    whole = model(TEXT, use_cache=False).logits[:, PROMPT - 1 : -1]
    prompt = model(TEXT[:, :PROMPT], use_cache=True)
    first = prompt.logits[:, -1:]

    cache, steps = copy.deepcopy(prompt.cache), [first]
    for place in range(ANSWER - 1):
        steps.append(model(answer[:, place : place + 1], cache=cache, use_cache=True).logits)
    piece = model(answer[:, :-1], cache=copy.deepcopy(prompt.cache), use_cache=True).logits
    places = torch.arange(PROMPT, PROMPT + ANSWER - 1)[None]
    told = {"position_ids": places} if "position_ids" in inspect.signature(model.forward).parameters else {}
    placed = model(answer[:, :-1], cache=copy.deepcopy(prompt.cache), use_cache=True, **told).logits
    ways = torch.cat(steps, 1), torch.cat([first, piece], 1), torch.cat([first, placed], 1)
    return [(score(logits) - score(whole)).abs().max().item() for logits in ways]


print(f"torch {torch.__version__}, transformers {transformers.__version__}")
print(f"largest difference of a log-probability to the whole text, {ANSWER} tokens over a cached prompt of {PROMPT}")
found = {}
for name, settings in MODELS.items():
    found[name] = steps, piece, placed = tried(name, settings)
    print(f"  {name}: token by token {steps:.1e}, in one piece {piece:.1e}, with position_ids {placed:.1e}")
right, wrong = 1e-3, 1e-2
ok = all(max(found[name]) < right for name in ("Llama", "Mamba2", "FalconH1", "Qwen3Next"))
ok = ok and all(found[name][0] < right < wrong < found[name][1] for name in ("Mamba", "FalconMamba", "Jamba"))
steps, piece, placed = found["Bamba"]
sys.exit(0 if ok and min(steps, piece) > wrong and placed < right else 1)
P
"$WORK/venv/bin/python" -W ignore try.py 2>"$WORK/messages" || { cat "$WORK/messages"; exit 1; }
