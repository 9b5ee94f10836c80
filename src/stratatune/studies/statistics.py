"""Statistics of a handful of seeds: means with intervals, and paired comparisons, by ``scipy.stats``.

They answer two questions: how much a mean would move with other seeds (:func:`interval`, a bootstrap), and whether one
method is better than another on the same tasks and seeds (:func:`compare`). A bootstrap interval of three differences
is too narrow, so a comparison's interval is Student's, and a permutation test, which assumes nothing, is reported with
it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

LEVEL = 0.95
"""The level of every interval."""
_RESAMPLES = 9_999
_ROUNDING = 1e-9
"""The deviation of differences, over their size, up to which they are equal."""
_EXACT = 14
"""The most pairs for which all 2^n changes of sign are tried; for more, as many random ones."""

Verdict = Literal["holds", "does not hold", "cannot tell"]


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval.

    Attributes:
        mean, deviation: over ``count`` values; the deviation is the sample's (n - 1), None for one value.
        low, high: the interval of the mean; None for one value.
        count: the values.
    """

    mean: float
    deviation: float | None
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True)
class Comparison:
    """The difference of two methods, pair by pair.

    Attributes:
        difference: the mean over pairs, with Student's interval; positive where the first is better.
        p_value: that of the two-sided paired permutation test (signs changed at random); None for one pair.
        smallest_p: the smallest value that n pairs can give, 2 / 2^n.
    """

    difference: Interval
    p_value: float | None
    smallest_p: float | None

    @property
    def pairs(self) -> int:
        """The number of pairs."""
        return self.difference.count

    def verdict(self, margin: float = 0.0) -> Verdict:
        """The interval's verdict on "the first is better than the second less ``margin``".

        Equal differences, as shares of few rows often are, leave Student's interval without a width, however few they
        are: then there must be pairs enough for the permutation test to reach 0.05.
        """
        low, high = self.difference.low, self.difference.high
        if low is None or high is None or low <= -margin <= high:
            return "cannot tell"
        equal = (self.difference.deviation or 0.0) <= _ROUNDING * (abs(self.difference.mean) + margin)
        if equal and (self.smallest_p or 1.0) > 1 - LEVEL:
            return "cannot tell"
        return "holds" if low > -margin else "does not hold"


def interval(values: Sequence[float]) -> Interval:
    """The mean of ``values`` with its percentile bootstrap interval; equal values give an equal interval.

    With few values it says little more than their range: of 3 seeds, the mean of a resample is the lowest value itself
    once in 27 times, so the 95 % interval reaches from about the lowest to about the highest.

    Raises:
        ValueError: there are no values.
    """
    if not len(values):
        raise ValueError("no values: a mean needs one")
    sample = np.asarray(values, dtype=float)
    if len(sample) == 1 or np.ptp(sample) == 0:
        return _degenerate(sample)
    from scipy.stats import bootstrap

    rng = np.random.default_rng(0)
    found = bootstrap(
        (sample,), np.mean, confidence_level=LEVEL, method="percentile", n_resamples=_RESAMPLES, rng=rng
    ).confidence_interval
    return Interval(float(sample.mean()), float(sample.std(ddof=1)), float(found.low), float(found.high), len(sample))


def _student(values: Sequence[float]) -> Interval:
    """The mean with Student's interval: exact for normal values, however few."""
    sample = np.asarray(values, dtype=float)
    if len(sample) == 1 or np.ptp(sample) == 0:
        return _degenerate(sample)
    from scipy.stats import t

    mean, deviation = float(sample.mean()), float(sample.std(ddof=1))
    half = float(t.ppf((1 + LEVEL) / 2, len(sample) - 1)) * deviation / len(sample) ** 0.5
    return Interval(mean, deviation, mean - half, mean + half, len(sample))


def _degenerate(sample: np.ndarray) -> Interval:
    """The interval of a single value, which has none, or of equal values."""
    mean, alone = float(sample.mean()), len(sample) == 1
    return Interval(mean, None, None, None, 1) if alone else Interval(mean, 0.0, mean, mean, len(sample))


def compare(first: Mapping[tuple, float], second: Mapping[tuple, float], *, smaller: bool = False) -> Comparison | None:
    """Compare ``first`` less ``second`` over the pairs that both have; None if they have none.

    Args:
        first, second: values by their pairing key, such as (task, seed).
        smaller: a smaller value is the better one; the difference is turned round.
    """
    shared = [key for key in first if key in second]
    if not shared:
        return None
    sign = -1.0 if smaller else 1.0
    differences = [sign * (first[key] - second[key]) for key in shared]
    count = len(differences)
    return Comparison(_student(differences), _permutation(differences), 2.0 ** (1 - count) if count > 1 else None)


def _permutation(differences: Sequence[float]) -> float | None:
    """The p-value of the paired permutation test: is the mean difference larger than with random signs?"""
    if len(differences) < 2:
        return None
    if not np.any(differences):
        return 1.0
    from scipy.stats import permutation_test

    rng = np.random.default_rng(0)
    found = permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=2**_EXACT, rng=rng)
    return float(found.pvalue)


def adjusted(p_values: Sequence[float]) -> list[float]:
    """Holm's adjustment of several tests: the smallest is multiplied by their number, the next by one less, ..."""
    order = np.argsort(p_values)
    steps = [min(1.0, float(p_values[at]) * (len(p_values) - rank)) for rank, at in enumerate(order)]
    raised = np.maximum.accumulate(steps) if steps else []
    found = [0.0] * len(p_values)
    for at, value in zip(order, raised, strict=True):
        found[at] = float(value)
    return found
