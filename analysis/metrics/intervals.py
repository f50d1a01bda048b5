"""Estimates with 95 % intervals: bootstrap over values or over prompts, jackknife over seeds.

"Draws" are (1 + resamples,): the estimate, then its value on each resample.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd


def bootstrap(
    values: Sequence[float] | np.ndarray,
    statistic: Callable[..., np.ndarray] = np.mean,
    resamples: int = 4000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Compute a statistic with its 95 % percentile-bootstrap interval.

    Args:
        values: one an item; for two methods on the same items the differences (or ratios) of the pairs.
        statistic: takes values and `axis`, default the mean.
        resamples: how many, default 4000.
        seed: of the resampling, default 0.

    Returns:
        (estimate, low, high).

    Raises:
        ValueError: no values, or not one number an item.
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"values must be a non-empty list of numbers, got shape {values.shape}.")
    indices = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    low, high = np.quantile(statistic(values[indices], axis=1), [0.025, 0.975])
    return float(statistic(values)), float(low), float(high)


def summarize(metrics: dict[str, tuple[Sequence[float] | np.ndarray, Callable[..., np.ndarray]]]) -> pd.DataFrame:
    """Tabulate statistics with their 95 % bootstrap intervals.

    Args:
        metrics: name -> (values, statistic), as of `bootstrap`.

    Returns:
        Columns measure, value, low, high, n.
    """
    rows = []
    for name, (values, statistic) in metrics.items():
        value, low, high = bootstrap(values, statistic)
        rows.append({"measure": name, "value": value, "low": low, "high": high, "n": len(values)})
    return pd.DataFrame(rows)


def cluster_weights(clusters: int, resamples: int = 2000, seed: int = 0) -> np.ndarray:
    """Draw how often each prompt is in each resample.

    Every method takes the same rows: resampled together, differences of methods are paired.

    Args:
        clusters: number of prompts, at least 1.
        resamples: how many, default 2000.
        seed: of the resampling, default 0.

    Returns:
        int (1 + resamples, clusters); the first row is all ones, the estimate.

    Raises:
        ValueError: no prompt.
    """
    if clusters < 1:
        raise ValueError("at least one prompt is wanted.")
    counts = np.random.default_rng(seed).multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples)
    return np.concatenate([np.ones((1, clusters), dtype=counts.dtype), counts])


def mean_draws(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute the mean over prompts on each resample.

    Args:
        values: one a prompt (C,).
        weights: (R, C), as from `cluster_weights`.

    Returns:
        Draws (R,).
    """
    return weights @ np.asarray(values, dtype=float) / weights.sum(1)


def interval(draws: np.ndarray, distance: bool = False) -> tuple[float, float, float]:
    """Read an estimate and its 95 % interval from draws: the 2.5th and 97.5th percentile of the resamples.

    A distance between distributions is larger on resamples, in which prompts come twice: its interval is shifted by
    the mean of the resamples minus the estimate. Means are not shifted: in small steps, as shares of prompts are, even
    the resampling's own noise could move an end across zero.

    Args:
        draws: (1 + resamples,).
        distance: whether they are of a distance between distributions, default False.

    Returns:
        (estimate, low, high).
    """
    bias = draws[1:].mean() - draws[0] if distance else 0.0
    low, high = np.quantile(draws[1:], [0.025, 0.975]) - bias
    return float(draws[0]), float(low), float(high)


def jackknife(values: np.ndarray) -> tuple[float, float, float]:
    """Compute a 95 % normal interval from leave-one-out values.

    Pairs that share a seed are not independent; leaving seeds out, not pairs, respects that.

    Args:
        values: (1 + n,): the estimate, then its value without the first, the second, ... item.

    Returns:
        (estimate, low, high).
    """
    n = len(values) - 1
    error = np.sqrt((n - 1) / n * np.square(values[1:] - values[1:].mean()).sum())
    return float(values[0]), float(values[0] - 1.96 * error), float(values[0] + 1.96 * error)
