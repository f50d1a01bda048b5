"""Figures of the walkthrough: steps, redundancy, minima under other weights, descent, iterates, hand-over."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analysis.figures.grid import draw_image_grid
from analysis.figures.style import BELOW, SERIES, apply_style
from analysis.studies import TERMS

if TYPE_CHECKING:  # a figure needs no torch
    from analysis.studies.walkthrough import Walkthrough

COLUMNS = 8  # steps in the strip
ITERATES = (0, 1, 2, 3, 5, 10)  # iterations with an image
STARTS = {"x": "from the noisy latents x", "u": "from the CRF's own start u"}


def name_columns(word: str, numbers: Sequence[int]) -> list[str]:
    """Name columns "step 0", "7", "14", ...: short enough to stand side by side on a phone.

    Args:
        word: before the first number.
        numbers: one a column.
    """
    return [f"{word} {numbers[0]}", *map(str, numbers[1:])]


def draw_strip(walkthrough: "Walkthrough", **style: bool) -> go.Figure:
    """Draw noisy latents and clean estimates of `COLUMNS` steps.

    Args:
        walkthrough: as of `analysis.studies.walkthrough.compute`.
        style: presentation and on_page, as of `apply_style`.
    """
    shown = walkthrough.shown_steps
    columns = np.linspace(0, len(shown) - 1, COLUMNS).round().astype(int)
    return draw_image_grid(
        walkthrough.frames[:, columns], ["noisy<br>latents", "clean<br>estimate"],
        name_columns("step", [shown[column] for column in columns]),
        "From noise to an image: the U-Net's input, and its clean estimate", "", **style,
    )  # fmt: skip


def draw_redundancy(walkthrough: "Walkthrough", **style: bool) -> go.Figure:
    """Draw variance of the latents and change of the clean estimate, a step; the bypassed steps shaded.

    Args:
        walkthrough: as of `analysis.studies.walkthrough.compute`.
        style: presentation and on_page, as of `apply_style`.
    """
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    curves = {"variance": "Variance of the latents", "estimate_change": "Change of the clean estimate"}
    for row, ((name, title), colour) in enumerate(zip(curves.items(), SERIES, strict=False), 1):
        steps = walkthrough.steps.dropna(subset=[name])
        figure.add_scatter(
            x=steps["step"], y=steps[name], mode="lines+markers", row=row, col=1, name=title, showlegend=False,
            line={"color": colour, "width": 3}, marker={"size": 7, "symbol": ("circle", "diamond")[row - 1]},
            hovertemplate="step %{x}<br>%{y:.4g}<extra></extra>",
        )  # fmt: skip
    figure.update_yaxes(title="Variance of<br>the latents", row=1, col=1)
    figure.update_yaxes(title="Change of the<br>clean estimate", rangemode="tozero", row=2, col=1)
    figure.update_xaxes(title="Step of the full run", row=2, col=1)
    first, last = walkthrough.options["bypass"]
    middle = (first + last) / 2
    figure.add_vrect(x0=first, x1=last, fillcolor="#888888", opacity=0.15, line_width=0, row="all", col=1)
    figure.add_annotation(x=middle, y=1, yref="y domain", yanchor="bottom", text="bypassed", showarrow=False)
    share = walkthrough.redundant_share
    return apply_style(figure, f"Steps {first} to {last - 1} make {share:.0%} of the clean estimate's change", **style)


def draw_descent(descent: pd.DataFrame, **style: bool) -> go.Figure:
    """Draw the energy against the iteration, from both starts and by both solvers.

    Args:
        descent: as of `Walkthrough`.
        style: presentation and on_page, as of `apply_style`.
    """
    figure = go.Figure()
    marks = (("circle", "circle-open"), ("square", "square-open"))
    for (start, words), colour, symbols in zip(STARTS.items(), SERIES, marks, strict=False):
        for solver, dash, symbol in zip(("3mg", "damped"), ("solid", "dot"), symbols, strict=True):
            rows = descent[(descent["start"] == start) & (descent["solver"] == solver)]
            figure.add_scatter(
                x=rows["iteration"], y=rows["total"], mode="lines+markers",
                name=f"{words}{'' if solver == '3mg' else ', damped update'}",
                line={"color": colour, "dash": dash, "width": 3}, marker={"size": 8, "symbol": symbol},
                hovertemplate="iteration %{x}<br>energy %{y:.5g}<extra></extra>",
            )  # fmt: skip
    figure.update_xaxes(title="CRF iteration", dtick=1)
    figure.update_yaxes(title="Energy", rangemode="tozero")
    figure.update_layout(legend=BELOW)
    return apply_style(figure, "Every iteration lowers the energy, wherever it starts", **style)


def select_term(weights: pd.DataFrame, term: str) -> list[int]:
    """Select the minima in which one term alone has another weight than the learned one, or none has.

    Args:
        weights: as of `Walkthrough`.
        term: of `TERMS`.

    Returns:
        Numbers of rows, by that term's factor.
    """
    others = [f"{other}_factor" for other in TERMS if other != term]
    rows = weights[weights[others].eq(1).all(axis=1)]
    return [int(row) for row in rows.sort_values(f"{term}_factor").index]


def draw_figures(walkthrough: "Walkthrough", **style: bool) -> dict[str, go.Figure]:
    """Draw all figures of the walkthrough, in the order in which the page explains the method.

    Args:
        walkthrough: as of `analysis.studies.walkthrough.compute`.
        style: presentation and on_page, as of `apply_style`.

    Returns:
        "steps", "redundancy", "weights", "descent", "iterates", "hand-over"; without a CRF the first two and the last.
    """
    names = [
        f"{row.picture}<br>{row.denoiser_calls} calls, off by {row.distance:.3f}"
        for row in walkthrough.hand_over.itertuples()
    ]
    figures = {
        "steps": draw_strip(walkthrough, **style),
        "redundancy": draw_redundancy(walkthrough, **style),
    }
    if walkthrough.weights is not None and walkthrough.minima is not None and walkthrough.iterates is not None:
        rows = [select_term(walkthrough.weights, term) for term in TERMS]
        factors = [f"x {factor:g}" for factor in walkthrough.weights["unary_factor"][rows[0]]]
        figures["weights"] = draw_image_grid(
            walkthrough.minima[np.array(rows)], list(TERMS.values()), factors,
            "The image of lowest energy, when one term counts less or more than the CRF learned", "", **style,
        )  # fmt: skip
        figures["descent"] = draw_descent(walkthrough.descent, **style)
        figures["iterates"] = draw_image_grid(
            walkthrough.iterates[None, list(ITERATES)], [""], name_columns("iteration", ITERATES),
            "The same descent as images, from the noisy latents", "", **style,
        )  # fmt: skip
    title = "Hand-over: before, after, and at the end"
    return figures | {"hand-over": draw_image_grid(walkthrough.ends[None], [""], names, title, "", **style)}
