#!/bin/sh
# datasets 5.2.0: what `map` returns for an existing column is written as its old type, though values are lost.
#
# "007" for an integer column becomes 7, and the grade 2 or the score 0.3 for a bool column becomes True. One expects
# the new values, as a new column gets them, or an error. `map` tries the old type first and leaves it only if pyarrow
# refuses to convert: a single "b" among the ids makes all of them strings, so the type depends on the other rows.
# Naming the column in `remove_columns` does not help; `features=` or another name does. Grades made from a bool label
# collapse to two classes in this way, and labels written out as text for a generator are numbers again. Nothing
# warns.
# Exits 0 while the behaviour is as described, 1 once it has changed.
set -eu
: "${PY:=python3}"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
"$PY" -m venv "$WORK/venv"
"$WORK/venv/bin/pip" install --quiet "datasets==5.2.0" "pyarrow==26.0.1"
export HF_HUB_OFFLINE=1 HF_HOME="$WORK/hf"
cd "$WORK"
cat >try.py <<'P'
import sys

import datasets
import pyarrow
from datasets import Dataset, Features, Value

datasets.disable_progress_bars()
print(f"datasets {datasets.__version__}, pyarrow {pyarrow.__version__}")
CASES = (  # the old values, what the function returns, what is expected to be stored under the old name
    ("ids", [7, 12, 40], ["007", "012", "040"], [7, 12, 40]),
    ("ids, one with a letter", [7, 12, 40], ["007", "012", "b40"], ["007", "012", "b40"]),
    ("lists of ids", [[7], [12]], [["07"], ["12"]], [[7], [12]]),
    ("labels as text", [0, 1, 1], ["0", "1", "1"], [0, 1, 1]),
    ("grades of a bool", [False, True, True], [0, 1, 2], [False, True, True]),
    ("scores of a bool", [False, True, True], [0.0, 0.3, 0.9], [False, True, True]),
)


def same(one, other):
    return one == other and [type(value) for value in one] == [type(value) for value in other]


ok = True
for name, old, new, wanted in CASES:
    rows = Dataset.from_dict({"x": old})
    stored = rows.map(lambda row, number: {"x": new[number]}, with_indices=True)
    removed = rows.map(lambda row, number: {"x": new[number]}, with_indices=True, remove_columns=["x"])
    batched = rows.map(lambda batch: {"x": new}, batched=True)
    other = rows.map(lambda row, number: {"y": new[number]}, with_indices=True)
    print(f"  {name}: {old}, returned {new}")
    print(f"    as the same column {stored['x'][:]}, as a new one {other['y'][:]}")
    ok = ok and all(same(part["x"][:], wanted) for part in (stored, removed, batched)) and same(other["y"][:], new)
rows = Dataset.from_dict({"x": [7, 12]})
said = rows.map(lambda row: {"x": f"{row['x']:03d}"}, features=Features({"x": Value("string")}))
print(f"  with features= of strings: {said['x'][:]}")
sys.exit(0 if ok and said["x"][:] == ["007", "012"] else 1)
P
"$WORK/venv/bin/python" -W ignore try.py
