"""KID and Frechet distance against all pairs one by one, and a matrix root."""

import numpy as np
import pytest
import torch

from analysis.metrics import distributions


def _features() -> tuple[torch.Tensor, np.ndarray, distributions.RealFeatures]:
    generator = torch.Generator().manual_seed(2)
    made = torch.randn(12, 5, generator=generator) + 0.5
    real = torch.randn(30, 5, generator=generator) * 1.5
    return made, np.repeat(np.arange(4), 3), distributions.RealFeatures(real)


def test_kid_against_all_pairs_one_by_one() -> None:
    made, clusters, real = _features()
    weights = np.array([[1, 1, 1, 1], [2, 0, 1, 1]])

    def k(a: torch.Tensor, b: torch.Tensor) -> float:
        return (float(a.double() @ b.double()) / 5 + 1) ** 3

    r = real.features
    real_pairs = np.mean([k(r[i], r[j]) for i in range(30) for j in range(30) if i != j])
    for row, found in zip(weights, distributions.kid_draws(made, clusters, real, weights), strict=True):
        chosen = [(copy, i) for i in range(12) for copy in range(row[clusters[i]])]
        # two copies of a prompt are not compared with each other, so that no image meets itself
        met = [(i, j) for a, i in chosen for b, j in chosen if clusters[i] != clusters[j] or (a == b and i != j)]
        pairs = np.mean([k(made[i], made[j]) for i, j in met])
        cross = np.mean([k(made[i], b) for _, i in chosen for b in r])
        assert found == pytest.approx(pairs - 2 * cross + real_pairs, rel=1e-9)


def test_frechet_against_a_matrix_root() -> None:
    from scipy.linalg import sqrtm

    made, clusters, real = _features()
    weights = np.array([[1, 1, 1, 1], [2, 0, 1, 1]])
    b = real.features.numpy()
    for row, found in zip(weights, distributions.frechet_draws(made, clusters, real, weights), strict=True):
        a = made.double().numpy()[[i for i in range(12) for _ in range(row[clusters[i]])]]
        s, s_r = np.cov(a.T), np.cov(b.T)
        expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s + s_r - 2 * np.real(sqrtm(s @ s_r)))
        assert found == pytest.approx(expected, rel=1e-6)
    same = distributions.RealFeatures(made)
    assert distributions.frechet_draws(made, clusters, same, weights[:1])[0] == pytest.approx(0, abs=1e-6)
