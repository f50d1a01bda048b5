"""Trained networks by which images are compared: LPIPS (AlexNet) and VGG16. They need `latentcrf[training]`."""

import warnings
from pathlib import Path
from typing import cast

import lpips
import torch
from torch import Tensor, nn
from torchvision.models import vgg

from latentcrf.utils.weights import IMAGENET_MEAN, IMAGENET_STD, read_weights


def load_lpips(folder: str | Path | None = None) -> nn.Module:
    """Load LPIPS v0.1 with AlexNet (Zhang et al., CVPR 2018), frozen and in evaluation mode.

    Called on two batches of images (B, 3, H, W) in [-1, 1], it returns their distances (B, 1, 1, 1).

    Args:
        folder: holds `model.safetensors`; None (default): `assets/models/lpips-alexnet` of the checkout.

    Raises:
        FileNotFoundError: the weights are not there; the message says how to get or name them.
    """
    weights = read_weights("lpips-alexnet", folder)
    # lpips draws 60 million random weights first: the caller's random state must stay
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
        model = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    layers = {name: layer for block in model.net.children() for name, layer in block.named_children()}
    for name, layer in layers.items():
        if isinstance(layer, nn.Conv2d):
            layer.load_state_dict({key: weights[f"features.{name}.{key}"] for key in ("weight", "bias")})
    return cast(nn.Module, model.requires_grad_(False).eval())


class VGG16(nn.Module):
    """ImageNet's VGG16 (Simonyan & Zisserman, ICLR 2015) up to relu4_3, frozen.

    Args:
        weights: of the convolutions, by torchvision's names.
    """

    CHANNELS = (128, 256, 512)
    ENDS = (9, 16, 23)  # layers of torchvision's `features` after which a map is taken

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        layers = vgg.make_layers(vgg.cfgs["D"][:13])
        layers.load_state_dict({name.removeprefix("features."): weight for name, weight in weights.items()})
        begins = (0, *self.ENDS)
        self.blocks = nn.ModuleList(layers[begin:end] for begin, end in zip(begins, self.ENDS, strict=False))
        self.requires_grad_(False).eval().to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute the maps relu2_2, relu3_3 and relu4_3, of H / 2, H / 4 and H / 8 px.

        Args:
            images: (B, 3, H, W) in [-1, 1].

        Returns:
            The three maps, (B, 128, ...), (B, 256, ...) and (B, 512, ...).
        """
        mean, std = (images.new_tensor(each).view(3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
        x, maps = ((images + 1) / 2 - mean) / std, []
        for block in self.blocks:
            maps.append(x := block(x))
        return maps
