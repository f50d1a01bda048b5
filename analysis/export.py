"""Figures as files."""

import sys
from pathlib import Path

import plotly.graph_objects as go

from latentcrf.files import replacing

CHROME = "kaleido draws PNGs with Chrome or Chromium; name its file in BROWSER_PATH"


def write_figure(drawn: go.Figure, path: Path) -> None:
    """`path`.html, which opens offline, and `path`.png where Chrome or Chromium is found; says so where not."""
    with replacing(path.with_suffix(".html")) as temporary:
        drawn.write_html(temporary, include_plotlyjs=True)
    try:
        image = drawn.to_image("png", scale=2)
    except (RuntimeError, ValueError, ImportError, OSError) as error:
        print(f"{path}.png is not written: {CHROME} ({str(error).strip().splitlines()[0]})", file=sys.stderr)
        return
    with replacing(path.with_suffix(".png")) as temporary:
        temporary.write_bytes(image)
