"""Encoding: as the tokenizer itself would, cut only in the texts; labels to numbers."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors

from stratatune.data.encode import encode_plain, encode_template
from stratatune.data.encoded import concatenate
from stratatune.data.labels import LabelSet
from stratatune.data.readers import Table
from stratatune.data.splitting import sample
from stratatune.data.templates import Template
from stratatune.errors import DataError

ONES = ["good film ", "the food was very bad", "Yes", "a b c d e f g h i j k l m n o p"]
TWOS = ["is it true ?", "so it is", "no one knows why", "she likes green and blue things"]
TEMPLATES = [
    "{a} It was <mask>.",
    "{a} . It was <mask> .",
    "<mask> : {a}",
    "{a}<mask>, {b}",
    "{a} ? <mask> , {b}",
    "Two sentences are <mask>. {a}, {b}.",
]


def table_of(template, ones=ONES, twos=TWOS):
    return Table((ones, twos), columns=("a", "b")) if template.columns == 2 else Table((ones,))


def rows_of(encoded):
    return [row.tolist() for row in np.split(encoded.ids, encoded.offsets[1:-1])]


def fill(template, a, b, mask):
    return template.replace("{a}", a).replace("{b}", b).replace("<mask>", mask)


def trimming(tokenizer):
    """The same with the offsets of RoBERTa's own tokenizer, which leave out a word's leading space."""
    trimmed = copy.deepcopy(tokenizer)
    vocab = tokenizer.get_vocab()
    trimmed.backend_tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", vocab["</s>"]), ("<s>", vocab["<s>"]), trim_offsets=True, add_prefix_space=False
    )
    return trimmed


@pytest.mark.parametrize("text", TEMPLATES)
def test_as_if_the_joined_text_were_tokenised(tokenizer, text):
    template = Template.parse(text)
    table = table_of(template)
    encoded = encode_template(table, template, tokenizer, 64)
    for number, row in enumerate(rows_of(encoded)):
        texts = [column[number].strip() for column in table.texts]
        assert row == tokenizer(fill(text, texts[0], texts[-1], tokenizer.mask_token))["input_ids"]
        assert row[encoded.read[number]] == tokenizer.mask_token_id
    assert encoded.notices == ()
    assert (encoded.ids.dtype, encoded.offsets.dtype, encoded.read.dtype) == (np.int32, np.int64, np.int32)


@pytest.mark.parametrize("trim", [False, True])
@pytest.mark.parametrize("text", TEMPLATES)
def test_cutting_spares_the_template(tokenizer, family, text, trim):
    """A cut row is the tokenised template around shorter texts, and the longer text gave up its end first."""
    if trim and family == "roberta":
        tokenizer = trimming(tokenizer)
    template = Template.parse(text)
    table = table_of(template, ["good " * 30, "good"], ["bad " * 20, "bad"])
    encoded = encode_template(table, template, tokenizer, 26)
    row = rows_of(encoded)[0]
    filled = {
        (g, b): fill(text, " ".join(["good"] * g), " ".join(["bad"] * b), tokenizer.mask_token)
        for g in range(1, 31)
        for b in range(1, 21 if template.columns == 2 else 2)
    }
    shorter = {tuple(tokenizer(joined)["input_ids"]): counts for counts, joined in filled.items()}
    good, bad = shorter[tuple(row)]
    assert template.columns == 1 or abs(good - bad) <= 4  # a text's first word is four pieces in BPE
    assert len(row) == 26
    assert row[encoded.read[0]] == tokenizer.mask_token_id
    assert encoded.notices == (f"1 of 2 texts of {table.source} were cut to 26 tokens",)


def test_the_shorter_text_stays_whole(tokenizer):
    template = Template.parse("{a} ? <mask> , {b}")
    encoded = encode_template(table_of(template, ["very " * 40], [" good good good"]), template, tokenizer, 20)
    tokens = tokenizer.decode(encoded.ids[encoded.read[0] :])
    assert tokens.count("good") + tokens.count("g ood") == 3
    assert len(encoded.ids) == 20


def test_a_text_that_holds_the_mask_token(tokenizer):
    template = Template.parse("{a} It was <mask>.")
    mask = tokenizer.mask_token
    encoded = encode_template(Table(([f"the {mask} was good", f"{mask} " * 40],)), template, tokenizer, 24)
    for row, read in zip(rows_of(encoded), encoded.read, strict=True):
        places = [i for i, token in enumerate(row) if token == tokenizer.mask_token_id]
        assert len(places) > 1 and read == places[-1]
    assert encoded.lengths[1] == 24


def test_no_room_for_text(tokenizer):
    with pytest.raises(DataError, match="leaves room for 0 tokens of text within 5"):
        encode_template(Table((["very good"],)), Template.parse("{a} It was <mask>."), tokenizer, 5)


def test_plain_is_the_tokenizers_own_input(tokenizer, family):
    for columns in ((ONES,), (ONES, TWOS)):
        encoded = encode_plain(Table(columns), tokenizer, 12)
        expected = tokenizer(*columns, truncation=True, max_length=12)
        assert rows_of(encoded) == expected["input_ids"]
        assert not encoded.read.any()
        if family == "bert":
            assert encoded.types is not None
            assert encoded.types.tolist() == [t for row in expected["token_type_ids"] for t in row]
        else:
            assert encoded.types is None
    assert "of 4 texts" in encoded.notices[0]


def test_fingerprint_sees_tokens_and_positions_but_no_labels(tokenizer):
    plain = encode_plain(Table((ONES,)), tokenizer, 12)
    assert plain.fingerprint == encode_plain(Table((ONES,)), tokenizer, 12).fingerprint
    assert plain.fingerprint == plain.with_labels([0, 1, 0, 1]).fingerprint
    assert plain.fingerprint != plain.subset([1, 0, 2, 3]).fingerprint
    assert plain.fingerprint != encode_plain(Table((ONES,)), tokenizer, 11).fingerprint


def test_subset(tokenizer):
    encoded = encode_plain(Table((ONES,)), tokenizer, 12).with_labels([0.5, 1, 2, 3])
    part = encoded.subset([2, 0])
    assert rows_of(part) == [rows_of(encoded)[i] for i in (2, 0)]
    assert part.labels is not None and part.labels.tolist() == [2, 0.5] and part.labels.dtype == np.float32
    assert len(encoded.subset([])) == 0
    with pytest.raises(ValueError, match="labels for 4 examples"):
        encoded.with_labels([1])


def test_concatenate_undoes_a_split(tokenizer):
    encoded = encode_plain(Table((ONES,)), tokenizer, 12).with_labels([0, 1, 2, 3])
    joined = concatenate([encoded.subset([0]), encoded.subset([1, 2, 3])])
    assert joined.fingerprint == encoded.fingerprint
    assert joined.labels is not None and joined.labels.tolist() == [0, 1, 2, 3]


# --- labels ----------------------------------------------------------------------------------------------------------


def test_labels_are_sorted_numbers_as_numbers():
    assert LabelSet.infer(["10", "9", "10", "1"]).names == ("1", "9", "10")
    assert LabelSet.infer([1.0, 0.0]).names == ("0", "1")
    assert LabelSet.infer(["b", "10", "a"]).names == ("10", "a", "b")


def test_labels_there_and_back():
    labels = LabelSet(("no", "yes"))
    assert labels.encode(["yes", "no"]).tolist() == [1, 0]
    assert labels.decode([1, 0]) == ["yes", "no"]


def test_bad_labels():
    with pytest.raises(DataError, match="train.csv: every label is 'x'"):
        LabelSet.infer(["x", "x"], "train.csv")
    with pytest.raises(DataError, match="12 different labels in 12 rows.*regression"):
        LabelSet.infer(list(map(str, range(12))))
    with pytest.raises(DataError, match="1001 different labels"):
        LabelSet.infer([str(i % 1001) for i in range(3000)])
    with pytest.raises(
        DataError, match=r"dev.csv, row 7: label 'yse' was not seen.*did you mean 'yes'\? legal: no, yes"
    ):
        LabelSet(("no", "yes")).encode(["no", "yse"], "dev.csv", rows=[5, 7])
    for several, mark in (("no, yes", ","), ("yes|no", "|"), ("no;perhaps", ";"), ("no\tyes", "\t")):
        with pytest.raises(
            DataError, match="look like labels with .* between them.*multilabel.*legal: no, yes"
        ) as caught:
            LabelSet(("no", "yes")).encode(["no", several], "dev.csv")
        assert repr(mark) in (caught.value.hint or "")
    with pytest.raises(DataError, match="legal: no, yes") as caught:
        LabelSet(("no", "yes")).encode(["say, what"], "dev.csv")
    assert "multilabel" not in (caught.value.hint or "")


@given(st.lists(st.integers(0, 4), min_size=1, max_size=200), st.data())
def test_sample_keeps_shares(labels, data):
    k = data.draw(st.integers(0, len(labels)))
    index = sample(labels, k, seed=3)
    assert len(set(index.tolist())) == len(index) == k
    assert index.tolist() == sorted(index) == sample(labels, k, seed=3).tolist()
    counts = np.bincount(labels)
    present = np.count_nonzero(counts)
    for label in np.flatnonzero(counts):
        taken = sum(labels[i] == label for i in index)
        assert abs(taken - counts[label] * k / len(labels)) < 1 + present
        assert taken >= (k >= present)


def test_sample_of_values_and_of_more_than_there_is():
    assert len(sample([0.1, 0.2, 0.3], 2, 0)) == 2
    assert sample(["a", "b"], 5, 0).tolist() == [0, 1]
