"""Figures of the latent variance: each method's mean and band over the steps of a run."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis.figures.style import BELOW, METHODS, apply_style, tint
from analysis.studies import FULL_RUN

# Quantity -> (its name in the title, title of its axis).
TITLES = {
    "estimate_change": ("the clean estimate's change", "Change of x0_hat, RMS a step"),
    "variance": ("the variance of the latents", "Variance of the latents"),
    "estimate_variance": ("the variance of the clean estimate", "Variance of the clean estimate"),
    "change": ("the latents' change", "Change of x, RMS a step"),
}
AXES = {"step": "Step of the full run", "timestep": "Timestep (999 is noise)", "log_snr": "log-SNR"}
CHANGES = ("estimate_change", "change")  # of one step; the other quantities are values at a step
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
    """Draw the mean with its band, each method; the bypassed steps are shaded.

    The title says how much of the quantity's way lies in them.

    Args:
        summary: as of `analysis.studies.variance.summarize`.
        quantity: a key of `TITLES`.
        bypass: (first, last), in steps of the full run.
        x: the horizontal axis, a key of `AXES`, default "step".
        log_y: whether the vertical axis is logarithmic, default False.
        proposal: steps to mark as proposed for a bypass, by a bar; None (default): none.
        style: presentation and on_page, as of `apply_style`.

    Raises:
        ValueError: a quantity or an axis of another name.
    """
    for name, accepted in ((quantity, TITLES), (x, AXES)):
        if name not in accepted:
            raise ValueError(f"{name!r} is not drawn; accepted are {', '.join(accepted)}.")
    words, axis = TITLES[quantity]
    figure = go.Figure()
    # up to the bypass both methods are one run; there LatentCRF's estimate moves once, and no more
    shown = {FULL_RUN} if quantity == "estimate_change" else set(summary["method"])
    for method in (name for name in METHODS if name in shown):
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
                x=ends[x], y=ends[quantity], mode="lines", name=f"{method}, bypass", legendgroup=method,
                showlegend=False, line={"color": colour, "width": 3, "dash": "dash"}, hoverinfo="skip",
            )  # fmt: skip
    full = summary[summary["method"] == FULL_RUN].sort_values("step").dropna(subset=[x])

    def place(block: tuple[int, int]) -> dict[str, float]:
        begin, end = (float(full[full["step"] <= step][x].iloc[-1]) for step in block)
        return {"x0": begin, "x1": end}

    figure.add_vrect(
        **place(bypass), fillcolor="#888888", opacity=0.2, line_width=0,
        annotation_text="bypass in use", annotation_position="top right",
    )  # fmt: skip
    if proposal is not None:
        figure.add_shape(
            **place(proposal), yref="paper", y0=0.84, y1=0.86, fillcolor=PROPOSED, line_width=0,
            label={"text": "proposed bypass", "textposition": "top right", "yanchor": "bottom",
                   "font": {"color": PROPOSED}},
        )  # fmt: skip
    figure.update_xaxes(title=AXES[x], autorange="reversed" if x == "timestep" else True)
    share, (first, last) = compute_share(summary, quantity, bypass), bypass
    verb = "make" if quantity in CHANGES else "move"
    rest = f"{share:.0%} of {words}" if quantity in CHANGES else f"{words} by {share:.0%} of its range"
    # full numbers on a log axis too, where Plotly would write 2, 5, ... between the powers of ten
    figure.update_yaxes(title=axis, type="log" if log_y else "linear", tickformat=".2~g" if log_y else None)
    figure.update_yaxes(title_font_size=18)
    figure.update_layout(legend=BELOW, showlegend=len(shown) > 1)
    title = f"Steps {first} to {last - 1} of {int(summary['step'].max())} {verb} {rest}"
    return apply_style(figure, f"{title} (mean of {int(summary['n'].max()):,} runs)", **style)


def compute_share(summary: pd.DataFrame, quantity: str, bypass: tuple[int, int]) -> float:
    """Compute how much of a quantity's way over the full run lies in the bypassed steps.

    Args:
        summary: as of `analysis.studies.variance.summarize`.
        quantity: a key of `TITLES`.
        bypass: (first, last), in steps of the full run.

    Returns:
        Of a change the share of its sum that the bypassed steps make; of a variance how much it moves across them, as
        a share of its range.
    """
    mean = summary[summary["method"] == FULL_RUN].set_index("step")[quantity]
    first, last = bypass
    if quantity in CHANGES:
        return float(mean.loc[first : last - 1].sum() / max(mean.sum(), 1e-12))
    return float(abs(mean.loc[last] - mean.loc[first]) / max(np.ptp(mean.dropna()), 1e-12))
