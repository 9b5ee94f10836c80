"""Scores of label sets are scikit-learn's, with labels that no text has and texts without a label."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, precision_score, recall_score

from stratatune.objectives.set_metrics import GRID, best_threshold, best_thresholds, set_scores


def _data(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    truth = random.random((60, 7)) < random.random(7) * 0.5
    chances = np.clip(0.3 * truth + random.random((60, 7)) * 0.7, 0, 1).astype(np.float32)
    truth[:, 3] = False
    truth[:5] = False
    chances[:3] *= 0.1
    return truth, chances, chances >= 0.5


@pytest.mark.parametrize("seed", range(5))
def test_scores_are_those_of_scikit_learn(seed):
    truth, chances, guess = _data(seed)
    there = np.flatnonzero(truth.any(axis=0))
    assert len(there) < 7 and (~truth.any(axis=1) & ~guess.any(axis=1)).any()
    found = set_scores(truth, guess, chances)
    wanted = {
        "micro_f1": f1_score(truth, guess, average="micro"),
        "macro_f1": f1_score(truth[:, there], guess[:, there], average="macro", zero_division=0.0),
        "sample_f1": f1_score(truth, guess, average="samples", zero_division=1.0),
        "subset_accuracy": accuracy_score(truth, guess),
        "map": average_precision_score(truth[:, there], chances[:, there], average="macro"),
        "micro_precision": precision_score(truth, guess, average="micro"),
        "micro_recall": recall_score(truth, guess, average="micro"),
    }
    assert found == pytest.approx(wanted, abs=1e-12) and found.keys() == wanted.keys()


def test_nothing_true_and_nothing_predicted():
    nothing = np.zeros((4, 3), bool)
    found = set_scores(nothing, nothing, np.full((4, 3), 0.1))
    assert found["sample_f1"] == found["subset_accuracy"] == 1.0 and found["micro_f1"] == found["map"] == 0.0


@pytest.mark.parametrize("metric", ["micro_f1", "macro_f1", "sample_f1", "subset_accuracy", "map"])
def test_the_threshold_is_the_best_of_the_grid(metric):
    truth, chances, _ = _data(0)
    scored = "micro_f1" if metric == "map" else metric
    scores = [set_scores(truth, chances >= at, chances)[scored] for at in GRID]
    best = best_threshold(truth, chances, metric)
    assert set_scores(truth, chances >= best, chances)[scored] == pytest.approx(max(scores), abs=1e-12)


def test_thresholds_by_label():
    truth, chances, _ = _data(1)
    found = best_thresholds(truth, chances)
    assert found[3] == 0.5  # no text has this label
    for label in np.flatnonzero(truth.any(axis=0)):
        scores = [f1_score(truth[:, label], chances[:, label] >= at, zero_division=0.0) for at in GRID]
        own = f1_score(truth[:, label], chances[:, label] >= found[label], zero_division=0.0)
        assert own == pytest.approx(max(scores), abs=1e-12)
