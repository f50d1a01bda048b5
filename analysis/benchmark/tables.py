"""The benchmark's tables: a row a method, each run against its rivals, and an overview in Markdown."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from analysis import measures
from analysis.benchmark.methods import ENDINGS, Method
from analysis.frontier import FULL

# In benchmark.csv each has a column of estimates and two of its 95 % interval.
MEASURES = (
    *("kid", "frechet", "r_at_1", "r_at_5", "lpips_full", "psnr_full", "latent_mse_full", "pairwise_lpips", "vendi"),
    "edges",
)
DISTANCES = ("kid", "frechet")  # between distributions; the others are means over prompts
# What is compared, and whether more of it is better.
SIGNS = {"kid": -1, "r_at_5": 1, "lpips_full": -1, "latent_mse_full": -1, "pairwise_lpips": 1}


def row_of(method: Method, kept: dict[str, np.ndarray], prompts: int, seeds: int) -> dict[str, Any]:
    """One row of benchmark.csv."""
    row: dict[str, Any] = {
        "method": method.name,
        "solver": method.solver,
        "steps": method.steps,
        "bypass": "" if method.bypass is None else f"({method.bypass[0]}, {method.bypass[1]})",
        "refiner": method.refiner,
        "finisher": method.finisher,
        "denoiser_calls": int(kept["calls"]),
        "prompts": prompts,
        "seeds": seeds,
    }
    row["time_ratio"], row["time_ratio_low"], row["time_ratio_high"] = measures.bootstrap(kept["ratios"], np.median)
    for name in MEASURES:
        if f"draws_{name}" in kept:
            row[name], row[f"{name}_low"], row[f"{name}_high"] = measures.interval(
                kept[f"draws_{name}"], name in DISTANCES
            )
    row["spectrum_error_db"] = float(kept["spectrum_error"])
    return row


def compare(methods: list[Method], kept: dict[str, dict[str, np.ndarray]]) -> pd.DataFrame:
    """Each run against the full one in KID and R@5; those with a CRF also against the best rival that takes no more time, of
    all and of those whose last latents stay as they are, and in every measure against their twins.

    Twins, where they were measured: the same bypass without parameters and with a plain network; the same run without the
    finisher and with another one. A finished run without a CRF is compared with the same run as it was.

    Differences are `method` minus `against`, paired by prompt; ratios of diversity are to the full run.
    """
    rows: list[dict[str, Any]] = []
    times = {method.name: float(np.median(kept[method.name]["ratios"])) for method in methods}
    rivals = [method for method in methods if not method.is_ours]

    def add(ours: str, rival: str, measure: str, draws: np.ndarray, sign: int, even: float = 0.0) -> None:
        value, low, high = measures.interval(draws, measure.split(",")[0] in DISTANCES)
        rows.append(
            {"method": ours, "against": rival, "measure": measure, "value": value, "low": low, "high": high,
             "better": bool(sign * (low - even) > 0 and sign * (high - even) > 0),
             "time_ratio": times[ours], "time_ratio_against": times[rival]}
        )  # fmt: skip

    for method in methods:
        ours, name, twins = kept[method.name], method.name, []
        if method.finisher:
            others = ENDINGS if method.is_ours else ()
            twins = [replace(method, finisher=other).name for other in ("", *others) if other != method.finisher]
        if method.refiner in ("LatentCRF", "static"):
            twins += [replace(method, refiner=refiner).name for refiner in ("bypass", "plain")]
        for measure, sign in SIGNS.items():
            key = f"draws_{measure}"
            if key not in ours:
                continue
            against = [twin for twin in twins if twin in times]
            if measure in ("kid", "r_at_5") and name != FULL:
                quick = [rival for rival in rivals if method.is_ours and times[rival.name] <= times[name]]
                groups = (quick, [rival for rival in quick if not rival.finisher])
                best = [max(group, key=lambda rival: sign * kept[rival.name][key][0]) for group in groups if group]
                against = [FULL, *(rival.name for rival in best), *against]
            for rival in dict.fromkeys(against):
                add(name, rival, f"{measure}, difference", ours[key] - kept[rival][key], sign)
        for measure in ("pairwise_lpips", "vendi") if method.is_ours else ():
            if (key := f"draws_{measure}") in ours:
                add(name, FULL, f"{measure}, ratio", ours[key] / kept[FULL][key], 1, even=1.0)
    return pd.DataFrame(rows)


def markdown_table(titles: list[str], rows: list[list[str]]) -> str:
    """A Markdown table: a line of titles, then the rows' cells."""
    parts = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(part) + " |" for part in parts)


def markdown(table: pd.DataFrame) -> str:
    """All methods with their headline figures."""
    titles = [
        "method",
        "U-Net calls",
        "time / full run",
        "KID x 1000",
        "R@5",
        "pairwise LPIPS",
        "LPIPS to the full run",
    ]

    def told(row: pd.Series, name: str, digits: int, factor: float = 1) -> str:
        if name not in row or pd.isna(row[name]):
            return ""
        value, low, high = (factor * row[column] for column in (name, f"{name}_low", f"{name}_high"))
        return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"

    rows = [
        [
            str(row["method"]), str(row["denoiser_calls"]), told(row, "time_ratio", 2), told(row, "kid", 1, 1000),
            told(row, "r_at_5", 2), told(row, "pairwise_lpips", 3), told(row, "lpips_full", 3),
        ]
        for _, row in table.iterrows()
    ]  # fmt: skip
    return markdown_table(titles, rows) + "\n"
