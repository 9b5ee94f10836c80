"""The estimators among containers: frames out, requests that survive a pickle, columns of other steps, pyarrow."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import sklearn
from datasets import Dataset
from joblib import parallel_config
from packaging import version
from sklearn.compose import ColumnTransformer
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder

import stratatune as st
from stratatune.app.texts import as_known, columns_of, labels_of, names_of
from stratatune.data.read_options import ReadOptions
from stratatune.data.readers import read
from stratatune.errors import ConfigError, DataError, ModelError, PlanError

from .conftest import BAD, GOOD

TEXTS = [f"{text} {word}" for word in ("film", "book", "story", "day") for text in (GOOD, BAD)]
LABELS = ["x", "y"] * 4
PAIRS = [("great good film", "best film"), ("bad sad night", "worst night"), ("she saw the book", "the story saw")] * 4


@pytest.fixture(scope="module")
def settings(tiny_folder):
    return {"model": str(tiny_folder("bert")), "epochs": 1, "lr": 1e-2, "batch_size": 4, "device": "cpu"}


@pytest.fixture(scope="module")
def embedder(settings):
    return st.Embedder("2: full", **settings, cache="ram").fit(PAIRS)


# --- vectors as a data frame -----------------------------------------------------------------------------------------


def test_vectors_become_a_data_frame_where_one_is_asked_for(embedder):
    frame = pd.DataFrame({"text": TEXTS, "kind": LABELS}, index=range(40, 48))
    plain = embedder.transform(TEXTS)
    text = ("text", FrozenEstimator(copy.deepcopy(embedder)), "text")
    steps = ColumnTransformer([text, ("kind", OneHotEncoder(sparse_output=False), ["kind"])])
    # Before 1.8 the index of a single column (a pandas Series) is lost, whatever the step is.
    mixed = frame if version.parse(sklearn.__version__) >= version.parse("1.8") else frame.reset_index(drop=True)
    found = steps.set_output(transform="pandas").fit_transform(mixed)
    assert found.index.tolist() == mixed.index.tolist()
    assert found.columns.tolist()[:1] == ["text__embedder0"] and found.columns.tolist()[-1] == "kind__kind_y"
    np.testing.assert_array_equal(found.to_numpy()[:, :-2], plain)
    with sklearn.config_context(transform_output="pandas"):
        assert embedder.transform(mixed["text"]).index.tolist() == mixed.index.tolist()
        assert embedder.transform([]).shape == (0, plain.shape[1])
        assert isinstance(embedder.similarity(PAIRS), np.ndarray) and 0 <= embedder.score(PAIRS) <= 1
    assert isinstance(embedder.transform(TEXTS), np.ndarray)


def test_what_was_asked_of_scikit_learn_is_pickled(embedder, settings):
    asked = copy.deepcopy(embedder).set_output(transform="pandas")
    for again in (copy.deepcopy(asked), pickle.loads(pickle.dumps(asked))):
        assert isinstance(again.transform(TEXTS), pd.DataFrame)
    with sklearn.config_context(enable_metadata_routing=True):
        model = st.Classifier("2: lora", **settings).set_fit_request(sample_weight=True)
        for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert str(again.get_metadata_routing()) == str(model.get_metadata_routing())
    assert isinstance(pickle.loads(pickle.dumps(embedder)).transform(TEXTS), np.ndarray)


def test_weights_are_routed_to_what_another_process_is_given(settings):
    with sklearn.config_context(enable_metadata_routing=True):
        model = st.Classifier("2: lora", **settings, cache="ram").set_fit_request(sample_weight=True)
        steps = pickle.loads(pickle.dumps(Pipeline([("model", model)])))
        assert steps.fit(TEXTS, LABELS, sample_weight=np.ones(8)).predict(TEXTS).shape == (8,)


def test_fits_in_threads_take_turns(settings):
    """The weights of a new layer, and the order of the rows, come from one random state."""
    model = st.Classifier("2: lora", **settings, cache="off")

    def scores():
        return cross_val_score(model, TEXTS, LABELS, cv=3, scoring="neg_log_loss", error_score="raise")

    alone = scores()
    with parallel_config(backend="threading", n_jobs=3):
        np.testing.assert_allclose(scores(), alone, atol=1e-5)


# --- columns of other steps ------------------------------------------------------------------------------------------


def test_a_column_of_texts_is_read_as_texts(embedder):
    """As ``SimpleImputer`` and ``ColumnTransformer`` hand it on: an array of one column."""
    wanted = embedder.transform(TEXTS)
    column = np.array(TEXTS, object).reshape(-1, 1)
    np.testing.assert_array_equal(embedder.transform(column), wanted)
    steps = make_pipeline(ColumnTransformer([("text", "passthrough", ["text"])]), FrozenEstimator(embedder))
    np.testing.assert_array_equal(steps.fit_transform(pd.DataFrame({"text": TEXTS, "n": range(8)})), wanted)
    with pytest.raises(DataError, match=r"this is not a text: \['a', 'b'\] \(row 1\)"):
        embedder.transform([["a", "b"]])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (pd.DataFrame({"text": TEXTS, "n": range(8)}), "column 'n', row 1: 0 is not a text.*columns of texts alone"),
        (pd.DataFrame({"text": TEXTS, "n": [None, *range(7)]}), "column 'n', row 2: 0.0 is not a text"),
        (pd.DataFrame({"day": pd.to_datetime(["2020-01-02"] * 8)}), "column 'day', row 1"),
        (pd.DataFrame({"text": TEXTS, "ok": [True] * 8}), "column 'ok', row 1: True"),
        (list(zip(TEXTS, range(8), strict=True)), "row 1: 0 is not a text.*texts as strings"),
    ],
    ids=["numbers", "numbers with a gap", "dates", "truth values", "pairs"],
)
def test_numbers_are_no_texts(given, said):
    """An id or a label beside the texts would be read as the second text of each pair."""
    with pytest.raises(DataError, match=said):
        st.Classifier("2: lora").fit(given, LABELS)


def test_a_frame_without_names_goes_by_order(settings):
    pairs = [("who?", "she saw the film"), ("where?", "the film is good")] * 2
    answers = ["she", "film"] * 2
    answerer = st.Answerer("2: full", **settings, cache="ram").fit(pairs, answers)
    wanted = answerer.predict(pairs)
    assert answerer.predict(pd.DataFrame(pairs)) == wanted
    assert answerer.predict(pd.DataFrame(pairs, columns=["question", "context"])[["context", "question"]]) == wanted
    assert answerer.score(pd.DataFrame(pairs), answers) == answerer.score(pairs, answers)


@pytest.mark.parametrize("kind", [st.Tagger, st.Answerer, st.Embedder])
def test_a_score_treats_incomplete_rows_as_fit_does(kind, settings):
    """A search fits with ``bad_rows="skip"``, and its folds are scored."""
    given = {
        st.Tagger: ([["great", "film"], ["bad", "night"], []], [["B-x", "O"], ["O", "B-x"], []]),
        st.Answerer: ([("who?", "she saw"), ("what?", "the film"), ("what?", None)], ["she", "film", "film"]),
        st.Embedder: ([*PAIRS[:3], ("great", None)], None),
    }[kind]
    asked = kind("2: full", **settings, cache="ram", bad_rows="skip").fit(*given)
    assert asked.score(*given) == asked.score(*(rows and rows[:-1] for rows in given))


# --- tables and columns of pyarrow -----------------------------------------------------------------------------------


def test_pyarrow_is_read_as_pandas_is(settings, embedder):
    table = pa.table({"text": TEXTS, "label": LABELS})
    assert columns_of(table.select(["text"])) == columns_of(table["text"]) == columns_of(pa.array(TEXTS)) == [TEXTS]
    assert names_of(table) == ("text", "label") and labels_of(table["label"]).tolist() == LABELS
    with pytest.raises(DataError, match="missing in 1 of 2"):
        labels_of(pa.array(["x", None]))
    model = st.Classifier("2: lora", **settings, cache="ram").fit(table.select(["text"]), table["label"])
    assert model.feature_names_in_.tolist() == ["text"] and model.classes_.tolist() == ["x", "y"]
    assert model.predict(table).tolist() == model.predict(TEXTS).tolist()  # the column is known by its name
    np.testing.assert_array_equal(embedder.transform(table["text"]), embedder.transform(TEXTS))
    cosines = embedder.similarity(pa.table(pd.DataFrame(PAIRS, columns=["anchor", "positive"])))
    np.testing.assert_array_equal(cosines, embedder.similarity(PAIRS))
    words, tags = [["great", "film"], ["bad", "night"]], [["B-x", "O"], ["O", "B-x"]]
    tagger = st.Tagger("2: full", **settings, cache="ram").fit(pa.array(words), pa.chunked_array([tags]))
    assert tagger.predict(pa.array(words)) == tagger.predict(words)


def test_a_data_set_is_read_by_its_columns(embedder):
    data = Dataset.from_dict({"text": TEXTS, "label": LABELS})
    assert columns_of(data.select_columns(["text"])) == columns_of(data["text"]) == [TEXTS]
    assert columns_of(data, ("text",)) == [TEXTS] and labels_of(data.select_columns(["label"])).tolist() == LABELS
    pairs = Dataset.from_dict({"positive": [b for _, b in PAIRS], "anchor": [a for a, _ in PAIRS]})
    np.testing.assert_array_equal(embedder.similarity(pairs), embedder.similarity(PAIRS))


@pytest.mark.parametrize("kind", [pa.table, pa.record_batch])
def test_readers_take_tables_of_pyarrow(kind):
    given = kind({"text": TEXTS, "label": [1, None, *[0] * 6]})
    found = read(given, ReadOptions(need_labels=False))
    assert found.texts == (TEXTS,) and found.source == "the table given"
    assert read(pa.chunked_array([TEXTS]), ReadOptions(need_labels=False)).texts == (TEXTS,)
    with pytest.raises(DataError, match=r"label column 'label' is empty in 1 of 8 rows \(row 2\)"):
        read(given)
    with pytest.raises(DataError, match="the table given: two columns are called 'a'"):
        read(pa.Table.from_arrays([pa.array(TEXTS)] * 2, names=["a", "a"]))


class Lazy:
    """A data frame that holds no rows yet."""

    columns = ("text",)


def test_a_frame_of_another_kind_is_refused_in_a_line():
    for find in (as_known, columns_of, labels_of, st.Tagger("2: full").predict, embed):
        with pytest.raises(DataError, match="cannot read .*'s Lazy.*a table of pyarrow"):
            find(Lazy())


def embed(given):
    st.Embedder("2: full").fit(given)


# --- models that are none --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model", [None, 3, SimpleNamespace(config={})], ids=["nothing", "a number", "a model that is loaded"]
)
def test_a_model_is_named(model):
    fits = [
        lambda: st.Classifier("2: lora", model=model).fit(TEXTS, LABELS),
        lambda: st.Regressor("2: lora", model=model).fit(TEXTS, range(8)),
        lambda: st.Tagger("2: full", model=model).fit([["a", "b"]], [["B-x", "O"]]),
        lambda: st.Embedder("2: full", model=model).fit(PAIRS),
    ]
    if model is not None:
        fits.append(lambda: st.train(model=model, plan="2: lora", train={"text": TEXTS, "label": LABELS}, out="x"))
    for fit in fits:
        with pytest.raises(ConfigError, match="model: .*(a hub id or a folder|missing)"):
            fit()
    with pytest.raises(ModelError, match="neither the name of a model nor a config"):
        st.shape_of(model)


def test_an_export_says_what_it_needs(embedder, tmp_path):
    for given, fix in ((str(tmp_path), "st.load"), (tmp_path, "st.load"), (embedder.predictor_, "attribute model")):
        with pytest.raises(PlanError, match=rf"\(.*{fix}"):
            st.export(given, tmp_path / "out")
    embedder.save(tmp_path / "saved")
    with pytest.raises(PlanError, match=r"an Embedder was given, which is an estimator.*st.load\(FOLDER\)"):
        st.export(embedder, tmp_path / "out")
    st.export(st.load(tmp_path / "saved"), tmp_path / "out", "merged")  # what the hint says
    assert (tmp_path / "out" / "config.json").is_file()
