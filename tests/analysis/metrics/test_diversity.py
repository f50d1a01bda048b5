"""Metrics of diversity against values that can be computed by hand, or slowly."""

import math

import numpy as np
import pytest
import torch

from analysis.metrics import diversity
from analysis.metrics.perceptual import load_lpips, lpips


def test_lpips_in_batches_and_over_pairs() -> None:
    model = load_lpips()
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    alone = torch.tensor([model(images[i : i + 1], images[3 - i : 4 - i]).item() for i in range(4)])
    torch.testing.assert_close(lpips(model, images, images.flip(0), batch_size=3), alone)
    pairs = [model(images[i : i + 1], images[j : j + 1]).item() for i in range(4) for j in range(i)]
    assert diversity.pairwise_lpips(model, images, batch_size=4) == pytest.approx(np.mean(pairs), rel=1e-4)
    # equal images at other places of a batch: kernels may round their features differently, by 1e-7 or so, squared
    assert diversity.pairwise_lpips(model, images[:1].expand(3, -1, -1, -1)) == pytest.approx(0, abs=1e-10)
    matrix = diversity.lpips_matrix(model, images, batch_size=3)
    assert torch.equal(matrix, matrix.T) and matrix.diagonal().eq(0).all()
    torch.testing.assert_close(matrix[1:, 0], torch.tensor(pairs)[[0, 1, 3]], rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        diversity.pairwise_lpips(model, images[:1])


def test_vendi_counts_different_items() -> None:
    different = torch.eye(5)
    assert diversity.vendi(different) == pytest.approx(5)
    assert diversity.vendi(different[:1].expand(5, -1) * 3) == pytest.approx(1)
    # two groups of 1 and 3: exp of the entropy of (1/4, 3/4)
    expected = math.exp(-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)))
    assert diversity.vendi(different[[0, 1, 1, 1]]) == pytest.approx(expected)
