"""The benchmark's tables: rows and comparisons on known numbers."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis.benchmark.methods import Method
from analysis.benchmark.tables import build_row, compare, format_overview
from analysis.figures.frontier import draw_frontier
from analysis.studies.frontier import FULL_METHOD


def build_arrays(ratio: float, kid: float, r_at_5: float) -> dict[str, np.ndarray]:
    spread = np.linspace(-0.1, 0.1, 201)
    draws = {
        name: np.concatenate([[value], value + spread * value])
        for name, value in (("kid", kid), ("r_at_5", r_at_5), ("pairwise_lpips", 0.3), ("vendi", 3.0))
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
    found = dict(
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
    table = compare(methods, found)
    others = table[table["method"] != ours.name]  # only with the full run
    assert set(others["method"]) == {method.name for method in methods} - {FULL_METHOD, ours.name}
    assert set(others["against"]) == {FULL_METHOD}
    assert set(others["measure"]) == {"kid, difference", "r_at_5, difference"}
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
    found_subject = table[table["measure"] == "r_at_5, difference"].set_index("against")
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
    found = [
        build_arrays(1, 0.1, 0.6),
        build_arrays(0.2, 0.1, 0.5),
        build_arrays(0.2, 0.3, 0.5),
        build_arrays(0.2, 0.09, 0.5),
        build_arrays(0.21, 0.05, 0.5),
    ]
    table = compare(methods, dict(zip([method.name for method in methods], found, strict=True)))
    assert set(table["method"]) == {ours.name, round_trip.name, plain.name, bypass.name}
    kid = table[table["measure"] == "kid, difference"]
    of_round_trip = kid[kid["method"] == round_trip.name]
    assert of_round_trip["against"].tolist() == [FULL_METHOD, plain.name]
    assert of_round_trip["value"].tolist() == pytest.approx([-0.01, -0.01])
    kid = kid[kid["method"] == ours.name].set_index("against")
    # the best of all is that with the round trip, of the others the plain
    assert set(kid.index) == {FULL_METHOD, plain.name, round_trip.name}
    assert kid.loc[plain.name, "value"] == pytest.approx(-0.05) and kid["better"].all()
    # behind a bypass: also with the same zero-parameter bypass, finished alike
    found += [build_arrays(0.3, 0.08, 0.5), build_arrays(0.3, 0.06, 0.5)]
    methods += bypassed
    table = compare(methods, dict(zip([method.name for method in methods], found, strict=True)))
    kid = table[table["measure"] == "kid, difference"]
    kid = kid[kid["method"] == bypassed[1].name].set_index("against")
    assert kid.loc[bypassed[0].name, "value"] == pytest.approx(-0.02)


def test_table_markdown_and_figure() -> None:
    methods = [Method("DDIM", 50), Method("UniPC", 6), Method("DDIM", 9, (8, 9), "conditional")]
    table = pd.DataFrame(
        [
            build_row(method, build_arrays(r, k, 0.5), "float32", 20, 4)
            for method, r, k in zip(methods, (1, 0.2, 0.1), (0.1, 0.3, 0.2), strict=True)
        ]
    )
    text = format_overview(table)
    assert "| DDIM-9 LatentCRF (8, 9) | 8 | 16 | 0.10 (0.10 to 0.10) | 200.0 (181.0 to 219.0) |" in text
    figure = draw_frontier(table, "kid")
    traces = {trace.name: trace for trace in figure.data}
    assert set(traces) == {"Pareto front", "DDIM", "UniPC", "LatentCRF"}
    assert traces["LatentCRF"].y[0] == pytest.approx(200) and traces["LatentCRF"].error_y.array[0] == pytest.approx(19)
    assert list(traces["Pareto front"].x) == [0.1, 1.0]  # UniPC-6 is slower and worse than LatentCRF
    assert "KID" in figure.layout.yaxis.title.text and "time" in figure.layout.xaxis.title.text.lower()
    with pytest.raises(ValueError, match="'lpips_full' is not in the table; accepted are kid, r_at_5"):
        draw_frontier(table, "lpips_full")
