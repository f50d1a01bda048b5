"""Metrics of diversity: how much the images of one prompt differ over their seeds."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analysis.metrics.distributions import check_features
from analysis.metrics.pixels import check_images


@torch.inference_mode()
def lpips_matrix(model: Any, images: Tensor, batch_size: int = 32) -> Tensor:
    """Compute LPIPS of all pairs of images. The network reads each image once, not each pair.

    LPIPS sums over layers the mean over positions of sum_c w_c (f_c - g_c)^2, f and g of unit length (arXiv 1801.03924,
    equation 1): squared distances between the features times sqrt(w).

    Args:
        model: as from `analysis.metrics.perceptual.load_lpips`.
        images: (n, 3, H, W) in [-1, 1].
        batch_size: images at a time, default 32.

    Returns:
        (n, n), symmetric, on the CPU.

    Raises:
        ValueError: as of `check_images`.
    """
    check_images(images, 31)
    layers: list[list[Tensor]] = [[] for _ in model.lins]
    for batch in images.split(batch_size):
        for layer, lin, features in zip(layers, model.lins, model.net(model.scaling_layer(batch)), strict=True):
            unit = features / (features.square().sum(1, keepdim=True).sqrt() + 1e-10)
            weighted = unit * lin.model[-1].weight.clamp(min=0).sqrt()
            layer.append(weighted.flatten(1) / math.sqrt(features.shape[2] * features.shape[3]))
    stacked = torch.cat([torch.cat(layer) for layer in layers], dim=1).double()
    return torch.cdist(stacked, stacked, compute_mode="donot_use_mm_for_euclid_dist").square().float().cpu()


def pairwise_lpips(model: nn.Module, images: Tensor, batch_size: int = 32) -> float:
    """Compute the mean LPIPS over all n (n - 1) / 2 pairs of images.

    Args:
        model: as from `analysis.metrics.perceptual.load_lpips`.
        images: (n, 3, H, W) in [-1, 1], of one prompt.
        batch_size: images at a time, default 32.

    Raises:
        ValueError: fewer than 2 images.
    """
    n = len(images)
    if n < 2:
        raise ValueError(f"diversity needs at least 2 images, got {n}.")
    return lpips_matrix(model, images, batch_size).sum().item() / (n * (n - 1))


def pairwise_without_each(pairs: np.ndarray) -> np.ndarray:
    """Compute the mean pairwise distance of all items, then without the first, the second, ... item.

    Args:
        pairs: distances (n, n), symmetric.

    Returns:
        (1 + n,), as `analysis.metrics.intervals.jackknife` takes it.
    """
    n, total, own = len(pairs), pairs.sum(), pairs.sum(1)
    return np.concatenate([[total / (n * (n - 1))], (total - 2 * own) / ((n - 1) * (n - 2))])


def vendi(features: Tensor) -> float:
    """Compute the Vendi score (Friedman & Dieng, TMLR 2023): exp(-sum lambda log lambda) of K / n, K the cosine kernel.

    Args:
        features: (n, D). Scores compare only at equal n.

    Returns:
        Between 1 (all items alike) and n (all orthogonal).

    Raises:
        ValueError: as of `check_features`.
    """
    check_features(features)
    f = F.normalize(features.double(), dim=1)
    eigenvalues = torch.linalg.eigvalsh(f @ f.T / len(f)).clamp(min=0)
    return torch.special.entr(eigenvalues).sum().exp().item()
