"""Scores of predictions against labels, by scikit-learn and scipy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from stratatune.errors import ConfigError, did_you_mean

Score = Callable[[np.ndarray, np.ndarray], float]

_ROUNDINGS = 4  # how many units of a value's precision make no difference

#: The spread of predictions, over the largest, up to which they are one number. Sums of a whole model are rounded many
#: times; this is where ``scipy.stats.pearsonr`` begins to warn of nearly constant input in single precision: a norm
#: about the mean of eps^0.75, which sets the largest and the smallest value at most sqrt(2) times as far apart.
_NEAR = float(np.sqrt(2) * np.finfo(np.float32).eps ** 0.75)  # 9.1e-6


def _accuracy(truth: np.ndarray, guess: np.ndarray) -> float:
    return float((truth == guess).mean())


def _binary_f1(truth: np.ndarray, guess: np.ndarray) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(truth, guess, average="binary", zero_division=0.0))  # pyright: ignore[reportArgumentType]


def _macro_f1(truth: np.ndarray, guess: np.ndarray) -> float:
    """The mean over the classes that the data have, whatever is predicted."""
    from sklearn.metrics import f1_score

    there = np.unique(truth)
    return float(f1_score(truth, guess, labels=there, average="macro", zero_division=0.0))  # pyright: ignore[reportArgumentType]


def _matthews(truth: np.ndarray, guess: np.ndarray) -> float:
    # 0 by definition, and where both are of the same class scikit-learn warns of its confusion matrix.
    if min(len(np.unique(truth)), len(np.unique(guess))) < 2:
        return 0.0
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(truth, guess))


def _pearson(truth: np.ndarray, guess: np.ndarray) -> float:
    from scipy.stats import pearsonr

    found: Any = pearsonr(truth, guess)
    return float(found.statistic)


def _spearman(truth: np.ndarray, guess: np.ndarray) -> float:
    from scipy.stats import spearmanr

    found: Any = spearmanr(truth, guess)
    return float(found.statistic)


def _mean_squared_error(truth: np.ndarray, guess: np.ndarray) -> float:
    return float(np.mean((truth - guess) ** 2))


def class_metrics(classes: int) -> dict[str, Score]:
    """The metrics of a task with this many classes; F1 depends on their number, not on the predictions.

    Of two classes it is that of class 1, as GLUE has it; of more it is the mean over the classes.
    """
    f1 = _binary_f1 if classes == 2 else _macro_f1

    def acc_f1(truth: np.ndarray, guess: np.ndarray) -> float:
        return (_accuracy(truth, guess) + f1(truth, guess)) / 2

    return {"accuracy": _accuracy, "f1": f1, "acc_f1": acc_f1, "matthews": _matthews}


CLASS_METRICS: tuple[str, ...] = tuple(class_metrics(2))
CORRELATIONS: dict[str, Score] = {"pearson": _pearson, "spearman": _spearman}
VALUE_METRICS: dict[str, Score] = {**CORRELATIONS, "mse": _mean_squared_error}
TEXT_METRICS = ("loss", "perplexity")


def check_metric(name: str, legal: Iterable[str], kind: str) -> str:
    """Return ``name`` if it is a metric for this kind of label.

    Raises:
        ConfigError: it is none; with the legal names.
    """
    if name not in legal:
        raise ConfigError([f"metric: {name!r} is not a metric for {kind}"], did_you_mean(name, legal))
    return name


def class_scores(truth: np.ndarray, guess: np.ndarray, classes: int) -> dict[str, float]:
    """Every metric of a task with this many classes: class numbers [N] against class numbers [N]."""
    return {name: metric(truth, guess) for name, metric in class_metrics(classes).items()}


def value_scores(truth: np.ndarray, guess: np.ndarray, rounding: float = 0.0) -> dict[str, float]:
    """Every metric of numbers: labels [N] against predictions [N].

    A correlation that does not exist is 0, for the reason that :func:`no_correlation` gives; ``rounding`` is described
    there.
    """
    truth, guess = truth.astype(np.float64), guess.astype(np.float64)
    left_out = CORRELATIONS if no_correlation(truth, guess, rounding) else ()
    return {name: 0.0 if name in left_out else metric(truth, guess) for name, metric in VALUE_METRICS.items()}


def no_correlation(truth: np.ndarray, guess: np.ndarray, rounding: float = 0.0) -> str:
    """The reason why labels [N] and predictions [N] have no correlation; empty where they have one.

    Values that differ by rounding alone have none: their order is noise, and another one on every machine.

    Args:
        truth: labels, in single precision or finer.
        guess: predictions, computed in single precision or coarser.
        rounding: one unit of the precision in which the predictions were computed, where that was coarser.
    """
    if len(truth) < 2:
        return "there are fewer than two rows"
    if np.ptp(truth) <= _ROUNDINGS * np.finfo(np.float32).eps * np.abs(truth).max():
        return "all labels are the same number"
    # Sums may cancel out near 0, and their rounding stays. Labels in millions say nothing about it.
    near = _NEAR * max(np.abs(guess).max(), min(1.0, np.ptp(truth)))
    if np.ptp(guess) <= max(near, _ROUNDINGS * rounding):
        return "all predictions are the same number but for rounding"
    return ""
