"""Captions of the data set's pictures, as the token states that the U-Net reads."""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import logging
from torch import Tensor

STYLE_WORDS = {"3d": "3d", "flat": "flat", "noto": "noto", "twemoji": "twemoji"}
# How often a picture comes with which caption: nothing, label, label and style, label and two of its tags.
CAPTION_SHARES = (0.1, 0.4, 0.3, 0.2)


@dataclass(frozen=True)
class Captions:
    """Every caption's token states, and for each picture the rows that describe it.

    Attributes:
        states: token states (K, 16, 384), float16; row 0 is the empty caption.
        rows: for each picture, three lists of rows: label; label and style; label and tags.
    """

    states: Tensor
    rows: list[tuple[list[int], list[int], list[int]]]

    def draw(self, indices: Tensor) -> Tensor:
        """Token states (B, 16, 384), float32, of a random caption for each picture."""
        kinds = torch.multinomial(torch.tensor(CAPTION_SHARES), len(indices), replacement=True).tolist()
        chosen = []
        for index, kind in zip(indices.tolist(), kinds, strict=True):
            choices = self.rows[index][kind - 1] if kind else [0]
            chosen.append(choices[int(torch.randint(len(choices), ()))])
        return self.states[chosen].float()


@torch.no_grad()
def encode_captions(pipeline: StableDiffusionPipeline, captions: list[str], batch_size: int = 256) -> Tensor:
    """Token states (K, 16, 384) of captions, float16 on the CPU, made by the pipeline's own `encode_prompt`."""
    device = pipeline.device
    # Longer captions are cut at 16 tokens: meant, and not worth a warning for each.
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    parts = [
        pipeline.encode_prompt(captions[start : start + batch_size], device, 1, False)[0].half().cpu()
        for start in range(0, len(captions), batch_size)
    ]
    logging.set_verbosity(verbosity)
    return torch.cat(parts)


def build_captions(pipeline: StableDiffusionPipeline, rows: list[dict[str, Any]]) -> Captions:
    """Encode the caption variants of the data set's `rows`; tags come in pairs, neighbours in the list of tags."""
    index: dict[str, int] = {"": 0}

    def row_of(caption: str) -> int:
        return index.setdefault(caption, len(index))

    described = []
    for row in rows:
        label, tags = row["text"], [tag for tag in row["tags"] if tag not in row["text"]]
        pairs = [f"{label}, {first}, {second}" for first, second in zip(tags, tags[1:], strict=False)] or [label]
        described.append(
            ([row_of(label)], [row_of(f"{label}, {STYLE_WORDS[row['style']]}")], [row_of(pair) for pair in pairs])
        )
    return Captions(encode_captions(pipeline, list(index)), described)
