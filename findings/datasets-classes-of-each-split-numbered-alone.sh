#!/bin/sh
# datasets 5.2.0: `DatasetDict.class_encode_column` numbers the classes of each split by itself.
#
# One call on a dictionary of splits, as in the example of its documentation, should give one list of classes. Each
# split gets the sorted list of the texts that it happens to hold. If a small test split lacks a class, the numbers of
# all later ones differ there: 1 is "neutral" in one split and "positive" in the other. Both columns are plain
# numbers, so nothing fails and nothing warns; a model that is always right gets the accuracy of this mix-up. Numbers
# are sorted as text too: of the ratings 1, 2 and 10 the classes are "1", "10", "2".
# Exits 0 while the behaviour is as described, 1 once it has changed.
set -eu
: "${PY:=python3}"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
"$PY" -m venv "$WORK/venv"
"$WORK/venv/bin/pip" install --quiet "datasets==5.2.0"
export HF_HUB_OFFLINE=1 HF_HOME="$WORK/hf"
cd "$WORK"
cat >try.py <<'P'
import sys

import datasets
from datasets import Dataset, DatasetDict

datasets.disable_progress_bars()
print(f"datasets {datasets.__version__}")
texts = {
    "train": ["negative", "neutral", "positive", "neutral"],
    "test": ["negative", "positive", "positive", "positive"],
}
splits = DatasetDict({name: Dataset.from_dict({"label": labels}) for name, labels in texts.items()})
encoded = splits.class_encode_column("label")
for name, split in encoded.items():
    print(f"  {name}: {texts[name]} are {split['label'][:]} of {split.features['label'].names}")
# a perfect model: it learns the train split's numbers, and names every text of the test split rightly
learnt = dict(zip(texts["train"], encoded["train"]["label"][:]))
right = [learnt[text] == label for text, label in zip(texts["test"], encoded["test"]["label"][:])]
print(f"  a model that knows every class is right in {sum(right)} of {len(right)} rows of the test split")
ratings = Dataset.from_dict({"label": [1, 2, 10]}).class_encode_column("label")
print(f"  the ratings [1, 2, 10] are {ratings['label'][:]} of {ratings.features['label'].names}")
ok = encoded["train"].features["label"].names == ["negative", "neutral", "positive"]
ok = ok and encoded["test"].features["label"].names == ["negative", "positive"] and sum(right) == 1
sys.exit(0 if ok and ratings["label"][:] == [0, 2, 1] else 1)
P
"$WORK/venv/bin/python" -W ignore try.py
