"""The estimator of vectors: pairs in, vectors out, a step of other estimators' pipelines."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline

import stratatune as st
from stratatune.app import embedder as embedding
from stratatune.errors import ConfigError, DataError, ModelError, UserError
from stratatune.model.split import Trunk

PAIRS = [("great good film", "best film"), ("bad sad night", "worst night"), ("she saw the book", "the story saw")] * 8
TEXTS = ["great film", "bad night", "the book"]


@pytest.fixture(scope="module")
def settings(tiny_folder):
    return {"model": str(tiny_folder("bert")), "epochs": 2, "lr": 1e-2, "batch_size": 8, "device": "cpu"}


@pytest.fixture(scope="module")
def embedder(settings):
    return st.Embedder("2: full", **settings, cache="ram").fit(PAIRS)


def test_vectors_are_those_of_the_run(embedder):
    found = embedder.transform(TEXTS)
    assert found.shape == (3, embedder.predictor_.model.config.hidden_size)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(found, embedder.predictor_.predict(TEXTS).columns["vector"], atol=1e-6)
    np.testing.assert_allclose(embedder.transform(np.array(TEXTS)), found)
    np.testing.assert_allclose(embedder.transform(pd.Series(TEXTS)), found)
    np.testing.assert_allclose(embedder.transform_documents(TEXTS), found, atol=1e-5)  # no prompts: one side
    assert embedder.transform([]).shape == (0, found.shape[1])
    cosines = embedder.similarity([(TEXTS[0], TEXTS[1]), (TEXTS[0], TEXTS[0])])
    np.testing.assert_allclose(cosines, [found[0] @ found[1], 1], atol=1e-4)
    assert 0 <= embedder.score(PAIRS) <= 1


def test_training_brings_pairs_together(settings):
    taught = st.Embedder("0: full", **{**settings, "epochs": 6}, cache="off").fit(PAIRS)
    apart = [(PAIRS[0][0], PAIRS[1][1]), (PAIRS[1][0], PAIRS[2][1])]
    assert taught.similarity(PAIRS[:3]).mean() > taught.similarity(apart).mean() + 0.1


def test_triplets_scores_and_data_frames(settings):
    few = {**settings, "epochs": 1}
    triplets = [(*pair, "the worst film") for pair in PAIRS]
    frame = pd.DataFrame(triplets, columns=["anchor", "positive", "negative"])
    one, other = (st.Embedder("2: lora", **few, seed=3).fit(data) for data in (triplets, frame))
    np.testing.assert_allclose(one.transform(TEXTS), other.transform(TEXTS), atol=1e-6)
    four = [(*triplet, "a bad story") for triplet in triplets]
    assert st.Embedder("2: lora", **few).fit(four).transform(TEXTS).shape[0] == 3
    scores = [0.9, 0.1, 0.5] * 8
    frame = pd.DataFrame(PAIRS, columns=["sentence1", "sentence2"]).assign(score=scores)
    one, other = st.Embedder("2: lora", **few).fit(PAIRS, scores), st.Embedder("2: lora", **few).fit(frame)
    np.testing.assert_allclose(one.transform(TEXTS), other.transform(TEXTS), atol=1e-6)
    assert one.predictor_.objective.metric == "spearman" and -1 <= one.score(PAIRS, np.array(scores)) <= 1


def test_prompts_of_either_side(settings):
    asked = st.Embedder("2: lora", **settings, objective="vectors(query_prompt=she saw)").fit(PAIRS)
    plain = asked.transform_documents([f"she saw {text}" for text in TEXTS])
    np.testing.assert_allclose(asked.transform(TEXTS), plain, atol=1e-5)
    assert not np.allclose(asked.transform(TEXTS), asked.transform_documents(TEXTS), atol=1e-3)


def test_it_is_saved_pickled_cloned_and_a_step_of_a_pipeline(embedder, tmp_path):
    found = embedder.transform(TEXTS)
    embedder.save(tmp_path / "saved")
    for again in (st.Embedder.load(tmp_path / "saved"), pickle.loads(pickle.dumps(embedder))):
        np.testing.assert_allclose(again.transform(TEXTS), found, atol=1e-6)
    fresh = clone(embedder)
    assert fresh.get_params() == embedder.get_params()
    with pytest.raises(NotFittedError):
        fresh.transform(TEXTS)
    labels = ["pos", "neg", "pos"]
    steps = make_pipeline(FrozenEstimator(embedder), LogisticRegression(C=100)).fit(TEXTS, labels)
    assert steps.predict(TEXTS).tolist() == labels


@pytest.mark.parametrize(
    ("texts", "scores", "what"),
    [
        (TEXTS, None, "this is not a pair of texts: 'great film'"),
        ("the film", None, "one text was given"),
        ([("a", "b"), ("a", "b", "c")], None, "examples of 2 and of 3 texts"),
        ([("a", "b")], [1.0, 2.0], "1 pair but 2 scores"),
        ([("a", "b", "c")], [1.0], "examples of 3 texts with scores"),
        ([], None, "there are no pairs to learn from"),
        ([("a",)], None, "this is not a pair of texts"),
        ([("a", "b", 0.5)], None, "this is not a text: 0.5"),
        ([("a", "b")] * 2, ["high", "low"], "'high' is not a number"),
        ([("a", None)] * 2, None, "'positive' is empty in"),
        (({"a": "b"}), None, "a dict was given"),
        (pd.DataFrame({"sentence1": ["x"], "sentence2": ["y"], "score": [1]}), [1], "scores are given twice"),
    ],
)
def test_what_does_not_fit(settings, texts, scores, what):
    with pytest.raises(DataError, match=what):
        st.Embedder("2: lora", **settings).fit(texts, scores)


def test_columns_of_no_role_are_refused(settings):
    frame = pd.DataFrame({"left": ["a film"] * 4, "right": ["a book"] * 4})
    with pytest.raises(UserError, match="left"):
        st.Embedder("2: lora", **settings).fit(frame)


def test_single_texts_alone_become_vectors(embedder):
    for wrong in ([("a", "b")], [1, 2]):
        with pytest.raises(DataError, match="this is not a text"):
            embedder.transform(wrong)
    with pytest.raises(DataError, match="not a pair of texts"):
        embedder.similarity(TEXTS)


def test_scored_pairs_are_of_one_kind_of_text(settings):
    """Both have the prompt of queries; and data without scores are scored as a search."""
    scores = [0.9, 0.1, 0.5] * 8
    asked = st.Embedder("2: lora", **settings, objective="vectors(query_prompt=she saw)").fit(PAIRS, scores)
    left, right = (asked.transform(list(texts)) for texts in zip(*PAIRS[:3], strict=True))
    np.testing.assert_allclose(asked.similarity(PAIRS[:3]), (left * right).sum(1), atol=1e-5)
    assert asked.score(PAIRS) == asked.predictor_.score(frame_of(PAIRS))["metrics"]["ndcg@10"]


def frame_of(pairs):
    return pd.DataFrame(pairs, columns=["anchor", "positive"])


def test_with_scores_after_training_without(embedder):
    scores = [0.9, 0.1, 0.5] * 8
    frame = pd.DataFrame(PAIRS, columns=["sentence1", "sentence2"]).assign(score=scores)
    assert embedder.score(PAIRS, scores) == embedder.predictor_.score(frame)["metrics"]["spearman"]


@pytest.mark.parametrize("form", [list, np.array, lambda texts: pd.DataFrame({"id": range(len(texts)), "text": texts})])
def test_a_corpus_is_searched_and_mined(settings, form, monkeypatch):
    """By scores always, by a fit where it evaluates or mines; pairs with scores search nothing."""
    texts = [f"{one} {other}" for one in ("great", "bad", "long") for other in ("story", "movie", "city", "dog")]
    few, corpus = {**settings, "epochs": 1, "cache": "ram"}, form(texts)
    plain = st.Embedder("2: lora", **few).fit(PAIRS)
    asked = st.Embedder("2: lora", **few, corpus=corpus).fit(PAIRS)  # nothing to evaluate: as without
    np.testing.assert_array_equal(asked.transform(TEXTS), plain.transform(TEXTS))
    wanted = plain.predictor_.score({"anchor": [a for a, _ in PAIRS], "positive": [b for _, b in PAIRS]}, corpus=texts)
    assert asked.score(PAIRS) == wanted["metrics"]["ndcg@10"] != plain.score(PAIRS)
    scores = [0.9, 0.1, 0.5] * 8
    assert asked.score(PAIRS, scores) == plain.score(PAIRS, scores)
    assert asked.score(pd.DataFrame(PAIRS, columns=["anchor", "positive"])) == asked.score(PAIRS)
    held = st.Embedder("2: lora", **few, corpus=corpus, eval=pd.DataFrame(PAIRS, columns=["anchor", "positive"]))
    assert any("from the corpus alone" in line for line in held.fit(PAIRS).result_.notices)
    mined = clone(asked).set_params(objective="vectors(mine=1)").fit(PAIRS)
    assert np.abs(mined.transform(TEXTS) - plain.transform(TEXTS)).max() > 1e-6
    assert pickle.loads(pickle.dumps(asked)).score(PAIRS) == asked.score(PAIRS)


def test_documents_that_stay_are_those_of_the_base(settings):
    exact = {**settings, "precision": "fp32"}
    asked = st.Embedder("2: full", **exact, objective="vectors(query_only=true)").fit(PAIRS)
    untuned = st.Embedder("2: full", **{**exact, "epochs": 1, "lr": 1e-12}).fit(PAIRS)
    np.testing.assert_allclose(asked.transform_documents(TEXTS), untuned.transform(TEXTS), atol=1e-5)
    assert np.abs(asked.transform(TEXTS) - untuned.transform(TEXTS)).max() > 1e-3


def test_as_a_transformer(embedder):
    assert not hasattr(embedder, "fit_transform")
    found = embedder.transform(TEXTS)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(embedder.transform(pd.DataFrame({"text": TEXTS})), found)
    assert embedder.get_feature_names_out().tolist() == [f"embedder{n}" for n in range(found.shape[1])]
    steps = make_pipeline(FrozenEstimator(embedder), LogisticRegression())
    assert cross_val_score(steps, TEXTS * 4, [0, 1, 0] * 4, cv=2).shape == (2,)
    with pytest.raises(DataError, match="this is not a pair of texts") as caught:
        make_pipeline(clone(embedder), LogisticRegression()).fit(TEXTS, [0, 1, 0])
    assert "FrozenEstimator" in caught.value.hint


def test_a_search_runs_the_trunk_once_for_each_text(settings, tmp_path, monkeypatch):
    ran, plain = [], Trunk.__call__
    monkeypatch.setattr(
        Trunk, "__call__", lambda self, ids, *rest, **more: (ran.append(len(ids)), plain(self, ids, *rest, **more))[1]
    )
    search = GridSearchCV(st.Embedder("2: full", **settings, cache=str(tmp_path)), {"lr": [1e-3, 1e-2]}, cv=2)
    search.fit(PAIRS[:12])
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    texts = sorted({text for pair in PAIRS for text in pair})
    assert search.best_estimator_.transform(texts).shape[0] == len(texts)
    assert sum(ran) == len(texts)


def test_a_run_of_another_objective_is_refused(settings, tmp_path):
    with pytest.raises(ConfigError, match="objective: 'classification'"):
        st.Embedder("2: lora", **settings, objective="classification").fit(PAIRS)
    st.Classifier("2: lora", **{**settings, "epochs": 1}).fit(TEXTS * 4, ["x", "y", "x"] * 4).save(tmp_path / "classes")
    with pytest.raises(ModelError, match="this run learnt .*, and Embedder loads vectors"):
        st.Embedder.load(tmp_path / "classes")


def test_pairs_of_a_data_frame_go_by_their_names(settings):
    """A prompt is written before one side alone, so the sides are no matter of taste."""
    frame = pd.DataFrame(PAIRS, columns=["query", "document"])
    embedder = st.Embedder("2: full", **{**settings, "objective": "vectors(query_prompt=best)"}).fit(frame)
    wanted = embedder.similarity(PAIRS)
    np.testing.assert_allclose(embedder.similarity(frame), wanted)
    np.testing.assert_allclose(embedder.similarity(frame[["document", "query"]].assign(id=0)), wanted)
    unnamed = frame.set_axis(["a", "b"], axis=1)
    np.testing.assert_allclose(embedder.similarity(unnamed), wanted)
    assert not np.allclose(embedder.similarity(unnamed[["b", "a"]]), wanted)


def test_what_can_be_read_once_alone_is_read(monkeypatch):
    seen = []
    monkeypatch.setattr(st.Embedder, "_train", lambda self, table, *given, **settings: seen.append(table))
    st.Embedder("3: full").fit(zip(["a", "b"], ["c", "d"], strict=True))
    st.Embedder("3: full").fit((pair for pair in [("a", "c"), ("b", "d")]), {1: 0.5, 2: 1.0}.values())
    assert seen[0].to_dict() == {"anchor": ["a", "b"], "positive": ["c", "d"]}
    assert seen[1].to_dict() == {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "score": [0.5, 1.0]}
    assert embedding._texts(iter(["a", None])) == ["a", None]


@pytest.mark.parametrize("missing", ["", None, float("nan")])
def test_an_empty_text_is_refused_as_by_the_other_estimators(missing, embedder):
    with pytest.raises(DataError, match="is empty in 1 of 2 rows"):
        embedder.transform(["great film", missing])
    with pytest.raises(DataError, match="is empty in 1 of 1 rows"):
        embedder.similarity([("great film", missing)])
    reading = clone(embedder).set_params(bad_rows="empty").fit(PAIRS)
    assert reading.transform(["great film", missing]).shape == (2, embedder.transform(["film"]).shape[1])
