"""Scores of label sets: truth and guess are bool [N, C], chances float [N, C].

Counts are summed over all labels (micro), taken label by label (macro) or text by text (sample). Macro F1 and mean
average precision are means over the labels that the data have; where a text has no label, its F1 is 1 if none is
predicted and 0 otherwise. scikit-learn defines them so, with ``zero_division`` 0 for labels and 1 for texts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

GRID = np.arange(1, 100) / 100
"""The thresholds that are tried."""
_SAME = 1e-12

Counts = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Right, predicted and present, [C] of each label."""


def counts(truth: np.ndarray, guess: np.ndarray) -> Counts:
    """Count for each label."""
    return (truth & guess).sum(axis=0), guess.sum(axis=0), truth.sum(axis=0)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divide; 0 where the divisor is 0."""
    return np.divide(part, whole, out=np.zeros(np.shape(part)), where=np.asarray(whole) > 0)


def precision_recall_f1(found: Counts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1, each with the shape of the counts."""
    right, predicted, present = found
    return _share(right, predicted), _share(right, present), _share(2 * right, predicted + present)


def micro(truth: np.ndarray, guess: np.ndarray) -> tuple[float, float, float]:
    """Precision, recall and F1 over all labels of all texts."""
    right, predicted, present = (one.sum(keepdims=True) for one in counts(truth, guess))
    precision, recall, f1 = precision_recall_f1((right, predicted, present))
    return float(precision[0]), float(recall[0]), float(f1[0])


def micro_f1(truth: np.ndarray, guess: np.ndarray) -> float:
    """F1 over all labels of all texts."""
    return micro(truth, guess)[2]


def macro_f1(truth: np.ndarray, guess: np.ndarray) -> float:
    """The mean F1 over the labels that the data have."""
    there = truth.any(axis=0)
    return float(precision_recall_f1(counts(truth, guess))[2][there].mean()) if there.any() else 0.0


def sample_f1(truth: np.ndarray, guess: np.ndarray) -> float:
    """The mean F1 over the texts."""
    sizes = truth.sum(axis=1) + guess.sum(axis=1)
    return float(np.where(sizes > 0, _share(2 * (truth & guess).sum(axis=1), sizes), 1.0).mean())


def subset_accuracy(truth: np.ndarray, guess: np.ndarray) -> float:
    """The share of texts whose set is right as a whole."""
    return float((truth == guess).all(axis=1).mean())


def mean_average_precision(truth: np.ndarray, chances: np.ndarray) -> float:
    """The mean average precision over the labels that the data have; it needs no threshold."""
    from sklearn.metrics import average_precision_score

    there = np.flatnonzero(truth.any(axis=0))
    found = [float(average_precision_score(truth[:, label], chances[:, label])) for label in there]
    return float(np.mean(found)) if found else 0.0


BY_THRESHOLD: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "micro_f1": micro_f1,
    "macro_f1": macro_f1,
    "sample_f1": sample_f1,
    "subset_accuracy": subset_accuracy,
}
SET_METRICS = (*BY_THRESHOLD, "map", "micro_precision", "micro_recall")


def set_scores(truth: np.ndarray, guess: np.ndarray, chances: np.ndarray) -> dict[str, float]:
    """Every metric by its name."""
    precision, recall, _ = micro(truth, guess)
    return {
        **{name: metric(truth, guess) for name, metric in BY_THRESHOLD.items()},
        "map": mean_average_precision(truth, chances),
        "micro_precision": precision,
        "micro_recall": recall,
    }


def best_threshold(truth: np.ndarray, chances: np.ndarray, metric: str) -> float:
    """The threshold of :data:`GRID` that is best for a metric; among equal ones the nearest to 0.5."""
    score = BY_THRESHOLD.get(metric, micro_f1)
    return float(_best(np.array([score(truth, chances >= at) for at in GRID])))


def best_thresholds(truth: np.ndarray, chances: np.ndarray) -> np.ndarray:
    """The threshold [C] of each label with its best F1; 0.5 for a label that the data lack."""
    f1 = np.stack([precision_recall_f1(counts(truth, chances >= at))[2] for at in GRID])  # [G, C]
    return np.where(truth.any(axis=0), [_best(column) for column in f1.T], 0.5)


def _best(scores: np.ndarray) -> float:
    among = GRID[scores >= scores.max() - _SAME]
    return among[np.abs(among - 0.5).argmin()]
