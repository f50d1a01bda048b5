"""Metrics of pixels against values that can be computed by hand."""

import math

import numpy as np
import pytest
import torch

from analysis.metrics import pixels


def test_pixels_and_images_are_each_others_inverse() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    images = pixels.to_images(levels)
    assert images.shape == (1, 3, 16, 16)
    assert (images.min().item(), images.max().item()) == (-1, 1)
    assert np.array_equal(pixels.to_pixels(images), levels)
    assert pixels.to_pixels(torch.full((1, 3, 1, 1), 7.0)).max() == 255


def test_psnr_and_latent_mse_of_known_differences() -> None:
    a = torch.zeros(2, 3, 4, 4)
    b = torch.stack([torch.full((3, 4, 4), 0.2), torch.full((3, 4, 4), -0.02)])
    torch.testing.assert_close(pixels.psnr(a, b), torch.tensor([20.0, 40.0]))
    torch.testing.assert_close(pixels.latent_mse(a, b), torch.tensor([0.04, 0.0004]))
    with pytest.raises(ValueError, match=r"same shape, got \(2, 3, 4, 4\) and \(1, 3, 4, 4\)"):
        pixels.psnr(a, b[:1])


def test_edges_and_spectrum_of_a_wave() -> None:
    x = torch.arange(32) / 32
    waves = torch.stack([torch.cos(2 * math.pi * k * x).expand(3, 32, 32) for k in (2, 5)])
    spectrum = pixels.radial_spectrum(waves)
    assert spectrum.shape == (2, 16) and spectrum.argmax(1).tolist() == [1, 4]  # rings 2 and 5
    soft = torch.nn.functional.avg_pool2d(waves, 5, 1)
    assert (pixels.edge_strength(soft) < pixels.edge_strength(waves)).all()
    ramp = torch.linspace(-1, 1, 33)[:32].expand(1, 3, 32, 32)  # 1/16 a pixel
    assert pixels.edge_strength(ramp).item() == pytest.approx(1 / 16, rel=1e-5)
    noise = torch.rand(4, 3, 32, 32) - 0.5
    assert pixels.spectrum_error(noise, noise) == 0
    assert pixels.spectrum_error(2 * noise, noise) == pytest.approx(20 * math.log10(2), abs=1e-4)
