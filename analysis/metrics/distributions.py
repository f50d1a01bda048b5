"""Distances between the features of generated and of real images: KID and Frechet distance, on resampled prompts."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def check_features(features: Tensor, width: int | None = None, least: int = 1) -> None:
    """Check that a metric gets the features that it is made for.

    Args:
        features: any tensor.
        width: features an image; None (default): any number.
        least: images that are needed, default 1.

    Raises:
        ValueError: they are not (N, width) of finite floats, N >= `least`.
    """
    wanted = f"features must be (N, {'D' if width is None else width}), finite floats of {least} or more images"
    if features.ndim != 2 or len(features) < least or features.shape[1] != (width or features.shape[1]):
        raise ValueError(f"{wanted}; got shape {tuple(features.shape)}.")
    if not features.is_floating_point() or not features.isfinite().all():
        raise ValueError(f"{wanted}; got integers, NaN or infinity.")


class RealFeatures:
    """Features of real images, prepared for `kid_draws` and `frechet_draws`.

    Args:
        features: (N, D), N >= 2.

    Raises:
        ValueError: as of `check_features`.
    """

    def __init__(self, features: Tensor) -> None:
        check_features(features, least=2)
        self.features = features.double()
        kernel = compute_cubic_kernel(self.features, self.features)
        count = len(features)
        self.within = ((kernel.sum() - kernel.trace()) / (count * (count - 1))).item()
        self.mean = self.features.mean(0)
        covariance = self.features.T.cov()
        values, vectors = torch.linalg.eigh(covariance)
        self.root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
        self.trace = covariance.trace().item()


def compute_cubic_kernel(a: Tensor, b: Tensor) -> Tensor:
    """Compute KID's kernel (a b / D + 1)^3 of all pairs.

    Args:
        a: features (N, D).
        b: features (M, D).

    Returns:
        (N, M).
    """
    return (a @ b.T / a.shape[1] + 1) ** 3


def kid_draws(features: Tensor, clusters: np.ndarray, real: RealFeatures, weights: np.ndarray) -> np.ndarray:
    """Compute the kernel distance (squared MMD, arXiv 1801.01401) to the real images on each resample of prompts.

    With all weights 1 it is the unbiased estimate over all images at once, without subsets.

    Args:
        features: of the generated images (N, D).
        clusters: the prompt of each, 0..C-1, (N,).
        real: of the real images.
        weights: (R, C), as from `intervals.cluster_weights`. A prompt drawn twice is not compared with its copy, only
            with the other prompts and within each copy: pairs of equal or like images would make each resample's
            distance too large.

    Returns:
        (R,).

    Raises:
        ValueError: as of `check_features`.
    """
    check_features(features, real.features.shape[1])
    x = features.double()
    w = torch.as_tensor(weights, dtype=torch.float64)
    member = F.one_hot(torch.as_tensor(clusters), w.shape[1]).double()  # (N, C)
    kernel = compute_cubic_kernel(x, x)
    between = member.T @ kernel @ member  # (C, C) sums over pairs
    inside = between.diagonal() - member.T @ kernel.diagonal()  # pairs of two images of one prompt
    between.fill_diagonal_(0)
    sizes = member.sum(0)
    count = w @ sizes
    pairs = count**2 - w**2 @ sizes**2 + w @ (sizes * (sizes - 1))
    within = (((w @ between) * w).sum(1) + w @ inside) / pairs
    cross = w @ (member.T @ compute_cubic_kernel(x, real.features).mean(1)) / count
    return (within - 2 * cross + real.within).numpy()


def frechet_draws(features: Tensor, clusters: np.ndarray, real: RealFeatures, weights: np.ndarray) -> np.ndarray:
    """Compute the Frechet distance (arXiv 1706.08500) to the real images on each resample of prompts.

    |m - m_r|^2 + tr S + tr S_r - 2 tr (S_r^1/2 S S_r^1/2)^1/2. Biased upwards at small N: compare at equal N only.
    The trace of the root is the sum of the singular values of X S_r^1/2, X the centred features; they come from the
    N x N matrix of scalar products, so that a resample costs no D x D decomposition.

    Args:
        features: of the generated images (N, D).
        clusters: the prompt of each, 0..C-1, (N,).
        real: of the real images.
        weights: (R, C), as from `intervals.cluster_weights`.

    Returns:
        (R,).

    Raises:
        ValueError: as of `check_features`.
    """
    check_features(features, real.features.shape[1])
    x = features.double()
    rotated = x @ real.root
    products = rotated @ rotated.T
    draws = []
    for row in np.asarray(weights):
        w = torch.as_tensor(row[clusters], dtype=torch.float64)
        present = w > 0
        w, g = w[present], products[present][:, present]
        total = w.sum()
        mean = w @ x[present] / total
        side = g @ w / total
        centred = g - side[:, None] - side[None] + (w @ side) / total
        scale = (w / (total - 1)).sqrt()
        roots = torch.linalg.eigvalsh(scale[:, None] * centred * scale[None]).clamp(min=0).sqrt().sum()
        spread = w @ (x[present] - mean).square().sum(1) / (total - 1)
        draws.append(((mean - real.mean).square().sum() + spread + real.trace - 2 * roots).item())
    return np.array(draws)
