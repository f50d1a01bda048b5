"""Previews: a clean estimate as a small picture, by one matrix instead of the autoencoder.

python -m app.previews    # fits the embedded model's matrix and writes assets/models/emoji-ldm/preview.json

The colour of a latent site is nearly a linear function of its channels. The matrix is fitted by least squares: to
decoded images of the model's example prompts, or, for a model without preview.json, to smooth pictures that its
autoencoder encodes, once it is loaded.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from analysis.metrics.pixels import to_pixels
from analysis.sampling import decode, load_pipeline, sample
from app.models import ModelSet, read_catalog
from latentcrf.utils.manifest import write_manifest

FILE = "preview.json"
STEPS, SEEDS = 20, 4  # of the runs that are decoded
SIDE, PICTURES = 128, 8  # of the smooth pictures: pixels, and how many
DETAILS = {2: 1.0, 4: 0.7, 8: 0.5}  # cells along a side -> their contrast


def fit_preview(latents: Tensor, images: Tensor) -> Tensor:
    """Fit the matrix of previews.

    Args:
        latents: clean ones (B, C, h, w).
        images: their images (B, 3, H, W) in [-1, 1].

    Returns:
        (C + 1, 3): a row a channel, then the constant.
    """
    return torch.linalg.lstsq(_list_sites(latents), _list_pixels(images, latents)).solution


def _list_sites(latents: Tensor) -> Tensor:
    """List the sites of latents (B, C, h, w) with a constant 1 after the channels: (B h w, C + 1)."""
    sites = latents.float().cpu().permute(0, 2, 3, 1).flatten(0, 2)
    return torch.cat([sites, torch.ones(len(sites), 1)], 1)


def _list_pixels(images: Tensor, latents: Tensor) -> Tensor:
    """List the mean colours of images (B, 3, H, W) at each site of their latents (B, C, h, w): (B h w, 3)."""
    return interpolate(images.float().cpu(), size=latents.shape[-2:], mode="area").permute(0, 2, 3, 1).flatten(0, 2)


def draw_preview(matrix: Tensor, latents: Tensor, size: tuple[int, int]) -> Image.Image:
    """Draw a preview.

    Args:
        matrix: (C + 1, 3), as of `fit_preview`.
        latents: the clean estimate (1, C, h, w).
        size: height and width in pixels.

    Returns:
        The picture, smoothed.
    """
    height, width = latents.shape[-2:]
    pixels = (_list_sites(latents) @ matrix).view(1, height, width, 3).permute(0, 3, 1, 2).clamp(-1, 1)
    return Image.fromarray(to_pixels(pixels)[0]).resize(size[::-1], Image.Resampling.BICUBIC)


def load_preview(folder: Path, vae: Any) -> Tensor:
    """Load a model's matrix of previews, or fit it to smooth pictures.

    Args:
        folder: of the pipeline.
        vae: its autoencoder, on the CPU.

    Returns:
        (C + 1, 3).
    """
    if (folder / FILE).is_file():
        return torch.tensor(json.loads((folder / FILE).read_text(encoding="utf-8"))["matrix"])
    images = draw_smooth_pictures()
    with torch.inference_mode():
        latents = torch.cat([vae.encode(each).latent_dist.mode() for each in images.to(vae.dtype).split(1)])
    return fit_preview(latents * vae.config.scaling_factor, images)


def draw_smooth_pictures() -> Tensor:
    """Draw random pictures of soft colours, (`PICTURES`, 3, `SIDE`, `SIDE`) in [-1, 1]."""
    generator, pictures = torch.Generator().manual_seed(0), torch.zeros(PICTURES, 3, SIDE, SIDE)
    for cells, contrast in DETAILS.items():
        coarse = torch.randn(PICTURES, 3, cells, cells, generator=generator)
        pictures += contrast * interpolate(coarse, size=SIDE, mode="bicubic")
    return pictures.clamp(-1, 1)


def fit_model(model_set: ModelSet) -> tuple[Tensor, float]:
    """Fit a model's matrix to its own images; the last example prompt is kept to test it.

    Args:
        model_set: whose example prompts are drawn.

    Returns:
        The matrix (C + 1, 3), and the share of the variance of the kept images' pixels that it explains.
    """
    pipeline = load_pipeline(model_set.model.folder)
    prompts = list(dict.fromkeys((*model_set.variance_prompts, *model_set.prompts)))
    seeds = [seed for seed in range(SEEDS) for _ in prompts]
    latents = sample(pipeline, prompts * SEEDS, seeds, steps=STEPS, guidance=model_set.defaults.guidance)
    images, kept = decode(pipeline, latents), torch.arange(len(seeds)) % len(prompts) == len(prompts) - 1
    matrix = fit_preview(latents[~kept], images[~kept])
    pixels = _list_pixels(images[kept], latents)
    error = (_list_sites(latents[kept]) @ matrix).clamp(-1, 1) - pixels
    return matrix, 1 - float(error.var() / pixels.var())


def main() -> int:
    """Fit the matrix of the page's first model, and write it beside the model.

    Returns:
        The exit status, 0.
    """
    model_set = read_catalog().default
    matrix, explained = fit_model(model_set)
    rows = [[round(value, 4) for value in row] for row in matrix.tolist()]
    path = model_set.model.folder / FILE
    path.write_text(
        json.dumps({"command": "python -m app.previews", "explained": round(explained, 3), "matrix": rows}) + "\n",
        encoding="utf-8",
    )
    write_manifest()
    print(f"written: {path}; it explains {explained:.0%} of the variance of an unseen prompt's pixels")
    return 0


if __name__ == "__main__":
    sys.exit(main())
