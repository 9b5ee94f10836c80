"""The estimator of tags: lists of words in, lists of tags and entities out, as the command line has them."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import stratatune as st
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
        (WORDS[:2], TAGS[:1], "2 texts but 1 lists of tags"),
        (["the film"], [["O"]], "a text's words are not a list: 'the film'"),
        ("the film", [["O"]], "one text was given"),
        ([["the", "film"], None], [["O", "O"], ["O"]], "text 2 is None, not a list of words"),
        ([["the"], float("nan")], [["O"], ["O"]], "text 2 is nan, not a list of words"),
        ([1, 2], [["O"], ["O"]], "text 1 is 1, not a list of words"),
        ([["the", "film"]], [["O"]], "row 1: 1 tags for 2 words"),
    ],
)
def test_what_does_not_fit(tagger, words, tags, what):
    with pytest.raises(DataError, match=what):
        clone(tagger).fit(words, tags)
