#!/bin/sh
# A set that `datasets` writes as csv and reads again has another number of rows when a text holds a lone carriage
# return: pandas writes the text unquoted (Python's csv module, before 3.13, quotes "\r" only where it is in the line
# terminator), and pandas reads it as the end of a row. The label moves into the text column, without a warning.
# Exits 1 when this is no longer so.
set -eu
W=$(mktemp -d)
trap 'rm -rf "$W"' EXIT
python3 -m venv "$W/venv"
"$W/venv/bin/pip" install -q datasets==5.2.0 pandas==3.1.1
HF_HOME="$W" HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1 "$W/venv/bin/python" - "$W" <<'P'
import sys

import datasets
import pandas

data = datasets.Dataset.from_dict({"text": ["one\rtwo", "three"], "label": ["x", "y"]})
data.to_csv(f"{sys.argv[1]}/set.csv")
again = datasets.load_dataset("csv", data_files=f"{sys.argv[1]}/set.csv", split="train")
print(f"Python {sys.version.split()[0]}, datasets {datasets.__version__}, pandas {pandas.__version__}")
print("the file:", open(f"{sys.argv[1]}/set.csv", "rb").read())
print(f"written: {len(data)} rows, read: {len(again)} rows:", again.to_list())
sys.exit(0 if len(again) == 3 else 1)
P
