"""The estimator of tags: lists of words in, lists of tags and entities out, as the command line has them."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import numpy as np
import pandas
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score

import stratatune as st
from stratatune.app.tagger import _data_set
from stratatune.errors import DataError

WORDS = [["the", "film", "great", "good"], ["she", "saw", "bad"], ["a", "night"], ["great", "best", "saw", "worst"]] * 6
TAGS = [["O", "O", "B-per", "I-per"], ["O", "O", "B-loc"], ["O", "O"], ["B-per", "I-per", "O", "B-loc"]] * 6


@pytest.fixture(scope="module")
def tagger(tiny_folder):
    settings = {"model": str(tiny_folder("bert")), "epochs": 25, "lr": 0.01, "batch_size": 8, "cache": "ram"}
    return st.Tagger("1: full", **settings, device="cpu").fit(WORDS, TAGS)


def test_it_learns_and_predicts(tagger):
    assert tagger.classes_.tolist() == ["O", "B-loc", "I-loc", "B-per", "I-per"]
    assert tagger.score(WORDS, TAGS) > 0.9
    said = tagger.predict(WORDS[:4])
    assert [len(one) for one in said] == [4, 3, 2, 4] and said == TAGS[:4]
    ((span,),) = tagger.predict_spans(["she saw bad"])
    assert (span["text"], span["label"], span["start"], span["end"]) == ("bad", "loc", 8, 11)
    assert tagger.predict([]) == [] and tagger.predict([[]]) == [[]]
    assert tagger.predict(tuple(np.array(words) for words in WORDS[:2])) == said[:2]


def test_what_training_did_not_see_is_missed(tagger):
    """One fold may have a type that the others lack; its entities count against the recall, and its words as wrong."""
    said = tagger.predict(WORDS[:4])
    there = sum(tag[0] == "B" for row in said for tag in row)
    words, unseen = [*WORDS[:4], ["she", "saw"]], [*said, ["B-group", "I-group"]]
    assert tagger.score(WORDS[:4], said) == 1.0
    (found,) = tagger.predict([["she", "saw"]])
    extra = sum(tag[0] == "B" for tag in found)
    assert tagger.score(words, unseen) == pytest.approx(2 * there / (2 * there + 1 + extra))
    with pytest.raises(
        DataError, match="tag 'B-group' was not seen in training"
    ):  # a file is scored by what was learnt
        tagger.predictor_.score(_data_set(words, unseen))


@pytest.mark.parametrize("scoring", ["macro_f1", "recall", "accuracy"])
def test_every_metric_counts_what_training_did_not_see(tagger, monkeypatch, scoring):
    monkeypatch.setattr(tagger.predictor_, "objective", replace(tagger.predictor_.objective, metric=scoring))
    said = tagger.predict(WORDS[:4])
    there = sum(tag[0] == "B" for row in said for tag in row)
    kinds = len({tag[2:] for row in said for tag in row} - {""})
    tags = sum(map(len, said))
    (found,) = tagger.predict([["a", "night"]])
    assert found == ["O", "O"]
    score = tagger.score([*WORDS[:4], ["a", "night"]], [*said, ["O", "B-group"]])
    wanted = {"macro_f1": kinds / (kinds + 1), "recall": there / (there + 1), "accuracy": (tags + 1) / (tags + 2)}
    assert score == pytest.approx(wanted[scoring])


def test_folds_that_lack_a_type_are_scored(tiny_folder):
    words, tags = [*WORDS[:8], ["she", "saw", "bad"]], [*TAGS[:8], ["O", "O", "B-group"]]
    tagger = st.Tagger("1: full", model=str(tiny_folder("bert")), epochs=1, device="cpu", cache="ram")
    assert np.isfinite(cross_val_score(tagger, words, tags, cv=3, error_score="raise")).all()


def test_classes_of_words_that_training_did_not_see_are_wrong(tiny_folder):
    kinds = [["det" if word in ("the", "a") else "word" for word in row] for row in WORDS[:4]]
    settings = {"model": str(tiny_folder("bert")), "epochs": 8, "lr": 0.01, "device": "cpu", "cache": "ram"}
    tagger = st.Tagger("1: full", objective="tags(scheme=plain)", **settings).fit(WORDS[:4] * 4, kinds * 4)
    said = tagger.predict(WORDS[:4])
    assert tagger.score(WORDS[:4], said) == 1.0
    unseen = [["verb", *said[0][1:]], *said[1:]]
    assert tagger.score(WORDS[:4], unseen) == pytest.approx(1 - 1 / sum(map(len, said)))


def test_it_is_saved_pickled_and_cloned(tagger, tmp_path):
    said = tagger.predict(WORDS[:4])
    tagger.save(tmp_path / "saved")
    for again in (st.Tagger.load(tmp_path / "saved"), pickle.loads(pickle.dumps(tagger)), copy.deepcopy(tagger)):
        assert again.predict(WORDS[:4]) == said and again.classes_.tolist() == tagger.classes_.tolist()
    fresh = clone(tagger)
    assert fresh.get_params() == tagger.get_params()
    with pytest.raises(NotFittedError):
        fresh.predict(WORDS)


@pytest.mark.parametrize(
    ("words", "tags", "what"),
    [
        (WORDS[:2], TAGS[:1], "2 texts but 1 list of tags"),
        (["the film"], [["O"]], "a text's words are not a list: 'the film'"),
        ("the film", [["O"]], "one text was given"),
        ([["the", "film"], None], [["O", "O"], ["O"]], "text 2 is None, not a list of words"),
        ([["the"], float("nan")], [["O"], ["O"]], "text 2 is nan, not a list of words"),
        ([1, 2], [["O"], ["O"]], "text 1 is 1, not a list of words"),
        ([["the", "film"]], [["O"]], "row 1: 1 tag for 2 words"),
        ([["the"], ["a", float("nan")]], [["O"], ["O", "O"]], "text 2: word 2 is nan"),
        ([["the"], ["a", 3]], [["O"], ["O", "O"]], "text 2: word 2 is 3"),
        ([["the"], ["a", "film"]], [["O"], ["O", float("nan")]], "text 2: tag 2 is nan.*O for a word without a tag"),
        ([["the"], ["a", "film"]], [["O"], ["O", pandas.NA]], "text 2: tag 2 is <NA>"),
        ([["the"], ["a", "film"]], [["O"], ["O", ["O"]]], r"text 2: tag 2 is \['O'\]"),
        ([["the"], ["a", "film"]], [["O"], None], "the tags of text 2 are None, not a list of tags"),
        ([["the"]], None, "tags: None is not a list"),
        (3, [["O"]], "words: 3 is not a list"),
    ],
)
def test_what_does_not_fit(tagger, words, tags, what):
    for asked in (clone(tagger).fit, tagger.score):
        with pytest.raises(DataError, match=what):
            asked(words, tags)


def test_texts_and_lists_of_words_are_not_mixed(tagger):
    with pytest.raises(DataError, match=r"text 1 is \['a'\] and text 2 is ''.*all as lists of words"):
        tagger.predict([["a"], ""])


def test_tags_of_two_types_are_read_as_text(tagger):
    words = np.array(["a", "film"])
    kinds = clone(tagger).set_params(objective="tags(scheme=plain)", epochs=1).fit([words, words], [["x", 1], [1, "x"]])
    assert kinds.classes_.tolist() == ["1", "x"]


def test_a_data_frame_gives_its_column_not_its_name(tagger):
    frame = pandas.DataFrame({"words": WORDS, "tags": TAGS})
    assert tagger.predict(frame[["words"]]) == tagger.predict(frame.words) == tagger.predict(WORDS)
    assert tagger.score(frame[["words"]], frame[["tags"]]) == tagger.score(WORDS, TAGS)
    for wrong in (lambda: tagger.predict(frame), lambda: tagger.score(WORDS, frame)):
        with pytest.raises(DataError, match="2 columns were given.*give one"):
            wrong()


@pytest.mark.parametrize("odd", [None, float("nan"), 1.5])
def test_a_word_or_tag_that_is_missing_is_named(odd):
    with pytest.raises(DataError, match=f"text 2: word 1 is {odd}.*as a text"):
        _data_set([["a"], [odd, "b"]], [["O"], ["O", "O"]])
    with pytest.raises(DataError, match=f"text 2: tag 2 is {odd}.*as a text"):
        _data_set([["a"], ["a", "b"]], [["O"], ["O", odd]])
