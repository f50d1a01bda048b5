"""Intervals against known errors and coverage."""

import math

import numpy as np
import pytest

from analysis.metrics import intervals


def test_bootstrap_intervals() -> None:
    assert intervals.bootstrap([2.0, 2.0, 2.0]) == (2, 2, 2)
    rng = np.random.default_rng(0)
    # a 95 % interval of the mean of 50 standard normals holds 0 about 95 times in 100
    holds = [low <= 0 <= high for _, low, high in (intervals.bootstrap(rng.normal(size=50)) for _ in range(100))]
    assert 87 <= sum(holds) <= 99
    estimate, low, high = intervals.bootstrap([1.0, 2.0, 30.0], np.median)
    assert (estimate, low, high) == (2, 1, 30)
    assert intervals.bootstrap([1.0, 5.0, 2.0]) == intervals.bootstrap([1.0, 5.0, 2.0])
    with pytest.raises(ValueError, match="non-empty"):
        intervals.bootstrap([])
    table = intervals.summarize({"share": ([True, False, True, True], np.mean)})
    assert table.loc[0, "value"] == 0.75
    assert table.loc[0, "n"] == 4


def test_an_interval_lies_around_an_estimate_that_resamples_exceed() -> None:
    draws = np.concatenate([[5.0], np.random.default_rng(0).normal(9.0, 1.0, 20_000)])  # a bias of 4
    estimate, low, high = intervals.interval(draws, distance=True)
    assert estimate == 5 and low == pytest.approx(5 - 1.96, abs=0.05) and high == pytest.approx(5 + 1.96, abs=0.05)


def test_an_interval_of_a_mean_ends_where_its_resamples_do() -> None:
    draws = np.concatenate([[-0.07], np.random.default_rng(0).choice([-0.14, -0.06, 0.0], 1000, p=[0.1, 0.8, 0.1])])
    assert intervals.interval(draws) == (-0.07, -0.14, 0.0)


def test_draws_over_prompts() -> None:
    weights = intervals.cluster_weights(40, resamples=3000, seed=1)
    assert weights.shape == (3001, 40) and (weights.sum(1) == 40).all() and (weights[0] == 1).all()
    assert np.array_equal(weights, intervals.cluster_weights(40, resamples=3000, seed=1))
    values = np.random.default_rng(0).normal(3.0, 2.0, 40)
    estimate, low, high = intervals.interval(intervals.mean_draws(values, weights))
    assert estimate == pytest.approx(values.mean())
    error = values.std() / math.sqrt(40)
    assert (low, high) == (
        pytest.approx(estimate - 1.96 * error, abs=0.1),
        pytest.approx(estimate + 1.96 * error, abs=0.1),
    )
