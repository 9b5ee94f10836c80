"""Values chosen on the evaluation data once a run has ended: a temperature, and for two classes a threshold.

Shapes: N examples, C classes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

BINS = 15
LEAST = 1e-12
"""The least probability of which a logarithm is taken."""
_TEMPERATURES = (0.05, 20.0)


def calibration_error(output: np.ndarray, truth: np.ndarray, bins: int = BINS) -> float:
    """The expected calibration error (Guo et al. 2017): how far confidence and accuracy are apart, over equal bins.

    Args:
        output: probabilities [N, C].
        truth: class numbers [N].
        bins: the number of bins of the confidence, the probability of the likeliest class.
    """
    confidence, right = output.max(axis=1), output.argmax(axis=1) == truth
    places = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    apart = [
        abs(right[places == one].mean() - confidence[places == one].mean()) * (places == one).sum()
        for one in np.unique(places)
    ]
    return float(sum(apart) / max(1, len(truth)))


def tempered(output: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities [N, C] of logits divided by a temperature, from those of the logits themselves."""
    logs = np.log(np.maximum(output.astype(np.float64), LEAST)) / temperature
    raised = np.exp(logs - logs.max(axis=1, keepdims=True))
    return (raised / raised.sum(axis=1, keepdims=True)).astype(output.dtype)


def best_temperature(output: np.ndarray, truth: np.ndarray) -> float:
    """The temperature of the least negative log-likelihood of ``truth`` [N] (Guo et al. 2017, section 4.2)."""
    from scipy.optimize import minimize_scalar

    rows = np.arange(len(truth))

    def loss(log: float) -> float:
        return float(-np.log(np.maximum(tempered(output, np.exp(log))[rows, truth], LEAST)).mean())

    # On a logarithmic scale: twice as sharp and twice as flat are as far from 1.
    bounds = tuple(np.log(_TEMPERATURES))
    found = minimize_scalar(loss, bounds=bounds, method="bounded")
    return float(np.exp(found.x))  # pyright: ignore[reportAttributeAccessIssue]


def best_threshold(chances: np.ndarray, score: Callable[[np.ndarray], float]) -> float:
    """The least probability at which class 1 is predicted: the best by ``score`` of those half-way between two rows.

    Of equally good ones it is the one nearest to a half.

    Args:
        chances: the probabilities of class 1 [N].
        score: scores class numbers [N]; more is better.
    """
    values = np.unique(chances)
    cuts = np.concatenate([[0.5], (values[1:] + values[:-1]) / 2])
    scores = np.array([score((chances >= cut).astype(np.int64)) for cut in cuts])
    good = cuts[scores >= scores.max()]
    return float(good[np.argmin(np.abs(good - 0.5))])
