"""Intervals and comparisons, held to scipy's own t test and to what can be counted by hand."""

import numpy as np
import pytest
from scipy.stats import ttest_rel

from stratatune.studies.statistics import adjusted, compare, interval


def test_interval_of_three_reaches_from_lowest_to_highest():
    found = interval([0.2, 0.5, 0.8])
    assert (found.mean, found.low, found.high, found.count) == pytest.approx((0.5, 0.2, 0.8, 3))
    assert found.deviation == pytest.approx(0.3)
    assert interval([0.2, 0.5, 0.8]) == found


def test_interval_of_many_is_that_of_the_mean():
    sample = np.random.default_rng(1).normal(10, 2, 200)
    found = interval(sample)
    assert found.low is not None and found.high is not None
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * sample.std() / 200**0.5, rel=0.1)


def test_interval_of_one_and_of_equal_values():
    assert (interval([3.0]).deviation, interval([3.0]).low) == (None, None)
    assert (interval([3.0, 3.0]).low, interval([3.0, 3.0]).deviation) == (3.0, 0.0)
    with pytest.raises(ValueError, match="no values"):
        interval([])


def _by_seed(values):
    return {(seed,): value for seed, value in enumerate(values)}


def test_comparison_is_students_and_the_permutation_test():
    first, second = [5.1, 4.8, 5.6, 5.0], [4.1, 4.4, 4.3, 4.6]
    found = compare(_by_seed(first), _by_seed(second))
    assert found is not None
    told = ttest_rel(first, second).confidence_interval()
    assert (found.difference.low, found.difference.high) == pytest.approx((told.low, told.high))
    # All four differences are positive: of the 16 changes of sign, only two are as far from 0.
    assert found.p_value == found.smallest_p == 2 / 16
    assert found.verdict() == "holds"
    turned = compare(_by_seed(second), _by_seed(first))
    assert turned is not None and turned.verdict() == "does not hold"
    smaller = compare(_by_seed(second), _by_seed(first), smaller=True)
    assert smaller is not None and smaller.verdict() == "holds"


def test_what_cannot_be_told():
    unsure = compare(_by_seed([1.0, 2.0, 3.0]), _by_seed([2.0, 1.0, 3.5]))
    alone = compare(_by_seed([1.0]), _by_seed([0.0]))
    assert unsure is not None and alone is not None
    assert unsure.verdict() == alone.verdict() == "cannot tell"
    assert alone.p_value is None
    assert compare({("a",): 1.0}, {("b",): 1.0}) is None


@pytest.mark.parametrize(("pairs", "verdict"), [(2, "cannot tell"), (5, "cannot tell"), (6, "holds")])
def test_equal_differences_need_pairs_enough(pairs, verdict):
    """Three accuracies of 100 rows, each two points above the other's, have an interval of no width and p = 0.25."""
    second = [51.0 + seed for seed in range(pairs)]
    for gap in (2.0, 0.1):  # 0.1 does not come out equal in binary
        found = compare(_by_seed([one + gap for one in second]), _by_seed(second))
        assert found is not None and found.verdict() == verdict
        turned = compare(_by_seed(second), _by_seed([one + gap for one in second]))
        assert turned is not None and turned.verdict(margin=3.0) == verdict


def test_a_margin_makes_an_at_least_as_good():
    found = compare(_by_seed([1.0, 2.0, 3.1]), _by_seed([1.1, 2.1, 3.0]))
    assert found is not None
    assert (found.verdict(), found.verdict(margin=1.0)) == ("cannot tell", "holds")


def test_only_shared_keys_are_pairs():
    found = compare({("a",): 1.0, ("b",): 5.0}, {("a",): 0.5, ("c",): 9.0})
    assert found is not None
    assert (found.pairs, found.difference.mean) == (1, 0.5)


def test_holm():
    assert adjusted([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert adjusted([]) == []
