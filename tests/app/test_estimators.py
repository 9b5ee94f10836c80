"""The estimators at scikit-learn's doors: names, missing labels, kinds of labels, pickles, searches."""

from __future__ import annotations

import copy
import pickle
from decimal import Decimal
from enum import Enum
from pathlib import Path

import numpy as np
import pandas
import pytest
import sklearn.base
from datasets import Dataset

import stratatune as st
from stratatune.app import answerer, embedder, tagger, text_estimator
from stratatune.app.run_folders import claimed, from_bytes
from stratatune.app.sets import sets_of, truth_of
from stratatune.app.texts import classes_of, columns_of, labels_of, names_of
from stratatune.data.read_options import ReadOptions
from stratatune.data.readers import read
from stratatune.errors import ConfigError, DataError, ModelError
from stratatune.progress import Reporter
from stratatune.training.config import validate

from .conftest import BAD, GOOD

TEXTS = [GOOD, BAD] * 6


@pytest.fixture
def settings(tiny_folder):
    return {
        "plan": "bft-adapter@2",
        "model": str(tiny_folder("bert")),
        **{"epochs": 1, "lr": 1e-2, "batch_size": 8, "cache": "ram"},
    }


@pytest.fixture(scope="module")
def fitted(tiny_folder):
    model = str(tiny_folder("bert"))
    clf = st.Classifier("bft-adapter@2", model=model, epochs=2, lr=1e-2, batch_size=8, cache="ram")
    return clf.fit(TEXTS, np.array([7, 3] * 6))


def test_a_finished_run_is_resumed_for_its_own_data_alone(settings, tmp_path):
    """Else a fit on one fold would give the model of another."""
    labels = [1, 0] * 6
    clf = st.Classifier(**settings, out=str(tmp_path / "run"), resume=True).fit(TEXTS, labels)
    found = clf.predict_proba(TEXTS)
    assert np.array_equal(clf.fit(np.array(TEXTS), labels).predict_proba(TEXTS), found)
    for texts, others in ((TEXTS[:8], labels[:8]), (TEXTS, labels[::-1]), (TEXTS[::-1], labels)):
        with pytest.raises(ConfigError, match="holds a finished run on other data") as error:
            clf.fit(texts, others)
        assert "leave out resume" in (error.value.hint or "")
    assert np.array_equal(clf.predict_proba(TEXTS), found)
    assert np.array_equal(st.Classifier.load(tmp_path / "run").predict(TEXTS), clf.predict(TEXTS))


# --- what is given ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("one", ["a good film", b"a good film", np.array("a good film")])
def test_one_bare_text_is_no_list(one):
    with pytest.raises(DataError, match=r"one text was given, not a list.*\[text\]"):
        columns_of(one)


@pytest.mark.parametrize("odd", [{"a": ["x"]}, {"x", "y"}, 3, None, [1, 2]])
def test_what_has_no_order_of_texts_is_refused(odd):
    with pytest.raises(DataError, match="neither texts nor pairs"):
        columns_of(odd)


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        (["a", 3], "row 2 is 3"),
        ([("a", "b"), "c"], "row 2 is 'c', and others are not like it"),
        ([None, ("a", "b")], "row 1 is None, and others are not like it"),
        ([("a", "b"), ("c",)], r"row 2 is \('c',\), and others are not like it"),
        ([("a", "b"), ("c", 3)], "row 2: 3 is not a text"),
        ([("a", ["b"]), ("c", "d")], r"row 1: \['b'\] is not a text"),
        (pandas.DataFrame({"a": ["x", 3]}), "row 2: 3 is not a text"),
    ],
    ids=range(7),
)
def test_what_is_no_text_is_named_by_its_row(odd, said):
    with pytest.raises(DataError, match=said):
        columns_of(odd)


def test_columns_of_a_data_frame_go_by_name():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"id": [1], "a": ["x"], "q": ["y"]})
    assert columns_of(frame, ("q", "a")) == [["y"], ["x"]]
    with pytest.raises(DataError, match="no column 'z'.*here: id, a, q"):
        columns_of(frame, ("q", "z"))


MISSING = [
    [1.0, 0.0, float("nan")],
    np.array([1.0, 0.0, np.nan], np.float32),
    ["a", "b", None],
    ["a", "b", float("nan")],
    ["a", "b", pandas.NA],
    ["a", "b", pandas.NaT],
    [Decimal(1), Decimal(0), Decimal("NaN")],
    ["a", "b", np.datetime64("NaT")],
    np.array(["a", "b", None], object),
]


@pytest.mark.parametrize("labels", MISSING, ids=range(len(MISSING)))
def test_missing_labels_are_no_class(labels):
    with pytest.raises(DataError, match=r"missing in 1 of 3 rows \(row 3\)"):
        labels_of(labels)


def test_missing_labels_of_pandas():
    pandas = pytest.importorskip("pandas")
    for column in (pandas.array([1, 0, None], "Int64"), pandas.Series(["a", "b", None]), pandas.Series([1, 0, None])):
        with pytest.raises(DataError, match="missing in 1 of 3"):
            labels_of(column)
    frame = pandas.DataFrame({"kind": ["a", "b"]})
    assert labels_of(frame).tolist() == ["a", "b"]
    with pytest.raises(DataError, match="2 columns of labels"):
        labels_of(frame.assign(other=1))


def test_labels_that_are_no_classes():
    with pytest.raises(DataError, match="labels such as 2.5 are numbers.*looks like regression.*Regressor"):
        classes_of(labels_of([1.0, 2.5, 3.0]))
    with pytest.raises(DataError, match="several types: numbers, str"):
        labels_of(["a", 1])
    with pytest.raises(DataError, match="two labels are both 'a'"):
        classes_of(labels_of(["a", " a"]))
    assert classes_of(labels_of([[2], [1]])).tolist() == [1, 2]


class Colour(Enum):
    RED, BLUE = "red", "blue"


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([Colour.RED, Colour.BLUE], "Colour values, such as <Colour.RED"),
        ([b"a", b"b"], "bytes values, such as b'a'"),
        ([Decimal(1), Decimal(2)], r"Decimal values, such as Decimal\('1'\)"),
        (np.array(["2020-01-02", "2021-01-02"], "datetime64[D]"), "date values"),
        (pandas.Series(pandas.to_datetime(["2020-01-02", "2021-01-02"])), "Timestamp values"),
        ([10**20, 5], "whole numbers of more than 64 bits, such as 100000000000000000000"),
        ([1 + 2j, 2j], "complex values"),
    ],
    ids=range(7),
)
def test_labels_that_could_not_come_back_as_they_were_given_are_refused(labels, said):
    """A saved run holds text, and an enumeration has no order."""
    for find in (lambda: classes_of(labels_of(labels)), lambda: sets_of([[one] for one in labels], asked=True)):
        with pytest.raises(DataError, match=f"labels are {said}.*give them as strings, whole numbers or truth"):
            find()


def test_labels_of_a_set_have_no_order():
    with pytest.raises(DataError, match="is not a list"):
        labels_of({"a", "b"})


def test_columns_of_an_indicator_matrix_may_have_any_names():
    names = pandas.MultiIndex.from_tuples([("tone", "warm"), ("tone", "cold")])
    found = sets_of(pandas.DataFrame([[1, 0], [1, 1]], columns=names))
    assert found.classes.tolist() == ["('tone', 'warm')", "('tone', 'cold')"]
    assert found.rows == [["('tone', 'warm')"], ["('tone', 'warm')", "('tone', 'cold')"]]
    assert sets_of(pandas.DataFrame([[1, 0]], columns=[7, 3])).classes.tolist() == [7, 3]


@pytest.mark.parametrize("given", [iter, lambda rows: dict(enumerate(rows)).values()], ids=["iterator", "view"])
def test_label_sets_may_be_read_once_alone(given, monkeypatch):
    seen = {}
    monkeypatch.setattr(st.Classifier, "_fit", lambda self, X, rows, *others, **settings: seen.update(rows=rows))
    st.Classifier("bft-adapter@2").fit(TEXTS[:3], given([["a", "b"], [], ["b"]]))
    assert seen["rows"] == [["a", "b"], [], ["b"]]


@pytest.mark.parametrize(
    ("labels", "said"),
    [(["1", "1.0", "2"], "'1' and '1.0'"), (["true", "no", "True"], "'True' and 'true'")],
    ids=["numbers", "truth values"],
)
def test_two_labels_that_a_run_reads_as_one_class_are_refused(labels, said):
    with pytest.raises(DataError, match=f"the labels {said} are one class.*spell both the same way"):
        classes_of(labels_of(labels))
    assert classes_of(labels_of(["1", "1.5", "01"])).tolist() == ["01", "1", "1.5"]


def test_numpy_s_and_python_s_own_labels_are_of_one_kind():
    assert labels_of([np.int64(1), 0, True]).tolist() == [1, 0, 1]
    assert labels_of([np.str_("a"), "b"]).tolist() == ["a", "b"]


def test_labels_of_several_types_name_two_rows():
    with pytest.raises(DataError, match="several types: numbers, str .row 1: 'a', row 3: 2"):
        labels_of(["a", "b", 2])


ODD_SETS = [
    ([["a"], ["b", None], ["a"]], "labels of row 2: None is not a label"),
    ([["a", "b"], {"b"}, [pandas.NaT]], "labels of row 3: NaT is not a label"),
    ([["a", "b"], [["b"]]], r"labels of row 2: \['b'\] is not a label"),
    ([[0, 1], [1, Decimal("NaN")]], r"labels of row 2: Decimal\('NaN'\) is not a label"),
    ([["a", "b"], None], "labels of row 2: None is not a list of labels"),
    ([["a", "b"], "ab"], "labels of row 2: 'ab' is not a list of labels"),
    ([["a"], ["b", "a"], [3]], "several types: numbers, str .row 1: 'a', row 3: 3"),
]


@pytest.mark.parametrize(("odd", "message"), ODD_SETS, ids=range(len(ODD_SETS)))
def test_label_sets_name_the_row(odd, message):
    with pytest.raises(DataError, match=message):
        sets_of(odd)


@pytest.mark.parametrize(
    "given",
    [
        tuple,
        lambda rows: Dataset.from_dict({"rows": rows})["rows"],
        lambda rows: list(map(np.array, rows)),
        lambda rows: pandas.Series(list(map(np.array, rows))),
    ],
    ids=["a tuple", "a column of datasets", "a list of arrays", "a Series of arrays"],
)
def test_what_is_given_for_each_text_has_any_ordered_type(given):
    lists, matrix, pairs = [["a", "b"], ["c", "a"]], [[0, 1], [1, 1]], [["a", "b"], ["c", "d"]]
    found = sets_of(given(lists))
    assert found.rows == lists and not found.matrix
    found = sets_of(given(matrix))
    assert found.rows == [[1], [0, 1]] and found.matrix
    assert truth_of(given(matrix), np.array(["x", "y"]), lists=False) == [{"y"}, {"x", "y"}]
    assert truth_of(given(lists), np.array(["a", "b", "c"]), lists=True) == [{"a", "b"}, {"a", "c"}]
    assert columns_of(given(pairs)) == [["a", "c"], ["b", "d"]]
    # The other estimators.
    assert tagger._data_set(given(pairs), given(lists))["tags"][:] == lists
    assert answerer._columns(given(pairs)) == [["a", "c"], ["b", "d"]]
    assert embedder._data_set(given(pairs), None)["anchor"][:] == ["a", "c"]


@pytest.mark.parametrize("odd", [None, 3, "aab", {"a": 1}])
def test_labels_are_a_list(odd):
    with pytest.raises(DataError, match="labels: .* is not a list"):
        labels_of(odd)


def test_several_labels_are_not_one():
    for odd in (np.arange(4).reshape(2, 2), [[1, 2], [3, 4]], [{"a"}, {"b"}]):
        with pytest.raises(DataError, match="several labels were given for a text"):
            labels_of(odd)


def test_a_regressor_takes_numbers(settings):
    own = {**settings, "plan": "1: full"}
    for odd, said in ((["a", "b"] * 6, "row 1: label 'a' is not a number"), (np.ones((12, 2)), "several labels")):
        with pytest.raises(DataError, match=said):
            st.Regressor(**own).fit(TEXTS, odd)


ODD_SCORES = [
    ([7, 3] * 5 + [7, None], None, r"missing in 1 of 12 rows \(row 12\)"),
    ([7, 3] * 5 + [7, Decimal("NaN")], None, r"missing in 1 of 12 rows \(row 12\)"),
    ([7, 3], None, "12 texts but 2 labels"),
    (["7", "3"] * 6, None, "labels are texts such as '7', and fit was given numbers such as 3"),
    (None, None, "labels: None is not a list"),
    ([7, 3] * 6, [1.0] * 11 + [np.inf], "sample_weight, row 12: the weight inf"),
    ([7, 3] * 6, [1.0], "sample_weight: 1 for 12 texts"),
]


@pytest.mark.parametrize(("labels", "weights", "message"), ODD_SCORES, ids=range(len(ODD_SCORES)))
def test_what_cannot_be_scored(fitted, labels, weights, message):
    with pytest.raises(DataError, match=message):
        fitted.score(TEXTS, labels, weights)


def test_no_texts_have_no_score(fitted):
    with pytest.raises(DataError, match="no texts to score"):
        fitted.score([], [])


def test_a_regressor_scores_numbers(settings):
    fitted = st.Regressor(**{**settings, "plan": "2: lora"}).fit(TEXTS, [1.0, 2.0] * 6)
    assert fitted.score(TEXTS, [1.0, 2.0] * 6, [1.0] * 12) == pytest.approx(fitted.score(TEXTS, [1, 2] * 6))
    for odd, message in (([1.0] * 11 + [np.nan], "row 12"), (["x"] * 12, "row 1: label 'x' is not a number")):
        with pytest.raises(DataError, match=message):
            fitted.score(TEXTS, odd)
    with pytest.raises(DataError, match="sample_weight, row 1: the weight nan"):
        fitted.score(TEXTS, [1.0, 2.0] * 6, [np.nan] * 12)


def test_an_estimator_answers_what_its_objective_learnt(settings, fitted, tmp_path):
    """Another objective is refused before training, and a run of another one when it is loaded."""
    for made, objective in ((st.Regressor, "classification"), (st.Classifier, "regression"), (st.Tagger, "chat")):
        with pytest.raises(ConfigError, match=f"objective: '{objective}' is not what {made.__name__} predicts"):
            made(**{**settings, "plan": "1: full"}, objective=objective).fit([["a"]] * 12, [["O"]] * 12)
    with pytest.raises(DataError, match="one label was given for each text"):
        st.Classifier(**{**settings, "plan": "1: full"}, objective="multilabel").fit(TEXTS, ["a", "b"] * 6)
    fitted.save(tmp_path / "classes")
    with pytest.raises(ModelError, match="this run learnt mlm, and Regressor loads regression"):
        st.Regressor.load(tmp_path / "classes")
    with pytest.raises(ModelError, match="this run learnt mlm, and Tagger loads tags"):
        st.Tagger.load(tmp_path / "classes")
    rows = {"text": TEXTS, "labels": SETS}
    data = Dataset.from_dict(rows)
    own = {**settings, "plan": "1: full", "out": str(tmp_path / "sets"), "reporter": Reporter(quiet=True)}
    st.train(**own, train=data, text="text", label="labels", objective="multilabel(threshold=0.01)")
    assert st.Classifier.load(tmp_path / "sets").predict(TEXTS[:1]) == [["fine", "good"]]


def test_polars_is_read_as_pandas_is(settings):
    polars, pandas = pytest.importorskip("polars"), pytest.importorskip("pandas")
    rows = {"a": TEXTS, "b": TEXTS[::-1]}
    frames = [library.DataFrame(rows) for library in (polars, pandas)]
    assert columns_of(frames[0], ("b",)) == columns_of(frames[1], ("b",)) and names_of(frames[0]) == ("a", "b")
    assert columns_of(polars.Series(TEXTS)) == [TEXTS]
    assert labels_of(polars.Series(["x", "y"])).tolist() == ["x", "y"]
    with pytest.raises(DataError, match="missing in 1 of 2"):
        labels_of(polars.Series(["x", None]))
    assert sets_of(polars.Series([["x"], ["x", "y"]])).rows == [["x"], ["x", "y"]]
    assert sets_of(polars.DataFrame({"x": [0, 1], "y": [1, 1]})).classes.tolist() == ["x", "y"]
    clf = st.Classifier(**settings).fit(frames[0], polars.Series(["x", "y"] * 6))
    assert np.array_equal(clf.predict_proba(frames[0].select("b", "a")), clf.predict_proba(frames[1]))
    table = read(polars.DataFrame({"text": TEXTS, "label": [None, *[1] * 11]}), ReadOptions(need_labels=False))
    assert table.texts == (TEXTS,) and table.labels is None


# --- what comes back -------------------------------------------------------------------------------------------------


def test_a_data_frame_s_columns_may_come_in_another_order(settings, tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"q": TEXTS, "a": TEXTS[::-1]})
    clf = st.Classifier(**settings).fit(frame, ["x", "y"] * 6)
    chances = clf.predict_proba(frame)
    assert clf.feature_names_in_.tolist() == ["q", "a"]
    assert np.array_equal(clf.predict_proba(frame[["a", "q"]]), chances)
    assert np.array_equal(clf.predict_proba(frame.assign(id=0)), chances)
    assert np.array_equal(clf.predict_proba(list(zip(frame.q, frame.a, strict=True))), chances)
    with pytest.raises(DataError, match="no column 'q'"):
        clf.predict(frame.rename(columns={"q": "question"}))
    clf.save(tmp_path / "saved")
    again = st.Classifier.load(tmp_path / "saved")
    assert np.array_equal(again.predict_proba(frame[["a", "q"]]), chances)


def test_a_column_called_label_is_a_text_like_others(settings):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"label": TEXTS})
    assert len(st.Classifier(**settings).fit(frame, ["x", "y"] * 6).predict(frame)) == 12


def test_the_kind_of_the_labels_is_saved(fitted, tmp_path):
    fitted.save(tmp_path / "saved")
    again = st.Classifier.load(tmp_path / "saved")
    assert again.predict(TEXTS).dtype == np.int64
    assert np.array_equal(again.predict(TEXTS), fitted.predict(TEXTS))
    again.save(tmp_path / "twice")
    assert st.Classifier.load(tmp_path / "twice").classes_.tolist() == [3, 7]
    (tmp_path / "saved" / "estimator.json").write_text('{"columns": [], "classes": [1], "dtype": "object"}')
    with pytest.raises(ModelError, match="estimator.json is damaged"):
        st.Classifier.load(tmp_path / "saved")
    (tmp_path / "saved" / "estimator.json").unlink()
    assert st.Classifier.load(tmp_path / "saved").classes_.tolist() == ["3", "7"]


@pytest.mark.parametrize("weight", ["balanced", {np.int64(0): 0.5, 1: 3}, None])
def test_what_is_loaded_trains_by_the_settings_of_the_run(settings, weight, tmp_path):
    """A clone of it is fitted like the run, except for what belongs to the place where that ran."""
    own = {"epochs": 3, "lr": 2e-2, "seed": 4, "class_weight": weight, "out": str(tmp_path / "run")}
    clf = st.Classifier(**{**settings, **own})
    clf.fit(TEXTS, [1] * 4 + [0] * 8)
    again = st.Classifier.load(tmp_path / "run")
    assert (again.epochs, again.lr, again.seed, again.class_weight) == (3, 2e-2, 4, weight)
    assert (again.out, again.cache) == (st.Classifier().out, st.Classifier().cache)
    repeated = sklearn.base.clone(again).fit(TEXTS, [1] * 4 + [0] * 8)
    assert np.array_equal(repeated.predict_proba(TEXTS), clf.predict_proba(TEXTS))
    (tmp_path / "run" / "config.yaml").write_text("epochs: many")
    assert st.Classifier.load(tmp_path / "run").epochs == st.Classifier().epochs


def test_there_are_as_many_answers_as_texts(fitted):
    assert fitted.predict([]).shape == (0,) and fitted.predict_proba([]).shape == (0, 2)
    with pytest.raises(DataError, match="'text' is empty in 1 of 2"):
        fitted.predict([GOOD, None])
    lenient = copy.deepcopy(fitted).set_params(bad_rows="skip")
    assert lenient.predict([GOOD, None, " "]).shape == (3,)


def test_a_pickle_holds_the_run(fitted):
    content = pickle.dumps(fitted)
    again = pickle.loads(content)
    assert again.get_params() == fitted.get_params()
    assert again.classes_.dtype == np.int64
    assert np.array_equal(again.predict_proba(TEXTS), fitted.predict_proba(TEXTS))
    assert again._run != fitted._run
    for module in (b"torch", b"transformers", b"tokenizers", b"peft"):
        assert module + b"." not in content and b"c" + module + b"\n" not in content


def test_what_is_loaded_has_all_that_was_fitted(fitted, tmp_path):
    """From the run's folder, from that of its adapter, from a copy of either, and from a pickle of these."""
    fitted.save(tmp_path / "run")
    whole, part = st.Classifier.load(tmp_path / "run"), st.Classifier.load(tmp_path / "run" / "adapter")
    part.save(tmp_path / "part")
    copied = st.Classifier.load(tmp_path / "part")
    loaded = [whole, part, copied, *map(pickle.loads, map(pickle.dumps, (fitted, whole, part, copied)))]
    for one in loaded:
        assert one.classes_.tolist() == [3, 7] and one.classes_.dtype == fitted.classes_.dtype
    for one in (*loaded[:2], *loaded[3:-1]):
        assert one.result_.epochs == 2 and one.result_.plan == fitted.result_.plan
    assert loaded[0].result_.out == loaded[1].result_.out == str(tmp_path / "run")
    assert np.array_equal(loaded[-2].predict_proba(TEXTS[:2]), fitted.predict_proba(TEXTS[:2]))


def test_a_folder_may_be_a_path(settings, tmp_path):
    given = {**settings, "model": Path(settings["model"]), "cache": tmp_path / "cache", "out": tmp_path / "run"}
    found = st.Classifier(**given).fit(TEXTS, [7, 3] * 6)
    assert found.result_.out == str(tmp_path / "run") and list((tmp_path / "cache").iterdir())
    config = validate({"train": tmp_path, **{name: given[name] for name in ("model", "cache", "out")}})
    assert (config.model, config.train, config.out) == (settings["model"], str(tmp_path), str(tmp_path / "run"))


def test_an_estimator_that_is_not_fitted_is_pickled_too(settings):
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    again = pickle.loads(pickle.dumps(st.Regressor(**settings)))
    with pytest.raises(NotFittedError):
        check_is_fitted(again)
    with pytest.raises(NotFittedError):
        again.predict(TEXTS)


def test_files_of_a_pickle_stay_in_their_folder(tmp_path):
    for name in ("../x", "/tmp/x", "a/../../x"):
        with pytest.raises(ModelError, match="not a file of a run folder"):
            from_bytes(tmp_path, {name: b""})


# --- in a search -----------------------------------------------------------------------------------------------------


def test_a_search_gives_every_fit_a_folder(settings, tmp_path):
    from sklearn.model_selection import GridSearchCV

    clf = st.Classifier(**settings, out=str(tmp_path / "run"))
    search = GridSearchCV(clf, {"lr": [1e-3, 1e-2]}, cv=2).fit(TEXTS, ["x", "y"] * 6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run-2", "run-3", "run-4", "run-5"]
    assert all((path / "adapter").is_dir() and not (path / ".fit").exists() for path in tmp_path.iterdir())
    assert search.predict(TEXTS[:2]).shape == (2,)
    assert search.best_estimator_.result_.out == str(tmp_path / "run-5")


def test_a_folder_is_claimed_once(tmp_path):
    (tmp_path / "run").mkdir()
    names = [claimed(tmp_path / "run").name for _ in range(3)]
    assert names == ["run", "run-2", "run-3"]


def test_settings_are_changed_whole_or_not_at_all(settings):
    clf = st.Classifier(**settings)
    with pytest.raises(TypeError, match="unknown setting 'epoch'"):
        clf.set_params(plan="lora", epoch=3)
    assert clf.plan == "bft-adapter@2"


@pytest.mark.parametrize(
    ("theirs", "said"),
    [("learning_rate", "did you mean 'lr'"), ("r", "part of the plan"), ("train_dataset", "fit takes the data")],
)
def test_words_of_other_tools_get_ours(theirs, said):
    with pytest.raises(TypeError, match=f"unknown setting '{theirs}': .*{said}"):
        st.Classifier(**{theirs: 1})


# --- several labels a text -------------------------------------------------------------------------------------------

SETS = [["fine", "good"], []] * 6


@pytest.mark.parametrize("kind", ["array", "frame", "sparse", "rows", "lists", "tuples"])
def test_label_sets_come_back_as_they_were_given(kind, settings, tmp_path):
    matrix = np.array([[1, 0, 1], [0, 0, 0]] * 6)
    given = {"array": matrix, "rows": matrix.tolist(), "lists": SETS, "tuples": [tuple(row) for row in SETS]}
    if kind == "frame":
        given[kind] = pytest.importorskip("pandas").DataFrame(matrix, columns=["fine", "none", "good"])
    if kind == "sparse":
        given[kind] = pytest.importorskip("scipy.sparse").csr_matrix(matrix)
    own = {**settings, "plan": "1: full", "epochs": 25}
    clf = st.Classifier(**own).fit(TEXTS, given[kind])
    lists = kind in ("lists", "tuples")
    names = ["fine", "good"] if lists else ["fine", "none", "good"] if kind == "frame" else [0, 1, 2]
    assert clf.classes_.tolist() == names
    wanted = SETS if lists else matrix.tolist()
    found = clf.predict(TEXTS)
    assert (found if lists else found.tolist()) == wanted and clf.score(TEXTS, given[kind]) == 1.0
    with pytest.raises(DataError, match="labels of row 12: None is not a label"):
        clf.score(TEXTS, [*SETS[:11], ["good", None]] if lists else [*given["rows"][:11], [0, None, 1]])
    with pytest.raises(DataError, match="sample_weight, row 1: the weight nan"):
        clf.score(TEXTS, given[kind], [np.nan] * 12)
    chances = clf.predict_proba(TEXTS)
    assert chances.shape == (12, len(names)) and (lists or (chances[:, 1] == 0).all())
    clf.save(tmp_path / "saved")
    again = st.Classifier.load(tmp_path / "saved")
    assert type(again.predict(TEXTS)) is type(found) and again.classes_.tolist() == names
    assert np.array_equal(again.predict_proba(TEXTS), chances)


@pytest.mark.parametrize(
    "odd",
    [
        np.array([[0, 2], [1, 0]] * 6),
        np.array([[0.5, 1], [1, 0]] * 6),
        np.array([[0, None], [1, 0]] * 6, object),
        np.array([[0, np.nan], [1, 0]] * 6),
        pandas.DataFrame({"a": pandas.array([1, None] * 6, "Int64"), "b": [1, 0] * 6}),
    ],
    ids=range(5),
)
def test_a_matrix_holds_0_and_1(odd, settings):
    with pytest.raises(DataError, match="a matrix that holds.*an indicator matrix holds 0 and 1;.*label="):
        st.Classifier(**settings).fit(TEXTS, odd)


@pytest.fixture(scope="module")
def flagged(tiny_folder):
    """Fitted to the columns ``fine``, ``none`` and ``good`` of a frame, whose sets it predicts rightly."""
    own = {"epochs": 25, "lr": 1e-2, "batch_size": 8, "cache": "ram"}
    return st.Classifier("1: full", model=str(tiny_folder("bert")), **own).fit(TEXTS, FLAGS)


FLAGS = pandas.DataFrame(np.array([[1, 0, 1], [0, 0, 0]] * 6), columns=["fine", "none", "good"])
ORDER = ["none", "good", "fine"]


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_columns_of_labels_go_by_name(library, flagged, tmp_path):
    frame = FLAGS if library == "pandas" else pytest.importorskip("polars").DataFrame(FLAGS.to_dict("list"))
    flagged.save(tmp_path / "saved")
    for clf in (flagged, st.Classifier.load(tmp_path / "saved")):
        assert clf.score(TEXTS, frame) == clf.score(TEXTS, frame[ORDER]) == 1.0
        assert clf.score(TEXTS, FLAGS.to_numpy()) == clf.score(TEXTS, SETS) == 1.0
        assert clf.score(TEXTS, FLAGS[ORDER].to_numpy()) == 0.5, "an array goes by its order"


def test_columns_of_labels_of_a_run_by_lists_or_an_array(settings):
    """Each form of labels can be scored against a model that was fitted to another one."""
    own = {**settings, "plan": "1: full", "epochs": 25}
    by_lists = st.Classifier(**own).fit(TEXTS, SETS)
    named = FLAGS[["good", "fine"]]
    assert by_lists.score(TEXTS, named) == by_lists.score(TEXTS, named[["fine", "good"]].to_numpy()) == 1.0
    assert by_lists.score(TEXTS[1::2], [[]] * 6) == 1.0, "a fold may have no label at all"
    assert by_lists.score(TEXTS, [["fine", "good"], ["other"]] * 6) == 0.5, "an unseen label is wrong"
    by_array = st.Classifier(**own).fit(TEXTS, FLAGS.to_numpy())
    numbered = FLAGS.set_axis([0, 1, 2], axis=1)
    assert by_array.score(TEXTS, numbered[[2, 0, 1]]) == 1.0
    with pytest.raises(DataError, match=r"no column '0' and a column 'fine'.*labels of this model: 0, 1, 2; an array"):
        by_array.score(TEXTS, FLAGS)


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        (FLAGS.rename(columns={"good": "god"}), r"no column 'good' and a column 'god', which.*fine, none, good"),
        (FLAGS[["fine", "none"]], r"the labels given have no column 'good' \(labels of this model: fine, none, good"),
        (FLAGS.assign(id=0), "have a column 'id', which is none of them"),
        (FLAGS[["fine", "none", "good", "good"]], "two columns of labels are called 'good'"),
        (FLAGS.replace(1, 2), "a matrix that holds 2"),
        (FLAGS.to_numpy()[:, :2], "2 columns of labels were given, and this model has 3 labels"),
        (FLAGS[:5], "12 texts but 5 labels"),
        (FLAGS.to_numpy()[:5].tolist(), "12 texts but 5 labels"),
        (["fine"] * 12, "labels of row 1: 'fine' is not a list of labels"),
        ([["fine"], [None]] * 6, "labels of row 2: None is not a label"),
    ],
    ids=range(10),
)
def test_labels_that_cannot_be_scored_as_sets(odd, said, flagged):
    with pytest.raises(DataError, match=said):
        flagged.score(TEXTS, odd)


def test_sets_are_scored_by_weights(flagged):
    half = [["fine", "good"]] * 12
    assert flagged.score(TEXTS, half, sample_weight=pandas.Series([3, 1] * 6)) == 0.75
    with pytest.raises(DataError, match=r"sample_weight: 2 for 12 texts"):
        flagged.score(TEXTS, half, sample_weight=[1, 2])


# --- one label a text, scored ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        (pandas.DataFrame({"a": [7, 3] * 6, "b": [7, 3] * 6}), "2 columns of labels were given"),
        ([[7, 3], [3, 7]] * 6, "several labels were given for a text"),
        ([7, None] * 6, "missing in 6 of 12 rows"),
        (["7", "3"] * 6, "labels are texts such as '7', and fit was given numbers such as 3"),
        ([7, 3], "12 texts but 2 labels"),
    ],
    ids=range(5),
)
def test_labels_that_cannot_be_scored(odd, said, fitted):
    with pytest.raises(DataError, match=said):
        fitted.score(TEXTS, odd)


def test_one_label_is_scored_however_it_is_given(fitted):
    labels = np.array([7, 3] * 6)
    wanted = float(np.mean(fitted.predict(TEXTS) == labels))
    for given in (labels, labels.tolist(), labels[:, None], pandas.Series(labels), pandas.DataFrame({"kind": labels})):
        assert fitted.score(TEXTS, given) == wanted
    assert fitted.score(TEXTS, [7, 5] * 6) == float(np.mean(fitted.predict(TEXTS)[::2] == 7) / 2)
    with pytest.raises(DataError, match="no texts to score"):
        fitted.score([], [])


def test_a_regressor_is_scored_by_one_column(settings):
    values = np.array([1.0, 2.0] * 6)
    model = st.Regressor(**{**settings, "plan": "1: full"}).fit(TEXTS, values)
    found = model.predict(TEXTS)
    wanted = 1 - ((values - found) ** 2).sum() / ((values - 1.5) ** 2).sum()
    for given in (values, values.tolist(), pandas.DataFrame({"stars": values})):
        assert model.score(TEXTS, given) == pytest.approx(wanted, abs=1e-4)
    for odd, said in (
        (pandas.DataFrame({"a": values, "b": values}), "2 columns of labels were given"),
        (values[:3], "12 texts but 3 labels"),
        ([1.0, None] * 6, "missing in 6 of 12 rows"),
        (["a", "b"] * 6, "row 1: label 'a' is not a number"),
    ):
        with pytest.raises(DataError, match=said):
            model.score(TEXTS, odd)


# --- names of text columns -------------------------------------------------------------------------------------------


def test_columns_with_the_names_of_lists_go_by_name_too(settings):
    """``text1`` and ``text2`` are our names for columns without any, and may be a user's own."""
    frame = pandas.DataFrame({"text1": TEXTS, "text2": TEXTS[::-1]})
    clf = st.Classifier(**settings).fit(frame, ["x", "y"] * 6)
    assert clf.feature_names_in_.tolist() == ["text1", "text2"]
    assert np.array_equal(clf.predict_proba(frame[["text2", "text1"]]), clf.predict_proba(frame))
    by_place = st.Classifier(**settings).fit(frame.to_numpy(), ["x", "y"] * 6)
    assert not hasattr(by_place, "feature_names_in_")


def test_columns_of_one_name_go_by_their_order(settings):
    frame = pandas.DataFrame(list(zip(TEXTS, TEXTS[::-1], strict=True)), columns=["a", "a"])
    clf = st.Classifier(**settings).fit(frame, ["x", "y"] * 6)
    assert clf.predict(frame).shape == (12,)


def test_what_is_given_and_what_is_not_is_the_same_after_a_pickle():
    """Searches over several processes pickle estimators; by identity every default was then a setting that is given."""
    for given in ({}, {"lr": 0.001, "epochs": 10, "early_stopping": 0}, {"model": "m", "max_length": 128}):
        made = st.Classifier(**given)
        wanted = {name: value for name, value in given.items() if name != "model"}
        wanted = {name: value for name, value in wanted.items() if name != "max_length" or value != 128}
        for one in (made, pickle.loads(pickle.dumps(made)), copy.deepcopy(made)):
            assert {**one._settings, **wanted} == one._settings
            assert {"lr", "epochs", "early_stopping", "out"} & one._settings.keys() == wanted.keys() & {
                *("lr", "epochs", "early_stopping", "out")
            }


def test_label_sets_of_one_label_each(settings):
    found = st.Classifier(**{**settings, "epochs": 1}, objective="multilabel").fit([GOOD, BAD] * 6, [["p"], ["n"]] * 6)
    assert found.classes_.tolist() == ["n", "p"] and isinstance(found.predict([GOOD])[0], list)


@pytest.mark.parametrize(("base", "objective"), [("google-t5/t5-small", "classification"), ("bert-base-cased", None)])
def test_the_base_of_the_run_to_start_from_says_what_is_learnt(base, objective, monkeypatch):
    """An encoder-decoder would write labels as texts."""
    seen = {}
    monkeypatch.setattr(text_estimator, "settings_of", lambda name, values: {"model": base})
    monkeypatch.setattr(st.Classifier, "_fit", lambda self, *given, **settings: seen.update(settings))
    st.Classifier(start_from="runs/first").fit(TEXTS, ["a", "b"] * 6)
    assert seen.get("objective") == objective
