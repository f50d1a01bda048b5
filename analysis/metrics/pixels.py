"""Metrics of pixels and latents: distances between pairs, edge strength, spectra.

Images are (B, 3, H, W) in [-1, 1].
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

OVERSHOOT = 1.5  # largest absolute value of an image


def to_images(pixels: np.ndarray | Tensor) -> Tensor:
    """Convert pixels to images.

    Args:
        pixels: uint8 (B, H, W, 3), 0 to 255.

    Returns:
        float32 (B, 3, H, W) in [-1, 1].
    """
    return torch.as_tensor(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pixels(images: Tensor) -> np.ndarray:
    """Convert images to pixels.

    Args:
        images: (B, 3, H, W), clamped to [-1, 1].

    Returns:
        uint8 (B, H, W, 3), 0 to 255.
    """
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def check_same_shape(a: Tensor, b: Tensor) -> None:
    """Check that two batches can be compared item by item.

    Args:
        a: one batch.
        b: the other.

    Raises:
        ValueError: their shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"the two batches must have the same shape, got {tuple(a.shape)} and {tuple(b.shape)}.")


def check_images(images: Tensor, smallest: int = 1) -> None:
    """Check that a metric gets the images that it is made for.

    Args:
        images: any tensor.
        smallest: number of pixels that a side must have, default 1.

    Raises:
        ValueError: they are not (B, 3, H, W) of floats about [-1, 1], or too small. A decoder may overshoot by half.
    """
    wanted = "images must be (B, 3, H, W), floats in [-1, 1]"
    if images.ndim != 4 or images.shape[1] != 3 or not len(images):
        raise ValueError(f"{wanted}; got shape {tuple(images.shape)}.")
    if min(images.shape[2:]) < smallest:
        raise ValueError(f"{wanted}, each side {smallest} pixels or more; got shape {tuple(images.shape)}.")
    if not images.is_floating_point():
        raise ValueError(f"{wanted}; got {str(images.dtype).removeprefix('torch.')}: `to_images` converts pixels.")
    low, high = images.aminmax()
    if not (low >= -OVERSHOOT and high <= OVERSHOOT):  # NaN is neither
        raise ValueError(f"{wanted}; got values from {low.item():g} to {high.item():g}.")


def psnr(images: Tensor, reference: Tensor) -> Tensor:
    """Compute the peak signal-to-noise ratio of each image.

    Args:
        images: (B, 3, H, W) in [-1, 1].
        reference: the same shape and range.

    Returns:
        (B,) in dB; the peak is 2, the width of [-1, 1]. Infinite for equal images.

    Raises:
        ValueError: the shapes differ, or as of `check_images`.
    """
    check_same_shape(images, reference)
    for each in (images, reference):
        check_images(each)
    return 10 * torch.log10(4 / (images - reference).square().flatten(1).mean(1))


def latent_mse(latents: Tensor, reference: Tensor) -> Tensor:
    """Compute the mean squared difference of each item.

    Args:
        latents: (B, C, h, w).
        reference: the same shape.

    Returns:
        (B,).

    Raises:
        ValueError: the shapes differ.
    """
    check_same_shape(latents, reference)
    return (latents - reference).square().flatten(1).mean(1)


def edge_strength(images: Tensor) -> Tensor:
    """Compute the mean gradient magnitude of each grey image, by Sobel filters. Blur lowers it.

    Args:
        images: (B, 3, H, W) in [-1, 1].

    Returns:
        (B,), the change a pixel in units of [-1, 1].

    Raises:
        ValueError: as of `check_images`.
    """
    check_images(images, 3)
    grey = images.float().mean(1, keepdim=True)
    sobel = grey.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8
    gradient = F.conv2d(grey, torch.stack([sobel, sobel.T])[:, None])
    return gradient.norm(dim=1).mean((1, 2))


def radial_spectrum(images: Tensor) -> Tensor:
    """Compute the mean power of each frequency.

    Args:
        images: square images or latents (B, C, side, side).

    Returns:
        (B, side / 2): the power of 1, 2, ..., side / 2 cycles an image.

    Raises:
        ValueError: they are not square.
    """
    side = images.shape[-1]
    if images.ndim != 4 or images.shape[-2] != side or not len(images):
        raise ValueError(f"square images are wanted, got {tuple(images.shape)}.")
    power = torch.fft.fft2(images.float(), norm="ortho").abs().square().mean(1)
    frequency = torch.fft.fftfreq(side, 1 / side)
    radius = (frequency[:, None] ** 2 + frequency[None] ** 2).sqrt().round().long()
    rings = [power[:, radius == ring].mean(1) for ring in range(1, side // 2 + 1)]
    return torch.stack(rings, dim=1)


def spectrum_error(images: Tensor, reference: Tensor) -> float:
    """Compute the distance between the mean radial spectra of two sets of images.

    Args:
        images: (B, 3, H, H) in [-1, 1].
        reference: (N, 3, H, H), the same range.

    Returns:
        The mean absolute difference over all frequencies, in dB.

    Raises:
        ValueError: as of `check_images`, they are not square, or of different sizes.
    """
    for each in (images, reference):
        check_images(each, 2)
    check_same_shape(images[:1], reference[:1])
    a, b = (10 * torch.log10(radial_spectrum(each).mean(0).clamp(min=1e-12)) for each in (images, reference))
    return (a - b).abs().mean().item()
