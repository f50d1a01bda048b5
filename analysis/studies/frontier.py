"""The speed/quality frontier: the benchmark's table, its families of methods, its Pareto front, its sample images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from analysis.markdown import format_interval
from analysis.tables import read_csv

SHIPPED = Path(__file__).parents[2] / "assets" / "results" / "benchmark"  # benchmark.csv, samples
FULL_METHOD = "DDIM-50"  # the full run: what times and distances are relative to
# Metric -> (title of its axis, whether higher is better).
METRICS = {
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
FEW_STEPS, CUT_OFF, CACHING, BYPASS, FINISHED, OTHERS = FAMILIES = (
    "Few-step solvers", "Guidance cut-off", "Step caching", "LatentCRF bypass", "Finished runs", "Other baselines",
)  # fmt: skip
REQUIRED = (
    *("method", "solver", "steps", "guidance", "cache_interval", "bypass", "crf_form", "finisher"),
    *("denoiser_calls", "network_evaluations", "time_ratio", "default"),
)


def find_family(row: pd.Series) -> str:
    """Find the family of a method.

    Args:
        row: of the benchmark's table, without empty cells.

    Returns:
        One of `FAMILIES`. Any run with the finisher is a finished run. Other baselines: a bypass without the
        conditional form, a plain finisher, the VAE round trip, lower guidance.
    """
    if row["finisher"]:
        return FINISHED if row["finisher"] == "finisher" else OTHERS
    if row["crf_form"]:
        return BYPASS if row["crf_form"] == "conditional" else OTHERS
    if row["cache_interval"] > 1:
        return CACHING
    if row["guidance"]:
        return CUT_OFF if row["guidance"].startswith(("cut-off", "interval")) else OTHERS
    return FEW_STEPS


def add_families(table: pd.DataFrame) -> pd.DataFrame:
    """Add a column `family`, and fill the empty cells of the columns of text with "" (a CSV gives NaN).

    Args:
        table: as of `read_table`.

    Returns:
        A new table.
    """
    filled = {name: table[name].astype(object).fillna("") for name in ("bypass", "crf_form", "finisher", "guidance")}
    rows = table.assign(**filled).reset_index(drop=True)
    return rows.assign(family=rows.apply(find_family, axis=1))


def list_metrics(table: pd.DataFrame) -> list[str]:
    """List those of `METRICS` that the table has values of, in their order.

    Args:
        table: as of `read_table`.
    """
    return [name for name in METRICS if name in table and table[name].notna().any()]


def read_table(path: str | Path) -> pd.DataFrame:
    """Read benchmark.csv as `analysis.benchmark` wrote it.

    Args:
        path: the file.

    Raises:
        OSError: there is no such file.
        ValueError: it is no such table, or broken; the message names what is missing, or line and column.
    """
    table = read_csv(path)
    missing = [name for name in REQUIRED if name not in table]
    if missing or table.empty or not list_metrics(table):
        problem = f"column {missing[0]!r} is missing" if missing else "it has no measured rows"
        raise ValueError(f"{path} is not a table of analysis.benchmark: {problem}.")
    return table


def name_file(method: str) -> str:
    """Name the files of a method, without ending.

    Args:
        method: its name.

    Returns:
        The name in letters, digits, "+", "-" and "_".
    """
    return "".join(letter if letter.isalnum() or letter in "+-" else "_" for letter in method)


def read_samples(folder: Path, methods: Sequence[str]) -> dict[str, np.ndarray]:
    """Read the methods' rows of images.

    Args:
        folder: holds a WebP or PNG file a method.
        methods: their names.

    Returns:
        uint8 (H, W, 3) by method, of those that have one in `folder`.
    """
    samples = {}
    for method in methods:
        for path in (folder / f"{name_file(method)}{ending}" for ending in (".webp", ".png")):
            if path.is_file() and method not in samples:
                with Image.open(path) as image:
                    samples[method] = np.asarray(image.convert("RGB"))
    return samples


def find_pareto_front(times: np.ndarray, values: np.ndarray, higher_is_better: bool) -> np.ndarray:
    """Find the points that no other beats or equals in time and value with one of them better.

    Args:
        times: (n,), lower is better.
        values: (n,).
        higher_is_better: of the values.

    Returns:
        Their indices, by time.
    """
    gains = values if higher_is_better else -values
    front, best = [], -np.inf
    for index in np.lexsort((-gains, times)):
        if gains[index] > best:
            front.append(int(index))
            best = gains[index]
    return np.array(front, dtype=int)


def choose_column(table: pd.DataFrame, metric: str) -> str:
    """Choose the column in which the figure shows a metric.

    Args:
        table: as of `read_table`.
        metric: one of `METRICS`.

    Returns:
        The paired difference to the full run, which is known more exactly and compares methods that were measured on
        different numbers of prompts; the metric itself where it is a distance to the full run, or the table has no
        differences.
    """
    difference = f"{metric}_difference"
    return difference if difference in table else metric


def select_rows(table: pd.DataFrame, metric: str, all_methods: bool = False) -> pd.DataFrame:
    """Select the rows that the figure shows. The full run's distance to itself is not shown.

    Args:
        table: as of `read_table`.
        metric: one of `METRICS`.
        all_methods: also what nobody would choose, and baselines that only explain others; default False.

    Returns:
        The rows, with their `family`.

    Raises:
        ValueError: the table lacks `metric`, or nothing is left to show.
    """
    accepted = list_metrics(table)
    if metric not in accepted:
        raise ValueError(f"metric {metric!r} is not in the table; accepted are {', '.join(accepted)}.")
    rows = add_families(table).dropna(subset=[metric])
    if not all_methods:
        rows = rows[rows["default"].astype(bool) & (rows["family"] != OTHERS)]
    if metric.endswith("_full"):
        rows = rows[rows["method"] != FULL_METHOD]
    if rows.empty:
        raise ValueError("no method is left to show.")
    return rows.reset_index(drop=True)


def list_rows(table: pd.DataFrame, metric: str, all_methods: bool = False) -> pd.DataFrame:
    """List the figure's rows as a table to read, by time.

    Args:
        table: as of `read_table`.
        metric: one of `METRICS`.
        all_methods: as of `select_rows`.

    Returns:
        Columns Method, Family, Network evaluations, Time / full run, the metric, what the figure shows of it with its
        interval, and Prompts.

    Raises:
        ValueError: as of `select_rows`.
    """
    rows = select_rows(table, metric, all_methods)
    factor, shown = FACTORS.get(metric, 1.0), choose_column(table, metric)
    columns = {
        "Method": rows["method"],
        "Family": rows["family"],
        "Network evaluations": rows["network_evaluations"],
        "Time / full run": rows["time_ratio"].round(3),
        METRICS[metric][0].split(",")[0]: (factor * rows[metric]).round(4),
    }
    if shown != metric:
        columns["Difference to the full run"] = (factor * rows[shown]).round(4)
    if f"{shown}_low" in rows:
        low, high = (factor * rows[f"{shown}_{end}"] for end in ("low", "high"))
        columns["95 % interval"] = pd.Series([format_interval(a, b, ".4g") for a, b in zip(low, high, strict=True)])
    if "prompts" in rows:
        columns["Prompts"] = rows["prompts"]
    return pd.DataFrame(columns).sort_values("Time / full run", ignore_index=True)
