#!/bin/sh
# torch 2.13.0: the second average of AdamW never decays where the weights are bf16, so one large gradient counts for ever.
#
# AdamW keeps its two averages in the dtype of the weight. With the default betas a step changes the second one by a
# thousandth, and neighbouring bf16 numbers lie up to eight thousandths apart, so the change is rounded away. It cannot
# fall: after one gradient of 100 among ones it stands at 10 thousands of steps later, where fp32 is back at 1, and each
# step is a third of what it should be. Nor does it rise all the way: under a gradient of one it stops at a half (a
# quarter with `fused=True`), and the steps are too long. One expects a running average with rounding in its last digits.
# Nothing warns. With `betas=(0.9, 0.95)` it follows the gradients.
# Exits 0 while the behaviour is as described, 1 once it has changed.
set -eu
: "${PY:=python3}"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
"$PY" -m venv "$WORK/venv"
"$WORK/venv/bin/pip" install --quiet "torch==2.13.0" "numpy==2.4.6"
cd "$WORK"
cat >try.py <<'P'
import sys

import torch

STEPS = 5000
RATE = 2.0**-10


def run(dtype, beta, kind):
    """The second average and the next step's length (in rates), after ones, and after a gradient of 100 and ones."""
    weight = torch.nn.Parameter(torch.zeros(4, dtype=dtype))
    optimiser = torch.optim.AdamW([weight], lr=RATE, betas=(0.9, beta), weight_decay=0.0, **kind)
    found = []
    for first in (1.0, 100.0):
        for number in range(STEPS):
            weight.grad = torch.full_like(weight, first if number == 0 else 1.0)
            optimiser.step()
        with torch.no_grad():
            weight.zero_()  # so that the weight's own rounding does not hide the step
        optimiser.step()
        found += [optimiser.state[weight]["exp_avg_sq"][0].item(), -weight[0].item() / RATE]
    return found


print(f"torch {torch.__version__}; gradients of 1, then one of 100 and {STEPS - 1} of 1")
print("  the second average, and the length of a step in learning rates (both should be about 1):")
ok = True
for kind in ({"foreach": False}, {"foreach": True}, {"fused": True}):
    for dtype, beta in ((torch.float32, 0.999), (torch.bfloat16, 0.999), (torch.bfloat16, 0.95)):
        ones, step, later, later_step = run(dtype, beta, kind)
        print(
            f"    {str(kind):18} {str(dtype).removeprefix('torch.'):9} beta2 {beta}: after ones {ones:.3f}, {step:.3f};"
            f" after the large one {later:.3f}, {later_step:.3f}"
        )
        if dtype == torch.bfloat16 and beta == 0.999:
            ok = ok and ones < 0.6 and step > 1.3 and later > 9 and later_step < 0.4
        else:
            ok = ok and all(0.8 < value < 1.3 for value in (ones, step, later, later_step))
sys.exit(0 if ok else 1)
P
"$WORK/venv/bin/python" -W ignore try.py
