#!/bin/sh
# torch 2.13.0: inside one `torch.autocast` block a model never sees the steps of its optimiser.
#
# Autocast keeps the bf16 copy of a weight that it made for the first forward pass, and forgets it only when the outermost
# block ends. `optimizer.step()` changes the fp32 weight in place, which does not make that copy stale. A training loop that
# is written inside one block, instead of one block a forward pass, therefore computes every loss with the first weights:
# the loss is the same number at each step, the same gradient is applied again and again, and the weights move away
# without bound. Nothing warns. With `cache_enabled=False`, or with a block around each forward pass, the loop trains.
# Exits 0 while the behaviour is as described, 1 once it has changed.
set -eu
: "${PY:=python3}"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
"$PY" -m venv "$WORK/venv"
"$WORK/venv/bin/pip" install --quiet "torch==2.13.0" "numpy==2.4.6"
cd "$WORK"
cat >try.py <<'P'
import contextlib
import sys
import warnings

import torch

STEPS = 60


def trained(around_loop, around_forward):
    """The losses of a linear regression, and the loss in fp32 at the end."""
    torch.manual_seed(0)
    inputs = torch.randn(64, 8)
    wanted = inputs.sum(1, keepdim=True)
    model = torch.nn.Linear(8, 1)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    with around_loop():
        for _ in range(STEPS):
            with around_forward():
                loss = ((model(inputs) - wanted) ** 2).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
    return losses, ((model(inputs) - wanted) ** 2).mean().item()


def autocast(cache=True):
    return torch.autocast("cpu", torch.bfloat16, cache_enabled=cache)


print(f"torch {torch.__version__}; linear regression, {STEPS} steps of SGD")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    found = {
        "a block around each forward pass": trained(contextlib.nullcontext, autocast),
        "one block around the loop": trained(autocast, contextlib.nullcontext),
        "the same, cache_enabled=False": trained(lambda: autocast(False), contextlib.nullcontext),
    }
for name, (losses, end) in found.items():
    print(f"  {name}: losses {losses[0]:.2f}, {losses[1]:.2f} ... {losses[-1]:.2f}; afterwards {end:.2f}")
print(f"  warnings: {len(caught)}")
each, loop, uncached = found.values()
trains = each[1] < 0.1 * each[0][0] and uncached[1] < 0.1 * uncached[0][0]
stuck = len(set(loop[0])) == 1 and loop[1] > 10 * loop[0][0]
sys.exit(0 if trains and stuck and not caught else 1)
P
"$WORK/venv/bin/python" try.py
