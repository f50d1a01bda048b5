"""The frontier: what its figure and table show, and its export, repeated from its settings."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from analysis.benchmark.methods import CRF_FORMS, FINISHERS, Method, list_methods
from analysis.export import write_results
from analysis.figures.frontier import draw_empty_frontier, draw_frontier
from analysis.frontier import build_results, main
from analysis.studies import frontier

METHODS = [Method("DDIM", 50), Method("DDIM", 8), Method("UniPC", 6), Method("DDIM", 9, (8, 9), "conditional")]


@pytest.fixture
def table(tmp_path: Path) -> pd.DataFrame:
    """A small benchmark.csv, written and read again."""
    rows: list[dict[str, Any]] = []
    for method, time, kid, psnr in zip(
        METHODS, (1.0, 0.16, 0.12, 0.18), (0.1, 0.5, 0.6, 0.05), (100, 20, 18, 25), strict=True
    ):
        row = {"method": method.name, "solver": method.solver, "steps": method.steps, "crf_form": method.crf_form,
               "bypass": "" if method.bypass is None else str(method.bypass), "denoiser_calls": 8,
               "network_evaluations": 16,
               "prompts": 50, "seeds": 8, "vendi": np.nan}  # fmt: skip
        for name, value in (("time_ratio", time), ("kid", kid), ("psnr_full", psnr)):
            row |= {name: value, f"{name}_low": 0.9 * value, f"{name}_high": 1.2 * value}
        rows.append(row)
    folder = tmp_path / "benchmark"
    (folder / "samples").mkdir(parents=True)
    pd.DataFrame(rows).to_csv(folder / "benchmark.csv", index=False)
    Image.new("RGB", (24, 8), "red").save(folder / "samples" / "DDIM-9_LatentCRF__8__9_.webp")
    return frontier.read_table(folder / "benchmark.csv")


def test_figure_has_intervals_front_and_each_points_settings(table: pd.DataFrame) -> None:
    figure = draw_frontier(table, "kid", presentation=True)
    traces = {trace.name: trace for trace in figure.data}
    assert set(traces) == {"Pareto front", "DDIM", "UniPC", "LatentCRF"}
    assert list(traces["Pareto front"].x) == [0.12, 0.16, 0.18]
    ours = traces["LatentCRF"]
    assert ours.y[0] == pytest.approx(50)
    assert (ours.error_y.arrayminus[0], ours.error_y.array[0]) == (pytest.approx(5), pytest.approx(10))
    assert (ours.error_x.arrayminus[0], ours.error_x.array[0]) == (pytest.approx(0.018), pytest.approx(0.036))
    hover = ours.customdata[0][0]
    for words in (
        "DDIM-9 LatentCRF (8, 9)",
        "8 denoiser calls, 16 network evaluations",
        "steps (8, 9) bypassed",
        "0.18 (0.162 to 0.216)",
        "50 (45",
    ):
        assert words in hover
    assert "bypassed" not in traces["UniPC"].customdata[0][0]
    assert "KID" in figure.layout.title.text and "50 prompts x 8 seeds" in figure.layout.title.text
    assert figure.layout.xaxis.type == "log" and "lower is better" in figure.layout.yaxis.title.text
    assert figure.layout.shapes[0].y0 == pytest.approx(100)  # the full run's KID x 1000


def test_a_finished_run_is_a_family_of_its_own(table: pd.DataFrame) -> None:
    assert "finisher" not in table  # tables written before there was one are read as well
    table = table.assign(finisher=["", np.nan, "finisher", ""])
    assert frontier.list_families(table) == ["DDIM", "LatentCRF", "LatentCRF as finisher"]
    assert list(frontier.add_families(table)["finisher"]) == ["", "", "finisher", ""]
    finished = {trace.name: trace for trace in draw_frontier(table, "kid").data}["LatentCRF as finisher"]
    assert list(finished.ids) == ["UniPC-6"] and "bypassed" not in finished.customdata[0][0]


def test_families_and_measures(table: pd.DataFrame) -> None:
    assert frontier.list_families(table) == ["DDIM", "UniPC", "LatentCRF"]
    assert frontier.list_metrics(table) == ["kid", "psnr_full"]  # a column without values is no measure
    assert {trace.name for trace in draw_frontier(table, "kid", ["UniPC"]).data} == {"Pareto front", "UniPC"}
    # the full run is not compared with itself
    to_full = frontier.select_rows(table, "psnr_full")
    assert "DDIM-50" not in set(to_full["method"]) and len(to_full) == 3
    assert not draw_frontier(table, "psnr_full").layout.shapes
    for families, words in ((["Euler"], "'Euler' is not in the table; accepted are DDIM"), ([], "no method is left")):
        with pytest.raises(ValueError, match=words):
            draw_frontier(table, "kid", families)
    with pytest.raises(ValueError, match="'vendi' is not in the table; accepted are kid, psnr_full"):
        draw_frontier(table, "vendi")
    rows = frontier.list_rows(table, "kid", ["DDIM", "LatentCRF"])
    assert rows["Method"].tolist() == ["DDIM-8", "DDIM-9 LatentCRF (8, 9)", "DDIM-50"]
    assert rows["KID to real images x 1000"].tolist() == [500, 50, 100]
    assert rows["95 % interval"][2] == "90 to 120"


def test_the_shipped_samples_are_found_by_their_methods_names() -> None:
    table = frontier.read_table(frontier.SHIPPED / "benchmark.csv")
    samples = frontier.read_samples(frontier.SHIPPED / "samples", list(table["method"]))
    assert list(samples) == list(table["method"])


def test_what_is_no_benchmark_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("method,solver\na,b\n")
    with pytest.raises(ValueError, match="other.csv is not a table of analysis.benchmark: column 'steps' is missing"):
        frontier.read_table(tmp_path / "other.csv")


def test_an_export_is_made_again(
    table: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.export.draw_png", lambda figure, name: None)  # Chrome is tested elsewhere
    results = build_results(table, "kid", ["DDIM", "LatentCRF"], tmp_path / "benchmark" / "samples")
    names = write_results(results, tmp_path / "first")
    assert {"settings.json", "benchmark.csv", "frontier.html", "DDIM-9_LatentCRF__8__9_.png"} <= set(names)
    again = ["--from", str(tmp_path / "first" / "settings.json"), "--out", f"{tmp_path}/second/"]
    assert main(again) == 0
    assert "written" in capsys.readouterr().out
    for name in ("settings.json", "benchmark.csv", "DDIM-9_LatentCRF__8__9_.png"):
        assert (tmp_path / "second" / name).read_bytes() == (tmp_path / "first" / name).read_bytes()
    assert main([*again, "--families", "Euler"]) == 1
    assert "error: family 'Euler' is not in the table" in capsys.readouterr().err


def test_no_run_with_a_crf_is_called_one_without() -> None:
    methods = list_methods(tuple(CRF_FORMS), FINISHERS)
    table = pd.DataFrame([asdict(method) | {"name": method.name} for method in methods])
    families = frontier.add_families(table)["family"]
    for method, family in zip(methods, families, strict=True):
        assert family.startswith("LatentCRF") == method.uses_crf, method.name


def test_pareto_front() -> None:
    times, values = np.array([1.0, 2.0, 2.0, 3.0, 4.0]), np.array([5.0, 4.0, 6.0, 6.0, 7.0])
    assert frontier.find_pareto_front(times, values, higher_is_better=True).tolist() == [0, 2, 4]
    assert frontier.find_pareto_front(times, values, higher_is_better=False).tolist() == [0, 1]


def test_command_line(table: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--table", str(tmp_path / "none.csv"), "--out", str(tmp_path / "figure")]) == 1
    assert "none.csv" in capsys.readouterr().err
    source = str(tmp_path / "benchmark" / "benchmark.csv")
    assert main(["--table", source, "--out", str(tmp_path / "figure")]) == 0
    assert (tmp_path / "figure.html").stat().st_size > 1_000_000  # opens offline: Plotly is in it
    assert (tmp_path / "figure.png").exists() or "figure.png is not written" in capsys.readouterr().err


def test_without_a_table_there_are_axes() -> None:
    figure = draw_empty_frontier("vendi")
    assert len(figure.data) == 0 and "Vendi score" in figure.layout.title.text
