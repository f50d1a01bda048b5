"""Perceptual measures that work offline, from weights in assets/: LPIPS (AlexNet) and EfficientNet-Lite0 features.

And VGG16, by whose features training compares images; it measures nothing here.
"""

import warnings
from pathlib import Path
from typing import cast

import lpips
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import vgg

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MODELS = Path(__file__).parent.parent / "assets" / "models"


def _read(folder: str | Path) -> dict[str, Tensor]:
    path = Path(folder) / "model.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing. Make it: python -m latentcrf.emoji.parts --out {Path(folder).parent}"
        )
    return load_file(path)


def load_lpips(folder: str | Path = MODELS / "lpips-alexnet") -> nn.Module:
    """LPIPS v0.1 with AlexNet (Zhang et al., CVPR 2018), frozen and in evaluation mode.

    Called on two batches of images (B, 3, H, W) in [-1, 1], it returns their distances (B, 1, 1, 1).

    Raises:
        FileNotFoundError: `folder` holds no `model.safetensors`.
    """
    weights = _read(folder)
    # lpips draws 60 million random weights first: the caller's random state must not notice
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
        model = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    layers = {name: layer for part in model.net.children() for name, layer in part.named_children()}
    for name, layer in layers.items():
        if isinstance(layer, nn.Conv2d):
            layer.load_state_dict({key: weights[f"features.{name}.{key}"] for key in ("weight", "bias")})
    return cast(nn.Module, model.requires_grad_(False).eval())


class SamePadConv(nn.Conv2d):
    """TensorFlow's "SAME" convolution: with stride 2 the odd column of padding lies right and below."""

    def forward(self, x: Tensor) -> Tensor:
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        height, width = (max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in x.shape[-2:])
        x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return super().forward(x)


class InvertedResidual(nn.Module):
    """Expand, convolve each channel by itself, project; added to the input where the shapes agree."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        c = c_in * expansion
        self.expand = SamePadConv(c_in, c, 1) if expansion > 1 else nn.Identity()
        self.depthwise = SamePadConv(c, c, kernel, stride, groups=c)
        self.project = SamePadConv(c, c_out, 1)
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        h = x if isinstance(self.expand, nn.Identity) else F.relu6(self.expand(x))
        h = self.project(F.relu6(self.depthwise(h)))
        return x + h if self.residual else h


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 (Tan & Le, ICML 2019; without squeeze-and-excitation), 4.7 M parameters, batch norms folded.

    Called on images (B, 3, H, W) in [-1, 1] of any size, it resizes them to 192 px and returns pooled features
    (B, 1280); `classify` gives ImageNet logits (B, 1000).
    """

    SIZE = 192
    # (blocks, kernel, stride of the first, expansion, channels)
    STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.stem = SamePadConv(3, 32, 3, 2)
        blocks, c = [], 32
        for count, kernel, stride, expansion, c_out in self.STAGES:
            for index in range(count):
                blocks.append(InvertedResidual(c, c_out, kernel, stride if index == 0 else 1, expansion))
                c = c_out
        self.blocks = nn.Sequential(*blocks)
        self.head = SamePadConv(c, 1280, 1)
        self.classifier = nn.Linear(1280, 1000)

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be (B, 3, H, W) in [-1, 1], got shape {tuple(images.shape)}.")
        size = (self.SIZE, self.SIZE)
        x = F.interpolate(images, size, mode="bicubic", align_corners=False, antialias=True).clamp(-1, 1)
        x = ((x + 1) / 2 - x.new_tensor(IMAGENET_MEAN).view(3, 1, 1)) / x.new_tensor(IMAGENET_STD).view(3, 1, 1)
        x = F.relu6(self.head(self.blocks(F.relu6(self.stem(x)))))
        return x.mean((-2, -1))

    def classify(self, images: Tensor) -> Tensor:
        return self.classifier(self(images))


def load_features(folder: str | Path = MODELS / "efficientnet-lite0") -> EfficientNetLite0:
    """EfficientNet-Lite0 with ImageNet weights, frozen and in evaluation mode.

    Raises:
        FileNotFoundError: `folder` holds no `model.safetensors`.
    """
    weights = _read(folder)
    with torch.device("meta"):  # no random weights: all of them are read
        model = EfficientNetLite0()
    model.load_state_dict(weights, assign=True)
    model.to(memory_format=torch.channels_last)  # a third faster on CPUs
    return cast(EfficientNetLite0, model.requires_grad_(False).eval())


class VGG16(nn.Module):
    """ImageNet's VGG16 (Simonyan & Zisserman, ICLR 2015) up to relu4_3, frozen: images (B, 3, H, W) in [-1, 1] -> the maps
    relu2_2, relu3_3 and relu4_3, of H / 2, H / 4 and H / 8 px.

    Args:
        weights: torchvision's names -> tensors, as from `latentcrf.emoji.parts.vgg16`.
    """

    CHANNELS = (128, 256, 512)
    ENDS = (9, 16, 23)  # layers of torchvision's `features` after which a map is taken

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        layers = vgg.make_layers(vgg.cfgs["D"][:13])
        layers.load_state_dict({name.removeprefix("features."): weight for name, weight in weights.items()})
        begins = (0, *self.ENDS)
        self.parts = nn.ModuleList(layers[begin:end] for begin, end in zip(begins, self.ENDS, strict=False))
        self.requires_grad_(False).eval().to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> list[Tensor]:
        mean, std = (images.new_tensor(each).view(3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
        x, maps = ((images + 1) / 2 - mean) / std, []
        for part in self.parts:
            maps.append(x := part(x))
        return maps
