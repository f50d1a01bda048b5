"""Training data: an image folder with captions, as the `datasets` library knows it.

folder/metadata.jsonl   one JSON object a line, with the columns below and any others
folder/prompts.txt      optional: one prompt a line, for the recorded runs
folder/...              the images, all of one size

Columns of metadata.jsonl:
    file_name           the image, relative to the folder
    text                its caption
    split               optional, "train" (default) or another name; only "train" rows are learned from
    autoencoder_only    optional, default false; true: only an autoencoder learns from the row
    caption_variants    optional: three lists of captions, from which `Captions.draw` chooses; default: `text` in all
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import logging
from PIL import Image
from torch import Tensor

METADATA, PROMPTS = "metadata.jsonl", "prompts.txt"
CAPTION_SHARES = (0.1, 0.4, 0.3, 0.2)  # how often an image comes with the empty caption, and with each list's


class DatasetError(RuntimeError):
    """The data set cannot be built or read; the message says why and what to do."""


@dataclass(frozen=True)
class Captions:
    """Token states of all captions, and which captions describe each image.

    Attributes:
        states: token states (K, tokens, D), float16; row 0 is the empty caption.
        rows: for each image, a list of row numbers for each list of its caption variants.
    """

    states: Tensor
    rows: list[list[list[int]]]

    def draw(self, indices: Tensor) -> Tensor:
        """Draw a caption for each image: the empty one or one of its variants, by `CAPTION_SHARES`.

        Args:
            indices: numbers of images (B,).

        Returns:
            Token states (B, tokens, D), float32.
        """
        kinds = torch.multinomial(torch.tensor(CAPTION_SHARES), len(indices), replacement=True).tolist()
        chosen = []
        for index, kind in zip(indices.tolist(), kinds, strict=True):
            choices = self.rows[index][kind - 1] if kind else [0]
            chosen.append(choices[int(torch.randint(len(choices), ()))])
        return self.states[chosen].float()


@dataclass(frozen=True)
class TrainingData:
    """What a CRF learns from.

    Attributes:
        images: uint8 (N, 3, H, W), those of the "train" rows but for the rows with `autoencoder_only`.
        caption_variants: for each image, three lists of captions.
        prompts: for the recorded runs, in this order.
    """

    images: Tensor
    caption_variants: list[list[list[str]]]
    prompts: list[str]

    def encode_captions(self, pipeline: StableDiffusionPipeline) -> Captions:
        """Encode every caption variant by the pipeline's text encoder; see `encode_variants`."""
        return encode_variants(pipeline, self.caption_variants)


@torch.no_grad()
def encode_captions(pipeline: StableDiffusionPipeline, captions: list[str], batch_size: int = 256) -> Tensor:
    """Encode captions by the pipeline's own `encode_prompt`. Longer captions are cut, without a warning.

    Args:
        pipeline: the LDM.
        captions: K captions.
        batch_size: captions that are encoded at once.

    Returns:
        Token states (K, tokens, D), float16 on the CPU.
    """
    device = pipeline.device
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    batches = [
        pipeline.encode_prompt(captions[start : start + batch_size], device, 1, False)[0].half().cpu()
        for start in range(0, len(captions), batch_size)
    ]
    logging.set_verbosity(verbosity)
    return torch.cat(batches)


def encode_variants(pipeline: StableDiffusionPipeline, variants: list[list[list[str]]]) -> Captions:
    """Encode each distinct caption of the variants once.

    Args:
        pipeline: the LDM.
        variants: for each image, three lists of captions.

    Returns:
        The captions' token states and, for each image, their row numbers.
    """
    index: dict[str, int] = {"": 0}
    rows = [
        [[index.setdefault(caption, len(index)) for caption in captions] for captions in of_image]
        for of_image in variants
    ]
    return Captions(encode_captions(pipeline, list(index)), rows)


def read_metadata(folder: str | Path) -> list[dict[str, Any]]:
    """Read the rows of an image folder's `metadata.jsonl`.

    Args:
        folder: the image folder.

    Returns:
        A dict an image, with at least `file_name` (relative to `folder`) and `text` (its caption).

    Raises:
        DatasetError: the file is missing or empty, or a line is not such a row.
    """
    path = Path(folder) / METADATA
    if not path.is_file():
        raise DatasetError(
            f"{folder} holds no {METADATA}. Accepted is an image folder with one JSON object a line (file_name, text). "
            f"The emoji data set is built by: python -m recipes.emoji.dataset --out {folder}"
        )
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            if not isinstance(row["file_name"], str) or not isinstance(row["text"], str):
                raise TypeError("file_name and text must be strings")
        except (ValueError, TypeError, KeyError) as error:
            raise DatasetError(
                f"{path}, line {number}: accepted is a JSON object with file_name and text ({error!r})."
            ) from error
        rows.append(row)
    if not rows:
        raise DatasetError(f"{path} is empty: it must hold a row an image.")
    return rows


def read_images(folder: str | Path, rows: list[dict[str, Any]]) -> np.ndarray[Any, Any]:
    """Read the images of rows.

    Args:
        folder: the image folder.
        rows: some of its metadata's rows, at least one.

    Returns:
        The images, uint8 (N, H, W, 3) in 0..255, in the order of `rows`.

    Raises:
        DatasetError: an image is missing or unreadable, or the images have several sizes.
    """
    images: list[np.ndarray[Any, Any]] = []
    for row in rows:
        path = Path(folder) / row["file_name"]
        try:
            with Image.open(path) as image:
                images.append(np.asarray(image.convert("RGB")))
        except OSError as error:
            raise DatasetError(f"{path}, named in {METADATA}, cannot be read: {error}.") from error
        if images[-1].shape != images[0].shape:
            raise DatasetError(
                f"{path} is {images[-1].shape[1]} x {images[-1].shape[0]} px, {rows[0]['file_name']} "
                f"{images[0].shape[1]} x {images[0].shape[0]} px: all images must have one size."
            )
    return np.stack(images)


def read_image_folder(folder: str | Path) -> tuple[list[dict[str, Any]], np.ndarray[Any, Any]]:
    """Read all of an image folder.

    Args:
        folder: holds `metadata.jsonl` and the images, all of one size.

    Returns:
        The rows of `read_metadata`, and the images, uint8 (N, H, W, 3) in 0..255, in the same order.

    Raises:
        DatasetError: no `metadata.jsonl`, an image that is missing or unreadable, or images of several sizes.
    """
    rows = read_metadata(folder)
    return rows, read_images(folder, rows)


def read_training_data(folder: str | Path) -> TrainingData:
    """Read what a CRF learns from.

    Args:
        folder: an image folder; see the top of this module for its columns.

    Returns:
        Images, caption variants and prompts.

    Raises:
        DatasetError: the folder or a row is not as described; the message names the file, what is wrong, what is
            accepted.
    """
    rows = _read_learned_rows(folder)
    variants = [_read_variants(folder, row) for row in rows]
    images = torch.from_numpy(read_images(folder, rows)).permute(0, 3, 1, 2)
    return TrainingData(images, variants, read_prompts(folder))


def read_prompts(folder: str | Path) -> list[str]:
    """Read the prompts for recorded runs.

    Args:
        folder: an image folder.

    Returns:
        The lines of `prompts.txt`; without that file, the distinct texts of the rows that a CRF learns from.

    Raises:
        DatasetError: no `metadata.jsonl` to take them from, or `prompts.txt` holds none.
    """
    path = Path(folder) / PROMPTS
    if not path.is_file():
        return list(dict.fromkeys(row["text"] for row in _read_learned_rows(folder)))
    prompts = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not prompts:
        raise DatasetError(f"{path} holds no prompt: one prompt a line is accepted, or no such file.")
    return prompts


def _read_learned_rows(folder: str | Path) -> list[dict[str, Any]]:
    rows = read_metadata(folder)
    learned = [row for row in rows if row.get("split", "train") == "train" and not row.get("autoencoder_only", False)]
    if not learned:
        raise DatasetError(f'{Path(folder) / METADATA} holds no row to learn from: none of split "train".')
    return learned


def _read_variants(folder: str | Path, row: dict[str, Any]) -> list[list[str]]:
    kinds = len(CAPTION_SHARES) - 1
    variants = row.get("caption_variants", [[row["text"]]] * kinds)
    is_list = isinstance(variants, list) and len(variants) == kinds
    if not is_list or not all(
        isinstance(captions, list) and captions and all(isinstance(caption, str) for caption in captions)
        for captions in variants
    ):
        raise DatasetError(
            f"{Path(folder) / METADATA}, {row['file_name']}: caption_variants must be {kinds} lists of strings, none "
            "empty."
        )
    return variants
