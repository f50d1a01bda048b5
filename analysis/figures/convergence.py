"""Figures of the solver's convergence: curves, iterates, their differences to the last one, energy of each site."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analysis.figures.grid import draw_image_grid, encode_data_uri
from analysis.figures.style import BELOW, SERIES, apply_style
from analysis.studies import TERMS

if TYPE_CHECKING:  # a figure needs no torch
    from analysis.studies.convergence import Convergence

AMPLIFICATIONS = tuple(digit * 10**power for power in range(7) for digit in (1, 2, 5))  # of the difference images
DASHES = {"3mg": "solid", "damped": "dot"}  # a solver


def draw_curves(table: pd.DataFrame, settled_iteration: int | None, **style: bool) -> go.Figure:
    """Draw energy by term, and residual on a logarithmic axis, against the iteration.

    Thick lines are the mean over the seeds, thin ones single seeds.

    Args:
        table: as of `Convergence`.
        settled_iteration: as of `Convergence`.
        style: presentation and on_page, as of `apply_style`.
    """
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    mean = table.groupby(["solver", "iteration"]).mean(numeric_only=True).reset_index()
    terms = {"total": "total"} | TERMS
    quantities = [(name, title, 1, colour) for (name, title), colour in zip(terms.items(), SERIES, strict=False)]
    for name, title, row, colour in [*quantities, ("residual", "residual", 2, SERIES[-1])]:
        for seed, rows in table[table["solver"] == "3mg"].groupby("seed"):
            figure.add_scatter(
                x=rows["iteration"], y=rows[name], mode="lines", row=row, col=1, name=f"{title}, seed {seed}",
                line={"color": colour, "width": 1}, opacity=0.4, showlegend=False,
            )  # fmt: skip
    for solver, dash in DASHES.items():
        rows = mean[mean["solver"] == solver]
        symbols = ("circle", "square", "triangle-up", "x")
        for (name, title), colour, symbol in zip(terms.items(), SERIES, symbols, strict=False):
            if solver != "3mg" and name != "total":
                continue
            figure.add_scatter(
                x=rows["iteration"], y=rows[name], mode="lines+markers", row=1, col=1,
                name=title if solver == "3mg" else f"{title}, damped update",
                line={"color": colour, "dash": dash, "width": 3}, marker={"size": 8, "symbol": symbol},
            )  # fmt: skip
        figure.add_scatter(
            x=rows["iteration"], y=rows["residual"], mode="lines+markers", row=2, col=1,
            name="residual" if solver == "3mg" else "residual, damped update",
            line={"color": SERIES[-1], "dash": dash, "width": 3}, marker={"size": 7, "symbol": "diamond"},
        )  # fmt: skip
    figure.update_xaxes(title="CRF iteration", dtick=1, row=2, col=1)
    figure.update_yaxes(title="Energy", row=1, col=1)
    figure.update_yaxes(title="Residual", type="log", exponentformat="power", row=2, col=1)
    count = table["seed"].nunique()
    title = (
        "Energy and residual"
        if settled_iteration is None
        else f"99% of the energy's descent is done by iteration {settled_iteration}"
    )
    figure.update_layout(legend=BELOW)
    return apply_style(figure, f"{title} (mean of {count} seed{'s' if count > 1 else ''})", height=640, **style)


def choose_amplification(difference: np.ndarray) -> int:
    """Choose the largest of `AMPLIFICATIONS` that leaves a difference image within 255 nearly everywhere.

    Args:
        difference: in grey levels, 0 to 255.
    """
    brightest = np.quantile(difference, 0.99)
    return max((times for times in AMPLIFICATIONS if times * brightest <= 255), default=AMPLIFICATIONS[0])


def draw_energy_maps(convergence: "Convergence", **style: bool) -> go.Figure:
    """Draw the energy of each site over the grey images, before the CRF and after the last iteration.

    Args:
        convergence: as of `analysis.studies.convergence.compute`.
        style: presentation and on_page, as of `apply_style`.
    """
    total = convergence.maps["total"]
    low, high = float(total.min()), float(total.max())
    scale = total.shape[-1] / convergence.images.shape[-2]  # sites a pixel
    grey = convergence.images.mean(-1, keepdims=True).repeat(3, -1).astype(np.uint8)  # so that all colour is the map's
    figure = make_subplots(
        rows=2, cols=len(convergence.seeds), row_titles=["before", f"after {convergence.shown[-1]}"],
        column_titles=name_seeds(convergence), horizontal_spacing=0.01, vertical_spacing=0.03,
    )  # fmt: skip
    for row, maps in enumerate(total):
        for column, sites in enumerate(maps):
            image = encode_data_uri(grey[(0, -1)[row], column])
            figure.add_image(  # the image, in grey, under its map: their corners meet
                source=image, dx=scale, dy=scale, x0=(scale - 1) / 2, y0=(scale - 1) / 2,
                hoverinfo="skip", row=row + 1, col=column + 1,
            )  # fmt: skip
            figure.add_heatmap(
                z=sites, zmin=low, zmax=high, colorscale="Cividis", opacity=0.7, row=row + 1, col=column + 1,
                showscale=row + column == 0, colorbar={"title": {"text": "energy"}},
                customdata=np.stack([convergence.maps[name][row, column] for name in TERMS], axis=-1),
                hovertemplate="site %{x}, %{y}<br>energy %{z:.3g}: unary %{customdata[0]:.2g}, pairwise "
                "%{customdata[1]:.2g}, higher-order %{customdata[2]:.2g}<extra></extra>",
            )  # fmt: skip
    apply_style(figure, "Energy of each site of the latents: what the CRF corrects", **style)
    figure.update_layout(margin={"t": 100}, meta={"aspect": len(total) / len(convergence.seeds)})
    figure.update_xaxes(visible=False, constrain="domain")
    return figure.update_yaxes(visible=False, autorange="reversed", constrain="domain")


def name_seeds(convergence: "Convergence") -> list[str]:
    """Name the columns of images, one a seed.

    Args:
        convergence: as of `analysis.studies.convergence.compute`.
    """
    return [f"seed {seed}" for seed in convergence.seeds]


def draw_figures(convergence: "Convergence", **style: bool) -> dict[str, go.Figure]:
    """Draw all figures of the study.

    Args:
        convergence: as of `analysis.studies.convergence.compute`.
        style: presentation and on_page, as of `apply_style`.

    Returns:
        "curves", "images", "difference" (to the last iterate), "energy-maps".
    """
    rows = ["before", "0: target u", *(f"{i}" for i in convergence.shown[1:])]
    columns = name_seeds(convergence)
    factors = [choose_amplification(difference) for difference in convergence.differences]
    pairs = zip(factors, convergence.differences, strict=True)
    differences = np.stack([factor * difference for factor, difference in pairs])
    return {
        "curves": draw_curves(convergence.table, convergence.settled_iteration, **style),
        "images": draw_image_grid(
            convergence.images, rows, columns, "Image after each CRF iteration", "CRF iteration", **style
        ),
        "difference": draw_image_grid(
            255 - differences.clip(0, 255).astype(np.uint8),
            [f"{row}<br>x {factor:,}" for row, factor in zip(rows, factors, strict=False)], columns,
            f"Difference to iteration {convergence.shown[-1]}, amplified as each row says; white: none",
            "CRF iteration", **style,
        ),
        "energy-maps": draw_energy_maps(convergence, **style),
    }  # fmt: skip
