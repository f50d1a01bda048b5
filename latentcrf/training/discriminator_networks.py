"""Light discriminators, for the adversarial parts of the training: on clean latents, and on images."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class LatentDiscriminator(nn.Module):
    """Scores patches of latents (B, C, H, W), H and W at least 4: (B, 1, H // 4, W // 4) logits, high for real ones.

    Every convolution is spectrally normalised (Miyato et al., ICLR 2018), so that the scores change no faster than the
    latents times a constant; no batch or group statistics enter, so a score depends on its patch (24 x 24 sites) alone.

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
        self.score = spectral_norm(nn.Conv2d(4 * channels, 1, 1))

    def forward(self, latents: Tensor) -> Tensor:
        return self.score(F.leaky_relu(self.features(latents), 0.2))


class PatchDiscriminator(nn.Sequential):
    """Scores overlapping patches of 38 px of images (B, 3, H, W), high for real ones (PatchGAN, arXiv 1611.07004); 0.17 M
    parameters."""

    def __init__(self, width: int = 32) -> None:
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for factor in (2, 4):
            layers += [nn.Conv2d(width * factor // 2, width * factor, 4, 2, 1)]
            layers += [nn.GroupNorm(8, width * factor), nn.LeakyReLU(0.2)]
        super().__init__(*layers, nn.Conv2d(4 * width, 1, 3, 1, 1))


class FeatureDiscriminator(nn.Module):
    """Scores images (B, 3, H, W) in [-1, 1] by what a trained network sees in them: (B, 16 L) logits, high for real ones, L the
    feature maps of `backbone` (Projected GAN, arXiv 2111.01007).

    Each of the backbone's maps is brought to unit length at each position, mixed by a fixed random 1x1 convolution, so
    that no head can settle on a few channels, and judged by a head of its own; the scores are means over a 4 x 4 grid.

    Args:
        backbone: images -> a list of feature maps; frozen here.
        channels: their channels.
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
        return self.scores(self.maps(images))

    def maps(self, images: Tensor) -> list[Tensor]:
        """The backbone's maps (B, C, h, w), of unit length at each position."""
        return [F.normalize(each.float(), dim=1) for each in self.backbone(images)]

    def scores(self, maps: Sequence[Tensor]) -> Tensor:
        """The logits (B, 16 L) of what `maps` returns."""
        return torch.cat([head(mix(each)) for each, mix, head in zip(maps, self.mixes, self.heads, strict=True)], dim=1)
