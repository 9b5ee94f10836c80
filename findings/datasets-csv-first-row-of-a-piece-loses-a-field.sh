#!/bin/sh
# datasets 5.2.0 with pandas 3.0.3: a csv row with a field too many is an error, but as the 10,001st row of a file (and the
# 20,001st, ...) it loses that field without a word.
#
# `load_dataset("csv")` has pandas read 10,000 rows at once. The parser refuses a row with more fields than the header
# ("Expected 2 fields in line 15002, saw 3"), except where it is the first of a later piece: if names are given, as beside
# `features=`, it then keeps the first fields and drops the rest. Of the unquoted text "good, really" and the label "yes"
# the label becomes " really", and "yes" is gone. Whether a file loads depends on which row is broken. pandas 3.1 refuses it.
# Exits 0 while the behaviour is as described, 1 once it has changed.
set -eu
: "${PY:=python3}"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
"$PY" -m venv "$WORK/venv"
"$WORK/venv/bin/pip" install --quiet "datasets==5.2.0" "pandas==3.0.3"
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1 HF_HOME="$WORK/home"
cd "$WORK"
cat >try.py <<'P'
import sys

import datasets
import pandas
from datasets import Features, Value, load_dataset

datasets.disable_progress_bars()
names = ["text", "label"]


def read(place):
    rows = [f"text {number},no" for number in range(20_000)]
    rows[place] = "good, really,yes"
    with open(f"{place}.csv", "w") as file:
        file.write("\n".join([",".join(names), *rows]) + "\n")
    try:
        found = load_dataset(
            "csv", data_files=f"{place}.csv", split="train", names=names, header=0,
            features=Features({name: Value("string") for name in names}),
        )
    except Exception as error:
        cause = error.__cause__ or error
        return f"{type(cause).__name__}: {str(cause).strip()}"
    return found[place]


print(f"datasets {datasets.__version__}, pandas {pandas.__version__}")
inside, first = read(15_000), read(10_000)
print(f"  it is the 15,001st row, inside a piece: {inside}")
print(f"  it is the 10,001st row, the first of a piece: {first}")
sys.exit(0 if "saw 3" in str(inside) and first == {"text": "good", "label": " really"} else 1)
P
"$WORK/venv/bin/python" try.py
