"""Measures on images and latents: tensors in, one number an item or a table out.

Images are (B, 3, H, W) in [-1, 1], features (B, D), latents (B, C, h, w) unless said otherwise.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F


def to_images(pixels: np.ndarray | Tensor) -> Tensor:
    """uint8 pixels (B, H, W, 3) in 0..255 -> images (B, 3, H, W) in [-1, 1]."""
    return torch.as_tensor(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pixels(images: Tensor) -> np.ndarray:
    """Images (B, 3, H, W) in [-1, 1], clamped -> uint8 pixels (B, H, W, 3)."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def _same_shape(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise ValueError(f"the two batches must have the same shape, got {tuple(a.shape)} and {tuple(b.shape)}.")


def psnr(images: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image (B,) in dB; the peak is 2, the width of [-1, 1]."""
    _same_shape(images, reference)
    return 10 * torch.log10(4 / (images - reference).square().flatten(1).mean(1))


def latent_mse(latents: Tensor, reference: Tensor) -> Tensor:
    """Mean squared difference of each item (B,)."""
    _same_shape(latents, reference)
    return (latents - reference).square().flatten(1).mean(1)


@torch.inference_mode()
def lpips(model: nn.Module, images: Tensor, reference: Tensor, batch_size: int = 32) -> Tensor:
    """LPIPS of each pair (B,); `model` as from `latentcrf.perceptual.load_lpips`."""
    _same_shape(images, reference)
    pairs = zip(images.split(batch_size), reference.split(batch_size), strict=True)
    return torch.cat([model(a, b).flatten() for a, b in pairs])


@torch.inference_mode()
def lpips_matrix(model: Any, images: Tensor, batch_size: int = 32) -> Tensor:
    """LPIPS of all pairs of n images, symmetric (n, n): the network reads each image once, not each pair.

    LPIPS sums over layers the mean over positions of sum_c w_c (f_c - g_c)^2, f and g of unit length (arXiv 1801.03924,
    equation 1): squared distances between the features times sqrt(w).
    """
    layers: list[list[Tensor]] = [[] for _ in model.lins]
    for batch in images.split(batch_size):
        for layer, lin, features in zip(layers, model.lins, model.net(model.scaling_layer(batch)), strict=True):
            unit = features / (features.square().sum(1, keepdim=True).sqrt() + 1e-10)
            weighted = unit * lin.model[-1].weight.clamp(min=0).sqrt()
            layer.append(weighted.flatten(1) / math.sqrt(features.shape[2] * features.shape[3]))
    stacked = torch.cat([torch.cat(layer) for layer in layers], dim=1).double()
    return torch.cdist(stacked, stacked, compute_mode="donot_use_mm_for_euclid_dist").square().float().cpu()


def pairwise_lpips(model: nn.Module, images: Tensor, batch_size: int = 32) -> float:
    """Mean LPIPS over all n (n - 1) / 2 pairs of n images: a prompt's diversity over its seeds."""
    n = len(images)
    if n < 2:
        raise ValueError(f"diversity needs at least 2 images, got {n}.")
    return lpips_matrix(model, images, batch_size).sum().item() / (n * (n - 1))


def vendi(features: Tensor) -> float:
    """Vendi score (Friedman & Dieng, TMLR 2023) with the cosine kernel: exp(-sum lambda log lambda) of K / n.

    Between 1 (all items alike) and n (all orthogonal). Comparable only at equal n.
    """
    f = F.normalize(features.double(), dim=1)
    eigenvalues = torch.linalg.eigvalsh(f @ f.T / len(f)).clamp(min=0)
    return torch.special.entr(eigenvalues).sum().exp().item()


def retrieval_ranks(
    queries: Tensor, labels: Sequence[str], gallery: Tensor, gallery_labels: Sequence[str], *, itself: bool = False
) -> np.ndarray:
    """For each query the rank (1 = nearest, cosine) of the first gallery item that has its label, int (Q,).

    R@k is the share of ranks <= k. With `itself` the queries are the gallery, each looked up among the others.
    A label that the gallery does not hold has rank `len(gallery) + 1`.
    """
    if len(queries) != len(labels) or len(gallery) != len(gallery_labels):
        raise ValueError(
            f"one label an item: got {len(queries)} queries with {len(labels)} labels, "
            f"{len(gallery)} gallery items with {len(gallery_labels)} labels."
        )
    q, g = F.normalize(queries.float(), dim=1), F.normalize(gallery.float(), dim=1)
    known = {label: index for index, label in enumerate(dict.fromkeys([*labels, *gallery_labels]))}
    wanted = torch.tensor([known[label] for label in labels])
    present = torch.tensor([known[label] for label in gallery_labels])
    ranks = []
    for rows in torch.arange(len(q)).split(512):
        similarity = q[rows] @ g.T  # (rows, gallery)
        if itself:
            similarity[torch.arange(len(rows)), rows] = -torch.inf
        same = wanted[rows, None] == present
        best = similarity.masked_fill(~same, -torch.inf).amax(1, keepdim=True)
        rank = (similarity > best).sum(1) + 1
        ranks.append(torch.where(best.squeeze(1).isinf(), len(g) + 1, rank))
    return torch.cat(ranks).numpy()


def bootstrap(
    values: Sequence[float] | np.ndarray,
    statistic: Callable[..., np.ndarray] = np.mean,
    resamples: int = 4000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """`statistic` of the values with its 95 % percentile-bootstrap interval: (estimate, low, high).

    For two methods on the same items give the differences (or ratios) of the pairs.
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"values must be a non-empty list of numbers, got shape {values.shape}.")
    chosen = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    low, high = np.quantile(statistic(values[chosen], axis=1), [0.025, 0.975])
    return float(statistic(values)), float(low), float(high)


def summary(measured: dict[str, tuple[Sequence[float] | np.ndarray, Callable[..., np.ndarray]]]) -> pd.DataFrame:
    """Measure -> (values, statistic) as a table: measure, value, low, high (95 % bootstrap interval), n."""
    rows = []
    for measure, (values, statistic) in measured.items():
        value, low, high = bootstrap(values, statistic)
        rows.append({"measure": measure, "value": value, "low": low, "high": high, "n": len(values)})
    return pd.DataFrame(rows)


def edge_strength(images: Tensor) -> Tensor:
    """Mean gradient magnitude (B,) of the grey image, by Sobel filters, per pixel in units of [-1, 1]: blur lowers it."""
    grey = images.float().mean(1, keepdim=True)
    sobel = grey.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8
    gradient = F.conv2d(grey, torch.stack([sobel, sobel.T])[:, None])
    return gradient.norm(dim=1).mean((1, 2))


def radial_spectrum(images: Tensor) -> Tensor:
    """Mean power (B, side / 2) of square images' or latents' frequencies 1, 2, ..., side / 2 cycles an image."""
    side = images.shape[-1]
    if images.shape[-2] != side:
        raise ValueError(f"square images are wanted, got {tuple(images.shape)}.")
    power = torch.fft.fft2(images.float(), norm="ortho").abs().square().mean(1)
    frequency = torch.fft.fftfreq(side, 1 / side)
    radius = (frequency[:, None] ** 2 + frequency[None] ** 2).sqrt().round().long()
    rings = [power[:, radius == ring].mean(1) for ring in range(1, side // 2 + 1)]
    return torch.stack(rings, dim=1)


def spectrum_error(images: Tensor, reference: Tensor) -> float:
    """Mean distance, in dB over all frequencies, between the mean radial spectra of two sets of images."""
    a, b = (10 * torch.log10(radial_spectrum(each).mean(0).clamp(min=1e-12)) for each in (images, reference))
    return (a - b).abs().mean().item()


def cluster_weights(clusters: int, resamples: int = 2000, seed: int = 0) -> np.ndarray:
    """How often each of `clusters` prompts is drawn: (1 + resamples, clusters), the first row all ones (the estimate).

    The same rows for every method: resampled together, their differences are paired.
    """
    if clusters < 1:
        raise ValueError("at least one prompt is wanted.")
    drawn = np.random.default_rng(seed).multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples)
    return np.concatenate([np.ones((1, clusters), dtype=drawn.dtype), drawn])


class RealFeatures:
    """Features (N, D) of real images, prepared for `kid_draws` and `frechet_draws`."""

    def __init__(self, features: Tensor) -> None:
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(f"features of at least 2 images (N, D) are wanted, got {tuple(features.shape)}.")
        self.features = features.double()
        kernel = _cubic(self.features, self.features)
        count = len(features)
        self.within = ((kernel.sum() - kernel.trace()) / (count * (count - 1))).item()
        self.mean = self.features.mean(0)
        covariance = self.features.T.cov()
        values, vectors = torch.linalg.eigh(covariance)
        self.root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
        self.trace = covariance.trace().item()


def _cubic(a: Tensor, b: Tensor) -> Tensor:
    """The kernel of KID, (a b / D + 1)^3."""
    return (a @ b.T / a.shape[1] + 1) ** 3


def kid_draws(features: Tensor, clusters: np.ndarray, real: RealFeatures, weights: np.ndarray) -> np.ndarray:
    """Kernel distance (squared MMD, arXiv 1801.01401) to the real images for each row of `weights` (R, C) -> (R,).

    With all weights 1 it is the unbiased estimate over all images at once, without subsets.

    Args:
        features: of the generated images (N, D).
        clusters: the prompt of each, 0..C-1, (N,).
        weights: as from `cluster_weights`. A prompt drawn twice is not compared with its copy, only with the other
            prompts and within each copy: pairs of equal or like images would make each resample's distance too large.
    """
    x = features.double()
    w = torch.as_tensor(weights, dtype=torch.float64)
    member = F.one_hot(torch.as_tensor(clusters), w.shape[1]).double()  # (N, C)
    kernel = _cubic(x, x)
    between = member.T @ kernel @ member  # (C, C) sums over pairs
    inside = between.diagonal() - member.T @ kernel.diagonal()  # pairs of two images of one prompt
    between.fill_diagonal_(0)
    sizes = member.sum(0)
    count = w @ sizes
    pairs = count**2 - w**2 @ sizes**2 + w @ (sizes * (sizes - 1))
    within = (((w @ between) * w).sum(1) + w @ inside) / pairs
    cross = w @ (member.T @ _cubic(x, real.features).mean(1)) / count
    return (within - 2 * cross + real.within).numpy()


def frechet_draws(features: Tensor, clusters: np.ndarray, real: RealFeatures, weights: np.ndarray) -> np.ndarray:
    """Frechet distance (arXiv 1706.08500) to the real images for each row of `weights` (R, C) -> (R,).

    |m - m_r|^2 + tr S + tr S_r - 2 tr (S_r^1/2 S S_r^1/2)^1/2. Biased upwards at small N: compare at equal N only.
    The trace of the root is the sum of the singular values of X S_r^1/2, X the centred features; they come from the
    N x N matrix of scalar products, so that a resample costs no D x D decomposition.
    """
    x = features.double()
    turned = x @ real.root
    products = turned @ turned.T
    draws = []
    for row in np.asarray(weights):
        w = torch.as_tensor(row[clusters], dtype=torch.float64)
        kept = w > 0
        w, g = w[kept], products[kept][:, kept]
        total = w.sum()
        mean = w @ x[kept] / total
        side = g @ w / total
        centred = g - side[:, None] - side[None] + (w @ side) / total
        scale = (w / (total - 1)).sqrt()
        roots = torch.linalg.eigvalsh(scale[:, None] * centred * scale[None]).clamp(min=0).sqrt().sum()
        spread = w @ (x[kept] - mean).square().sum(1) / (total - 1)
        draws.append(((mean - real.mean).square().sum() + spread + real.trace - 2 * roots).item())
    return np.array(draws)


def mean_draws(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean of one value a prompt (C,) for each row of `weights` (R, C) -> (R,)."""
    return weights @ np.asarray(values, dtype=float) / weights.sum(1)


def interval(draws: np.ndarray, distance: bool = False) -> tuple[float, float, float]:
    """(estimate, low, high): the first of the draws, and a 95 % interval from the others.

    Their 2.5th and 97.5th percentile. A `distance` between distributions is larger on resamples, in which prompts come
    twice: there both are moved by what the draws' mean lies above the estimate, which would else lie at the edge of its
    own interval. Means are not moved: in small steps, as shares of prompts are, even the resampling's own noise could
    move an end across zero.
    """
    bias = draws[1:].mean() - draws[0] if distance else 0.0
    low, high = np.quantile(draws[1:], [0.025, 0.975]) - bias
    return float(draws[0]), float(low), float(high)
