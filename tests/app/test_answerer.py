"""The estimator of answers: pairs of a question and its context in, answers with their characters out."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score

import stratatune as st
from stratatune.errors import ConfigError, DataError

SEEN = [("the film", "she saw bad a night", "bad"), ("was it", "the night was great the film", "great")]
PAIRS = [(question, context) for question, context, _ in SEEN] * 8
ANSWERS = [answer for _, _, answer in SEEN] * 8
PLACED = [{"text": answer, "answer_start": context.index(answer)} for _, context, answer in SEEN] * 8
NONE = [None, {"text": "", "answer_start": -1}, {"text": [""], "answer_start": [-1]}, {"text": [], "answer_start": []}]
FRAME = pd.DataFrame(PAIRS, columns=["asked", "page"])


@pytest.fixture(scope="module")
def settings(tiny_folder):
    own = {"model": str(tiny_folder("bert")), "epochs": 25, "lr": 0.01, "batch_size": 8, "cache": "ram"}
    return {"plan": "1: full", **own, "device": "cpu"}


@pytest.fixture(scope="module")
def answerer(settings):
    return st.Answerer(**settings).fit(PAIRS, ANSWERS)


def test_it_learns_and_predicts(answerer):
    assert answerer.score(PAIRS, ANSWERS) == answerer.score(PAIRS, PLACED) == 1.0
    assert answerer.predict(PAIRS[:2]) == ["bad", "great"]
    for (_, context), found in zip(PAIRS[:2], answerer.predict_candidates(PAIRS[:2]), strict=True):
        assert [one["score"] for one in found] == sorted((one["score"] for one in found), reverse=True)
        assert all(context[one["start"] : one["end"]] == one["text"] for one in found)
    assert answerer.predict([]) == [] and answerer.predict_candidates([]) == []
    assert answerer.predict(np.array(PAIRS[:2], object)) == ["bad", "great"]


def test_answers_in_every_form_train_the_same(answerer, settings):
    lists = [{"text": [one["text"]], "answer_start": np.array([one["answer_start"]])} for one in PLACED]
    for answers in (PLACED, lists, np.array(ANSWERS), pd.Series(ANSWERS)):
        other = st.Answerer(**settings).fit(PAIRS, answers)
        assert other.predict_candidates(PAIRS[:2]) == answerer.predict_candidates(PAIRS[:2])


def test_columns_of_a_frame_go_by_name(settings):
    answerer = st.Answerer(**settings).fit(FRAME, ANSWERS)
    assert answerer.feature_names_in_.tolist() == ["asked", "page"]
    assert answerer.score(FRAME[["page", "asked"]], ANSWERS) == 1.0
    assert answerer.predict(FRAME.head(2)[["page", "asked"]]) == answerer.predict(PAIRS[:2]) == ["bad", "great"]


def test_some_questions_have_no_answer(settings):
    pairs, answers = [*PAIRS, *[("the film", "a night")] * 8], [*ANSWERS, None, "", float("nan"), [], *NONE]
    answerer = st.Answerer(**settings).fit(pairs, answers)
    assert answerer.score(pairs, answers) == 1.0
    assert answerer.predict([("the film", "a night"), PAIRS[0]]) == ["", "bad"]
    first = answerer.predict_candidates([("the film", "a night")])[0][0]
    assert (first["text"], first["start"], first["end"]) == ("", None, None)


def test_it_is_saved_copied_and_searched(answerer, settings, tmp_path):
    answerer.save(tmp_path / "saved")
    for other in (st.Answerer.load(tmp_path / "saved"), pickle.loads(pickle.dumps(answerer)), copy.deepcopy(answerer)):
        assert other.predict_candidates(PAIRS[:2]) == answerer.predict_candidates(PAIRS[:2])
    with pytest.raises(NotFittedError):
        clone(answerer).predict(PAIRS)
    scores = cross_val_score(st.Answerer(**{**settings, "epochs": 1}), PAIRS, ANSWERS, cv=2)
    assert scores.shape == (2,) and np.isfinite(scores).all()


@pytest.mark.parametrize(
    ("pairs", "answers", "said"),
    [
        (["one text"], ["text"], "1 text column given"),
        (PAIRS, ANSWERS[:-1], "16 questions but 15 answers"),
        (PAIRS[:1], ["good"], "row 1: the answer 'good' does not occur in its context"),
        (PAIRS[:1], [7], "answer 1 is 7"),
        (PAIRS[:2], ["bad", {"text": ["great", "film"], "answer_start": [14]}], "answer 2 is {'text': "),
        (PAIRS[:1], [{"text": "bad", "answer_start": 3}], "not at answer_start 3"),
        ([(None, "a night"), PAIRS[0]], ["a night", "bad"], "row 1"),
    ],
)
def test_what_is_wrong_is_named(pairs, answers, said, settings):
    with pytest.raises(DataError, match=said):
        st.Answerer(**settings).fit(pairs, answers)


def test_another_objective_is_refused(settings):
    with pytest.raises(ConfigError, match="not what Answerer predicts"):
        st.Answerer(**settings, objective="tags").fit(PAIRS, ANSWERS)


def test_a_column_may_have_the_name_of_the_answers(settings):
    frame = FRAME.rename(columns={"asked": "answers"})
    answerer = st.Answerer(**settings).fit(frame, ANSWERS)
    assert answerer.score(frame, ANSWERS) == 1.0


def test_a_part_is_held_out(settings):
    """Questions with an answer and without are held out by their shares."""
    pairs, answers = [*PAIRS, *[("the film", "a night")] * 8], [*ANSWERS, *[None] * 8]
    for some, of_some in ((PAIRS, ANSWERS), (pairs, answers)):
        answerer = st.Answerer(**{**settings, "epochs": 1}, eval_split=0.25).fit(some, of_some)
        assert 0 <= answerer.result_.best["f1"] <= 1
