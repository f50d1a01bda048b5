"""Measures on images and latents: tensors in, one number an item or a table out.

Images are (B, 3, H, W) in [-1, 1], features (B, D), latents (B, C, h, w) unless said otherwise.
"""

from collections.abc import Callable, Sequence
from itertools import combinations

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


def pairwise_lpips(model: nn.Module, images: Tensor, batch_size: int = 32) -> float:
    """Mean LPIPS over all n (n - 1) / 2 pairs of n images: a prompt's diversity over its seeds."""
    if len(images) < 2:
        raise ValueError(f"diversity needs at least 2 images, got {len(images)}.")
    first, second = torch.tensor(list(combinations(range(len(images)), 2))).T
    # index in batches: all pairs at once would be n times the images
    chunks = zip(first.split(batch_size), second.split(batch_size), strict=True)
    return torch.cat([lpips(model, images[i], images[j], batch_size) for i, j in chunks]).mean().item()


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
