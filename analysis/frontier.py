"""The speed/quality frontier: the benchmark's table as a figure.

    python -m analysis.frontier --table results/benchmark/benchmark.csv --out results/frontier --measure kid

Time runs to the right, quality upwards or downwards as its axis says; the line joins the methods that no other beats in
both. Written: PATH.html and PATH.png. Where --out is a folder (it exists, or ends in /): everything, that is settings,
table, figure and the methods' rows of images.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from PIL import Image
from plotly.colors import hex_to_rgb

from analysis.export import Results, parse, write_figure, write_results
from analysis.figures.style import BELOW, apply_style

SHIPPED = Path(__file__).parents[1] / "assets" / "results" / "benchmark" / "benchmark.csv"
FULL = "DDIM-50"  # what times and distances are relative to
# Measure -> (title of its axis, whether higher is better).
AXES = {
    "kid": ("KID to real images x 1000, lower is better", False),
    "frechet": ("Frechet distance to real images, lower is better", False),
    "r_at_1": ("Prompted subject nearest (R@1), higher is better", True),
    "r_at_5": ("Prompted subject among the 5 nearest (R@5), higher is better", True),
    "lpips_full": ("LPIPS to the full run, lower is closer", False),
    "psnr_full": ("PSNR to the full run, dB, higher is closer", True),
    "latent_mse_full": ("Latent MSE to the full run, lower is closer", False),
    "pairwise_lpips": ("Mean pairwise LPIPS over seeds, higher is more diverse", True),
    "vendi": ("Vendi score over seeds, higher is more diverse", True),
}
FACTORS = {"kid": 1000.0}
PALE = 0.4  # opacity of the intervals
NO_CRF = "Round trip or scaled, no CRF"
# Okabe and Ito's palette, beside it a grey and a violet that are seen on light and dark, and a symbol each: colour never tells alone.
FAMILIES = {
    "DDIM": ("#0072b2", "circle"),
    "DPM-Solver++": ("#009e73", "square"),
    "UniPC": ("#56b4e9", "diamond"),
    "Bypass without parameters": ("#8c8c8c", "x"),
    "Plain network": ("#cc79a7", "triangle-down"),
    NO_CRF: ("#9467bd", "cross"),
    "LatentCRF": ("#d55e00", "star"),
    "LatentCRF, static form": ("#e69f00", "star-triangle-up"),
    "LatentCRF, static form as finisher": ("#e69f00", "hexagram"),
    "LatentCRF as finisher": ("#f0e442", "star-diamond"),
}
REFINERS = {
    "bypass": "Bypass without parameters",
    "plain": "Plain network",
    "LatentCRF": "LatentCRF",
    "static": "LatentCRF, static form",
}
ENDED = {  # by what becomes of the last latents
    "finisher": "LatentCRF as finisher",
    "plain finisher": "Plain network",
    "static finisher": "LatentCRF, static form as finisher",
    "static CRF": "LatentCRF, static form as finisher",
    "round trip": NO_CRF,
    "two round trips": NO_CRF,
    "scaling": NO_CRF,
    "scaled round trip": NO_CRF,
}
NEEDED = ("method", "solver", "steps", "bypass", "refiner", "denoiser_calls", "time_ratio")


def family(row: pd.Series) -> str:
    """Which of `FAMILIES` a row of the benchmark's table belongs to: that of its ending, unless there a CRF's bypass is all that
    is ours."""
    began, ended = REFINERS.get(row["refiner"], row["solver"]), ENDED.get(row.get("finisher", ""))
    return began if ended is None or ended == NO_CRF and began.startswith("LatentCRF") else ended


def with_families(table: pd.DataFrame) -> pd.DataFrame:
    """The table with a column `family`, and empty cells of bypass, refiner and finisher as "" (a CSV gives NaN)."""
    names = ("bypass", "refiner", "finisher")
    filled = {name: table[name].astype(object).fillna("") for name in names if name in table}
    rows = table.assign(**filled).reset_index(drop=True)
    return rows.assign(family=rows.apply(family, axis=1))


def families_of(table: pd.DataFrame) -> list[str]:
    """Those of `FAMILIES` that the table holds, in their order."""
    held = set(with_families(table)["family"])
    return [name for name in FAMILIES if name in held]


def measures_of(table: pd.DataFrame) -> list[str]:
    """Those of `AXES` that the table holds values of, in their order."""
    return [name for name in AXES if name in table and table[name].notna().any()]


def read_table(path: str | Path) -> pd.DataFrame:
    """benchmark.csv as `analysis.benchmark` wrote it.

    Raises:
        OSError: there is no such file.
        ValueError: it is no such table; the message names what is missing.
    """
    table = pd.read_csv(path)
    missing = [name for name in NEEDED if name not in table]
    if missing or table.empty or not measures_of(table):
        lacks = f"column {missing[0]!r} is missing" if missing else "it has no measured rows"
        raise ValueError(f"{path} is not a table of analysis.benchmark: {lacks}.")
    return table


def file_name(method: str) -> str:
    """What files of a method are called, without ending: its name in letters, digits, "+", "-" and "_"."""
    return "".join(letter if letter.isalnum() or letter in "+-" else "_" for letter in method)


def samples(folder: Path, methods: Sequence[str]) -> dict[str, np.ndarray]:
    """Rows of images, uint8 (H, W, 3), by method, of those that have one in `folder`."""
    found = {}
    for method in methods:
        path = folder / f"{file_name(method)}.png"
        if path.is_file():
            with Image.open(path) as image:
                found[method] = np.asarray(image.convert("RGB"))
    return found


def pareto(times: np.ndarray, values: np.ndarray, higher_is_better: bool) -> np.ndarray:
    """Indices, by time, of the points that none beats or equals in time and value with one of them better."""
    gains = values if higher_is_better else -values
    front, best = [], -np.inf
    for index in np.lexsort((-gains, times)):
        if gains[index] > best:
            front.append(int(index))
            best = gains[index]
    return np.array(front, dtype=int)


def chosen(table: pd.DataFrame, measure: str, families: Sequence[str] | None = None) -> pd.DataFrame:
    """The rows that the figure shows, with their `family`; the full run's distance to itself is none of them.

    Raises:
        ValueError: the table does not hold `measure` or one of `families`, or nothing is left to show.
    """
    held = measures_of(table)
    if measure not in held:
        raise ValueError(f"measure {measure!r} is not in the table; accepted are {', '.join(held)}.")
    rows = with_families(table).dropna(subset=[measure])
    if families is not None:
        known = families_of(table)
        if unknown := [name for name in families if name not in known]:
            raise ValueError(f"family {unknown[0]!r} is not in the table; accepted are {', '.join(known)}.")
        rows = rows[rows["family"].isin(families)]
    if measure.endswith("_full"):
        rows = rows[rows["method"] != FULL]
    if rows.empty:
        raise ValueError("no method is left to show; choose at least one family of methods.")
    return rows.reset_index(drop=True)


def figure(
    table: pd.DataFrame, measure: str = "kid", families: Sequence[str] | None = None, **looks: bool
) -> go.Figure:
    """Quality against time of the rows of benchmark.csv, with 95 % intervals of both.

    Args:
        families: those of `FAMILIES` to show (default: all); the front is drawn among them.
        looks: presentation and on_page, as of `apply_style`.

    Raises:
        ValueError: as of `chosen`.
    """
    rows = chosen(table, measure, families)
    higher = AXES[measure][1]
    factor = FACTORS.get(measure, 1.0)
    value = factor * rows[measure]
    drawn = go.Figure()
    front = pareto(rows["time_ratio"].to_numpy(), value.to_numpy(), higher)
    drawn.add_scatter(
        x=rows["time_ratio"].iloc[front], y=value.iloc[front], mode="lines", name="Pareto front",
        line={"color": "#666666", "dash": "dot", "width": 2}, hoverinfo="skip",
    )  # fmt: skip
    texts = [_hover(row, measure, factor) for _, row in rows.iterrows()]
    for name, (colour, symbol) in FAMILIES.items():
        own = rows["family"] == name
        if not own.any():
            continue
        drawn.add_scatter(
            x=rows["time_ratio"][own], y=value[own], mode="markers", name=name,
            marker={"color": colour, "symbol": symbol, "size": 16 if name.startswith("LatentCRF") else 11,
                    "line": {"color": "#333333", "width": 1}},
            error_x=_bars(rows[own], "time_ratio", 1.0, colour), error_y=_bars(rows[own], measure, factor, colour),
            ids=list(rows["method"][own]), customdata=[[text, method] for text, method, kept in zip(texts, rows["method"], own, strict=True) if kept],
            hovertemplate="%{customdata[0]}<extra></extra>",
        )  # fmt: skip
    full = table[table["method"] == FULL]
    if len(full) and not measure.endswith("_full") and pd.notna(full[measure].iloc[0]):
        drawn.add_hline(
            y=factor * full[measure].iloc[0], line={"color": FAMILIES["DDIM"][0], "width": 1, "dash": "dash"},
            annotation_text="full LDM", annotation_position="top left",
        )  # fmt: skip
    drawn.update_layout(legend=BELOW)
    count = ""
    if "prompts" in rows and "seeds" in rows:
        count = f" ({int(rows['prompts'].iloc[0])} prompts x {int(rows['seeds'].iloc[0])} seeds, 95 % intervals)"
    return _framed(drawn, measure, count, **looks)


def empty(measure: str = "kid", **looks: bool) -> go.Figure:
    """The axes alone, for where there is no table."""
    drawn = go.Figure().add_annotation(text="no table", showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
    drawn.update_yaxes(showticklabels=False)
    return _framed(drawn, measure, "", **looks).update_xaxes(range=[-1.3, 0.1])  # powers of ten


def _framed(drawn: go.Figure, measure: str, count: str, **looks: bool) -> go.Figure:
    """The figure with its axes and title."""
    words, direction = AXES[measure][0].rsplit(", ", 1)
    large = looks.get("presentation")
    ticks = [0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0]
    drawn.update_xaxes(
        title="Sampler time / time of the full run (DDIM, 50 steps)",
        type="log",
        tickformat=".2~g",
        tickvals=ticks,
        tickangle=0,
    )
    drawn.update_yaxes(title={"text": f"{words}<br>{direction}", "font": {"size": 18 if large else 15}})
    height = 480 if large else 560  # all of it in sight at 1280 x 720
    return apply_style(drawn, f"Quality against time: {words.split(',')[0]}{count}", height=height, **looks)


def _bars(rows: pd.DataFrame, name: str, factor: float, colour: str) -> dict[str, Any]:
    """Plotly's error bars of a column with its interval, pale so that the marks are what one sees; none where the table has none."""
    if f"{name}_low" not in rows:
        return {}
    value, low, high = (factor * rows[column] for column in (name, f"{name}_low", f"{name}_high"))
    return {"type": "data", "symmetric": False, "array": high - value, "arrayminus": value - low,
            "thickness": 1, "width": 0, "color": f"rgba{(*hex_to_rgb(colour), PALE)}"}  # fmt: skip


def _hover(row: pd.Series, measure: str, factor: float) -> str:
    """A point's settings and values, line by line."""

    def told(name: str, factor: float) -> str:
        text = f"{factor * row[name]:.3g}"
        if pd.notna(row.get(f"{name}_low")):
            text += f" ({factor * row[f'{name}_low']:.3g} to {factor * row[f'{name}_high']:.3g})"
        return text

    lines = [f"<b>{row['method']}</b>", f"{row['solver']}, {row['steps']} steps, {row['denoiser_calls']} U-Net calls"]
    if row["bypass"]:
        lines.append(f"steps {row['bypass']} bypassed: {REFINERS.get(row['refiner'], row['refiner'])}")
    return "<br>".join(
        [*lines, f"time {told('time_ratio', 1.0)} of the full run", f"{measure} {told(measure, factor)}"]
    )


def shown(table: pd.DataFrame, measure: str, families: Sequence[str] | None = None) -> pd.DataFrame:
    """The figure's rows as a table to read: method, family, U-Net calls, time, the measure and its interval.

    Raises:
        ValueError: as of `chosen`.
    """
    rows = chosen(table, measure, families)
    factor = FACTORS.get(measure, 1.0)
    label = AXES[measure][0].split(",")[0]
    columns = {
        "Method": rows["method"],
        "Family": rows["family"],
        "U-Net calls": rows["denoiser_calls"],
        "Time / full run": rows["time_ratio"].round(3),
        label: (factor * rows[measure]).round(4),
    }
    if f"{measure}_low" in rows:
        low, high = (factor * rows[f"{measure}_{end}"] for end in ("low", "high"))
        columns["95 % interval"] = pd.Series([f"{a:.4g} to {b:.4g}" for a, b in zip(low, high, strict=True)])
    return pd.DataFrame(columns).sort_values("Time / full run", ignore_index=True)


def results(
    table: pd.DataFrame, measure: str, families: Sequence[str] | None = None, folder: Path | None = None
) -> Results:
    """The table, its figure, and the methods' rows of images where `folder` holds them."""
    images = samples(folder, list(table["method"])) if folder else {}
    options = {"measure": measure, "families": None if families is None else list(families)}
    return Results(
        "frontier", options, {"benchmark": table}, {"frontier": figure(table, measure, families)},
        {file_name(method): image for method, image in images.items()},
    )  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.frontier", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--table", type=Path, metavar="FILE",
        help="benchmark.csv of analysis.benchmark (default: the one beside --from's file, else the shipped one)")  # fmt: skip
    add("--out", required=True, metavar="PATH", help="of the figure, without ending; or a folder, for everything")
    add("--measure", choices=sorted(AXES), default="kid", help="the quality drawn (default kid)")
    add(
        "--families",
        action="extend",
        nargs="+",
        metavar="FAMILY",
        help=f"those shown, of {', '.join(FAMILIES)} (default: all)",
    )
    options = parse(parser, "frontier", arguments)
    beside = options.settings_file.with_name("benchmark.csv") if options.settings_file else SHIPPED
    source = options.table or (beside if beside.is_file() else SHIPPED)
    whole, out = options.out.endswith(("/", os.sep)) or Path(options.out).is_dir(), Path(options.out)
    try:
        table = read_table(source)
        if whole:
            made = results(table, options.measure, options.families, _samples_of(source))
            print(f"written: {out}/{', '.join(write_results(made, out))}")
        else:
            out.parent.mkdir(parents=True, exist_ok=True)
            write_figure(figure(table, options.measure, options.families), out)
            print(f"written: {out}.html")  # what becomes of the PNG is said where it is drawn
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _samples_of(table: Path) -> Path:
    """The images beside a table: in the benchmark's folder `samples`, or in an export's own folder."""
    return folder if (folder := table.with_name("samples")).is_dir() else table.parent


if __name__ == "__main__":
    sys.exit(main())
