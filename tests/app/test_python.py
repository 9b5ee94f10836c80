"""The names of the package, `st.train` with data in memory, and the estimators."""

import json

import numpy as np
import pytest

import stratatune as st
from stratatune.app.texts import columns_of
from stratatune.errors import ConfigError, DataError, ModelError
from stratatune.progress import Reporter

from .conftest import BAD, GOOD, ROWS

TEXTS, LABELS = [text for text, _ in ROWS], [label for _, label in ROWS]


def test_every_name_is_there():
    for name in st.__all__:
        assert getattr(st, name) is not None
    assert set(st.__all__) <= set(dir(st))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        st.nothing  # noqa: B018  # pyright: ignore


def test_train_stays_callable_when_its_floor_is_imported():
    import stratatune.training.config

    assert callable(st.train)
    assert stratatune.training.config.RunConfig is st.RunConfig


@pytest.fixture
def settings(tiny_folder, tmp_path):
    return {"model": str(tiny_folder("bert")), "epochs": 2, "lr": 1e-2, "batch_size": 8, "cache": "ram"}


def test_train_on_a_data_frame(settings, tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": TEXTS, "label": LABELS})
    plan = st.Plan.parse("bft-adapter@2")
    out = tmp_path / "run"
    result = st.train(
        plan=plan, train=frame, eval=frame, text="text", out=str(out), reporter=Reporter(quiet=True), **settings
    )
    assert result.frozen_depth == 2
    assert st.Predictor(out).score(frame)["metrics"]["accuracy"] == result.best["accuracy"]


def test_each_result_has_the_notices_of_its_own_run(settings, tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": TEXTS, "label": LABELS})
    long = frame.assign(text=[f"{text} " + "good " * 100 for text in TEXTS])
    reporter, notices = Reporter(quiet=True), []
    for number, table in enumerate((long, long, frame)):
        out = tmp_path / str(number)
        given = {**settings, "epochs": 1, "plan": "2: full", "early_stopping": 1}
        found = st.train(train=table, text="text", out=str(out), reporter=reporter, **given).notices
        assert json.loads((out / "result.json").read_text())["notices"] == found
        notices.append(found)
    first, again, short = notices
    assert first == again and len([line for line in first if "cut to" in line]) == 1
    assert short == [line for line in first if "cut to" not in line] != []
    assert reporter.notices == [*first, *again, *short]


def test_train_says_all_mistakes(settings):
    with pytest.raises(ConfigError) as caught:
        st.train(train="no.csv", plan="lorra", **{**settings, "epochs": 0})
    assert len(caught.value.errors) == 3


def test_classifier(settings, tmp_path):
    clf = st.Classifier(plan="bft-adapter@2", **{**settings, "epochs": 8}).fit(TEXTS, LABELS)
    assert clf.classes_.tolist() == ["negative", "positive"]
    chances = clf.predict_proba([GOOD, BAD])
    assert chances.shape == (2, 2)
    assert np.allclose(chances.sum(axis=1), 1, atol=1e-5)
    assert clf.predict([GOOD, BAD]).tolist() == clf.classes_[chances.argmax(axis=1)].tolist()
    assert clf.score(TEXTS, LABELS) > 0.7
    clf.save(tmp_path / "saved")
    again = st.Classifier.load(tmp_path / "saved")
    assert np.array_equal(again.predict_proba([GOOD, BAD]), chances)


@pytest.mark.parametrize("labels", [np.array([7, 3] * 12), np.array([True, False] * 12), np.array([1.0, 0.0] * 12)])
def test_labels_keep_their_kind(settings, labels):
    clf = st.Classifier(plan="lora", **{**settings, "epochs": 1}).fit(np.array(TEXTS), labels)
    assert clf.predict(TEXTS[:3]).dtype == labels.dtype
    assert set(clf.predict(TEXTS)) <= set(labels)


def test_pairs(settings):
    pairs = [(text, GOOD) for text in TEXTS]
    clf = st.Classifier(plan="bft-adapter", **settings).fit(pairs, LABELS)
    assert len(clf.predict(pairs[:3])) == 3
    with pytest.raises(DataError, match="reads 2"):
        clf.predict(TEXTS)


def test_regressor(settings):
    values = [1.5 if label == "positive" else -0.5 for label in LABELS]
    model = st.Regressor(plan="lora", **settings).fit(TEXTS, values)
    assert model.predict(TEXTS[:3]).shape == (3,)
    assert np.isfinite(model.score(TEXTS, values))


def test_scikit_learn_manners(settings):
    from sklearn.base import clone, is_classifier
    from sklearn.exceptions import NotFittedError
    from sklearn.model_selection import cross_val_score

    clf = st.Classifier(plan="bft-adapter", **settings)
    copy = clone(clf)
    assert copy.get_params() == clf.get_params()
    assert copy.set_params(epochs=1, plan="lora").get_params()["epochs"] == 1
    assert clf.get_params()["plan"] == "bft-adapter"
    assert is_classifier(clf)
    with pytest.raises(NotFittedError):
        clf.predict(TEXTS)
    with pytest.raises(TypeError, match="epochs"):
        st.Classifier(epoch=3)
    scores = cross_val_score(clone(clf).set_params(epochs=1), TEXTS, LABELS, cv=2)
    assert scores.shape == (2,)


def test_columns():
    pandas = pytest.importorskip("pandas")
    assert columns_of(["a", "b"]) == [["a", "b"]]
    assert columns_of([("a", "b"), ("c", "d")]) == [["a", "c"], ["b", "d"]]
    assert columns_of(np.array([["a", "b"]])) == [["a"], ["b"]]
    assert columns_of(pandas.DataFrame({"x": ["a"], "y": ["b"]})) == [["a"], ["b"]]
    assert columns_of(pandas.Series(["a"])) == [["a"]]
    for odd in ([1, 2], [("a", "b"), ("c",)]):
        with pytest.raises(DataError):
            columns_of(odd)


def test_train_on_files_columns_and_pairs(settings, tmp_path):
    """The same rows in every form, and none of them read as texts without a word."""
    import pandas

    halves = [tmp_path / f"{number}.csv" for number in (1, 2)]
    for at, path in enumerate(halves):
        half = slice(at * len(TEXTS) // 2, (at + 1) * len(TEXTS) // 2)
        pandas.DataFrame({"text": TEXTS[half], "label": LABELS[half]}).to_csv(path, index=False)
    forms = [list(map(str, halves)), str(tmp_path / "?.csv"), {"text": TEXTS, "label": LABELS}, ROWS]
    found = [
        st.train(plan="bft-adapter@2", train=form, out=str(tmp_path / f"run{at}"), reporter=Reporter(quiet=True),
                 **{**settings, "epochs": 1})
        for at, form in enumerate(forms)
    ]  # fmt: skip
    scores = [st.Predictor(one.out).score({"text": TEXTS, "label": LABELS})["metrics"] for one in found]
    assert scores == [scores[0]] * len(forms)
    with pytest.raises(DataError, match="the texts given are names of files"):
        st.Predictor(found[0].out).predict(list(map(str, halves)))
    assert len(st.Predictor(found[0].out).predict(str(tmp_path / "?.csv")).labels) == len(TEXTS)


@pytest.mark.parametrize("door", [st.train, st.train_many, st.suggest])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"train_dataset": [1]}, "train_dataset: unknown setting; did you mean 'train'"),
        ({"args": 1, "train": "t.csv"}, "args: unknown setting; write their contents as settings"),
        ({"model": object(), "train": "t.csv"}, "model: an object was given; a hub id or a folder"),
    ],
)
def test_words_of_trainer_are_one_line(door, given, said):
    with pytest.raises(ConfigError, match=said):
        door(**given)


def test_what_a_notebook_shows(trained):
    """A line that tells one from another, not an address and not every row's numbers."""
    predictor, result = st.Predictor(trained), st.Classifier.load(trained).result_
    plan = predictor.model.attached.resolved.plan
    assert repr(predictor) == f"Predictor({str(trained)!r}, objective='mlm', plan='{plan}')"
    assert result.by_class and f"out={result.out!r}, plan={result.plan!r}" in repr(result)
    assert all(f"{name}=" not in repr(result) for name in ("by_class", "notices", "labels", "elapsed"))


@pytest.mark.parametrize("taken_off", [st.merge, st.remove])
def test_a_predictor_whose_model_was_merged_is_refused_in_one_line(taken_off, settings, tmp_path):
    given = {**settings, "epochs": 1, "out": str(tmp_path / "run"), "reporter": Reporter(quiet=True)}
    st.train(plan="1: lora", objective="classification", train={"text": TEXTS, "label": LABELS}, **given)
    predictor = st.Predictor(tmp_path / "run")
    taken_off(predictor.model)
    with pytest.raises(ModelError, match="it was merged, or its plan was removed"):
        predictor.predict(["great film"])
