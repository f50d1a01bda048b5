"""The benchmark's tables: a row a method, paired comparisons, and an overview in Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.benchmark.measure import name_draws
from analysis.benchmark.methods import FINISHERS, Method, list_core_methods, list_default_methods
from analysis.markdown import ABSENT, WHY_ABSENT, format_interval, format_markdown_table, format_number
from analysis.metrics.intervals import bootstrap, interval
from analysis.studies.frontier import METRICS

# In benchmark.csv each has a column of estimates and two of its 95 % interval.
TABULATED = (*METRICS, "edges")
DISTANCES = ("kid", "frechet")  # between distributions; the others are means over prompts
COMPARED = ("kid", "r_at_5", "lpips_full", "latent_mse_full", "pairwise_lpips")


Arrays = Mapping[str, np.ndarray]


def build_table(methods: Sequence[Method], arrays: Mapping[str, Arrays], precision: str, seeds: int) -> pd.DataFrame:
    """Build benchmark.csv.

    Args:
        methods: the full run first.
        arrays: by name, as of `analysis.benchmark.measure.measure`, and `ratios`, as of `measure_time_ratios`.
        precision: name of the type in which the networks computed.
        seeds: images a prompt.

    Returns:
        A row a method.
    """
    full = arrays[methods[0].name]
    core, default = list_core_methods(), list_default_methods()
    rows = []
    for method in methods:
        row = build_row(method, arrays[method.name], full, precision, seeds)
        rows.append(row | {"core": method in core, "default": method in default})
    return pd.DataFrame(rows)


def count_prompts(arrays: Arrays) -> list[int]:
    """List the numbers of prompts that a method is measured on, ascending.

    Args:
        arrays: as of `build_table`.
    """
    return sorted(int(name.rsplit("_", 1)[1]) for name in arrays if name.startswith("draws_kid_"))


def find_common_prompts(arrays: Arrays, other: Arrays) -> int:
    """Find the largest number of prompts that two methods are measured on.

    Args:
        arrays: of the one, as of `build_table`.
        other: of the other.
    """
    return max(set(count_prompts(arrays)) & set(count_prompts(other)))


def read_draws(arrays: Arrays, other: Arrays, metric: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Read a metric's draws of two methods on the largest number of prompts that both are measured on.

    Args:
        arrays: of the one, as of `build_table`.
        other: of the other.
        metric: one of `METRICS`, or "edges".

    Returns:
        Draws of both, or None where the metric was not computed.
    """
    name = name_draws(metric, find_common_prompts(arrays, other))
    return (arrays[name], other[name]) if name in arrays and name in other else None


def build_row(method: Method, arrays: Arrays, full: Arrays, precision: str, seeds: int) -> dict[str, Any]:
    """Build a row of benchmark.csv.

    Args:
        method: of the row.
        arrays: as of `build_table`.
        full: of the full run.
        precision: as of `build_table`.
        seeds: images a prompt.

    Returns:
        The row. A metric has a column of its own name, on all of the method's prompts, and `METRIC_difference`, to the
        full run on the same prompts, each with its 95 % interval. A distance to the full run (`..._full`) is on the few
        prompts that all methods have, as it is compared among methods.
    """
    few, prompts = count_prompts(arrays)[0], count_prompts(arrays)[-1]
    row: dict[str, Any] = {
        "method": method.name,
        "solver": method.solver,
        "steps": method.steps,
        "spacing": method.spacing,
        "guidance": method.guidance,
        "cache_interval": method.cache_interval,
        "bypass": "" if method.bypass is None else f"({method.bypass[0]}, {method.bypass[1]})",
        "crf_form": method.crf_form,
        "finisher": method.finisher,
        "denoiser_calls": int(arrays["denoiser_calls"]),
        "network_evaluations": round(float(arrays["network_evaluations"])),
        "precision": precision,
        "prompts": prompts,
        "seeds": seeds,
    }
    row["time_ratio"], row["time_ratio_low"], row["time_ratio_high"] = bootstrap(arrays["ratios"], np.median)
    for name in TABULATED:
        if (key := name_draws(name, few if name.endswith("_full") else prompts)) in arrays:
            ends = interval(arrays[key], name in DISTANCES)
            row[name], row[f"{name}_low"], row[f"{name}_high"] = ends
        if not name.endswith("_full") and (pair := read_draws(arrays, full, name)):
            own, others = pair
            ends = interval(own - others, name in DISTANCES)
            row[f"{name}_difference"], row[f"{name}_difference_low"], row[f"{name}_difference_high"] = ends
    row["spectrum_error_db"] = float(arrays["spectrum_error"])
    return row


def list_variants(method: Method) -> list[str]:
    """List the methods that differ from this one in one part only.

    Args:
        method: of which another finisher or none, the benchmark's guidance at every call, and no CRF at the bypass are
            variants.

    Returns:
        Their names.
    """
    variants = []
    if method.finisher:
        finishers = ("", *FINISHERS) if method.uses_crf else ("",)
        variants = [replace(method, finisher=other).name for other in finishers if other != method.finisher]
    if method.guidance:
        variants.append(replace(method, guidance="").name)
    if method.crf_form in ("conditional", "static"):
        variants += [replace(method, crf_form=form).name for form in ("zero-parameter", "plain")]
    return variants


def find_best_baselines(
    method: Method, metric: str, methods: Sequence[Method], arrays: Mapping[str, Arrays]
) -> list[str]:
    """Find the best baselines that take no more time than a method, on the prompts that all methods are measured on.

    Args:
        method: a method with a CRF.
        metric: one of `COMPARED`.
        methods: all methods.
        arrays: by name, as of `build_table`.

    Returns:
        The best of all methods without a CRF (plain finishers and VAE round trips are such), then the best of those
        that end without either; none, where none is quick enough or the metric was not computed.
    """
    time = np.median(arrays[method.name]["ratios"])
    sign = 1 if METRICS[metric][1] else -1
    quick = [each for each in methods if not each.uses_crf and np.median(arrays[each.name]["ratios"]) <= time]
    few = min(count_prompts(arrays[method.name]))
    if name_draws(metric, few) not in arrays[method.name]:
        return []
    groups = (quick, [each for each in quick if not each.finisher])
    return [
        max((each.name for each in group), key=lambda name: sign * arrays[name][name_draws(metric, few)][0])
        for group in groups
        if group
    ]


def compare(methods: Sequence[Method], arrays: Mapping[str, Arrays]) -> pd.DataFrame:
    """Compare each method with others, paired by prompt, on the prompts that both are measured on.

    Every method is compared with the full run in KID, R@5 and diversity, and one with a CRF with the best baselines
    that take no more time in KID and R@5. Methods are compared in every metric with their variants that were measured,
    core methods with the other core methods in KID and R@5.

    Args:
        methods: the full run first.
        arrays: by name, as of `build_table`.

    Returns:
        Columns method, against, measure, value, low, high (95 % interval), better (whether the interval says so),
        prompts, time_ratio, time_ratio_against, best_baseline (whether `against` is the best baseline without a
        finisher by this metric). Differences are `method` minus `against`; ratios of diversity are to the full run.
    """
    rows: list[dict[str, Any]] = []
    times = {method.name: float(np.median(arrays[method.name]["ratios"])) for method in methods}
    full = methods[0].name
    core = [method.name for method in methods if method in list_core_methods()]

    def add_row(name: str, other: str, metric: str, *, ratio: bool = False, is_best: bool = False) -> None:
        pair = read_draws(arrays[name], arrays[other], metric)
        if pair is None:
            return
        own, others = pair
        value, low, high = interval(own / others if ratio else own - others, metric in DISTANCES)
        sign, even = (1, 1.0) if ratio else (1 if METRICS[metric][1] else -1, 0.0)
        rows.append(
            {"method": name, "against": other, "measure": f"{metric}, {'ratio' if ratio else 'difference'}",
             "value": value, "low": low, "high": high,
             "better": bool(sign * (low - even) > 0 and sign * (high - even) > 0),
             "prompts": find_common_prompts(arrays[name], arrays[other]),
             "time_ratio": times[name], "time_ratio_against": times[other], "best_baseline": is_best}
        )  # fmt: skip

    for method in methods:
        name = method.name
        variants = [variant for variant in list_variants(method) if variant in times]
        for metric in COMPARED:
            against, best = variants, []
            if metric in ("kid", "r_at_5") and name != full:
                best = find_best_baselines(method, metric, methods, arrays) if method.uses_crf else []
                against = [full, *best, *variants, *(core if name in core else ())]
            for other in dict.fromkeys(against):
                if other != name:
                    add_row(name, other, metric, is_best=other in best[1:])
        for metric in ("pairwise_lpips", "vendi"):
            if name != full:
                add_row(name, full, metric, ratio=True)
    return pd.DataFrame(rows)


def format_overview(table: pd.DataFrame) -> str:
    """Format all methods with their headline metrics, as far as they were computed, as Markdown.

    Args:
        table: as of `build_table`.
    """
    titles = ["method", "network evaluations", "time / full run", "prompts", "KID x 1000, to the full run"]
    titles += ["R@5, to the full run", "pairwise LPIPS, to the full run", "LPIPS to the full run"]

    def format_estimate(row: pd.Series, name: str, digits: int, factor: float = 1) -> str:
        if name not in row or pd.isna(row[name]):
            return ABSENT if name in row else ""
        sign = "+" if name.endswith("_difference") else ""
        value, low, high = (factor * row[name + end] for end in ("", "_low", "_high"))
        form = f"{sign}.{digits}f"
        return f"{format_number(value, form)} ({format_interval(low, high, form)})"

    rows = [
        [
            str(row["method"]), str(row["network_evaluations"]), format_estimate(row, "time_ratio", 2),
            str(row["prompts"]), format_estimate(row, "kid_difference", 1, 1000),
            format_estimate(row, "r_at_5_difference", 3), format_estimate(row, "pairwise_lpips_difference", 3),
            format_estimate(row, "lpips_full", 3),
        ]
        for _, row in table.iterrows()
    ]  # fmt: skip
    measured = [column for column in range(len(titles)) if any(row[column].strip(ABSENT) for row in rows)]
    shown = [[each[column] for column in measured] for each in (titles, *rows)]
    lacks = any(cell == ABSENT or cell.endswith(f"({ABSENT})") for row in shown[1:] for cell in row)
    return format_markdown_table(shown[0], shown[1:]) + "\n" + (f"\n{WHY_ABSENT}\n" if lacks else "")
