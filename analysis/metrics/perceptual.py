"""Metrics by networks: LPIPS between pairs, and the features (EfficientNet-Lite0) that other metrics compare."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analysis.metrics.pixels import check_images, check_same_shape
from latentcrf.training.perceptual import load_lpips as load_lpips
from latentcrf.utils.weights import IMAGENET_MEAN, IMAGENET_STD, read_weights


@torch.inference_mode()
def lpips(model: nn.Module, images: Tensor, reference: Tensor, batch_size: int = 32) -> Tensor:
    """Compute LPIPS of each pair of images.

    Args:
        model: as from `load_lpips`.
        images: (B, 3, H, W) in [-1, 1].
        reference: the same shape and range.
        batch_size: pairs at a time, default 32.

    Returns:
        (B,); 0: equal images.

    Raises:
        ValueError: the shapes differ, or as of `check_images`: AlexNet reads 31 pixels at least.
    """
    check_same_shape(images, reference)
    for each in (images, reference):
        check_images(each, 31)
    pairs = zip(images.split(batch_size), reference.split(batch_size), strict=True)
    return torch.cat([model(a, b).flatten() for a, b in pairs])


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
    STAGES = (
        *((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80)),
        *((3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)),
    )

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
        check_images(images)
        size = (self.SIZE, self.SIZE)
        x = F.interpolate(images, size, mode="bicubic", align_corners=False, antialias=True).clamp(-1, 1)
        x = ((x + 1) / 2 - x.new_tensor(IMAGENET_MEAN).view(3, 1, 1)) / x.new_tensor(IMAGENET_STD).view(3, 1, 1)
        x = F.relu6(self.head(self.blocks(F.relu6(self.stem(x)))))
        return x.mean((-2, -1))

    def classify(self, images: Tensor) -> Tensor:
        return self.classifier(self(images))


def load_features(folder: str | Path | None = None) -> EfficientNetLite0:
    """Load EfficientNet-Lite0 with ImageNet weights, frozen and in evaluation mode.

    Args:
        folder: holds `model.safetensors`; None (default): `assets/models/efficientnet-lite0` of the checkout.

    Raises:
        FileNotFoundError: the weights are not there; the message says how to get or name them.
    """
    weights = read_weights("efficientnet-lite0", folder)
    with torch.device("meta"):  # no random weights: all of them are read
        model = EfficientNetLite0()
    model.load_state_dict(weights, assign=True)
    model.to(memory_format=torch.channels_last)  # a third faster on CPUs
    return model.requires_grad_(False).eval()
