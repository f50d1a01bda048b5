"""Features of the data set's images, computed once: what generated images are looked up in."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from analysis.metrics.pixels import to_images
from latentcrf.utils.files import replace_file


@torch.inference_mode()
def embed(model: nn.Module, images: Tensor, batch_size: int = 32, progress: str | None = None) -> Tensor:
    """Features (B, D), float32, of images (B, 3, H, W) in [-1, 1]."""
    batches = tqdm(images.split(batch_size), desc=progress, unit="batch", disable=progress is None)
    return torch.cat([model(batch).float() for batch in batches])


def load_gallery(
    model: nn.Module, rows: list[dict[str, Any]], pixels: np.ndarray, folder: str | Path
) -> tuple[Tensor, list[str]]:
    """Features (N, D) of all data-set images and their code points; kept in `folder`/features.safetensors.

    What is kept is used again only for the same pictures and the same weights.
    """
    key = hashlib.sha256("".join(row["pixels_sha256"] for row in rows).encode())
    for weight in model.state_dict().values():
        key.update(weight.contiguous().numpy().tobytes())
    labels, path = [row["code_point"] for row in rows], Path(folder) / "features.safetensors"
    if path.exists():
        kept = load_file(path)
        if key.hexdigest() in kept:
            return kept[key.hexdigest()], labels
    parts = [
        embed(model, to_images(pixels[i : i + 32])) for i in tqdm(range(0, len(rows), 32), "gallery", unit="batch")
    ]
    features = torch.cat(parts)
    with replace_file(path) as temporary:
        save_file({key.hexdigest(): features}, temporary)
    return features, labels
