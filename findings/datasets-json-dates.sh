#!/bin/sh
# String labels that `datasets` writes as JSON Lines come back as timestamps when all of them look like ISO dates, and
# as the strings that they were when a single one does not: what a label's text is depends on the other rows. Written
# as text again, "2020-01-02" is "2020-01-02 00:00:00". Exits 1 when this is no longer so.
set -eu
W=$(mktemp -d)
trap 'rm -rf "$W"' EXIT
python3 -m venv "$W/venv"
"$W/venv/bin/pip" install -q datasets==5.2.0
HF_HOME="$W" HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1 "$W/venv/bin/python" - "$W" <<'P'
import sys

import datasets


def through_json(name, labels):
    path = f"{sys.argv[1]}/{name}.jsonl"
    datasets.Dataset.from_dict({"label": labels}).to_json(path)
    return datasets.load_dataset("json", data_files=path, split="train")


dates = through_json("dates", ["2020-01-02", "2020-01-03"])
mixed = through_json("mixed", ["2020-01-02", "never"])
print(f"datasets {datasets.__version__}")
print("all dates:", dates.features["label"], [str(label) for label in dates["label"]])
print("one other:", mixed.features["label"], list(mixed["label"]))
sys.exit(0 if str(dates["label"][0]) == "2020-01-02 00:00:00" and mixed["label"][0] == "2020-01-02" else 1)
P
