"""Metrics refuse images of another range, shape or size with a sentence."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from analysis.metrics.distributions import RealFeatures, frechet_draws, kid_draws
from analysis.metrics.diversity import lpips_matrix, vendi
from analysis.metrics.perceptual import EfficientNetLite0, lpips
from analysis.metrics.pixels import edge_strength, psnr, radial_spectrum, spectrum_error
from analysis.metrics.retrieval import retrieval_ranks

METRICS: dict[str, Callable[[Tensor], Any]] = {
    "psnr": lambda images: psnr(images, images),
    "edges": edge_strength,
    "lpips": lambda images: lpips(torch.nn.Identity(), images, images),
    "pairs": lambda images: lpips_matrix(None, images),
    "spectrum": lambda images: spectrum_error(images, images),
    "features": lambda images: EfficientNetLite0.forward(None, images),  # type: ignore[arg-type]
}
GOOD = torch.zeros(2, 3, 40, 40)
BAD: dict[str, tuple[Tensor, str]] = {
    "uint8": (GOOD.byte(), "got uint8: `to_images` converts"),
    "0 to 255": (GOOD + 200, "got values from 200 to 200"),
    "NaN": (GOOD * float("nan"), "got values from nan to nan"),
    "one channel": (GOOD[:, :1], r"got shape \(2, 1, 40, 40\)"),
    "one image": (GOOD[0], r"got shape \(3, 40, 40\)"),
    "channels last": (GOOD.permute(0, 2, 3, 1), r"got shape \(2, 40, 40, 3\)"),
    "none": (GOOD[:0], r"got shape \(0, 3, 40, 40\)"),
}


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("bad", BAD)
def test_what_is_no_image_is_refused(name: str, bad: str) -> None:
    images, words = BAD[bad]
    with pytest.raises(ValueError, match=words):
        METRICS[name](images)


@pytest.mark.parametrize("name", ["lpips", "pairs"])
def test_images_too_small_for_the_network_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="31 pixels or more"):
        METRICS[name](GOOD[:, :, :30])
    assert psnr(GOOD * 1.2, GOOD).shape == (2,)  # a decoder overshoots


def test_spectra_of_different_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="the same shape"):
        spectrum_error(GOOD, GOOD[:1, :, :30, :30])
    with pytest.raises(ValueError, match="square images are wanted"):
        radial_spectrum(GOOD[:, :, :30])


FEATURES = torch.eye(4, 6)
REAL = RealFeatures(FEATURES)
ONE_EACH: Any = (torch.arange(4).numpy(), REAL, torch.ones(1, 4).numpy())
OF_FEATURES: dict[str, Callable[[Tensor], Any]] = {
    "kid": lambda features: kid_draws(features, *ONE_EACH),
    "frechet": lambda features: frechet_draws(features, *ONE_EACH),
    "ranks": lambda features: retrieval_ranks(features, ["a"] * len(features), FEATURES, ["a"] * 4),
    "vendi": vendi,
    "real": RealFeatures,
}


@pytest.mark.parametrize("name", OF_FEATURES)
def test_what_are_no_features_is_refused(name: str) -> None:
    bad = [FEATURES[0], FEATURES[:0], FEATURES.long(), FEATURES * float("nan")]
    bad += [] if name in ("vendi", "real") else [FEATURES[:, :5]]
    for features in bad:
        with pytest.raises(ValueError, match="features must be"):
            OF_FEATURES[name](features)
    OF_FEATURES[name](FEATURES)
