"""Discriminators: networks that are trained against a CRF or an autoencoder.

LatentDiscriminator reads latents; PatchDiscriminator and FeatureDiscriminator read images. ImageDiscriminator and
PairDiscriminator hold one of the latter, show it random views and train it, on single images or on pairs.
"""

import argparse
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from latentcrf.precision import autocast
from latentcrf.training.loop import optimise
from latentcrf.training.losses import discriminator_loss, generator_loss, relativistic_loss
from latentcrf.training.perceptual import VGG16, load_lpips
from latentcrf.training.processes import count_all, take_share
from latentcrf.utils.weights import read_weights

# name -> side of the views in px; None: the images as they are
DISCRIMINATORS = {"alexnet": 128, "patches": None, "vgg16": 64}
# Those on a trained network, and the folder of its weights in assets/models.
PAIR_DISCRIMINATORS = {"alexnet": "lpips-alexnet", "vgg16": "vgg16"}


class LatentDiscriminator(nn.Module):
    """Rates patches of latents.

    Every convolution is spectrally normalised (Miyato et al., ICLR 2018), so that the logits change no faster than the
    latents times a constant. No batch or group statistics enter: a logit depends on its patch (24 x 24 sites) alone.

    Args:
        latent_channels: C.
        channels: width at full resolution; doubled at each of the two halvings.
    """

    def __init__(self, latent_channels: int = 4, channels: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = [spectral_norm(nn.Conv2d(latent_channels, channels, 3, padding=1))]
        for width in (channels, 2 * channels):
            layers += [
                nn.LeakyReLU(0.2),
                spectral_norm(nn.Conv2d(width, 2 * width, 4, stride=2, padding=1)),
                nn.LeakyReLU(0.2),
                spectral_norm(nn.Conv2d(2 * width, 2 * width, 3, padding=1)),
            ]
        self.features = nn.Sequential(*layers)
        self.head = spectral_norm(nn.Conv2d(4 * channels, 1, 1))

    def forward(self, latents: Tensor) -> Tensor:
        """Rate latents (B, C, H, W), H and W at least 4: logits (B, 1, H // 4, W // 4), high for real ones."""
        return self.head(F.leaky_relu(self.features(latents), 0.2))


class PatchDiscriminator(nn.Sequential):
    """Rates overlapping patches of 38 px of images (PatchGAN, arXiv 1611.07004); 0.17 M parameters.

    Images (B, 3, H, W) -> logits (B, 1, H // 8, W // 8), high for real ones.

    Args:
        width: channels of the first layer.
    """

    def __init__(self, width: int = 32) -> None:
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for factor in (2, 4):
            layers += [nn.Conv2d(width * factor // 2, width * factor, 4, 2, 1)]
            layers += [nn.GroupNorm(8, width * factor), nn.LeakyReLU(0.2)]
        super().__init__(*layers, nn.Conv2d(4 * width, 1, 3, 1, 1))


class FeatureDiscriminator(nn.Module):
    """Rates images by the feature maps of a trained network (Projected GAN, arXiv 2111.01007).

    Each map is brought to unit length at each position, mixed by a fixed random 1x1 convolution, so that no head can
    settle on a few channels, and rated by its own head. The logits are means over a 4 x 4 grid.

    Args:
        backbone: images -> a list of L feature maps; frozen here.
        channels: of the maps.
        width: channels after the mixing.
    """

    def __init__(self, backbone: nn.Module, channels: Sequence[int], width: int = 64) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        mixes = [nn.Conv2d(count, width, 1, bias=False).requires_grad_(False) for count in channels]
        for mix in mixes:
            nn.init.normal_(mix.weight)
        self.mixes = nn.ModuleList(mixes)
        self.heads = nn.ModuleList(
            nn.Sequential(
                spectral_norm(nn.Conv2d(width, 2 * width, 3, padding=1)),
                nn.LeakyReLU(0.2),
                spectral_norm(nn.Conv2d(2 * width, 2 * width, 3, padding=1)),
                nn.LeakyReLU(0.2),
                spectral_norm(nn.Conv2d(2 * width, 1, 1)),
                nn.AdaptiveAvgPool2d(4),
                nn.Flatten(),
            )
            for _ in channels
        )

    def forward(self, images: Tensor) -> Tensor:
        """Rate images (B, 3, H, W) in [-1, 1]: logits (B, 16 L), high for real ones."""
        return self.rate_features(self.extract_features(images))

    def extract_features(self, images: Tensor) -> list[Tensor]:
        """Return the backbone's maps (B, C, h, w) of images (B, 3, H, W), of unit length at each position."""
        return [F.normalize(each.float(), dim=1) for each in self.backbone(images)]

    def rate_features(self, features: Sequence[Tensor]) -> Tensor:
        """Return the logits (B, 16 L) of the maps of `extract_features`."""
        return torch.cat(
            [head(mix(each)) for each, mix, head in zip(features, self.mixes, self.heads, strict=True)], dim=1
        )


def random_view(images: Tensor, size: int, smallest: float, permuted: float = 0.25) -> Tensor:
    """Augment images: flips, permuted colours, one zoom for the batch, crops.

    Permuted colours keep an autoencoder from learning the data set's few palettes by heart. All processes draw together
    and each takes its share (see `latentcrf.training.processes`).

    Args:
        images: (B, C, H, W), C = 3 where colours are permuted.
        size: side of the crops in px.
        smallest: lower end of the zoom, 0 to 1; the upper end is 1.
        permuted: share of the batches whose colours are permuted, 0 to 1.

    Returns:
        Views (B, C, size, size); where an image is smaller than a view, the rest is white (1).
    """
    count = count_all(len(images))
    flip = take_share(torch.rand(count) < 0.5).to(images.device)
    images = torch.where(flip[:, None, None, None], images.flip(-1), images)
    if torch.rand(()) < permuted:
        images = images[:, torch.randperm(3)]
    zoom = smallest + (1 - smallest) * torch.rand(()).item()
    side = max(size if size < images.shape[-1] else 8, round(images.shape[-1] * zoom))
    if side < images.shape[-1]:
        images = F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
    if side < size:
        left, top = torch.randint(size - side + 1, (2,)).tolist()
        return F.pad(images, (left, size - side - left, top, size - side - top), value=1.0)
    if side == size:
        return images
    lefts, tops = (take_share(each).tolist() for each in torch.randint(side - size + 1, (2, count)))
    return torch.stack([image[:, t : t + size, x : x + size] for image, x, t in zip(images, lefts, tops, strict=True)])


def build_feature_discriminator(name: str, feature_weights: Path | None = None) -> FeatureDiscriminator:
    """Build a discriminator on a trained network.

    Args:
        name: one of `PAIR_DISCRIMINATORS`.
        feature_weights: folder with the network's `model.safetensors`; None (default): that of the checkout.

    Returns:
        The discriminator; its heads are random.

    Raises:
        FileNotFoundError: the weights are not there; the message says how to get or name them.
    """
    if name == "vgg16":
        return FeatureDiscriminator(VGG16(read_weights(PAIR_DISCRIMINATORS[name], feature_weights)), VGG16.CHANNELS)
    lpips: Any = load_lpips(feature_weights)
    return FeatureDiscriminator(nn.Sequential(lpips.scaling_layer, lpips.net), lpips.chns)


def build_optimizer(network: nn.Module, learning_rate: float) -> torch.optim.AdamW:
    """Build a discriminator's optimizer, of the weights that are not frozen."""
    learned = [weight for weight in network.parameters() if weight.requires_grad]
    return torch.optim.AdamW(learned, lr=learning_rate, betas=(0.5, 0.9))


class ImageDiscriminator(nn.Module):
    """A discriminator of images with its optimizer. It sees random views of them.

    Images are (B, 3, H, W) in [-1, 1].

    Args:
        name: a key of `DISCRIMINATORS`.
        feature_weights: as in `build_feature_discriminator`.
        learning_rate: of its optimizer.
        precision: in which it computes.
    """

    def __init__(
        self,
        name: str,
        feature_weights: Path | None = None,
        learning_rate: float = 3e-4,
        precision: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.precision = precision
        self.view_size = DISCRIMINATORS[name]
        self.network = PatchDiscriminator() if name == "patches" else build_feature_discriminator(name, feature_weights)
        self.optimizer = build_optimizer(self.network, learning_rate)

    def draw_view(self, images: Tensor) -> Tensor:
        """Draw a random view of images; "patches" sees them as they are."""
        if self.view_size is None:
            return images
        return random_view(images, self.view_size, smallest=0.5 if self.view_size < images.shape[-1] else 0.8)

    def generator_loss(self, generated: Tensor) -> Tensor:
        """Compute the loss of the network that generated these images, a scalar."""
        with autocast(generated.device, self.precision):
            return generator_loss(self.network, self.draw_view(generated))

    def train_step(self, accelerator: Accelerator, real: Tensor, generated: Tensor) -> Tensor:
        """Train the discriminator on real and generated images; return its loss, a scalar."""
        with autocast(generated.device, self.precision):
            loss = discriminator_loss(self.network, self.draw_view(real), self.draw_view(generated.detach()))
        optimise(accelerator, loss, self.network, self.optimizer)
        return loss.detach()


class PairDiscriminator(nn.Module):
    """A discriminator of pairs of images with its optimizer, on a trained network's features.

    It compares a generated image with its target. Images are (B, 3, H, W) in [-1, 1].

    Args:
        name: one of `PAIR_DISCRIMINATORS`.
        feature_weights: as in `build_feature_discriminator`.
        learning_rate: of its optimizer.
        precision: in which it computes.
    """

    def __init__(
        self,
        name: str,
        feature_weights: Path | None = None,
        learning_rate: float = 3e-4,
        precision: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.precision = precision
        self.view_size = DISCRIMINATORS[name] or 0
        self.network = build_feature_discriminator(name, feature_weights)
        self.optimizer = build_optimizer(self.network, learning_rate)

    def extract_features(self, generated: Tensor, target: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Extract the features of both images, from one random view of each pair.

        Args:
            generated: images; gradients reach these alone.
            target: images.

        Returns:
            The feature maps of both, (B, C, h, w) each.
        """
        view = random_view(torch.cat([generated, target], dim=1), self.view_size, smallest=0.5, permuted=0.0)
        with autocast(generated.device, self.precision):
            features = self.network.extract_features(view[:, :3])
            with torch.no_grad():
                return features, self.network.extract_features(view[:, 3:])

    def rate(self, generated: list[Tensor], target: list[Tensor]) -> tuple[Tensor, ...]:
        """Return the logits of the features of both images, by the same spectral norms."""
        with autocast(generated[0].device, self.precision):
            return self.network.rate_features([torch.cat(pair) for pair in zip(generated, target, strict=True)]).chunk(
                2
            )

    def generator_loss(self, generated: list[Tensor], target: list[Tensor]) -> Tensor:
        """Compute the loss of the network that generated the images of these features, a scalar."""
        ours, theirs = self.rate(generated, target)
        return relativistic_loss(ours, theirs.detach())

    def train_step(self, accelerator: Accelerator, generated: list[Tensor], target: list[Tensor]) -> Tensor:
        """Train the discriminator on the features of both images; return its loss, a scalar."""
        ours, theirs = self.rate([each.detach() for each in generated], target)
        loss = relativistic_loss(theirs, ours)
        optimise(accelerator, loss, self.network, self.optimizer)
        return loss.detach()


def add_discriminator_arguments(
    parser: argparse.ArgumentParser, names: Collection[str] = DISCRIMINATORS, default: str = "vgg16"
) -> None:
    """Add the options that choose the discriminator of images.

    Args:
        parser: of the command line.
        names: of discriminators that are accepted.
        default: one of them.
    """
    patches = ", or patches of pixels" if "patches" in names else ""
    parser.add_argument(
        "--discriminator",
        choices=sorted(names),
        default=default,
        help=f"what the discriminator of images reads: features of VGG16 or AlexNet, trained on ImageNet{patches} "
        f"(default {default})",
    )
    parser.add_argument(
        "--feature-weights",
        type=Path,
        metavar="FOLDER",
        help="folder with model.safetensors of that network, as python -m recipes.emoji.third_party_weights writes it "
        "(default: assets/models/vgg16 or assets/models/lpips-alexnet of the checkout; the latter ships)",
    )
