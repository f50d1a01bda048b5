"""Features of the data set's images, computed once: generated images are looked up in them."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from analysis.metrics.pixels import to_images
from analysis.real_images import RealImages
from latentcrf.utils.files import replace_file


@torch.inference_mode()
def embed(model: nn.Module, images: Tensor, batch_size: int = 32) -> Tensor:
    """Compute features of images.

    Args:
        model: as from `analysis.metrics.perceptual.load_features`.
        images: (B, 3, H, W) in [-1, 1].
        batch_size: images at a time, default 32.

    Returns:
        (B, D), float32.
    """
    return torch.cat([model(batch).float() for batch in images.split(batch_size)])


def load_gallery(
    model: nn.Module, rows: list[dict[str, Any]], pixels: np.ndarray | RealImages, folder: str | Path
) -> tuple[Tensor, list[str]]:
    """Load the features of all data-set images, or compute and store them.

    Args:
        model: as from `analysis.metrics.perceptual.load_features`.
        rows: of the data set.
        pixels: its images, uint8 (N, H, W, 3), or what reads them.
        folder: of features.safetensors, which is used again only for the same images and weights.

    Returns:
        Features (N, D), and the images' code points.
    """
    hashed = hashlib.sha256("".join(row["pixels_sha256"] for row in rows).encode())
    for weight in model.state_dict().values():
        hashed.update(weight.contiguous().numpy().tobytes())
    key = hashed.hexdigest()
    labels, path = [row["code_point"] for row in rows], Path(folder) / "features.safetensors"
    if path.exists() and key in (stored := load_file(path)):
        return stored[key], labels
    batches = tqdm(range(0, len(rows), 32), "gallery", unit="batch")
    features = torch.cat([embed(model, to_images(pixels[begin : begin + 32])) for begin in batches])
    with replace_file(path) as temporary:
        save_file({key: features}, temporary)
    return features, labels
