"""The figure of the speed/quality frontier: quality against time of the benchmark's methods."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.colors import hex_to_rgb

from analysis.figures.style import FONT_SIZE, PRESENTATION_FONT_SIZE, apply_style
from analysis.studies.frontier import (
    BYPASS,
    CACHING,
    CUT_OFF,
    FACTORS,
    FEW_STEPS,
    FINISHED,
    FULL_METHOD,
    METRICS,
    OTHERS,
    choose_column,
    find_pareto_front,
    select_rows,
)

PALE = 0.35  # opacity of the intervals
# After Okabe and Ito's palette, for type on white and on black, and a symbol each. The colours of the full run and of
# LatentCRF are those of the other figures.
MARKS = {
    FEW_STEPS: ("#0072b2", "circle"),
    CUT_OFF: ("#009e73", "square"),
    CACHING: ("#b97a00", "diamond"),
    BYPASS: ("#d55e00", "star"),
    FINISHED: ("#b85a90", "triangle-up"),
    OTHERS: ("#8c8c8c", "x"),
}
BYPASSES = {  # crf_form -> what acts at the bypass
    "zero-parameter": "zero parameters",
    "plain": "plain network",
    "conditional": "LatentCRF",
    "static": "LatentCRF, static form",
}
WIDTH, HEIGHT = 1060, 450  # px of the plot inside a figure of the usual size, for which labels are placed
LEGEND = (0.2, 0.35)  # share of the plot's width and height that the legend takes
# Metric -> its name in the title.
SHORT = {
    "kid": "KID x 1000", "frechet": "Frechet distance", "r_at_1": "R@1", "r_at_5": "R@5",
    "pairwise_lpips": "pairwise LPIPS", "vendi": "Vendi score",
}  # fmt: skip
LABELLED = 30  # at most so many marks have labels; of more, the pointer asks for them


def draw_frontier(table: pd.DataFrame, metric: str = "kid", all_methods: bool = False, **style: bool) -> go.Figure:
    """Draw quality against time, with 95 % intervals of both.

    Args:
        table: as of `analysis.studies.frontier.read_table`.
        metric: a key of `METRICS`, default "kid".
        all_methods: as of `select_rows`; default False, at most 25 marks, each with its name.
        style: presentation and on_page, as of `apply_style`.

    Raises:
        ValueError: as of `select_rows`.
    """
    rows = select_rows(table, metric, all_methods)
    column, factor = choose_column(table, metric), FACTORS.get(metric, 1.0)
    value = factor * rows[column]
    figure = go.Figure()
    front = find_pareto_front(rows["time_ratio"].to_numpy(), value.to_numpy(), METRICS[metric][1])
    figure.add_scatter(
        x=rows["time_ratio"].iloc[front], y=value.iloc[front], mode="lines", name="Pareto front",
        line={"color": "#8c8c8c", "dash": "dot", "width": 2}, hoverinfo="skip",
    )  # fmt: skip
    for name, (colour, symbol) in MARKS.items():
        members = rows["family"] == name
        if not members.any():
            continue
        shown = rows[members]
        figure.add_scatter(
            x=shown["time_ratio"], y=value[members], mode="markers", name=name,
            marker={"color": colour, "symbol": symbol, "size": 15 if symbol == "star" else 11,
                    "line": {"color": "#333333", "width": 1}},
            error_x=_error_bars(shown, "time_ratio", 1.0, colour), error_y=_error_bars(shown, column, factor, colour),
            ids=list(shown["method"]),
            customdata=[[_hover_text(row, metric, column, factor), row["method"]] for _, row in shown.iterrows()],
            hovertemplate="%{customdata[0]}<extra></extra>",
        )  # fmt: skip
    if column != metric:
        figure.add_hline(y=0, line={"color": MARKS[FEW_STEPS][0], "width": 1, "dash": "dash"})
    large = style.get("presentation")
    ranges = _find_ranges(figure, rows)
    corner = find_free_corner([_place(x, y, ranges) for x, y in zip(rows["time_ratio"], value, strict=True)])
    figure.update_layout(legend={
        "x": 0.995 if corner[0] else 0.005, "xanchor": "right" if corner[0] else "left",
        "y": 0.995 if corner[1] else 0.005, "yanchor": "top" if corner[1] else "bottom",
        "bgcolor": "rgba(0, 0, 0, 0)", "font": {"size": 18 if large else 14},
    })  # fmt: skip
    if len(rows) <= LABELLED:
        _add_labels(figure, rows, value, ranges, corner, 18 if large else round(0.8 * FONT_SIZE))
    return _add_axes(figure, metric, column, state_finding(rows, metric, column), **style)


def state_finding(rows: pd.DataFrame, metric: str, column: str) -> str:
    """State which method of the figure is best, by how much, and in what time.

    Args:
        rows: as of `analysis.studies.frontier.select_rows`.
        metric: a key of `METRICS`.
        column: as of `analysis.studies.frontier.choose_column`.
    """
    higher_is_better = METRICS[metric][1]
    best = rows.loc[rows[column].idxmax() if higher_is_better else rows[column].idxmin()]
    time = f"in {best['time_ratio']:.2f} of its time"
    if column == metric:
        return f"{best['method']} comes nearest to the full run, {time}"
    sign = 1 if higher_is_better else -1
    if min(sign * best.get(f"{column}_{end}", best[column]) for end in ("low", "high")) <= 0:
        return f"{SHORT[metric]}: no method is significantly better than the full run"
    value = FACTORS.get(metric, 1.0) * best[column]
    return f"{best['method']}: {SHORT[metric]} {value:+.3g} against the full run, {time}"


def find_free_corner(points: Sequence[tuple[float, float]]) -> tuple[bool, bool]:
    """Find the corner in which the legend covers the fewest points.

    Args:
        points: (x, y) as shares of the plot, from the lower left corner.

    Returns:
        Whether it is on the right, and whether it is at the top.
    """

    def count(corner: tuple[bool, bool]) -> int:
        return sum(
            all((1 - share if far else share) < size for share, far, size in zip(point, corner, LEGEND, strict=True))
            for point in points
        )  # fmt: skip

    return min(((True, True), (False, True), (True, False), (False, False)), key=count)


def draw_empty_frontier(metric: str = "kid", **style: bool) -> go.Figure:
    """Draw the axes alone, for where there is no table.

    Args:
        metric: a key of `METRICS`, default "kid".
        style: presentation and on_page, as of `apply_style`.
    """
    figure = go.Figure().add_annotation(text="no table", showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
    figure.update_yaxes(showticklabels=False)
    figure = _add_axes(figure, metric, metric, f"Quality against time: {METRICS[metric][0].split(',')[0]}", **style)
    return figure.update_xaxes(range=[-1.3, 0.1])  # powers of ten


def _add_axes(figure: go.Figure, metric: str, column: str, title: str, **style: bool) -> go.Figure:
    words, direction = METRICS[metric][0].rsplit(", ", 1)
    large = style.get("presentation")
    figure.update_xaxes(
        title="Sampler time / time of the full run (DDIM, 50 steps); bars: 95 % intervals",
        type="log",
        tickformat=".2~g",
        tickvals=[0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0],
        tickangle=0,
    )
    name = f"{SHORT[metric]} less the full run's" if column != metric else words
    text = f"{name}; {direction}"
    figure.update_yaxes(title={"text": text, "font": {"size": 18 if large else 15}})
    figure.update_xaxes(title_font_size=20 if large else 16)
    size = PRESENTATION_FONT_SIZE if large else FONT_SIZE
    apply_style(figure, title, height=580, **style)
    # as much of the screen for the plot as the type leaves
    margin = {"l": 3 * size, "r": size // 2, "t": round(2.1 * size), "b": round(2.6 * size)}
    return figure.update_layout(margin=margin)


def _error_bars(rows: pd.DataFrame, name: str, factor: float, colour: str) -> dict[str, Any]:
    """Plotly's error bars of a column, pale so that the marks stand out; none where the table has no interval."""
    if f"{name}_low" not in rows:
        return {}
    value, low, high = (factor * rows[column] for column in (name, f"{name}_low", f"{name}_high"))
    return {"type": "data", "symmetric": False, "array": high - value, "arrayminus": value - low,
            "thickness": 1, "width": 0, "color": f"rgba{(*hex_to_rgb(colour), PALE)}"}  # fmt: skip


def _hover_text(row: pd.Series, metric: str, column: str, factor: float) -> str:
    """A point's settings and values, line by line."""

    def format_interval(name: str, factor: float) -> str:
        text = f"{factor * row[name]:.3g}"
        if pd.notna(row.get(f"{name}_low")):
            text += f" ({factor * row[f'{name}_low']:.3g} to {factor * row[f'{name}_high']:.3g})"
        return text

    calls = f"{row['network_evaluations']} network evaluations, {row['denoiser_calls']} denoiser calls"
    lines = [f"<b>{row['method']}</b>", f"{row['solver']}, {row['steps']} steps, {calls}"]
    if row["bypass"]:
        lines.append(f"steps {row['bypass']} bypassed: {BYPASSES.get(row['crf_form'], row['crf_form'])}")
    lines.append(f"time {format_interval('time_ratio', 1.0)} of the full run")
    if column != metric:
        lines.append(f"{metric} less the full run's: {format_interval(column, factor)}")
    lines.append(f"{metric} {format_interval(metric, factor)}")
    if "prompts" in row and "seeds" in row:
        lines.append(f"{row['prompts']} prompts x {row['seeds']} seeds")
    return "<br>".join(lines)


# ------------------------------------------------------------------------------------------ labels


def shorten_name(row: pd.Series) -> str:
    """Shorten a method's name to what its mark does not say already.

    Args:
        row: with its family.
    """
    if row["method"] == FULL_METHOD:
        return "full run"
    name, family = row["method"].replace("DPM-Solver++", "DPM++"), row["family"]
    said = {FINISHED: (" + finisher", ""), CACHING: ("DeepCache", "every"), BYPASS: (" LatentCRF", "")}
    name = name.replace(*said[family]) if family in said else name
    return name.removeprefix("DDIM-50 ") if family in (FINISHED, BYPASS) else name


def place_labels(
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    size: float,
    room: tuple[float, float],
    boxes: Sequence[tuple[float, float, float, float]] = (),
) -> list[tuple[float, float]]:
    """Place labels beside points so that they cover each other and the points as little as possible.

    Greedy: each label takes, in turn, the best of some places around its point.

    Args:
        points: (x, y) in px from the upper left corner.
        texts: one a point.
        size: of the type, in px.
        room: width and height in px.
        boxes: (left, upper, right, lower) in px, which labels are to leave free, default none.

    Returns:
        Of each label's centre the distance (x, y) to its point, in px.
    """
    taken = [*((x - 7, y - 7, x + 7, y + 7) for x, y in points), *boxes]
    placed = []
    for (x, y), text in zip(points, texts, strict=True):
        half_width, half_height = 0.28 * size * len(text) + 2, 0.6 * size
        best, least = (0.0, -2 * size), math.inf
        for distance in (10, 24, 40, 60, 84):
            for angle in range(0, 360, 30):
                across, along = math.cos(math.radians(angle)), math.sin(math.radians(angle))
                dx, dy = across * (half_width + distance), along * (half_height + distance)
                box = (x + dx - half_width, y + dy - half_height, x + dx + half_width, y + dy + half_height)
                outside = max(0, -box[0], -box[1], box[2] - room[0], box[3] - room[1])
                cost = sum(_overlap(box, other) for other in taken) + 100 * outside + 2 * distance
                if cost < least:
                    best, least = (dx, dy), cost
        taken.append((x + best[0] - half_width, y + best[1] - half_height,
                      x + best[0] + half_width, y + best[1] + half_height))  # fmt: skip
        placed.append(best)
    return placed


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """The area in which two boxes (left, upper, right, lower) overlap."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _find_ranges(figure: go.Figure, rows: pd.DataFrame) -> tuple[tuple[float, float], tuple[float, float]]:
    """Find the axes' ranges, across in powers of ten, which the marks and their intervals fill; fix them."""
    x = rows["time_ratio"].map(math.log10)
    lows = [trace.y - (trace.error_y.arrayminus if trace.error_y.arrayminus is not None else 0)
            for trace in figure.data[1:]]  # fmt: skip
    highs = [trace.y + (trace.error_y.array if trace.error_y.array is not None else 0) for trace in figure.data[1:]]
    bottom, top = min(map(min, lows)), max(map(max, highs))
    edge = 0.04 * (top - bottom or 1)
    ranges = ((x.min() - 0.08, x.max() + 0.08), (bottom - edge, top + edge))
    figure.update_xaxes(range=ranges[0])
    figure.update_yaxes(range=ranges[1])
    return ranges


def _place(time: float, value: float, ranges: tuple[tuple[float, float], tuple[float, float]]) -> tuple[float, float]:
    """Place a mark as shares of the plot's width and height, from the lower left corner."""
    (left, right), (bottom, top) = ranges
    return (math.log10(time) - left) / (right - left), (value - bottom) / (top - bottom)


def _add_labels(
    figure: go.Figure,
    rows: pd.DataFrame,
    value: pd.Series,
    ranges: tuple[tuple[float, float], tuple[float, float]],
    corner: tuple[bool, bool],
    size: int,
) -> None:
    """Label each mark with its method's name, outside the legend's corner."""
    shares = [_place(x, y, ranges) for x, y in zip(rows["time_ratio"], value, strict=True)]
    points = [(WIDTH * across, HEIGHT * (1 - along)) for across, along in shares]
    texts = [shorten_name(row) for _, row in rows.iterrows()]
    wide, high = WIDTH * LEGEND[0], HEIGHT * LEGEND[1]
    left, upper = (WIDTH - wide if corner[0] else 0.0), (0.0 if corner[1] else HEIGHT - high)
    legend = (left, upper, left + wide, upper + high)
    places = place_labels(points, texts, size, (WIDTH, HEIGHT), [legend])
    for place, text, (_, row), along in zip(places, texts, rows.iterrows(), value, strict=True):
        figure.add_annotation(
            x=math.log10(row["time_ratio"]), y=along, ax=place[0], ay=place[1], text=text, showarrow=True,
            arrowhead=0, arrowwidth=1, arrowcolor="rgba(128, 128, 128, 0.6)", standoff=6, borderpad=0,
            font={"size": size, "color": MARKS[row["family"]][0]},
        )  # fmt: skip
