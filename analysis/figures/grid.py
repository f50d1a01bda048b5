"""Images side by side as one figure: rows and columns with their names."""

import base64
import io
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from PIL import Image, ImageDraw, ImageFont

from analysis.figures.style import apply_style

GAP = 4  # white pixels between images


def tile_images(images: np.ndarray) -> np.ndarray:
    """Put images side by side on white, `GAP` pixels apart.

    Args:
        images: uint8 (rows, columns, H, W, 3).

    Returns:
        uint8 (h, w, 3).
    """
    rows, columns, height, width, _ = images.shape
    sheet = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, np.uint8)
    for row in range(rows):
        for column in range(columns):
            top, left = row * (height + GAP), column * (width + GAP)
            sheet[top : top + height, left : left + width] = images[row, column]
    return sheet


def encode_data_uri(pixels: np.ndarray) -> str:
    """Encode an image as the address of a PNG that holds it.

    Args:
        pixels: uint8 (h, w, 3).

    Returns:
        "data:image/png;base64,...".
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def draw_image_grid(
    images: np.ndarray, rows: Sequence[str], columns: Sequence[str], title: str, row_axis: str = "", **style: bool
) -> go.Figure:
    """Draw images as one picture, with a name at each row and column.

    Args:
        images: uint8 (rows, columns, H, W, 3).
        rows: their names.
        columns: their names.
        title: of the figure.
        row_axis: what the rows' names count; default nothing.
        style: presentation and on_page, as of `apply_style`.

    Raises:
        ValueError: not one name a row and a column.
    """
    if images.shape[:2] != (len(rows), len(columns)):
        raise ValueError(
            f"one name a row and a column: {images.shape[0]} x {images.shape[1]} images, "
            f"{len(rows)} and {len(columns)} names."
        )
    height, width = images.shape[2:4]
    figure = go.Figure(go.Image(source=encode_data_uri(tile_images(images)), hoverinfo="skip"))
    figure.update_xaxes(
        tickvals=[i * (width + GAP) + width / 2 for i in range(len(columns))], ticktext=list(columns), side="top",
        showgrid=False, ticks="", tickangle=0,
    )  # fmt: skip
    figure.update_yaxes(
        tickvals=[i * (height + GAP) + height / 2 for i in range(len(rows))], ticktext=list(rows), title=row_axis,
        showgrid=False, ticks="",
    )  # fmt: skip
    side = min(230 if len(rows) == 1 else 150, 1000 // len(columns))
    if style.get("presentation"):  # all of it on one screen of 720 px
        side = min(side, 430 // len(rows))
    apply_style(figure, title, height=130 + side * len(rows), **style)
    if not style.get("on_page"):  # a file is as wide as its images, and its title
        figure.update_layout(width=max(850, 180 + side * len(columns)))
    aspect = len(rows) * (height + GAP) / (len(columns) * (width + GAP))
    top = 95 if style.get("presentation") else 110
    return figure.update_layout(margin={"t": top, "b": 20}, meta={"aspect": aspect})


def draw_captioned_sheet(pixels: np.ndarray, captions: Sequence[str], columns: int = 8) -> Image.Image:
    """Draw images, each above its caption, row by row on white.

    Args:
        pixels: uint8 (B, H, W, 3).
        captions: one an image; those that are too long are cut.
        columns: images a row, default 8.
    """
    (size, width), line, margin = pixels.shape[1:3], 16, 6
    height = -(-len(pixels) // columns) * (size + line + margin)
    sheet = Image.new("RGB", (columns * (width + margin) + margin, height + margin), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for index, (image, caption) in enumerate(zip(pixels, captions, strict=True)):
        row, column = divmod(index, columns)
        x, y = margin + column * (width + margin), margin + row * (size + line + margin)
        sheet.paste(Image.fromarray(image), (x, y))
        while draw.textlength(caption, font) > width:
            caption = caption.rstrip("…")[:-1].rstrip() + "…"
        draw.text((x + width // 2, y + size + 1), caption, "black", font, anchor="ma")
    return sheet
