"""scikit-learn's own checks, searches, pipelines and weights on the estimators."""

from __future__ import annotations

import inspect
import os
import sys
import threading

import numpy as np
import pytest
from filelock import FileLock, Timeout
from joblib.externals.loky import get_reusable_executor
from sklearn.base import BaseEstimator, TransformerMixin, clone, is_classifier, is_regressor
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.utils import estimator_checks

import stratatune as st
from stratatune.cache.folders import list_caches
from stratatune.cache.store import TrunkCache
from stratatune.errors import DataError
from stratatune.model.split import Trunk

from .conftest import BAD, GOOD

TEXTS = [f"{text} {word}" for word in ("film", "book", "story", "day") for text in (GOOD, BAD)]
LABELS = ["x", "y"] * 4

CHECKS = (
    "check_estimator_cloneable", "check_estimator_tags_renamed", "check_valid_tag_types", "check_estimator_repr",
    "check_no_attributes_set_in_init", "check_do_not_raise_errors_in_init_or_set_params", "check_mixin_order",
    "check_parameters_default_constructible", "check_get_params_invariance", "check_set_params",
)  # fmt: skip
"""Those of scikit-learn's estimator checks that fit no matrix of numbers."""


@pytest.fixture
def settings(tiny_folder):
    return {
        "plan": "2: lora",
        "model": str(tiny_folder("bert")),
        "epochs": 1,
        "lr": 1e-2,
        "batch_size": 4,
        "precision": "fp32",
    }


@pytest.fixture
def counted(monkeypatch):
    """Counts the texts that any trunk runs."""
    texts = []
    plain = Trunk.__call__
    monkeypatch.setattr(
        Trunk, "__call__", lambda self, ids, *rest, **more: (texts.append(len(ids)), plain(self, ids, *rest, **more))[1]
    )
    return texts


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("kind", [st.Classifier, st.Regressor, st.Tagger, st.Answerer, st.Embedder])
def test_scikit_learns_own_checks(kind, name):
    getattr(estimator_checks, name)(kind.__name__, kind())


@pytest.mark.parametrize("kind", [st.Classifier, st.Regressor, st.Tagger, st.Answerer, st.Embedder])
def test_the_plan_is_chosen_from_the_data_by_default(kind):
    assert kind().plan == inspect.signature(kind).parameters["plan"].default == "auto"


def test_every_setting_is_a_parameter():
    shown = inspect.signature(st.Classifier).parameters
    assert {"plan", "model", "epochs", "lr", "max_length", "class_weight"} <= shown.keys()
    assert not {"train", "text", "label", "weight"} & shown.keys()
    found = st.Classifier(lr=0.1)
    assert found.lr == 0.1 and found.get_params()["epochs"] is None and clone(found).get_params() == found.get_params()
    assert repr(found) == "Classifier(lr=0.1)"
    assert is_classifier(found) and is_regressor(st.Regressor())
    with pytest.raises(TypeError, match="unknown setting 'class_weight'"):
        st.Regressor(class_weight="balanced")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("learning_rate", "did you mean 'lr'"),
        ("random_state", "did you mean 'seed'"),
        ("lora_r", "part of the plan"),
        ("plan__rank", "plan is one value, with rank in it .*: give several of plan"),
        ("train_file", "fit takes the data"),
    ],
)
def test_names_of_other_tools_are_known(name, said):
    for give in (lambda: st.Classifier(**{name: 1}), lambda: st.Classifier().set_params(**{name: 1})):
        with pytest.raises(TypeError, match=f"unknown setting '{name}': .*{said}"):
            give()


class Shouting(TransformerMixin, BaseEstimator):
    """Texts to texts."""

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return [text.upper() for text in X]


@pytest.mark.parametrize("at", [0, 1])
def test_half_a_character_is_named_by_its_row(settings, at):
    given = [list(TEXTS), list(LABELS)]
    given[at][2] += "\ud83d"
    with pytest.raises(DataError, match=r"row 3 holds '\\ud83d', half of a surrogate pair"):
        st.Classifier(**settings).fit(*given)


def test_an_example_of_labels_that_are_too_long_is_one(settings):
    with pytest.raises(DataError, match="whole numbers of more than 64 bits, such as 1000000"):
        st.Classifier(**settings).fit(TEXTS, [1, 10**30] * 4)


def test_a_pipeline_and_cross_validation(settings):
    pipe = Pipeline([("shout", Shouting()), ("model", st.Classifier(**settings))])
    assert pipe.fit(TEXTS, LABELS).predict(TEXTS).shape == (8,)
    assert pipe.score(TEXTS, LABELS) in np.arange(9) / 8
    scores = cross_val_score(st.Classifier(**settings), TEXTS, LABELS, cv=2)
    assert scores.shape == (2,) and ((scores >= 0) & (scores <= 1)).all()
    chances = cross_val_predict(st.Classifier(**settings), TEXTS, LABELS, cv=2, method="predict_proba")
    np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-5)


def test_a_search_runs_the_trunk_once_for_each_text(settings, tmp_path, counted):
    clf = st.Classifier(**settings, cache=str(tmp_path))
    search = GridSearchCV(clf, {"lr": [1e-3, 1e-2]}, cv=3).fit(TEXTS * 2, LABELS * 2)
    assert search.predict(TEXTS).shape == (8,)
    assert sum(counted) <= len(TEXTS * 2)  # seven fits of 10 or 16 texts, and their scores
    counted.clear()
    again = GridSearchCV(clf, {"lr": [1e-3]}, cv=3).fit(TEXTS * 2, LABELS * 2)
    assert not counted
    single = GridSearchCV(clf.set_params(cache="off"), {"lr": [1e-3]}, cv=3).fit(TEXTS * 2, LABELS * 2)
    np.testing.assert_allclose(again.cv_results_["mean_test_score"], single.cv_results_["mean_test_score"], atol=0.1)


def test_other_depths_and_other_texts_are_told_apart(settings, tmp_path, counted):
    st.Classifier(**settings, cache=str(tmp_path)).fit(TEXTS, LABELS)
    assert sum(counted) == 8
    st.Classifier(**{**settings, "plan": "3: lora"}, cache=str(tmp_path)).fit(TEXTS, LABELS)
    assert sum(counted) == 16
    st.Classifier(**settings, cache=str(tmp_path)).fit([*TEXTS[:6], "a new text", "another text"], LABELS)
    assert sum(counted) == 18


def test_predictions_keep_to_the_limit_of_the_caches(settings, tmp_path):
    def model(**changes):
        return st.Classifier(**settings, **changes).fit(TEXTS, LABELS)

    small = model(cache=str(tmp_path / "small"), cache_limit="64B")
    small.predict([f"another {text}" for text in TEXTS])
    assert list_caches(tmp_path / "small") == []
    model(cache=str(tmp_path / "large"))
    (one,) = list_caches(tmp_path / "large")
    # There is room for one and a half of such caches, so the second takes the place of the first.
    fitted = model(cache=str(tmp_path / "limited"), cache_limit=f"{one.bytes * 3 // 2}B")
    (first,) = list_caches(tmp_path / "limited")
    fitted.predict([f"{text} again" for text in TEXTS])
    (second,) = list_caches(tmp_path / "limited")
    assert second.digest != first.digest


COUNTING = """
import os
import stratatune.model.split as split

plain = split.Trunk.__call__

def counted(self, ids, *rest, **more):
    with open(os.environ["TRUNK_LOG"], "a") as log:
        log.write(f"{len(ids)}\\n")
    return plain(self, ids, *rest, **more)

split.Trunk.__call__ = counted
"""


def test_a_search_over_several_processes_runs_it_once_too(settings, tmp_path, monkeypatch):
    """The workers count what their trunks run; they are started anew, so that they find the counter."""
    (tmp_path / "sitecustomize.py").write_text(COUNTING)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, sys.path)]))
    monkeypatch.setenv("TRUNK_LOG", str(tmp_path / "log"))
    get_reusable_executor().shutdown(wait=True)
    clf = st.Classifier(**settings, cache=str(tmp_path / "cache"))
    search = GridSearchCV(clf, {"seed": [0, 1]}, cv=StratifiedKFold(2), n_jobs=2, refit=False).fit(TEXTS, LABELS)
    get_reusable_executor().shutdown(wait=True)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert 0 < sum(map(int, (tmp_path / "log").read_text().split())) <= len(TEXTS)


def test_a_cache_is_opened_by_the_process_whose_turn_it_is(settings, tmp_path, monkeypatch):
    """One that was opened before would hold its writer's lock unfilled, and whoever comes first could keep nothing."""
    plain, turns = TrunkCache.open.__func__, []

    def opened(cls, root, *rest, **more):
        def elsewhere():
            try:
                with FileLock(tmp_path / ".filling.lock", timeout=0):
                    turns.append("free")
            except Timeout:
                turns.append("taken")

        other = threading.Thread(target=elsewhere)
        other.start()
        other.join()
        return plain(cls, root, *rest, **more)

    monkeypatch.setattr(TrunkCache, "open", classmethod(opened))
    st.Classifier(**settings, cache=str(tmp_path)).fit(TEXTS, LABELS).predict(["another text"])
    assert turns == ["taken", "taken"]


def test_weights_count_in_the_loss(settings, tiny_folder):
    """A weight of 0 is a text left out; the class that counts more is predicted more."""
    steady = tiny_folder("bert", "mlm", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    plain = {**settings, "model": str(steady), "epochs": 4, "batch_size": 64, "seed": 3, "cache": "ram"}
    odd = [*TEXTS, *[f"{GOOD} night"] * 4]
    labels = [*LABELS, *["y"] * 4]
    without = st.Regressor(**plain).fit(TEXTS, np.arange(8.0), sample_weight=np.ones(8))
    weighted = st.Regressor(**plain).fit(odd, [*np.arange(8.0), *[90.0] * 4], sample_weight=[*[2.0] * 8, *[0.0] * 4])
    np.testing.assert_allclose(weighted.predict(TEXTS), without.predict(TEXTS), atol=1e-2, rtol=1e-2)
    chances = [
        st.Classifier(**plain, class_weight=weight).fit(odd, labels).predict_proba(TEXTS)[:, 0].mean()
        for weight in ({"x": 1, "y": 20}, None, "balanced", {"x": 20})
    ]
    assert chances == sorted(chances)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sample_weight": [1.0]}, "sample_weight: 1 for 8 texts"),
        ({"sample_weight": 3}, "sample_weight: 3 is not a list"),
        ({"sample_weight": [*[1.0] * 7, -1.0]}, "sample_weight, row 8: the weight -1.0"),
        ({"sample_weight": [*[1.0] * 7, None]}, "sample_weight, row 8: the weight None"),
        ({"sample_weight": [*[1.0] * 7, "1"]}, "sample_weight, row 8: the weight '1'"),
        ({"sample_weight": [0.0] * 8}, "sample_weight: every weight is 0"),
    ],
)
def test_wrong_weights_are_refused(settings, given, message):
    for kind, labels in ((st.Classifier, LABELS), (st.Regressor, np.arange(8.0))):
        with pytest.raises(DataError, match=message):
            kind(**settings).fit(TEXTS, labels, **given)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("heavy", "legal: 'balanced'"),
        ({"z": 2.0}, "names 'z', which is not a label"),
        ({"x": "heavy"}, "class_weight of 'x': 'heavy'"),
        ({"x": float("nan")}, "class_weight of 'x': nan"),
    ],
)
def test_wrong_class_weights_are_refused(settings, wrong, message):
    with pytest.raises(DataError, match=message):
        st.Classifier(**settings, class_weight=wrong).fit(TEXTS, LABELS)


def test_saved_and_loaded_without_pickle(settings, tmp_path):
    clf = st.Classifier(**settings).fit(TEXTS, LABELS)
    clf.save(tmp_path / "saved")
    assert {path.suffix for path in (tmp_path / "saved").rglob("*") if path.is_file()} <= {
        ".json", ".jsonl", ".yaml", ".safetensors", ".md",
    }  # fmt: skip
    again = st.Classifier.load(tmp_path / "saved")
    assert np.array_equal(again.predict_proba(TEXTS), clf.predict_proba(TEXTS))
