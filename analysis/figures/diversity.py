"""Figures of the diversity: the images, the metrics with intervals, LPIPS of each pair of seeds."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analysis.figures.grid import draw_image_grid
from analysis.figures.style import METHODS, apply_style
from analysis.markdown import format_number
from analysis.studies import EQUAL_CALLS, FULL_RUN

if TYPE_CHECKING:  # a figure needs no torch
    from analysis.studies.diversity import MethodImages

TITLES = {"pairwise_lpips": "Mean pairwise LPIPS", "vendi": "Vendi score"}


def draw_figures(
    results: "Sequence[MethodImages]", table: pd.DataFrame, seeds: Sequence[int], **style: bool
) -> dict[str, go.Figure]:
    """Draw all figures of the study.

    Args:
        results: as of `analysis.studies.diversity.compute`.
        table: their table, as of `analysis.studies.diversity.tabulate`.
        seeds: one an image.
        style: presentation and on_page, as of `apply_style`.

    Returns:
        "images", "measures", "pairs".
    """
    grid = draw_image_grid(
        np.stack([result.images for result in results]), [result.method for result in results], list(map(str, seeds)),
        "The same noise in each column (its seed above): are the rows as varied as the first?", "", **style,
    )  # fmt: skip
    return {"images": grid, "measures": draw_metrics(table, **style), "pairs": draw_pairs(results, seeds, **style)}


def draw_pairs(results: "Sequence[MethodImages]", seeds: Sequence[int], **style: bool) -> go.Figure:
    """Draw a heat map of LPIPS between the seeds, one a method.

    Args:
        results: as of `analysis.studies.diversity.compute`.
        seeds: one an image.
        style: presentation and on_page, as of `apply_style`.
    """
    names = [result.method for result in results]
    figure = make_subplots(rows=1, cols=len(names), subplot_titles=names, horizontal_spacing=0.02, shared_yaxes=True)
    top = max(float(result.pairs.max()) for result in results)
    labels = [f"seed {seed}" for seed in seeds]
    for column, result in enumerate(results, 1):
        figure.add_heatmap(
            name=result.method, z=result.pairs, x=labels, y=labels, zmin=0, zmax=top, colorscale="Cividis", row=1,
            col=column, showscale=column == 1, colorbar={"title": {"text": "LPIPS"}},
            hovertemplate=f"{result.method}<br>%{{x}} and %{{y}}<br>LPIPS %{{z:.3f}}<extra></extra>",
        )  # fmt: skip
    apply_style(figure, "How different is each pair of seeds? (LPIPS; yellow: very)", height=420, **style)
    figure.update_xaxes(showticklabels=False)
    figure.update_yaxes(showticklabels=False, autorange="reversed")
    return figure.update_layout(margin={"t": 100}, meta={"aspect": 1 / len(names)})


def draw_metrics(table: pd.DataFrame, **style: bool) -> go.Figure:
    """Draw both metrics of each method with 95 % intervals.

    Args:
        table: as of `analysis.studies.diversity.tabulate`.
        style: presentation and on_page, as of `apply_style`.
    """
    titles = list(TITLES.values())
    figure = make_subplots(rows=1, cols=2, subplot_titles=titles, horizontal_spacing=0.08, shared_yaxes=True)
    for column, name in enumerate(TITLES, 1):
        for _, row in table.iterrows():
            method, value = row["method"], row[name]
            colour, symbol, _ = METHODS.get(method, METHODS[EQUAL_CALLS])  # whose name has its steps
            ratio = (
                f"<br>{format_number(row[f'{name}_ratio'], '.2f')} of the full run's" if f"{name}_ratio" in row else ""
            )
            figure.add_scatter(
                x=[value], y=[method], mode="markers", row=1, col=column, showlegend=False, name=method,
                marker={"color": colour, "symbol": symbol, "size": 14},
                error_x={"type": "data", "symmetric": False, "array": [row[f"{name}_high"] - value],
                         "arrayminus": [value - row[f"{name}_low"]], "thickness": 2},
                hovertemplate=f"{method}, {row['denoiser_calls']} denoiser calls<br>%{{x:.3f}}{ratio}<extra></extra>",
            )  # fmt: skip
    count = int(table["n"].max())
    figure.update_xaxes(title="further right is more diverse", rangemode="tozero", nticks=5, tickangle=0)
    figure.update_yaxes(autorange="reversed")
    shown = table[table["method"] != FULL_RUN]
    finding = "Diversity"
    if len(shown) and "pairwise_lpips_ratio" in table:
        ratios = [f"{row['method']} {format_number(row['pairwise_lpips_ratio'], '.0%')}" for _, row in shown.iterrows()]
        finding = f"Diversity against the full run: {', '.join(ratios)}"
    apply_style(figure, f"{finding} ({count} seeds, 95 % intervals)", height=380, **style)
    return figure.update_layout(margin={"t": 100})
