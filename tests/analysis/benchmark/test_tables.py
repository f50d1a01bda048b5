"""The benchmark's tables: rows and comparisons on known numbers."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis.benchmark.methods import Method
from analysis.benchmark.tables import build_table, compare, format_overview
from analysis.figures.frontier import draw_frontier
from analysis.studies.frontier import FULL_METHOD


def build_arrays(ratio: float, kid: float, r_at_5: float, prompts: tuple[int, ...] = (20,)) -> dict[str, np.ndarray]:
    """What `measure` finds; on more prompts than 20 KID is ten times as large."""
    spread = np.linspace(-0.1, 0.1, 201)
    draws = {
        f"{name}_{count}": factor * np.concatenate([[value], value + spread * value])
        for name, value in (("kid", kid), ("r_at_5", r_at_5), ("pairwise_lpips", 0.3), ("vendi", 3.0))
        for count in prompts
        for factor in [10 if name == "kid" and count > 20 else 1]
    }
    return {
        **{f"draws_{name}": values for name, values in draws.items()},
        "ratios": np.full(5, ratio),
        "denoiser_calls": np.array(8),
        "network_evaluations": np.array(16),
        "spectrum_error": np.array(0.5),
    }


def test_latentcrf_is_compared_with_the_best_that_takes_no_more_time() -> None:
    ours = Method("DDIM", 9, (8, 9), "conditional")
    without_parameters = Method("DDIM", 9, (8, 9), "zero-parameter")
    plain = Method("DDIM", 9, (8, 9), "plain")
    methods = [
        Method("DDIM", 50),
        Method("DDIM", 8),
        Method("UniPC", 6),
        Method("UniPC", 8),
        without_parameters,
        ours,
        plain,
    ]
    arrays = dict(
        zip(
            [method.name for method in methods],
            [
                build_arrays(1, 0.1, 0.6),
                build_arrays(0.16, 0.5, 0.3),
                build_arrays(0.12, 0.4, 0.2),
                build_arrays(0.2, 0.1, 0.9),
                build_arrays(0.17, 0.45, 0.1),
                build_arrays(0.18, 0.2, 0.5),
                build_arrays(0.19, 0.1, 0.4),
            ],
            strict=True,
        )
    )
    table = compare(methods, arrays)
    # UniPC-8 and the full run are core methods: compared with each other
    others = table[(table["method"] != ours.name) & (table["against"] != "UniPC-8")]
    assert set(others["method"]) == {method.name for method in methods} - {FULL_METHOD, ours.name}
    assert set(others["against"]) == {FULL_METHOD}
    assert set(others["measure"]) == {
        "kid, difference", "r_at_5, difference", "pairwise_lpips, ratio", "vendi, ratio",
    }  # fmt: skip
    assert set(table["prompts"]) == {20}
    table = table[table["method"] == ours.name]
    kid = table[table["measure"] == "kid, difference"].set_index("against")
    assert set(kid.index) == {
        FULL_METHOD,
        "UniPC-6",
        without_parameters.name,
        plain.name,
    }  # UniPC-8 takes longer, DDIM-8 is worse
    assert not kid.loc[plain.name, "better"]  # listed though it takes longer than ours
    assert kid.loc["UniPC-6", "value"] == pytest.approx(-0.2)
    assert kid.loc["UniPC-6", "low"] == pytest.approx(-0.2 - 0.2 * 0.095)
    assert kid.loc["UniPC-6", "better"] and not kid.loc[FULL_METHOD, "better"]
    assert list(kid.index[kid["best_baseline"]]) == ["UniPC-6"]
    found_subject = table[table["measure"] == "r_at_5, difference"].set_index("against")
    assert list(found_subject.index[found_subject["best_baseline"]]) == ["DDIM-8"]
    assert set(found_subject.index) == {FULL_METHOD, "DDIM-8", without_parameters.name, plain.name}
    assert found_subject.loc["DDIM-8", "better"] and not found_subject.loc[FULL_METHOD, "better"]
    diversity = table[table["measure"] == "pairwise_lpips, difference"].set_index("against")
    assert (
        set(diversity.index) == {without_parameters.name, plain.name}
        and not diversity.loc[without_parameters.name, "better"]
    )  # equal
    ratio = table[table["measure"] == "vendi, ratio"].iloc[0]
    assert (ratio["value"], ratio["low"], ratio["high"]) == (1, 1, 1)


def test_a_finished_run_is_compared_with_the_same_run_and_other_endings() -> None:
    ours, plain = Method("UniPC", 8, finisher="finisher"), Method("UniPC", 8)
    round_trip, bypass = Method("UniPC", 8, finisher="VAE round trip"), Method("DDIM", 9, (8, 9), "zero-parameter")
    methods = [Method("DDIM", 50), plain, bypass, round_trip, ours]
    bypassed = [replace(bypass, finisher="finisher"), replace(bypass, crf_form="conditional", finisher="finisher")]
    arrays = [
        build_arrays(1, 0.1, 0.6),
        build_arrays(0.2, 0.1, 0.5),
        build_arrays(0.2, 0.3, 0.5),
        build_arrays(0.2, 0.09, 0.5),
        build_arrays(0.21, 0.05, 0.5),
    ]
    table = compare(methods, dict(zip([method.name for method in methods], arrays, strict=True)))
    assert set(table["method"]) == {ours.name, round_trip.name, plain.name, bypass.name}
    kid = table[table["measure"] == "kid, difference"]
    of_round_trip = kid[kid["method"] == round_trip.name]
    assert of_round_trip["against"].tolist() == [FULL_METHOD, plain.name]  # the round trip is no core method
    assert of_round_trip["value"].tolist() == pytest.approx([-0.01, -0.01])
    kid = kid[kid["method"] == ours.name].set_index("against")
    # the best of all is that with the round trip, of the others the plain
    assert set(kid.index) == {FULL_METHOD, plain.name, round_trip.name}
    assert kid.loc[plain.name, "value"] == pytest.approx(-0.05) and kid["better"].all()
    # behind a bypass: also with the same zero-parameter bypass, finished alike
    arrays += [build_arrays(0.3, 0.08, 0.5), build_arrays(0.3, 0.06, 0.5)]
    methods += bypassed
    table = compare(methods, dict(zip([method.name for method in methods], arrays, strict=True)))
    kid = table[table["measure"] == "kid, difference"]
    kid = kid[kid["method"] == bypassed[1].name].set_index("against")
    assert kid.loc[bypassed[0].name, "value"] == pytest.approx(-0.02)


def test_methods_are_compared_on_the_prompts_that_both_have() -> None:
    full, core, other = Method("DDIM", 50), Method("UniPC", 12), Method("UniPC", 10)
    arrays = {
        full.name: build_arrays(1, 0.1, 0.6, (20, 80)),
        core.name: build_arrays(0.2, 0.2, 0.5, (20, 80)),
        other.name: build_arrays(0.15, 0.3, 0.4),
    }
    table = compare([full, core, other], arrays)
    kid = table[table["measure"] == "kid, difference"].set_index(["method", "against"])
    assert kid.loc[(core.name, full.name), "prompts"] == 80
    assert kid.loc[(core.name, full.name), "value"] == pytest.approx(10 * 0.1)
    assert kid.loc[(other.name, full.name), "prompts"] == 20
    assert kid.loc[(other.name, full.name), "value"] == pytest.approx(0.2)
    rows = build_table([full, core, other], arrays, "float32", 4).set_index("method")
    assert rows["prompts"].tolist() == [80, 80, 20]
    assert rows["kid"].tolist() == pytest.approx([1.0, 2.0, 0.3])
    assert rows["kid_difference"].tolist() == pytest.approx([0, 1.0, 0.2])  # each on its own prompts
    assert rows["core"].tolist() == [True, True, False] and rows["default"].tolist() == [True, True, False]


def test_a_cut_off_is_compared_with_the_run_that_is_guided_to_its_end() -> None:
    cut_off = Method("UniPC", 10, guidance="cut-off 1/2")
    methods = [Method("DDIM", 50), Method("UniPC", 10), cut_off]
    arrays = {each.name: build_arrays(r, 0.1 * r, 0.5) for each, r in zip(methods, (1, 0.2, 0.15), strict=True)}
    table = compare(methods, arrays)
    against = table[(table["method"] == cut_off.name) & (table["measure"] == "kid, difference")]
    assert against["against"].tolist() == [FULL_METHOD, "UniPC-10"]


def test_table_markdown_and_figure() -> None:
    methods = [Method("DDIM", 50), Method("UniPC", 6), Method("DDIM", 50, (33, 49), "conditional")]
    arrays = {
        method.name: build_arrays(r, k, 0.5)
        for method, r, k in zip(methods, (1, 0.2, 0.1), (0.1, 0.3, 0.2), strict=True)
    }
    table = build_table(methods, arrays, "float32", 4)
    text = format_overview(table)
    assert "| DDIM-50 LatentCRF (33, 49) | 16 | 0.10 (0.10 to 0.10) | 20 | +100.0 (+90.5 to +109.5) |" in text
    figure = draw_frontier(table, "kid")
    traces = {trace.name: trace for trace in figure.data}
    assert set(traces) == {"Pareto front", "Few-step solvers", "LatentCRF bypass"}
    bypass = traces["LatentCRF bypass"]
    assert bypass.y[0] == pytest.approx(100) and bypass.error_y.array[0] == pytest.approx(9.5)  # 200 less 100
    assert list(traces["Pareto front"].x) == [0.1, 1.0]  # UniPC-6 is slower and worse than LatentCRF
    assert "KID" in figure.layout.yaxis.title.text and "time" in figure.layout.xaxis.title.text.lower()
    with pytest.raises(ValueError, match="'lpips_full' is not in the table; accepted are kid, r_at_5"):
        draw_frontier(table, "lpips_full")


def test_what_is_not_defined_is_a_dash_with_its_reason() -> None:
    """Two prompts with one seed have no diversity and no interval."""
    row = {"method": "DDIM-50", "network_evaluations": 100, "prompts": 2, "time_ratio": 1.0, "time_ratio_low": 0.9}
    row |= {"time_ratio_high": 1.1, "lpips_full": 0.0, "lpips_full_low": np.nan, "lpips_full_high": np.nan}
    row |= dict.fromkeys((f"kid_difference{end}" for end in ("", "_low", "_high")), np.nan)
    other = row | {"kid_difference": 0.001, "kid_difference_low": 0.0, "kid_difference_high": 0.002}
    text = format_overview(pd.DataFrame([row, other]))
    assert "| 0.000 (-) |" in text and "| - |" in text and "nan" not in text.lower()
    assert text.endswith("-: not defined for so few prompts or seeds, or for images that are all alike.\n")
    assert "KID" not in format_overview(pd.DataFrame([row])) and "pairwise" not in text
