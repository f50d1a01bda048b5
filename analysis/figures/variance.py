"""Figures of the latent variance: each method's mean and band over the steps of a run."""

import pandas as pd
import plotly.graph_objects as go

from analysis.figures.style import BELOW, METHODS, apply_style, tint
from analysis.studies import FULL_RUN, LATENTCRF

# Quantity -> (title, axis).
TITLES = {
    "estimate_change": ("Change of the clean estimate", "Root mean square change of x0_hat a step"),
    "variance": ("Variance of the latents", "Variance over all dimensions"),
    "estimate_variance": ("Variance of the clean estimate", "Variance of x0_hat over all dimensions"),
    "change": ("Change of the latents a step", "Root mean square change a step of the full run"),
}
AXES = {"step": "Step of the full run", "timestep": "Timestep (999 is noise)", "log_snr": "log-SNR"}
PROPOSED = "#009e73"


def draw_quantity(
    summary: pd.DataFrame,
    quantity: str,
    bypass: tuple[int, int],
    x: str = "step",
    log_y: bool = False,
    proposal: tuple[int, int] | None = None,
    **style: bool,
) -> go.Figure:
    """Draw the mean with its band, each method; the bypassed steps shaded, the step across them dashed.

    Args:
        summary: as of `analysis.studies.variance.summarize`.
        quantity: a key of `TITLES`.
        bypass: (first, last), in steps of the full run.
        x: the horizontal axis, a key of `AXES`, default "step".
        log_y: whether the vertical axis is logarithmic, default False.
        proposal: steps to mark as proposed for a bypass, or None.
        style: presentation and on_page, as of `apply_style`.

    Raises:
        ValueError: a quantity or an axis of another name.
    """
    for name, accepted in ((quantity, TITLES), (x, AXES)):
        if name not in accepted:
            raise ValueError(f"{name!r} is not drawn; accepted are {', '.join(accepted)}.")
    title, axis = TITLES[quantity]
    figure = go.Figure()
    for method in (name for name in METHODS if name in set(summary["method"])):
        colour, symbol, _ = METHODS[method]
        rows = summary[summary["method"] == method].sort_values("step").dropna(subset=[quantity, x])
        figure.add_scatter(
            x=[*rows[x], *rows[x][::-1]], y=[*rows[f"{quantity}_high"], *rows[f"{quantity}_low"][::-1]],
            fill="toself", fillcolor=tint(colour), line={"width": 0}, name=f"{method}, 5th to 95th percentile",
            hoverinfo="skip", legendgroup=method, showlegend=False,
        )  # fmt: skip
        before, after = rows[rows["step"] < bypass[0]], rows[rows["step"] >= bypass[1]]
        for index, part in enumerate([rows] if method == FULL_RUN else [before, after]):
            figure.add_scatter(
                x=part[x], y=part[quantity], mode="lines+markers", name=method, legendgroup=method,
                showlegend=index == 0, line={"color": colour, "width": 3}, marker={"size": 7, "symbol": symbol},
                hovertemplate=f"{method}<br>{AXES[x]} %{{x}}<br>%{{y:.4g}}<extra></extra>",
            )  # fmt: skip
        if method != FULL_RUN and len(before) and len(after):
            ends = pd.concat([before.tail(1), after.head(1)])
            figure.add_scatter(
                x=ends[x], y=ends[quantity], mode="lines",
                name="bypass, by the CRF" if method == LATENTCRF else "bypass",
                line={"color": colour, "width": 3, "dash": "dash"}, hoverinfo="skip",
            )  # fmt: skip
    full = summary[summary["method"] == FULL_RUN].sort_values("step").dropna(subset=[x])
    blocks = [(bypass, "#888888", "bypassed", "top left")]
    if proposal is not None:
        blocks.append((proposal, PROPOSED, "proposed", "bottom left"))
    for block, colour, text, position in blocks:
        begin, end = (full[full["step"] <= step][x].iloc[-1] for step in block)
        figure.add_vrect(
            x0=begin, x1=end, fillcolor=colour, opacity=0.15, line_width=0,
            annotation_text=text, annotation_position=position,
        )  # fmt: skip
    figure.update_xaxes(title=AXES[x], autorange="reversed" if x == "timestep" else True)
    # full numbers on a log axis too, where Plotly would write 2, 5, ... between the powers of ten
    figure.update_yaxes(title=axis, type="log" if log_y else "linear", tickformat=".2~g" if log_y else None)
    figure.update_layout(legend=BELOW)
    runs = int(summary["n"].max())
    return apply_style(figure, f"{title}: mean and 5th to 95th percentile of {runs:,} runs", **style)
