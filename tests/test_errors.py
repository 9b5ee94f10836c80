"""Near words: the legal word is found whatever the case of either."""

import pytest

from stratatune.errors import did_you_mean, nearest


@pytest.mark.parametrize(
    ("word", "legal", "near"),
    [
        ("BFT", ["lora", "bft", "bft-adapter"], "bft"),
        ("modernbert-base", ["roberta-base", "ModernBERT-base"], "ModernBERT-base"),
        ("MODERNBERT-BASE", ["roberta-base", "ModernBERT-base"], "ModernBERT-base"),
        ("lroa", ["lora", "LoRA"], "lora"),
        ("xyz", ["lora", "bft"], ""),
    ],
)
def test_nearest(word, legal, near):
    assert nearest(word, legal) == near
    assert did_you_mean(word, legal).startswith(f"did you mean {near!r}?" if near else "legal:")
