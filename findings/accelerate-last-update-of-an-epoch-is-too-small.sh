#!/bin/sh
# accelerate 1.15.0: the last update of an epoch counts its batches for less where they do not fill an accumulation.
#
# Under `gradient_accumulation_steps=4`, `accumulate()` also makes an update at the end of the loader, with the batches
# that are left. But `backward()` divides each loss by 4, not by how many batches the update has. Of five batches the
# fifth is an update of its own with a quarter of its gradient; a loader of two batches under 8 steps gives a quarter in
# every update of the whole run. One expects an update to be the mean over its batches, as transformers' Trainer makes
# it. SGD then trains at a lower rate, and clipping lets pass what it should clip. Nothing warns.
# Exits 0 while the behaviour is as described, 1 once it has changed.
set -eu
: "${PY:=python3}"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
"$PY" -m venv "$WORK/venv"
"$WORK/venv/bin/pip" install --quiet "torch==2.13.0" "accelerate==1.15.0"
cd "$WORK"
cat >try.py <<'P'
import sys

import accelerate
import torch
from accelerate import Accelerator


def updates(batches, steps):
    """The gradient of each update of an epoch, where that of every batch is 1."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=steps)
    model = torch.nn.Linear(1, 1, bias=False)
    data = torch.utils.data.DataLoader(torch.ones(batches, 1), batch_size=1)
    model, optimiser, data = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=1e-3), data)
    found = []
    for batch in data:
        with accelerator.accumulate(model):
            accelerator.backward(model(batch).mean())
            if accelerator.sync_gradients:
                found.append(model.weight.grad.item())
            optimiser.step()
            optimiser.zero_grad()
    return found


print(f"torch {torch.__version__}, accelerate {accelerate.__version__}; each batch has a gradient of 1")
ok = True
for batches, steps, expected in ((4, 4, [1.0]), (5, 4, [1.0, 0.25]), (7, 4, [1.0, 0.75]), (2, 8, [0.25])):
    found = updates(batches, steps)
    print(f"  {batches} batches, gradient_accumulation_steps={steps}: gradients of the updates {found}")
    ok = ok and found == expected
sys.exit(0 if ok else 1)
P
"$WORK/venv/bin/python" -W ignore try.py
