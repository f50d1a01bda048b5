"""LPIPS and features against values known from elsewhere."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from analysis.metrics.perceptual import load_features, load_lpips

OURS = Path(__file__).parents[2] / "data"
PUBLISHED = Path(__file__).parents[4] / "shared" / "data" / "lpips-examples"


def read(path: Path) -> Tensor:
    return torch.tensor(np.asarray(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None] / 127.5 - 1


@pytest.fixture(scope="module")
def lpips() -> torch.nn.Module:
    return load_lpips()


@pytest.fixture(scope="module")
def features() -> torch.nn.Module:
    return load_features()


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="LPIPS's example images are not beside this checkout (../shared)")
@pytest.mark.parametrize(("other", "published"), [("ex_p0.png", 0.722), ("ex_p1.png", 0.138)])
def test_lpips_gives_the_published_distances(lpips: torch.nn.Module, other: str, published: float) -> None:
    assert lpips(read(PUBLISHED / "ex_ref.png"), read(PUBLISHED / other)).item() == pytest.approx(published, abs=5e-4)


def test_lpips_of_our_stored_pair(lpips: torch.nn.Module) -> None:
    """An apple and an early autoencoder's reconstruction; the value is that of the weights with published distances."""
    apple, other = read(OURS / "apple.png"), read(OURS / "apple-reconstructed.png")
    assert lpips(apple, other).item() == pytest.approx(0.09693, abs=2e-4)
    assert lpips(apple.flip(3), other).item() == pytest.approx(0.19674, abs=2e-4)
    assert lpips(apple, apple).item() == 0


def test_lpips_is_frozen_but_lets_gradients_through(lpips: torch.nn.Module) -> None:
    assert not lpips.training
    assert not any(parameter.requires_grad for parameter in lpips.parameters())
    image = read(OURS / "apple-reconstructed.png").requires_grad_()
    lpips(image, read(OURS / "apple.png")).sum().backward()
    assert image.grad is not None
    assert image.grad.abs().max() > 0


def test_loading_leaves_the_random_state_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    load_lpips()
    load_features()
    assert torch.equal(torch.rand(4), expected)


# ImageNet's indices of umbrella, zebra, electric guitar
@pytest.mark.parametrize(("name", "index"), [("umbrella", 879), ("zebra", 340), ("guitar", 546)])
def test_efficientnet_recognises_emoji(features: torch.nn.Module, name: str, index: int) -> None:
    probabilities = features.classify(read(OURS / f"{name}.png")).softmax(1)
    assert probabilities.argmax().item() == index
    assert probabilities.max() > 0.9


def test_features_of_a_batch_are_those_of_its_items(features: torch.nn.Module) -> None:
    images = torch.cat([read(OURS / f"{name}.png") for name in ("umbrella", "zebra", "guitar")])
    together, alone = features(images), torch.cat([features(image[None]) for image in images])
    assert together.shape == (3, 1280)
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)
    larger = torch.nn.functional.interpolate(images, (256, 256), mode="bicubic").clamp(-1, 1)
    assert torch.nn.functional.cosine_similarity(features(larger), together).min() > 0.9


def test_wrong_shapes_and_missing_files_are_named(features: torch.nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\).*got shape \(3, 64, 64\)"):
        features(torch.zeros(3, 64, 64))
    for load in (load_lpips, load_features):
        with pytest.raises(
            FileNotFoundError, match=r"model\.safetensors is missing.*recipes\.emoji\.third_party_weights"
        ):
            load(tmp_path)
