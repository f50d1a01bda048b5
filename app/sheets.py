"""Sheets: many pictures of one size as one, row by row, so that one file holds them."""

import numpy as np


def arrange_sheet(pictures: np.ndarray, columns: int, ground: int) -> np.ndarray:
    """Put pictures side by side, row by row.

    Args:
        pictures: uint8 (n, H, W, 3).
        columns: pictures a row.
        ground: colour of the places that are left in the last row, 0 (black) to 255 (white).

    Returns:
        uint8 (rows * H, columns * W, 3).
    """
    rows = -(-len(pictures) // columns)
    height, width = pictures.shape[1:3]
    places = np.full((rows * columns, height, width, 3), ground, np.uint8)
    places[: len(pictures)] = pictures
    in_rows = places.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    return in_rows.reshape(rows * height, columns * width, 3)
