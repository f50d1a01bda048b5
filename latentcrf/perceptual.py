"""Perceptual measures that work offline: LPIPS (AlexNet) and EfficientNet-Lite0 features, from weights shipped in assets/."""

import warnings
from pathlib import Path
from typing import cast

import lpips
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

MODELS = Path(__file__).parent.parent / "assets" / "models"


def _read(folder: str | Path, what: str) -> dict[str, Tensor]:
    path = Path(folder) / "model.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {what}. Make it: python -m latentcrf.emoji.parts --out {Path(folder).parent}")
    return load_file(path)


def load_lpips(folder: str | Path = MODELS / "lpips-alexnet") -> nn.Module:
    """LPIPS v0.1 with AlexNet (Zhang et al., CVPR 2018), frozen and in evaluation mode.

    Called on two batches of images (B, 3, H, W) in [-1, 1], it returns their distances (B, 1, 1, 1).

    Raises:
        FileNotFoundError: `folder` holds no `model.safetensors`.
    """
    weights = _read(folder, "the AlexNet of LPIPS")
    # lpips draws 60 million random weights first: the caller's random state must not notice
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
        model = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    layers = {name: layer for slice_ in model.net.children() for name, layer in slice_.named_children()}
    for name, layer in layers.items():
        if isinstance(layer, nn.Conv2d):
            layer.load_state_dict({key: weights[f"features.{name}.{key}"] for key in ("weight", "bias")})
    return cast(nn.Module, model.requires_grad_(False).eval())
