"""The figure of the speed/quality frontier: quality against time of the benchmark's methods."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.colors import hex_to_rgb

from analysis.figures.style import BELOW, apply_style
from analysis.studies.frontier import FACTORS, FAMILIES, FULL_METHOD, METRICS, find_pareto_front, select_rows

PALE = 0.4  # opacity of the intervals
# Okabe and Ito's palette, a grey and a violet that are seen on light and dark, and a symbol each.
MARKS = dict(
    zip(
        FAMILIES,
        (
            ("#0072b2", "circle"),
            ("#009e73", "square"),
            ("#56b4e9", "diamond"),
            ("#8c8c8c", "x"),
            ("#cc79a7", "triangle-down"),
            ("#9467bd", "cross"),
            ("#d55e00", "star"),
            ("#e69f00", "star-triangle-up"),
            ("#f0e442", "star-diamond"),
        ),
        strict=True,
    )
)
BYPASSES = {  # crf_form -> what acts at the bypass
    "zero-parameter": "zero parameters",
    "plain": "plain network",
    "conditional": "LatentCRF",
    "static": "LatentCRF, static form",
}


def draw_frontier(
    table: pd.DataFrame, metric: str = "kid", families: Sequence[str] | None = None, **style: bool
) -> go.Figure:
    """Draw quality against time, with 95 % intervals of both.

    Args:
        table: as of `analysis.studies.frontier.read_table`.
        metric: a key of `METRICS`, default "kid".
        families: those of `FAMILIES` to show; None (default): all. The front is that of the shown ones.
        style: presentation and on_page, as of `apply_style`.

    Raises:
        ValueError: as of `select_rows`.
    """
    rows = select_rows(table, metric, families)
    higher_is_better = METRICS[metric][1]
    factor = FACTORS.get(metric, 1.0)
    value = factor * rows[metric]
    figure = go.Figure()
    front = find_pareto_front(rows["time_ratio"].to_numpy(), value.to_numpy(), higher_is_better)
    figure.add_scatter(
        x=rows["time_ratio"].iloc[front], y=value.iloc[front], mode="lines", name="Pareto front",
        line={"color": "#666666", "dash": "dot", "width": 2}, hoverinfo="skip",
    )  # fmt: skip
    for name, (colour, symbol) in MARKS.items():
        members = rows["family"] == name
        if not members.any():
            continue
        shown = rows[members]
        figure.add_scatter(
            x=shown["time_ratio"], y=value[members], mode="markers", name=name,
            marker={"color": colour, "symbol": symbol, "size": 16 if name.startswith("LatentCRF") else 11,
                    "line": {"color": "#333333", "width": 1}},
            error_x=_error_bars(shown, "time_ratio", 1.0, colour), error_y=_error_bars(shown, metric, factor, colour),
            ids=list(shown["method"]),
            customdata=[[_hover_text(row, metric, factor), row["method"]] for _, row in shown.iterrows()],
            hovertemplate="%{customdata[0]}<extra></extra>",
        )  # fmt: skip
    full = table[table["method"] == FULL_METHOD]
    if len(full) and not metric.endswith("_full") and pd.notna(full[metric].iloc[0]):
        figure.add_hline(
            y=factor * full[metric].iloc[0], line={"color": MARKS["DDIM"][0], "width": 1, "dash": "dash"},
            annotation_text="full run", annotation_position="top left",
        )  # fmt: skip
    figure.update_layout(legend=BELOW)
    count = ""
    if "prompts" in rows and "seeds" in rows:
        count = f" ({int(rows['prompts'].iloc[0])} prompts x {int(rows['seeds'].iloc[0])} seeds, 95 % intervals)"
    return _add_axes(figure, metric, count, **style)


def draw_empty_frontier(metric: str = "kid", **style: bool) -> go.Figure:
    """Draw the axes alone, for where there is no table.

    Args:
        metric: a key of `METRICS`, default "kid".
        style: presentation and on_page, as of `apply_style`.
    """
    figure = go.Figure().add_annotation(text="no table", showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
    figure.update_yaxes(showticklabels=False)
    return _add_axes(figure, metric, "", **style).update_xaxes(range=[-1.3, 0.1])  # powers of ten


def _add_axes(figure: go.Figure, metric: str, count: str, **style: bool) -> go.Figure:
    words, direction = METRICS[metric][0].rsplit(", ", 1)
    large = style.get("presentation")
    figure.update_xaxes(
        title="Sampler time / time of the full run (DDIM, 50 steps)",
        type="log",
        tickformat=".2~g",
        tickvals=[0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0],
        tickangle=0,
    )
    figure.update_yaxes(title={"text": f"{words}<br>{direction}", "font": {"size": 18 if large else 15}})
    height = 480 if large else 560  # all of it in sight at 1280 x 720
    return apply_style(figure, f"Quality against time: {words.split(',')[0]}{count}", height=height, **style)


def _error_bars(rows: pd.DataFrame, name: str, factor: float, colour: str) -> dict[str, Any]:
    """Plotly's error bars of a column, pale so that the marks stand out; none where the table has no interval."""
    if f"{name}_low" not in rows:
        return {}
    value, low, high = (factor * rows[column] for column in (name, f"{name}_low", f"{name}_high"))
    return {"type": "data", "symmetric": False, "array": high - value, "arrayminus": value - low,
            "thickness": 1, "width": 0, "color": f"rgba{(*hex_to_rgb(colour), PALE)}"}  # fmt: skip


def _hover_text(row: pd.Series, metric: str, factor: float) -> str:
    """A point's settings and values, line by line."""

    def format_interval(name: str, factor: float) -> str:
        text = f"{factor * row[name]:.3g}"
        if pd.notna(row.get(f"{name}_low")):
            text += f" ({factor * row[f'{name}_low']:.3g} to {factor * row[f'{name}_high']:.3g})"
        return text

    calls = f"{row['denoiser_calls']} denoiser calls, {row['network_evaluations']} network evaluations"
    lines = [f"<b>{row['method']}</b>", f"{row['solver']}, {row['steps']} steps, {calls}"]
    if row["bypass"]:
        lines.append(f"steps {row['bypass']} bypassed: {BYPASSES.get(row['crf_form'], row['crf_form'])}")
    lines.append(f"time {format_interval('time_ratio', 1.0)} of the full run")
    return "<br>".join([*lines, f"{metric} {format_interval(metric, factor)}"])
