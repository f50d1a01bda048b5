"""The discriminators: they learn, at any size."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from safetensors.torch import save_file

from latentcrf.training.discriminators import (
    DISCRIMINATORS,
    FeatureDiscriminator,
    ImageDiscriminator,
    LatentDiscriminator,
    PairDiscriminator,
    PatchDiscriminator,
    build_feature_discriminator,
)
from latentcrf.training.losses import discriminator_loss, feature_loss
from latentcrf.training.perceptual import VGG16


def test_it_learns_to_tell_waves_from_noise() -> None:
    torch.manual_seed(0)
    network = LatentDiscriminator(channels=8)
    wave = torch.linspace(0, 6, 16).sin().expand(8, 4, 16, 16)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for _ in range(40):
        optimizer.zero_grad()
        noisy = wave + 0.1 * torch.randn(8, 4, 16, 16)
        discriminator_loss(network, noisy, torch.randn(8, 4, 16, 16)).backward()
        optimizer.step()
    assert network(wave).mean() > network(torch.randn(8, 4, 16, 16)).mean() + 0.5


def test_patches_and_parameters() -> None:
    network = LatentDiscriminator().eval()
    assert sum(p.numel() for p in network.parameters()) < 1.5e6
    assert network(torch.randn(2, 4, 16, 16)).shape == (2, 1, 4, 4)
    assert network(torch.randn(1, 4, 33, 64)).shape == (1, 1, 8, 16)


def test_a_score_depends_on_24_sites_each_way() -> None:
    network = LatentDiscriminator(channels=8).eval()
    x = torch.randn(1, 4, 64, 64, requires_grad=True)
    network(x)[0, 0, 8, 8].backward()
    seen = x.grad.abs().sum(dim=(0, 1)).nonzero()
    assert (seen.amax(dim=0) - seen.amin(dim=0) + 1).tolist() == [24, 24]


def test_an_images_score_depends_on_38_pixels_each_way() -> None:
    layers = PatchDiscriminator(width=8)
    # without the only layers that see all of the image
    network = torch.nn.Sequential(*(layer for layer in layers if not isinstance(layer, torch.nn.GroupNorm)))
    images = torch.zeros(2, 3, 128, 96, requires_grad=True)
    logits = network(images)
    assert logits.shape == (2, 1, 16, 12)
    logits[0, 0, 8, 6].backward()
    (rows,) = images.grad[0].abs().sum((0, 2)).nonzero(as_tuple=True)
    assert rows.max() - rows.min() + 1 == 38 and not images.grad[1].any()


def vgg16_weights() -> dict[str, torch.Tensor]:
    """Random weights, of the shapes that `recipes.emoji.third_party_weights.read_vgg16` reads."""
    places, widths = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21), (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512)
    weights = {}
    for place, c_in, c_out in zip(places, widths, widths[1:], strict=False):
        weights[f"features.{place}.weight"] = torch.randn(c_out, c_in, 3, 3) * (2 / (9 * c_in)) ** 0.5
        weights[f"features.{place}.bias"] = torch.zeros(c_out)
    return weights


def test_vgg16_has_the_maps_of_torchvisions() -> None:
    from torchvision.models import vgg

    weights = vgg16_weights()
    theirs = vgg.make_layers(vgg.cfgs["D"])
    theirs.load_state_dict({name[9:]: weight for name, weight in weights.items()}, strict=False)
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = ((images / 2 + 0.5) - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    maps = VGG16(weights)(images)
    assert [tuple(each.shape[1:]) for each in maps] == [(128, 32, 32), (256, 16, 16), (512, 8, 8)]
    for each, layer in zip(maps, (8, 15, 22), strict=True):
        torch.testing.assert_close(each, theirs[: layer + 1](x), rtol=1e-4, atol=1e-4)


def test_a_discriminator_on_features_learns_what_is_real_and_its_backbone_stays() -> None:
    torch.manual_seed(0)
    network = build_feature_discriminator("alexnet")
    heads = [weight for weight in network.parameters() if weight.requires_grad]
    before = [weight.clone() for weight in network.backbone.parameters()]
    stripes = torch.linspace(0, 40, 64).sin().expand(4, 3, 64, 64)
    optimizer = torch.optim.Adam(heads, lr=2e-3)
    for _ in range(30):
        optimizer.zero_grad()
        discriminator_loss(network, stripes + 0.1 * torch.randn(4, 3, 64, 64), torch.randn(4, 3, 64, 64) / 3).backward()
        optimizer.step()
    assert network(stripes).shape == (4, 16 * 5)
    assert network(stripes).mean() > network(torch.randn(4, 3, 64, 64) / 3).mean() + 0.5
    assert all(a.equal(b) for a, b in zip(network.backbone.parameters(), before, strict=True))
    assert not any(weight.requires_grad for weight in network.mixes.parameters())
    images = stripes.clone().requires_grad_()
    network(images).mean().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0


def test_a_score_of_features_does_not_depend_on_the_batch() -> None:
    network = FeatureDiscriminator(VGG16(vgg16_weights()), VGG16.CHANNELS).eval()
    images = torch.rand(3, 3, 64, 64)
    torch.testing.assert_close(network(images)[1:2], network(images[1:2]), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_pair_discriminator_sees_one_view_of_both_and_learns_which_was_generated() -> None:
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True)
    discriminator = PairDiscriminator("alexnet", learning_rate=2e-3)
    target = torch.rand(4, 3, 128, 128) * 2 - 1
    same, other = discriminator.extract_features(target.clone().requires_grad_(), target)
    # also cut out at the same place; with gradients kernels may round differently
    torch.testing.assert_close(same, other)
    assert same[0].requires_grad and not other[0].requires_grad
    assert feature_loss(same, other) < 1e-6
    assert discriminator.generator_loss(same, other).item() == pytest.approx(math.log(2), abs=1e-5)
    generated = F.avg_pool2d(target, 3, 1, 1).requires_grad_()  # blurred
    assert 0.01 < feature_loss(*discriminator.extract_features(generated, target)) < 2
    losses = [
        discriminator.train_step(accelerator, *discriminator.extract_features(generated, target)).item()
        for _ in range(30)
    ]
    assert losses[-1] < 0.4 < losses[0]
    assert generated.grad is None  # the discriminator's step leaves the images alone
    seen = discriminator.extract_features(generated, target)
    assert discriminator.generator_loss(*seen) > 1  # the discriminator tells them apart
    discriminator.generator_loss(*seen).backward()
    assert generated.grad is not None and generated.grad.abs().sum() > 0


def test_an_image_discriminator_learns_which_images_are_real(tmp_path: Path) -> None:
    accelerator = Accelerator(cpu=True)
    save_file(vgg16_weights(), tmp_path / "model.safetensors")
    real = torch.linspace(0, 40, 128).sin().expand(4, 3, 128, 128)
    for name in DISCRIMINATORS:
        discriminator = ImageDiscriminator(name, tmp_path if name == "vgg16" else None, learning_rate=2e-3)
        size = DISCRIMINATORS[name] or 128
        assert discriminator.draw_view(real).shape == (4, 3, size, size)
        generated = (torch.randn(4, 3, 128, 128) / 3).requires_grad_()
        losses = [discriminator.train_step(accelerator, real, generated).item() for _ in range(6)]
        assert generated.grad is None and losses[-1] < losses[0], name
        discriminator.generator_loss(generated).backward()
        assert generated.grad is not None and generated.grad.abs().sum() > 0


def test_weights_that_are_missing_are_named(tmp_path: Path) -> None:
    for kind in (ImageDiscriminator, PairDiscriminator):
        with pytest.raises(FileNotFoundError, match=r"model.safetensors is missing.*--models vgg16.*--feature-weights"):
            kind("vgg16", tmp_path)
