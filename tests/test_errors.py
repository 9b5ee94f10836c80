"""Near words: the legal word is found whatever the case of either."""

import pytest

from stratatune.errors import counted, cut, did_you_mean, nearest


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


def test_a_number_has_the_noun_that_goes_with_it():
    assert [counted(number, "text") for number in (0, 1, 2, 1234)] == ["0 texts", "1 text", "2 texts", "1,234 texts"]
    assert counted(1, "entry", "entries") == "1 entry" and counted(3, "entry", "entries") == "3 entries"


def test_names_are_cut_in_a_list():
    assert cut("a" * 60) == "a" * 60 and cut("a" * 61) == "a" * 57 + "..."
    assert len(did_you_mean("b", ["a" * 140_000, "c"])) < 100


def test_a_name_in_a_list_is_one_line():
    assert cut("new\nline") == r"new\nline" and cut("naïve 名 'a'") == "naïve 名 'a'"
    assert "\n" not in did_you_mean("b", ["a\nb", "c"])
