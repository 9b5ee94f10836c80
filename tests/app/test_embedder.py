"""The estimator of vectors: pairs in, an array out, the same numbers as the command line's, and a transformer."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline

import stratatune as st
from stratatune.errors import ConfigError, DataError, ModelError
from stratatune.model.split import Trunk

WORDS = ("film", "book", "story", "day", "night", "city", "play", "game")
PAIRS = [(f"a good {word}", f"the best {word} she saw") for word in WORDS] * 2
TRIPLETS = [(*pair, f"a very bad {word}") for pair, word in zip(PAIRS, WORDS, strict=False)]
SCORED = [(f"a good {word}", f"the {word}") for word in WORDS] + [(f"a good {word}", "he hates it") for word in WORDS]
SCORES = [4.0] * 8 + [1.0] * 8
TEXTS = [text for pair in PAIRS[:8] for text in pair]


@pytest.fixture(scope="module")
def settings(tiny_folder):
    given = {"model": str(tiny_folder("bert")), "epochs": 4, "lr": 0.01, "batch_size": 8, "device": "cpu"}
    return {**given, "plan": "2: full", "precision": "fp32", "cache": "ram"}


@pytest.fixture(scope="module")
def embedder(settings):
    return st.Embedder(**settings).fit(PAIRS)


@pytest.fixture(scope="module")
def sided(settings):
    """Documents stay as the base model has them, and queries have a prompt."""
    return st.Embedder(**settings, objective="vectors(query_only=true, query_prompt='query:')").fit(PAIRS)


def test_it_learns_and_gives_an_array(embedder, settings):
    found = embedder.transform(TEXTS)
    assert found.shape == (16, 32) and found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    said = st.Predictor(embedder.result_.out, device="cpu").predict(TEXTS).columns["vector"]
    np.testing.assert_allclose(found, said, atol=1e-6)
    near = embedder.similarity([one for one, _ in PAIRS[:8]], [other for _, other in PAIRS[:8]])
    np.testing.assert_allclose(near, found[0::2] @ found[1::2].T, atol=1e-5)
    untuned = st.Embedder(**{**settings, "epochs": 1, "lr": 1e-9}).fit(PAIRS)
    before = untuned.similarity([one for one, _ in PAIRS[:8]], [other for _, other in PAIRS[:8]])
    margin = lambda cosines: np.diag(cosines).mean() - cosines.mean()  # noqa: E731
    assert margin(near) > margin(before) + 0.05
    assert embedder.score(PAIRS) >= untuned.score(PAIRS)
    assert embedder.score(PAIRS) == pytest.approx(embedder.predictor_.score(frame_of(PAIRS))["metrics"]["ndcg@10"])


def frame_of(rows, names=("anchor", "positive", "negative")):
    return pd.DataFrame(rows, columns=list(names[: len(rows[0])]))


def test_what_is_given_may_take_many_forms(embedder, settings):
    """Tuples, lists, arrays and data frames of the same pairs give the same model."""
    wanted = embedder.transform(TEXTS)
    frame = frame_of(PAIRS).assign(number=range(16))[["positive", "number", "anchor"]]
    for given in ([list(row) for row in PAIRS], np.array(PAIRS, object), frame, pd.DataFrame(PAIRS)):
        np.testing.assert_allclose(clone(embedder).fit(given).transform(TEXTS), wanted, atol=1e-6)
    for texts in (np.array(TEXTS), pd.Series(TEXTS), pd.DataFrame({"text": TEXTS}), tuple(TEXTS)):
        np.testing.assert_array_equal(embedder.transform(texts), wanted)
    assert embedder.transform([]).shape == (0, 32)
    by_tuple = clone(embedder).fit(TRIPLETS)
    by_name = clone(embedder).fit(frame_of(TRIPLETS))
    np.testing.assert_allclose(by_tuple.transform(TEXTS), by_name.transform(TEXTS), atol=1e-6)
    assert np.abs(by_tuple.transform(TEXTS) - wanted).max() > 1e-4  # the negatives count


def test_scored_pairs(settings):
    embedder = st.Embedder(**settings).fit(SCORED, SCORES)
    frame = frame_of(SCORED, ("sentence1", "sentence2")).assign(score=SCORES)
    by_frame = clone(embedder).fit(frame)
    by_both = clone(embedder).fit(frame[["sentence1", "sentence2"]], np.array(SCORES, int))
    for other in (by_frame, by_both):
        np.testing.assert_allclose(other.transform(TEXTS), embedder.transform(TEXTS), atol=1e-6)
    near = np.diag(embedder.similarity(*zip(*SCORED, strict=True)))
    assert embedder.score(SCORED, SCORES) == pytest.approx(spearmanr(near, SCORES).statistic, abs=1e-6)
    assert embedder.score(frame) == embedder.score(SCORED, SCORES) > 0.5
    # Pairs without scores have the metric of a search.
    assert embedder.score(PAIRS) == embedder.predictor_.score(frame_of(PAIRS))["metrics"]["ndcg@10"]


def test_queries_and_documents_have_their_side(sided):
    queries, documents = pd.DataFrame({"query": TEXTS}), pd.DataFrame({"document": TEXTS})
    np.testing.assert_array_equal(sided.transform(documents), sided.transform(TEXTS))
    assert np.abs(sided.transform(queries) - sided.transform(TEXTS)).max() > 1e-3
    near = sided.similarity(TEXTS, TEXTS[:3])
    np.testing.assert_allclose(near, sided.transform(queries) @ sided.transform(TEXTS[:3]).T, atol=1e-5)
    asked = sided.predictor_.predict(frame_of(list(zip(TEXTS[:3], TEXTS[:3], strict=True))))
    np.testing.assert_allclose(np.diag(near[:3]), asked.values, atol=1e-5)


def test_it_is_saved_pickled_and_cloned(embedder, tmp_path):
    wanted = embedder.transform(TEXTS)
    embedder.save(tmp_path / "saved")
    assert not {path.suffix for path in (tmp_path / "saved").rglob("*")} & {".pkl", ".pickle", ".bin", ".pt"}
    for again in (st.Embedder.load(tmp_path / "saved"), pickle.loads(pickle.dumps(embedder)), copy.deepcopy(embedder)):
        np.testing.assert_array_equal(again.transform(TEXTS), wanted)
        assert again.score(PAIRS) == embedder.score(PAIRS)
    fresh = clone(embedder)
    assert fresh.get_params() == embedder.get_params()
    for ask in (fresh.transform, lambda texts: fresh.similarity(texts, texts), lambda _: fresh.get_feature_names_out()):
        with pytest.raises(NotFittedError):
            ask(TEXTS)


def test_in_a_pipeline_a_fitted_one_stays_as_it_is(embedder):
    assert not hasattr(embedder, "fit_transform")
    labels = [n % 2 for n in range(16)]
    pipe = Pipeline([("embed", FrozenEstimator(embedder)), ("classify", LogisticRegression(C=100))])
    assert pipe.fit(TEXTS, labels).score(TEXTS, labels) == 1  # "a good ..." and "the best ..."
    assert cross_val_score(pipe, TEXTS, labels, cv=2).shape == (2,)
    assert embedder.get_feature_names_out().tolist() == [f"embedder{n}" for n in range(32)]
    with pytest.raises(DataError, match="row 1 is one text and no pair") as caught:
        Pipeline([("embed", clone(embedder)), ("classify", LogisticRegression())]).fit(TEXTS, labels)
    assert "FrozenEstimator" in caught.value.hint


def test_a_search_runs_the_trunk_once_for_each_text(settings, tmp_path, monkeypatch):
    ran = []
    plain = Trunk.__call__
    monkeypatch.setattr(
        Trunk, "__call__", lambda self, ids, *rest, **more: (ran.append(len(ids)), plain(self, ids, *rest, **more))[1]
    )
    search = GridSearchCV(st.Embedder(**{**settings, "cache": str(tmp_path)}), {"lr": [1e-3, 1e-2]}, cv=2)
    search.fit(PAIRS[:8])
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_estimator_.transform(TEXTS).shape == (16, 32)
    assert sum(ran) == len(set(TEXTS))


@pytest.mark.parametrize(
    ("pairs", "scores", "what"),
    [
        ("a text", None, "no pairs of texts, but a str"),
        ([], None, "no pairs to learn from"),
        ([("a",)], None, "row 1 is no pair of texts"),
        ([("a", "b"), ("a", "b", "c")], None, "row 2 has 3 texts, and row 1 has 2"),
        ([("a", "b", 0.5)], None, "row 1 holds 0.5, which is no text"),
        ([("a", "b", "c")], [1.0], "3 texts in a row, and a score for each row"),
        ([("a", "b")] * 2, [1.0], "2 pairs but 1 scores"),
        ([("a", "b")] * 2, ["high", "low"], "'high' is not a number"),
        ([("a", None)] * 2, None, "'positive' is empty in"),
        ([{"anchor": "a"}], None, "row 1 is no pair of texts"),
        (pd.DataFrame({"a": ["x"], "b": ["y"]}), None, "what are the columns for?"),
        (pd.DataFrame({"sentence1": ["x"], "sentence2": ["y"], "score": [1]}), [1], "the scores are given twice"),
    ],
)
def test_what_does_not_fit(embedder, pairs, scores, what):
    with pytest.raises(DataError) as caught:
        clone(embedder).fit(pairs, scores)
    assert what in caught.value.message and "\n" not in caught.value.message, caught.value.message


def test_what_is_no_text_or_no_run_of_vectors(embedder, settings, tmp_path):
    with pytest.raises(DataError, match="2 text columns were given"):
        embedder.transform(PAIRS)
    with pytest.raises(DataError, match="one text was given"):
        embedder.transform("a text")
    with pytest.raises(ConfigError, match="objective: 'classification'"):
        st.Embedder(**settings, objective="classification").fit(PAIRS)
    st.Classifier(**{**settings, "epochs": 1}).fit(TEXTS, ["x", "y"] * 8).save(tmp_path / "classes")
    with pytest.raises(ModelError, match="this run learnt .*, and no vectors"):
        st.Embedder.load(tmp_path / "classes")
