"""Training data: an image folder with captions, as the `datasets` library knows it.

folder/metadata.jsonl      one JSON object a line: file_name, text, and what else describes the image
folder/images/...          the images, all of one size
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

METADATA = "metadata.jsonl"


class DatasetError(RuntimeError):
    """The data set cannot be built or read; the message says why and what to do."""


def read_metadata(folder: str | Path) -> list[dict[str, Any]]:
    """Read the rows of an image folder's `metadata.jsonl`.

    Args:
        folder: the image folder.

    Returns:
        A dict an image, with at least `file_name` (relative to `folder`) and `text` (its caption).

    Raises:
        DatasetError: the file is missing, or a line is not such a row.
    """
    path = Path(folder) / METADATA
    if not path.is_file():
        raise DatasetError(
            f"{folder} holds no {METADATA}: an image folder with one JSON object a line (file_name, text) is wanted. "
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
                f"{path}, line {number}: a row with file_name and text is wanted ({error!r})."
            ) from error
        rows.append(row)
    return rows


def read_image_folder(folder: str | Path) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Read an image folder.

    Args:
        folder: holds `metadata.jsonl` and the images, all of one size.

    Returns:
        The rows of `read_metadata`, and the images, uint8 (N, H, W, 3) in 0..255, in the same order.

    Raises:
        DatasetError: no `metadata.jsonl`, an image that is missing or unreadable, or images of several sizes.
    """
    rows, images = read_metadata(folder), []
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
                f"{images[0].shape[1]} x {images[0].shape[0]}: images of one size are wanted."
            )
    return rows, np.stack(images)
