from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from auditor.fidelity.agreement import Statistic, pearson, resamples, slope, spearman, statistic

NUMBERS = st.lists(st.integers(-20, 20), min_size=8, max_size=8).map(lambda values: np.array(values, dtype=float))


@given(NUMBERS, NUMBERS)
@settings(max_examples=60, deadline=None)
def test_the_measures_are_scipys_along_the_last_axis(x, y):
    varied = len(set(x)) > 1 and len(set(y)) > 1
    both = np.stack([x, x]), np.stack([y, y])
    for ours, theirs in ((pearson, stats.pearsonr), (spearman, stats.spearmanr)):
        if varied:
            assert ours(x, y) == pytest.approx(theirs(x, y).statistic, abs=1e-9)
        else:
            assert np.isnan(ours(x, y))
        np.testing.assert_array_equal(ours(*both), [ours(x, y)] * 2)
    if len(set(x)) > 1:
        assert slope(x, y) == pytest.approx(stats.linregress(x, y).slope, abs=1e-9)


def test_equal_numbers_that_do_not_sum_exactly_vary_by_nothing():
    assert np.isnan(pearson(np.full(7, 0.1), np.arange(7.0)))


def test_the_interval_is_scipys_percentile_bootstrap():
    random = np.random.default_rng(1)
    x = random.normal(size=40)
    y = x + random.normal(size=40)
    found = statistic(pearson, x, y)
    expected = stats.bootstrap(
        (x, y),
        lambda a, b: stats.pearsonr(a, b).statistic,
        paired=True,
        vectorized=False,
        method="percentile",
        n_resamples=2000,
        rng=3,
    ).confidence_interval
    assert found.value == pytest.approx(stats.pearsonr(x, y).statistic)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.03)


def test_a_perfect_line_is_sure():
    x = np.arange(10.0)
    assert statistic(slope, x, 3 * x - 1) == Statistic(pytest.approx(3), pytest.approx(3), pytest.approx(3))


def test_fewer_than_four_points_or_a_constant_prove_nothing():
    assert statistic(pearson, np.arange(3.0), np.arange(3.0)) is None
    assert statistic(spearman, np.zeros(9), np.arange(9.0)) is None


def test_resamples_are_the_same_each_time_so_that_methods_are_compared_in_pairs():
    np.testing.assert_array_equal(resamples(11), resamples(11))
    assert resamples(11).min() == 0
    assert resamples(11).max() == 10
