"""A pipeline's safety checker: which images it blocks, and what is shown in their place."""

from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

BLOCKED = "Blocked by the model's safety checker."


def find_blocked(pipeline: Any, images: Tensor, device: torch.device) -> list[bool]:
    """Find the images that a pipeline's safety checker blocks.

    Args:
        pipeline: with a safety checker or without one.
        images: (B, 3, H, W) in [-1, 1].
        device: on which the pipeline computes.

    Returns:
        Whether each is blocked (B).
    """
    checker = getattr(pipeline, "safety_checker", None)
    if checker is None:
        return [False] * len(images)
    # a copy: the checker blackens what it is given
    _, blocked = pipeline.run_safety_checker(images.clone(), device, next(checker.parameters()).dtype)
    return [bool(is_blocked) for is_blocked in blocked]


def draw_blocked(height: int, width: int) -> Tensor:
    """Draw what stands for a blocked image: a sentence on grey.

    Args:
        height: of the image, in pixels.
        width: alike.

    Returns:
        (3, height, width) in [-1, 1].
    """
    image = Image.new("RGB", (width, height), "#e5e7eb")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(max(8, width // 16))
    lines = [""]
    for word in BLOCKED.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and draw.textlength(longer, font) > 0.9 * width:
            lines.append(word)
        else:
            lines[-1] = longer
    middle = (width / 2, height / 2)
    draw.multiline_text(middle, "\n".join(lines), "#374151", font, anchor="mm", align="center")
    return torch.from_numpy(np.asarray(image, dtype=np.float32)).permute(2, 0, 1) / 127.5 - 1
