"""Images side by side as one figure: rows and columns with their names."""

import base64
import io
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from PIL import Image

from analysis.figures.style import apply_style

GAP = 4  # white pixels between images


def compose(images: np.ndarray) -> np.ndarray:
    """uint8 images (rows, columns, H, W, 3) -> one picture (h, w, 3) on white."""
    rows, columns, height, width, _ = images.shape
    sheet = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, np.uint8)
    for row in range(rows):
        for column in range(columns):
            top, left = row * (height + GAP), column * (width + GAP)
            sheet[top : top + height, left : left + width] = images[row, column]
    return sheet


def data_uri(pixels: np.ndarray) -> str:
    """uint8 pixels (h, w, 3) as the address of a PNG that holds them."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def image_grid(
    images: np.ndarray, rows: Sequence[str], columns: Sequence[str], title: str, row_axis: str = "", **looks: bool
) -> go.Figure:
    """uint8 images (rows, columns, H, W, 3) as one picture, with a name at each row and column.

    Args:
        row_axis: what the rows' names count.
        looks: presentation and on_page, as of `apply_style`.

    Raises:
        ValueError: not one name a row and a column.
    """
    if images.shape[:2] != (len(rows), len(columns)):
        raise ValueError(
            f"one name a row and a column: {images.shape[0]} x {images.shape[1]} images, "
            f"{len(rows)} and {len(columns)} names."
        )
    height, width = images.shape[2:4]
    drawn = go.Figure(go.Image(source=data_uri(compose(images)), hoverinfo="skip"))
    drawn.update_xaxes(
        tickvals=[i * (width + GAP) + width / 2 for i in range(len(columns))], ticktext=list(columns), side="top",
        showgrid=False, ticks="", tickangle=0,
    )  # fmt: skip
    drawn.update_yaxes(
        tickvals=[i * (height + GAP) + height / 2 for i in range(len(rows))], ticktext=list(rows), title=row_axis,
        showgrid=False, ticks="",
    )  # fmt: skip
    side = min(230 if len(rows) == 1 else 150, 1000 // len(columns))
    apply_style(drawn, title, height=130 + side * len(rows), **looks)
    if not looks.get("on_page"):  # a file is as wide as its images, and its title
        drawn.update_layout(width=max(850, 180 + side * len(columns)))
    aspect = len(rows) * (height + GAP) / (len(columns) * (width + GAP))
    return drawn.update_layout(margin={"t": 110, "b": 20}, meta={"aspect": aspect})
