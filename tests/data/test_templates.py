"""Templates as text, and label words as tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratatune.data.templates import Part, Template, auto_label_words, label_word_ids, mask_of
from stratatune.errors import DataError


def test_parts():
    assert Template.parse("{a} It was <mask>.").parts == (
        Part("a", "{a}"),
        Part("literal", " It was "),
        Part("mask", "<mask>"),
        Part("literal", "."),
    )


@given(st.permutations(["{a}", "{b}", "<mask>", " It was ", "?"]))
def test_round_trip(pieces):
    text = "".join(pieces)
    assert str(Template.parse(text)) == text
    assert Template.parse(str(Template.parse(text))) == Template.parse(text)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{a} It was good.", "has no mask"),
        ("{a} <mask> <mask>", "has 2 masks"),
        ("It was <mask>.", "does not use the text"),
        ("{a} {c} <mask>", "unknown field {c}"),
        ("{a} {a} <mask>", "uses a field twice"),
    ],
)
def test_bad_templates(text, match):
    with pytest.raises(DataError, match=match) as caught:
        Template.parse(text)
    assert caught.value.hint


def test_fields_must_fit_the_columns():
    with pytest.raises(DataError, match="uses {b} but the data has one text column, 'review'"):
        Template.parse("{a}<mask>, {b}").check(["review"])
    with pytest.raises(DataError, match="leaves out the second text column, 'hypothesis'"):
        Template.parse("{a} <mask>").check(["premise", "hypothesis"])


def test_texts_lose_outer_space():
    assert "".join(Template.parse("{a}<mask>, {b}").pieces("[M]", [" x ", "y\n"])) == "x[M], y"


def test_label_words_are_single_tokens(tokenizer, family):
    ids = label_word_ids(tokenizer, {"0": "terrible", "1": "great"})
    space = "Ġ" if family == "roberta" else ""
    assert tokenizer.convert_ids_to_tokens(ids) == [f"{space}terrible", f"{space}great"]
    assert label_word_ids(tokenizer, ("terrible", "great")) == ids


def test_label_words_in_the_models_case(tokenizer, family):
    ids = label_word_ids(tokenizer, {"0": "No", "1": "Yes"})
    assert tokenizer.convert_ids_to_tokens(ids) == (["ĠNo", "ĠYes"] if family == "roberta" else ["no", "yes"])


def test_a_label_word_of_several_tokens(tokenizer):
    with pytest.raises(DataError, match="label word 'gud' of label '1' is not one token.* [+] .*label_words"):
        label_word_ids(tokenizer, {"0": "good", "1": "gud"})


def test_an_unknown_label_word(tokenizer, family):
    if family == "bert":  # byte-level BPE knows every word
        with pytest.raises(DataError, match="is not one token"):
            label_word_ids(tokenizer, {"0": "好", "1": "good"})


def test_two_labels_with_one_word(tokenizer):
    with pytest.raises(DataError, match="labels 'x' and 'y' share the label word"):
        label_word_ids(tokenizer, {"x": "good", "y": "good"})
    with pytest.raises(DataError, match="used twice"):
        label_word_ids(tokenizer, ("good", "good"))


def test_automatic_words_are_distinct_single_tokens(tokenizer):
    labels = ["good", "good movie", "night_food", "zzqx", "q8"]
    words, notices = auto_label_words(tokenizer, labels)
    assert list(words) == labels
    assert (words["good"], words["good movie"], words["night_food"]) == ("good", "movie", "night")
    assert len(set(label_word_ids(tokenizer, words))) == len(labels)
    assert len(notices) == 4 and "'zzqx'" in notices[2]
    assert all("unrelated word" not in notice for notice in notices[:2])


def test_a_word_without_a_link_to_its_label_is_said_to_be_one(tokenizer):
    words, notices = auto_label_words(tokenizer, ["zzqx;qqzx", "good"])
    assert f"{words['zzqx;qqzx']!r} is used" in notices[0]
    assert "--label-words 'zzqx;qqzx=WORD'" in notices[0] and len(notices) == 1


def test_automatic_words_run_out(tokenizer):
    with pytest.raises(DataError, match="no unused word is left"):
        auto_label_words(tokenizer, [f"zz{i}" for i in range(len(tokenizer))])


def test_a_tokenizer_without_mask(tokenizer):
    import copy

    bare = copy.deepcopy(tokenizer)
    bare.mask_token = None
    with pytest.raises(DataError, match="has no mask token"):
        mask_of(bare)
