"""The benchmark's tables: a row a method, paired comparisons, and an overview in Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.benchmark.methods import FINISHERS, Method
from analysis.metrics.intervals import bootstrap, interval
from analysis.studies.frontier import METRICS

# In benchmark.csv each has a column of estimates and two of its 95 % interval.
TABULATED = (*METRICS, "edges")
DISTANCES = ("kid", "frechet")  # between distributions; the others are means over prompts
COMPARED = ("kid", "r_at_5", "lpips_full", "latent_mse_full", "pairwise_lpips")


def build_row(
    method: Method, arrays: Mapping[str, np.ndarray], precision: str, prompts: int, seeds: int
) -> dict[str, Any]:
    """Build a row of benchmark.csv.

    Args:
        method: of the row.
        arrays: as of `analysis.benchmark.measure.measure`, and `ratios`, as of `measure_time_ratios`.
        precision: name of the type in which the networks computed.
        prompts: their number.
        seeds: images a prompt.
    """
    row: dict[str, Any] = {
        "method": method.name,
        "solver": method.solver,
        "steps": method.steps,
        "bypass": "" if method.bypass is None else f"({method.bypass[0]}, {method.bypass[1]})",
        "crf_form": method.crf_form,
        "finisher": method.finisher,
        "denoiser_calls": int(arrays["denoiser_calls"]),
        "network_evaluations": int(arrays["network_evaluations"]),
        "precision": precision,
        "prompts": prompts,
        "seeds": seeds,
    }
    row["time_ratio"], row["time_ratio_low"], row["time_ratio_high"] = bootstrap(arrays["ratios"], np.median)
    for name in TABULATED:
        if f"draws_{name}" in arrays:
            ends = interval(arrays[f"draws_{name}"], name in DISTANCES)
            row[name], row[f"{name}_low"], row[f"{name}_high"] = ends
    row["spectrum_error_db"] = float(arrays["spectrum_error"])
    return row


def list_variants(method: Method) -> list[str]:
    """List the methods that differ from this one in one part only: another finisher or none, no CRF at the bypass.

    Args:
        method: a method with a CRF, or with a finisher.

    Returns:
        Their names.
    """
    variants = []
    if method.finisher:
        finishers = ("", *FINISHERS) if method.uses_crf else ("",)
        variants = [replace(method, finisher=other).name for other in finishers if other != method.finisher]
    if method.crf_form in ("conditional", "static"):
        variants += [replace(method, crf_form=form).name for form in ("zero-parameter", "plain")]
    return variants


def find_best_baselines(
    method: Method, metric: str, methods: Sequence[Method], arrays: Mapping[str, Mapping[str, np.ndarray]]
) -> list[str]:
    """Find the best baseline that takes no more time than a method: of all, and of those without finisher.

    Args:
        method: a method with a CRF.
        metric: one of `COMPARED`.
        methods: all methods.
        arrays: by name, as of `build_row`.

    Returns:
        None, one or two names.
    """
    time = np.median(arrays[method.name]["ratios"])
    sign = 1 if METRICS[metric][1] else -1
    quick = [each for each in methods if not each.uses_crf and np.median(arrays[each.name]["ratios"]) <= time]
    groups = (quick, [each for each in quick if not each.finisher])
    return [
        max((each.name for each in group), key=lambda name: sign * arrays[name][f"draws_{metric}"][0])
        for group in groups
        if group
    ]


def compare(methods: Sequence[Method], arrays: Mapping[str, Mapping[str, np.ndarray]]) -> pd.DataFrame:
    """Compare each method with others, paired by prompt.

    Every method is compared with the full run in KID and R@5, and one with a CRF with the best baselines that take no
    more time. Methods with a CRF or a finisher are compared in every metric with their variants that were measured.

    Args:
        methods: the full run first.
        arrays: by name, as of `build_row`.

    Returns:
        Columns method, against, measure, value, low, high (95 % interval), better (whether the interval says so),
        time_ratio, time_ratio_against. Differences are `method` minus `against`; ratios of diversity are to the full
        run.
    """
    rows: list[dict[str, Any]] = []
    times = {method.name: float(np.median(arrays[method.name]["ratios"])) for method in methods}
    full = methods[0].name

    def add_row(name: str, other: str, measure: str, draws: np.ndarray, sign: int, even: float = 0.0) -> None:
        value, low, high = interval(draws, measure.split(",")[0] in DISTANCES)
        rows.append(
            {"method": name, "against": other, "measure": measure, "value": value, "low": low, "high": high,
             "better": bool(sign * (low - even) > 0 and sign * (high - even) > 0),
             "time_ratio": times[name], "time_ratio_against": times[other]}
        )  # fmt: skip

    for method in methods:
        own, name = arrays[method.name], method.name
        variants = [variant for variant in list_variants(method) if variant in times]
        for metric in COMPARED:
            key = f"draws_{metric}"
            if key not in own:
                continue
            against = variants
            if metric in ("kid", "r_at_5") and name != full:
                best = find_best_baselines(method, metric, methods, arrays) if method.uses_crf else []
                against = [full, *best, *variants]
            for other in dict.fromkeys(against):
                sign = 1 if METRICS[metric][1] else -1
                add_row(name, other, f"{metric}, difference", own[key] - arrays[other][key], sign)
        for metric in ("pairwise_lpips", "vendi") if method.uses_crf else ():
            if (key := f"draws_{metric}") in own:
                add_row(name, full, f"{metric}, ratio", own[key] / arrays[full][key], 1, even=1.0)
    return pd.DataFrame(rows)


def format_markdown_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table.

    Args:
        titles: of the columns.
        rows: their cells.
    """
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def format_overview(table: pd.DataFrame) -> str:
    """Format all methods with their headline metrics as Markdown.

    Args:
        table: rows as of `build_row`.
    """
    titles = ["method", "denoiser calls", "network evaluations", "time / full run", "KID x 1000", "R@5"]
    titles += ["pairwise LPIPS", "LPIPS to the full run"]

    def format_interval(row: pd.Series, name: str, digits: int, factor: float = 1) -> str:
        if name not in row or pd.isna(row[name]):
            return ""
        value, low, high = (factor * row[column] for column in (name, f"{name}_low", f"{name}_high"))
        return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"

    rows = [
        [
            str(row["method"]), str(row["denoiser_calls"]), str(row["network_evaluations"]),
            format_interval(row, "time_ratio", 2), format_interval(row, "kid", 1, 1000),
            format_interval(row, "r_at_5", 2), format_interval(row, "pairwise_lpips", 3),
            format_interval(row, "lpips_full", 3),
        ]
        for _, row in table.iterrows()
    ]  # fmt: skip
    return format_markdown_table(titles, rows) + "\n"
