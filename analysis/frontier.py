"""The speed/quality frontier: the benchmark's table as a figure.

    python -m analysis.frontier --table results/benchmark/benchmark.csv --out results/frontier --measure kid

Time runs to the right, quality upwards or downwards as its axis says; the line joins the methods that no other beats in
both.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis.export import write_figure

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
# Okabe and Ito's palette, and a symbol each: colour never tells alone.
FAMILIES = {
    "DDIM": ("#0072b2", "circle"),
    "DPM-Solver++": ("#009e73", "square"),
    "UniPC": ("#56b4e9", "diamond"),
    "Euler": ("#f0e442", "triangle-up"),
    "Bypass without parameters": ("#8c8c8c", "x"),
    "Plain network": ("#cc79a7", "triangle-down"),
    "LatentCRF": ("#d55e00", "star"),
}
REFINERS = {"bypass": "Bypass without parameters", "plain": "Plain network", "LatentCRF": "LatentCRF"}


def family(row: pd.Series) -> str:
    """Which of `FAMILIES` a row of the benchmark's table belongs to."""
    return REFINERS.get(row["refiner"], row["solver"])


def pareto(times: np.ndarray, values: np.ndarray, higher_is_better: bool) -> np.ndarray:
    """Indices, by time, of the points that none beats or equals in time and value with one of them better."""
    gains = values if higher_is_better else -values
    front, best = [], -np.inf
    for index in np.lexsort((-gains, times)):
        if gains[index] > best:
            front.append(int(index))
            best = gains[index]
    return np.array(front, dtype=int)


def figure(table: pd.DataFrame, measure: str = "kid") -> go.Figure:
    """Quality against time of the rows of benchmark.csv, with 95 % intervals.

    Raises:
        ValueError: the table does not hold `measure`, or it is not one of `AXES`.
    """
    if measure not in AXES or measure not in table:
        held = [name for name in AXES if name in table]
        raise ValueError(f"measure {measure!r} is not in the table; accepted are {', '.join(held)}.")
    title, higher = AXES[measure]
    rows = table.dropna(subset=[measure]).reset_index(drop=True)
    rows = rows.assign(refiner=rows["refiner"].astype(object).fillna(""))  # an empty cell is read as NaN
    rows = rows.assign(family=rows.apply(family, axis=1))
    factor = FACTORS.get(measure, 1.0)
    value, low, high = (factor * rows[name] for name in (measure, f"{measure}_low", f"{measure}_high"))
    drawn = go.Figure()
    front = pareto(rows["time_ratio"].to_numpy(), value.to_numpy(), higher)
    drawn.add_scatter(
        x=rows["time_ratio"].iloc[front], y=value.iloc[front], mode="lines", name="Pareto front",
        line={"color": "#666666", "dash": "dot", "width": 2}, hoverinfo="skip",
    )  # fmt: skip
    for name, (colour, symbol) in FAMILIES.items():
        own = rows["family"] == name
        if not own.any():
            continue
        y = value[own]
        drawn.add_scatter(
            x=rows["time_ratio"][own], y=y, mode="markers", name=name,
            marker={"color": colour, "symbol": symbol, "size": 14 if name == "LatentCRF" else 11,
                    "line": {"color": "#333333", "width": 1}},
            error_y={"type": "data", "symmetric": False, "array": high[own] - y, "arrayminus": y - low[own],
                     "thickness": 1, "width": 3},
            customdata=rows[own][["method", "unet_calls"]],
            hovertemplate="%{customdata[0]}<br>%{customdata[1]} U-Net calls<br>time %{x:.2f} of the full run<br>"
                          "%{y:.4g}<extra></extra>",
        )  # fmt: skip
    drawn.update_xaxes(title="Sampler time / time of the full run (DDIM, 50 steps)", type="log", tickformat=".2g")
    drawn.update_xaxes(tickvals=[0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0])
    drawn.update_yaxes(title=title)
    drawn.update_layout(
        title=f"Quality against time: {title.split(',')[0]}",
        template="plotly_white",
        font={"size": 16},
        legend={"orientation": "h", "yanchor": "top", "y": -0.18, "x": 0},
        margin={"l": 90, "r": 30, "t": 70, "b": 150},
        width=1180,
        height=700,
    )
    return drawn


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.frontier", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--table", type=Path, required=True, metavar="FILE", help="benchmark.csv of analysis.benchmark")
    add("--out", type=Path, required=True, metavar="PATH", help="of the figure, without ending: .html and .png follow")
    add("--measure", choices=sorted(AXES), default="kid", help="the quality drawn (default kid)")
    options = parser.parse_args(arguments)
    try:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_figure(figure(pd.read_csv(options.table), options.measure), options.out)
    except (OSError, ValueError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
