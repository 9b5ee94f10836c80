#!/bin/sh
# torch 2.13.0: a module built under FakeTensorMode cannot be moved or converted at first, and later in the same process it can.
#
# Under FakeTensorMode the first two calls of `module.to(...)` in a process raise "_apply(): Couldn't swap Linear.weight", the
# first of them naming t1 and the second t2, though the call changes nothing (`.to("cpu")` of a module on the CPU); from the
# third call on all succeed. `Module._apply` exchanges fake parameters by `torch.utils.swap_tensors`, which refuses tensors
# with weak references. The fake mode keeps a weak reference to the result of each operation that it runs for the first time,
# and to none that it answers from its cache of operations. Code that estimates memory on fake tensors therefore works or
# fails by what ran before it: it passes in a long session and fails as a script. Setting `parameter.data` always works.
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
from torch._subclasses.fake_tensor import FakeTensorMode


def outcome(change):
    with FakeTensorMode():
        made = torch.nn.Linear(4, 4)
        try:
            change(made)
        except RuntimeError as error:
            return f"{error}: {error.__cause__}"
    return "works"


def by_data(module):
    for one in module.parameters():
        one.data = one.data.to(torch.bfloat16)
    assert {one.dtype for one in module.parameters()} == {torch.bfloat16}


change = {"to": lambda one: one.to("cpu"), "data": by_data}[sys.argv[1]]
found = [outcome(change) for _ in range(5)]
print(f"torch {torch.__version__}; {sys.argv[1]}, five times in a fresh process")
for one in found:
    print(f"  {one}")
refused = ["Couldn't swap" in one and "weakref" in one for one in found]
wanted = [True, True, False, False, False] if sys.argv[1] == "to" else [False] * 5
sys.exit(refused != wanted)
P
"$WORK/venv/bin/python" -W ignore try.py to
"$WORK/venv/bin/python" -W ignore try.py data
