"""What all tests share: seeded random numbers; a small data set in the real one's format."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageDraw

COLOURS = ("red", "orange", "gold", "green", "teal", "blue", "purple", "brown")
SHAPES = ("ellipse", "rectangle", "rounded_rectangle")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Each test draws the same random numbers in every run and in any order."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight subjects in three styles, drawn here."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "images").mkdir()
    rows = []
    for index, colour in enumerate(COLOURS):
        for style, shape in zip(("3d", "flat", "noto"), SHAPES, strict=True):
            image = Image.new("RGB", (128, 128), "white")
            getattr(ImageDraw.Draw(image), shape)((16 + index, 20, 100, 108 - index), fill=colour)
            file = f"images/{index}_{style}.png"
            image.save(folder / file)
            rows.append(
                {
                    "subject": f"{colour} shape",
                    "tags": [colour, shape, "plain"],
                    "group": "activities",
                    "subgroup": "game",
                    "code_point": str(index),
                    "core": True,
                    "style": style,
                    "package": "none",
                    "licence": "none",
                    "pixels_sha256": hashlib.sha256(np.asarray(image).tobytes()).hexdigest(),
                    "file": file,
                    "split": "test" if index % 4 == 0 and style == "noto" else "train",
                }
            )
    pq.write_table(pa.Table.from_pylist(rows).replace_schema_metadata({"size": "128"}), folder / "dataset.parquet")
    return folder
