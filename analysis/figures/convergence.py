"""Figures of the solver's convergence: iterates with their differences to the last one, curves, energy of each site."""

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analysis.figures.grid import draw_image_grid, encode_data_uri
from analysis.figures.style import BELOW, SERIES, apply_style
from analysis.studies import TERMS

if TYPE_CHECKING:  # a figure needs no torch
    from analysis.studies.convergence import Convergence

AMPLIFICATIONS = (1, 2, 5, 10, 20, 50, 100)  # of the difference images
DASHES = {"3mg": "solid", "damped": "dot"}  # a solver
SOLVER_NAMES = {"3mg": "3MG", "damped": "damped"}
OWNERS = {"3MG": "LatentCRF", "damped": "plain"}  # whose solver it is
STARTS = {"denoised": "the clean estimate", "latents": "the noisy latents"}  # that can be drawn


def draw_curves(convergence: "Convergence", start: str, **style: bool) -> go.Figure:
    """Draw energy by term, and residual on a logarithmic axis, against the iteration.

    Thick lines are the mean over the seeds, thin ones single seeds. Grey: LatentCRF's own start, the target u.

    Args:
        convergence: as of `analysis.studies.convergence.compute`.
        start: a key of `STARTS`.
        style: presentation and on_page, as of `apply_style`.
    """
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    whole, terms = convergence.table, {"total": "energy"} | TERMS
    table = whole[whole["start"] == start]
    mean = table.groupby(["solver", "iteration"]).mean(numeric_only=True).reset_index()
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
                name=title if solver == "3mg" else f"{title}, damped",
                line={"color": colour, "dash": dash, "width": 3}, marker={"size": 8, "symbol": symbol},
            )  # fmt: skip
        figure.add_scatter(
            x=rows["iteration"], y=rows["residual"], mode="lines+markers", row=2, col=1, showlegend=False,
            name="residual" if solver == "3mg" else "residual, damped",
            line={"color": SERIES[-1], "dash": dash, "width": 3}, marker={"size": 7, "symbol": "diamond"},
        )  # fmt: skip
    own = whole[(whole["start"] == "target") & (whole["solver"] == "3mg")].groupby("iteration")["total"].mean()
    figure.add_scatter(
        x=own.index, y=own, mode="lines", row=1, col=1, name="energy from u", line={"color": "#8c8c8c", "width": 3}
    )
    figure.update_xaxes(title="CRF iteration", dtick=1, row=2, col=1)
    figure.update_yaxes(title="Energy", row=1, col=1)
    figure.update_yaxes(title="Residual", type="log", exponentformat="power", row=2, col=1)
    settled, count = convergence.find_settled_iteration(start), len(convergence.seeds)
    title = (
        f"Energy and residual from {STARTS[start]}"
        if settled is None
        else f"From {STARTS[start]}, 99% of the energy's descent is done by iteration {settled}"
    )
    figure.update_layout(legend=BELOW)
    height = 540 if style.get("presentation") else 640
    return apply_style(figure, f"{title} (mean of {count} seed{'s' if count > 1 else ''})", height=height, **style)


def choose_amplification(differences: np.ndarray) -> int:
    """Choose the largest of `AMPLIFICATIONS` that leaves difference images within 255 nearly everywhere.

    Args:
        differences: of all images, the start's first, in grey levels: (solvers, iterations, ...).
    """
    brightest = np.quantile(differences[:, 0], 0.99)
    return max((times for times in AMPLIFICATIONS if times * brightest <= 255), default=AMPLIFICATIONS[0])


def draw_iterates(convergence: "Convergence", start: str, **style: bool) -> go.Figure:
    """Draw the first seed's iterates of both solvers, and below each its difference to the last one.

    One amplification holds for all differences. The title says when the image is nearly final.

    Args:
        convergence: as of `analysis.studies.convergence.compute`.
        start: a key of `STARTS`.
        style: presentation and on_page, as of `apply_style`.
    """
    images = convergence.images[list(STARTS).index(start)]
    differences = convergence.measure_differences(start)
    factor = choose_amplification(differences)
    amplified = 255 - (factor * differences).clip(0, 255).astype(np.uint8)
    rows, names = [], []
    for name, iterates, changes in zip(SOLVER_NAMES.values(), images, amplified, strict=True):
        rows += [iterates, changes]
        names += [f"{name}<br>({OWNERS[name]})", f"difference to<br>the last, x {factor}"]
    ends = {name: convergence.find_still_iteration(start, solver) for solver, name in SOLVER_NAMES.items()}
    ends_text = ", ".join(f"{end} ({name})" for name, end in ends.items())
    columns = ["start", *map(str, convergence.shown[1:])]
    title = f"From {STARTS[start]}: final to half a grey level at iteration {ends_text}"
    return draw_image_grid(np.stack(rows), names, columns, title, "", **style)


def draw_energy_maps(convergence: "Convergence", start: str, **style: bool) -> go.Figure:
    """Draw the energy of each site over the grey images, at the start and after the last iteration.

    Args:
        convergence: as of `analysis.studies.convergence.compute`.
        start: a key of `STARTS`.
        style: presentation and on_page, as of `apply_style`.
    """
    shown = [list(STARTS).index(start), -1]
    total = convergence.maps["total"][shown]
    low, high = float(total.min()), float(total.max())
    scale = total.shape[-1] / convergence.ends.shape[-2]  # sites a pixel
    # grey, so that all colour is the map's
    grey = convergence.ends[shown].mean(-1, keepdims=True).repeat(3, -1).astype(np.uint8)
    names = [f"seed {seed}" for seed in convergence.seeds]
    figure = make_subplots(
        rows=2, cols=len(names), row_titles=["start", f"after {convergence.shown[-1]}"],
        column_titles=names, horizontal_spacing=0.01, vertical_spacing=0.03,
    )  # fmt: skip
    for row, maps in enumerate(total):
        for column, sites in enumerate(maps):
            figure.add_image(  # the image, in grey, under its map: their corners meet
                source=encode_data_uri(grey[row, column]), dx=scale, dy=scale, x0=(scale - 1) / 2, y0=(scale - 1) / 2,
                hoverinfo="skip", row=row + 1, col=column + 1,
            )  # fmt: skip
            figure.add_heatmap(
                z=sites, zmin=low, zmax=high, colorscale="Cividis", opacity=0.7, row=row + 1, col=column + 1,
                showscale=row + column == 0, colorbar={"title": {"text": "energy"}},
                customdata=np.stack([convergence.maps[name][shown[row], column] for name in TERMS], axis=-1),
                hovertemplate="site %{x}, %{y}<br>energy %{z:.3g}: unary %{customdata[0]:.2g}, pairwise "
                "%{customdata[1]:.2g}, higher-order %{customdata[2]:.2g}<extra></extra>",
            )  # fmt: skip
    sums = total.sum(axis=(1, 2, 3))
    apply_style(
        figure, f"The energy falls by {1 - sums[1] / max(sums[0], 1e-12):.0%}: where it lay", height=540, **style
    )
    figure.update_layout(margin={"t": 100}, meta={"aspect": len(total) / len(names)})
    figure.update_xaxes(visible=False, constrain="domain")
    return figure.update_yaxes(visible=False, autorange="reversed", constrain="domain")


def draw_figures(convergence: "Convergence", start: str = "denoised", **style: bool) -> dict[str, go.Figure]:
    """Draw all figures of the study from one start.

    Args:
        convergence: as of `analysis.studies.convergence.compute`.
        start: a key of `STARTS`, default "denoised".
        style: presentation and on_page, as of `apply_style`.

    Returns:
        "images", "curves", "energy-maps".
    """
    return {
        "images": draw_iterates(convergence, start, **style),
        "curves": draw_curves(convergence, start, **style),
        "energy-maps": draw_energy_maps(convergence, start, **style),
    }
