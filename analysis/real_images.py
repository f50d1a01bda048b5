"""Real images of any image folder, at the size that an LDM generates, read as they are wanted."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from latentcrf.training.data import METADATA, DatasetError, open_rgb, read_metadata


class RealImages:
    """The images of a folder, square: others are cropped around their centre and resized.

    Args:
        folder: as of `latentcrf.training.data.read_metadata`.
        side: of the images, in pixels.

    Attributes:
        rows: of the folder, a dict an image, with `core`, `code_point` and `pixels_sha256` also where it has no such
            columns: every image counts, its caption stands for its subject.
        has_subjects: whether the folder names the subject of every image (column code_point).

    Raises:
        DatasetError: the folder has no metadata, or an image is missing or unreadable.
    """

    def __init__(self, folder: str | Path, side: int) -> None:
        self.folder, self.side = Path(folder), side
        rows = read_metadata(folder)
        self.has_subjects = all("code_point" in row for row in rows)
        self.rows = [self._fill_row(row) for row in rows]

    def _fill_row(self, row: dict[str, Any]) -> dict[str, Any]:
        path = self.folder / row["file_name"]
        try:
            with Image.open(path) as image:
                is_fitting = image.size == (self.side, self.side)
            hashed = row.get("pixels_sha256") or hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise DatasetError(f"{path}, named in {METADATA}, cannot be read: {error}.") from error
        return {"core": True, "code_point": row["text"]} | row | {
            "pixels_sha256": hashed if is_fitting else f"{hashed}-{self.side}"
        }  # fmt: skip

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, indices: slice | list[int]) -> np.ndarray:
        """Read images.

        Args:
            indices: of the rows.

        Returns:
            uint8 (N, side, side, 3).

        Raises:
            DatasetError: an image is unreadable.
        """
        rows = self.rows[indices] if isinstance(indices, slice) else [self.rows[index] for index in indices]
        return np.stack([self._read(self.folder / row["file_name"]) for row in rows])

    def _read(self, path: Path) -> np.ndarray:
        pixels = open_rgb(path)
        if pixels.size != (self.side, self.side):
            pixels = ImageOps.fit(pixels, (self.side, self.side), Image.Resampling.LANCZOS)
        return np.asarray(pixels)
