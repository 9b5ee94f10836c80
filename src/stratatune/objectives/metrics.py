"""Scores of predictions against labels, by scikit-learn and scipy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from stratatune.errors import ConfigError, did_you_mean

Score = Callable[[np.ndarray, np.ndarray], float]


def _accuracy(truth: np.ndarray, guess: np.ndarray) -> float:
    return float((truth == guess).mean())


def _f1(truth: np.ndarray, guess: np.ndarray) -> float:
    """F1 of class 1 when there are two classes, else the mean over classes."""
    from sklearn.metrics import f1_score

    average = "binary" if max(truth.max(), guess.max()) <= 1 else "macro"
    return float(f1_score(truth, guess, average=average, zero_division=0.0))  # pyright: ignore[reportArgumentType]


def _acc_f1(truth: np.ndarray, guess: np.ndarray) -> float:
    return (_accuracy(truth, guess) + _f1(truth, guess)) / 2


def _matthews(truth: np.ndarray, guess: np.ndarray) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(truth, guess))


def _pearson(truth: np.ndarray, guess: np.ndarray) -> float:
    from scipy.stats import pearsonr

    return _or_zero(pearsonr, truth, guess)


def _spearman(truth: np.ndarray, guess: np.ndarray) -> float:
    from scipy.stats import spearmanr

    return _or_zero(spearmanr, truth, guess)


def _or_zero(correlation: Callable[..., tuple[float, float]], truth: np.ndarray, guess: np.ndarray) -> float:
    """A correlation, 0 where it does not exist (one side is constant)."""
    if len(truth) < 2 or np.ptp(truth) == 0 or np.ptp(guess) == 0:
        return 0.0
    return float(correlation(truth, guess)[0])


def _mean_squared_error(truth: np.ndarray, guess: np.ndarray) -> float:
    return float(np.mean((truth - guess) ** 2))


CLASS_METRICS: dict[str, Score] = {"accuracy": _accuracy, "f1": _f1, "acc_f1": _acc_f1, "matthews": _matthews}
VALUE_METRICS: dict[str, Score] = {"pearson": _pearson, "spearman": _spearman, "mse": _mean_squared_error}
TEXT_METRICS = ("loss", "perplexity")


def check_metric(name: str, legal: Iterable[str], kind: str) -> str:
    """``name``, where it is a metric for this kind of label.

    Raises:
        ConfigError: it is none; with the legal names.
    """
    if name not in legal:
        raise ConfigError([f"metric: {name!r} is no metric for {kind}"], did_you_mean(name, legal))
    return name


def scores(metrics: Mapping[str, Score], truth: np.ndarray, guess: np.ndarray) -> dict[str, float]:
    """Every one of the metrics: class numbers [N] against class numbers [N], or values against values."""
    return {name: metric(truth, guess) for name, metric in metrics.items()}
