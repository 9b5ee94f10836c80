#!/bin/sh
# transformers 5.24.0: Gemma with `use_bidirectional_attention=True` sees both ways alone, and one way in a padded batch.
#
# In Gemma 3 the field changes the masks. In Gemma it only changes `is_causal` of the attention layers, which torch's fused
# attention reads where no mask is passed. A text without padding gets no mask, so each token sees the whole text; a batch
# with padding gets the causal mask. With eager attention, the only kind for Gemma 2, there always is a causal mask, and the
# field has no effect at all. The hidden states of a text thus depend on the lengths of the texts beside it, without a
# warning. One expects them to be the same in any batch, as Gemma 3's are.
# Exits 0 while the behaviour is as described, 1 once it has changed.
set -eu
: "${PY:=python3}"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
"$PY" -m venv "$WORK/venv"
"$WORK/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.24.0"
export HF_HUB_OFFLINE=1
cd "$WORK"
cat >try.py <<'P'
import sys

import torch
import transformers
from transformers import AutoConfig, AutoModel

transformers.logging.set_verbosity_error()
SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "head_dim": 8}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 64, "initializer_range": 0.1}
text, longer = torch.arange(3, 12)[None], torch.arange(20, 32)[None]
padded = torch.cat([torch.nn.functional.pad(text, (0, 3)), longer])
mask = torch.ones_like(padded)
mask[0, 9:] = 0


@torch.no_grad()
def states(model, ids):
    """The states of a text of nine tokens: alone, and in a batch beside a longer one."""
    beside = padded.clone()
    beside[0, :9] = ids
    alone = model(input_ids=ids).last_hidden_state[0]
    return alone, model(input_ids=beside, attention_mask=mask).last_hidden_state[0, :9]


def measured(model_type, attention):
    """How far the two are apart, and whether the first token knows the last, in each of them."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, use_bidirectional_attention=True, pad_token_id=0, **SIZES, **HEADS)
    model = AutoModel.from_config(config, attn_implementation=attention).eval()
    other = text.clone()
    other[0, -1] = 50
    found, changed = states(model, text), states(model, other)
    knows = [not torch.allclose(one[0], two[0], atol=1e-5) for one, two in zip(found, changed)]
    return (found[0] - found[1]).abs().max().item(), *knows


print(f"torch {torch.__version__}, transformers {transformers.__version__}")
found = {}
for one in (("gemma", "sdpa"), ("gemma", "eager"), ("gemma2", "eager"), ("gemma3_text", "sdpa"), ("gemma3_text", "eager")):
    found[one] = apart, alone, batched = measured(*one)
    print(f"  {one[0]:12}{one[1]:6} alone and in a batch {apart:.6f} apart; the first token sees the last:")
    print(f"  {'':18} alone {alone}, in a batch {batched}")
close = {one: apart < 1e-4 for one, (apart, _, _) in found.items()}
ways = {one: tuple(knows) for one, (_, *knows) in found.items()}
ok = not close.pop(("gemma", "sdpa")) and all(close.values()) and ways.pop(("gemma", "sdpa")) == (True, False)
ok = ok and all(knows == ((one[0] == "gemma3_text"),) * 2 for one, knows in ways.items())
sys.exit(0 if ok else 1)
P
"$WORK/venv/bin/python" -W ignore try.py
