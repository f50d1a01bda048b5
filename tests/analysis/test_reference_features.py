"""Features of the data set's images: computed once for images and weights."""

from pathlib import Path

import numpy as np
import torch

from analysis.metrics.pixels import to_images
from analysis.reference_features import load_gallery
from tests.analysis.test_prompts import some_rows


class MeanColour(torch.nn.Module):
    """A feature extractor that can be checked by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()), requires_grad=False)
        self.calls = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return images.mean((2, 3)) * self.scale


def test_gallery_is_computed_once_for_pictures_and_weights(tmp_path: Path) -> None:
    rows, model = some_rows(), MeanColour()
    pixels = np.random.default_rng(0).integers(256, size=(20, 4, 4, 3), dtype=np.uint8)
    features, labels = load_gallery(model, rows, pixels, tmp_path)
    torch.testing.assert_close(features, to_images(pixels).mean((2, 3)))
    assert labels == [str(i) for i in range(20)]
    calls = model.calls
    assert torch.equal(load_gallery(model, rows, pixels, tmp_path)[0], features)
    assert model.calls == calls
    model.scale.fill_(2)
    torch.testing.assert_close(load_gallery(model, rows, pixels, tmp_path)[0], features * 2)
