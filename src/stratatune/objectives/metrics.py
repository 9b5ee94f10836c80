"""Scores of predictions against labels, by scikit-learn and scipy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stratatune.errors import ConfigError, did_you_mean

Score = Callable[[np.ndarray, np.ndarray], float]


def _accuracy(truth: np.ndarray, guess: np.ndarray) -> float:
    return float((truth == guess).mean())


def _binary_f1(truth: np.ndarray, guess: np.ndarray) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(truth, guess, average="binary", zero_division=0.0))  # pyright: ignore[reportArgumentType]


def _macro_f1(truth: np.ndarray, guess: np.ndarray) -> float:
    """The mean over the classes of the data, whatever is guessed: one that no row has is in no mean."""
    from sklearn.metrics import f1_score

    there = np.unique(truth)
    return float(f1_score(truth, guess, labels=there, average="macro", zero_division=0.0))  # pyright: ignore[reportArgumentType]


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


def class_metrics(classes: int) -> dict[str, Score]:
    """The metrics of a task with so many classes; their number decides what F1 is, not what was guessed.

    Of two classes it is that of class 1, as GLUE has it; of more it is the mean over the classes.
    """
    f1 = _binary_f1 if classes == 2 else _macro_f1

    def acc_f1(truth: np.ndarray, guess: np.ndarray) -> float:
        return (_accuracy(truth, guess) + f1(truth, guess)) / 2

    return {"accuracy": _accuracy, "f1": f1, "acc_f1": acc_f1, "matthews": _matthews}


CLASS_METRICS: tuple[str, ...] = tuple(class_metrics(2))
VALUE_METRICS: dict[str, Score] = {"pearson": _pearson, "spearman": _spearman, "mse": _mean_squared_error}
TEXT_METRICS = ("loss", "perplexity")
SMALLER_IS_BETTER = frozenset({"mse", *TEXT_METRICS})


def check_metric(name: str, is_value: bool, is_text: bool = False) -> None:
    """Refuse a metric that does not exist for this kind of label.

    Raises:
        ConfigError: with the legal names.
    """
    legal = TEXT_METRICS if is_text else VALUE_METRICS if is_value else CLASS_METRICS
    if name not in legal:
        kind = "text" if is_text else "numbers" if is_value else "classes"
        raise ConfigError([f"metric: {name!r} is no metric for {kind}"], did_you_mean(name, legal))


def score(truth: np.ndarray, guess: np.ndarray, is_value: bool, classes: int = 2) -> dict[str, float]:
    """Every metric for this kind of label: class numbers [N] of ``classes`` against others [N], or values likewise."""
    metrics = VALUE_METRICS if is_value else class_metrics(classes)
    return {name: metric(truth, guess) for name, metric in metrics.items()}


def better(new: float, old: float | None, metric: str) -> bool:
    """Whether ``new`` is strictly better than ``old``."""
    return old is None or (new < old if metric in SMALLER_IS_BETTER else new > old)
