from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, trim_mean

from bellgrad.core.errors import UsageError
from bellgrad.report.statistics import bootstrap_interval, interquartile_mean, probability_of_improvement

scores = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30)


def test_interquartile_mean_of_one_to_eight_is_the_mean_of_three_to_six():
    assert interquartile_mean([8, 1, 7, 2, 6, 3, 5, 4]) == 4.5  # floor(8 / 4) = 2 left out at each end


def test_interquartile_mean_is_not_moved_by_an_outlier():
    assert interquartile_mean([1, 2, 3, 4]) == interquartile_mean([1, 2, 3, 1e9]) == 2.5


@settings(deadline=None)
@given(scores)
def test_interquartile_mean_equals_scipys_trimmed_mean(values):
    np.testing.assert_allclose(interquartile_mean(values), trim_mean(values, 0.25), rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_interquartile_mean_along_an_axis(axis):
    table = np.random.default_rng(0).normal(size=(9, 7))
    np.testing.assert_allclose(interquartile_mean(table, axis=axis), trim_mean(table, 0.25, axis=axis))
    np.testing.assert_allclose(interquartile_mean(table), trim_mean(table, 0.25, axis=None))


def test_bootstrap_of_two_scores_has_its_closed_form():
    """The mean of two draws from {0, 1} is 0, 1/2, 1 with probabilities 1/4, 1/2, 1/4: the middle 40% is
    1/2, the middle 60% all."""
    assert bootstrap_interval([0, 1], np.mean, confidence=0.4) == (0.5, 0.5)
    assert bootstrap_interval([0, 1], np.mean, confidence=0.6) == (0, 1)


def test_bootstrap_interval_of_the_mean_approaches_the_normal_one():
    values = np.random.default_rng(1).normal(size=400)
    low, high = bootstrap_interval(values, np.mean, resamples=20_000)
    half = 1.959964 * values.std() / np.sqrt(400)  # 97.5% quantile of the normal distribution
    np.testing.assert_allclose([low, high], [values.mean() - half, values.mean() + half], atol=0.05 * half)


def test_bootstrap_interval_covers_the_true_value_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(300):
        low, high = bootstrap_interval(rng.normal(size=30), np.mean, confidence=0.9, resamples=300)
        hits += bool(low <= 0 <= high)
    # 90% less the percentile interval's known shortfall, within three standard errors
    assert 0.84 <= hits / 300 <= 0.95


def test_bootstrap_treats_every_column_as_it_would_treat_it_alone():
    table = np.random.default_rng(3).normal(size=(6, 5))
    low, high = bootstrap_interval(table)
    for column in range(5):
        np.testing.assert_allclose((low[column], high[column]), bootstrap_interval(table[:, column]))


def test_bootstrap_in_chunks_equals_bootstrap_at_once(monkeypatch):
    table = np.random.default_rng(4).normal(size=(6, 5))
    whole = bootstrap_interval(table)
    monkeypatch.setattr("bellgrad.report.statistics._ELEMENTS", 1000)
    np.testing.assert_array_equal(bootstrap_interval(table), whole)


def test_bootstrap_repeats_itself_for_the_same_seed_only():
    values = np.random.default_rng(5).normal(size=10)
    assert (
        bootstrap_interval(values, seed=1)
        == bootstrap_interval(values, seed=1)
        != bootstrap_interval(values, seed=2)
    )


@settings(deadline=None)
@given(scores, scores)
def test_probability_of_improvement_equals_mann_whitney(x, y):
    expected = mannwhitneyu(x, y, method="asymptotic").statistic / (len(x) * len(y)) if x != y else 0.5
    assert probability_of_improvement(x, y, resamples=1).value == pytest.approx(expected)


def test_probability_of_improvement_counts_a_tie_half_and_is_antisymmetric():
    assert probability_of_improvement([1, 2], [1, 2]).value == 0.5  # wins: 1/2, 0, 1, 1/2
    assert (
        probability_of_improvement([1, 2, 3], [2]).value + probability_of_improvement([2], [1, 2, 3]).value
        == 1
    )


def test_probability_of_improvement_interval_has_its_closed_form():
    """Each side drawn twice from two scores: all sixteen resamples written out, their quantiles compared."""
    x, y = np.array([0.0, 3.0]), np.array([1.0, 4.0])
    means = sorted(
        np.mean([(x[i] > y[j]) for i in rows for j in columns])
        for rows, columns in product(product(range(2), repeat=2), repeat=2)
    )
    found = probability_of_improvement(x, y, confidence=0.5, resamples=20_000)
    assert found.value == 0.25
    # a quarter and three quarters of sixteen, inside their plateaus
    assert (found.low, found.high) == (means[3], means[12])


def test_certain_improvement_is_certain():
    assert probability_of_improvement([5, 6, 7], [1, 2]) == (1, 1, 1)


@pytest.mark.parametrize("bad", [[], [1.0, float("nan")], [float("inf")]])
def test_scores_that_would_be_dropped_silently_are_refused(bad):
    for use in (
        interquartile_mean,
        bootstrap_interval,
        lambda s: probability_of_improvement(s, [1]),
        lambda s: probability_of_improvement([1], s),
    ):
        with pytest.raises(UsageError):
            use(bad)


@pytest.mark.parametrize("wrong", [{"confidence": 1.0}, {"confidence": 95}, {"resamples": 0}])
def test_arguments_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError):
        bootstrap_interval([1, 2], **wrong)
    with pytest.raises(UsageError):
        probability_of_improvement([1, 2], [3], **wrong)
