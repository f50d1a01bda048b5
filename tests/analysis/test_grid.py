"""Images side by side."""

import numpy as np
import pytest

from analysis.figures.grid import GAP, draw_image_grid, tile_images


def test_a_sheet_keeps_every_pixel_where_it_belongs() -> None:
    images = np.random.default_rng(0).integers(0, 255, (2, 3, 4, 5, 3), dtype=np.uint8)
    sheet = tile_images(images)
    assert sheet.shape == (2 * 4 + GAP, 3 * 5 + 2 * GAP, 3)
    assert (sheet[4 + GAP :, 5 + GAP : 10 + GAP] == images[1, 1]).all()
    with pytest.raises(ValueError, match="one name a row and a column: 2 x 3 images, 1 and 3 names"):
        draw_image_grid(images, ["a"], ["b", "c", "d"], "title")
