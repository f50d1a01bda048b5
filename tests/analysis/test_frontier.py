"""The frontier: what its figure and table show, its export made again, and the tab with and without a table."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from analysis import frontier
from analysis.benchmark.methods import Method, all_methods
from analysis.export import write_results
from app.tabs import frontier as tab

METHODS = [Method("DDIM", 50), Method("DDIM", 8), Method("UniPC", 6), Method("DDIM", 9, (8, 9), "LatentCRF")]


@pytest.fixture
def table(tmp_path: Path) -> pd.DataFrame:
    """A small benchmark.csv, written and read again."""
    rows: list[dict[str, Any]] = []
    for method, time, kid, psnr in zip(
        METHODS, (1.0, 0.16, 0.12, 0.18), (0.1, 0.5, 0.6, 0.05), (100, 20, 18, 25), strict=True
    ):
        row = {"method": method.name, "solver": method.solver, "steps": method.steps, "refiner": method.refiner,
               "bypass": "" if method.bypass is None else str(method.bypass), "denoiser_calls": 8,
               "prompts": 50, "seeds": 8, "vendi": np.nan}  # fmt: skip
        for name, value in (("time_ratio", time), ("kid", kid), ("psnr_full", psnr)):
            row |= {name: value, f"{name}_low": 0.9 * value, f"{name}_high": 1.2 * value}
        rows.append(row)
    folder = tmp_path / "benchmark"
    (folder / "samples").mkdir(parents=True)
    pd.DataFrame(rows).to_csv(folder / "benchmark.csv", index=False)
    Image.new("RGB", (24, 8), "red").save(folder / "samples" / "DDIM-9_LatentCRF__8__9_.png")
    return frontier.read_table(folder / "benchmark.csv")


def test_figure_has_intervals_front_and_each_points_settings(table: pd.DataFrame) -> None:
    drawn = frontier.figure(table, "kid", presentation=True)
    traces = {trace.name: trace for trace in drawn.data}
    assert set(traces) == {"Pareto front", "DDIM", "UniPC", "LatentCRF"}
    assert list(traces["Pareto front"].x) == [0.12, 0.16, 0.18]
    ours = traces["LatentCRF"]
    assert ours.y[0] == pytest.approx(50)
    assert (ours.error_y.arrayminus[0], ours.error_y.array[0]) == (pytest.approx(5), pytest.approx(10))
    assert (ours.error_x.arrayminus[0], ours.error_x.array[0]) == (pytest.approx(0.018), pytest.approx(0.036))
    hover = ours.customdata[0][0]
    for words in (
        "DDIM-9 LatentCRF (8, 9)",
        "8 U-Net calls",
        "steps (8, 9) bypassed",
        "0.18 (0.162 to 0.216)",
        "50 (45",
    ):
        assert words in hover
    assert "bypassed" not in traces["UniPC"].customdata[0][0]
    assert "KID" in drawn.layout.title.text and "50 prompts x 8 seeds" in drawn.layout.title.text
    assert drawn.layout.xaxis.type == "log" and "lower is better" in drawn.layout.yaxis.title.text
    assert drawn.layout.shapes[0].y0 == pytest.approx(100)  # the full LDM's KID x 1000


def test_a_finished_run_is_a_family_of_its_own(table: pd.DataFrame) -> None:
    assert "finisher" not in table  # tables written before there was one are read as well
    table = table.assign(finisher=["", np.nan, "finisher", ""])
    assert frontier.families_of(table) == ["DDIM", "LatentCRF", "LatentCRF as finisher"]
    assert list(frontier.with_families(table)["finisher"]) == ["", "", "finisher", ""]
    finished = {trace.name: trace for trace in frontier.figure(table, "kid").data}["LatentCRF as finisher"]
    assert list(finished.ids) == ["UniPC-6"] and "bypassed" not in finished.customdata[0][0]


def test_families_and_measures(table: pd.DataFrame) -> None:
    assert frontier.families_of(table) == ["DDIM", "UniPC", "LatentCRF"]
    assert frontier.measures_of(table) == ["kid", "psnr_full"]  # a column without values is no measure
    assert {trace.name for trace in frontier.figure(table, "kid", ["UniPC"]).data} == {"Pareto front", "UniPC"}
    # the full run is not compared with itself
    to_full = frontier.chosen(table, "psnr_full")
    assert "DDIM-50" not in set(to_full["method"]) and len(to_full) == 3
    assert not frontier.figure(table, "psnr_full").layout.shapes
    for families, words in ((["Euler"], "'Euler' is not in the table; accepted are DDIM"), ([], "no method is left")):
        with pytest.raises(ValueError, match=words):
            frontier.figure(table, "kid", families)
    with pytest.raises(ValueError, match="'vendi' is not in the table; accepted are kid, psnr_full"):
        frontier.figure(table, "vendi")
    rows = frontier.shown(table, "kid", ["DDIM", "LatentCRF"])
    assert rows["Method"].tolist() == ["DDIM-8", "DDIM-9 LatentCRF (8, 9)", "DDIM-50"]
    assert rows["KID to real images x 1000"].tolist() == [500, 50, 100]
    assert rows["95 % interval"][2] == "90 to 120"


def test_the_shipped_samples_are_found_by_their_methods_names() -> None:
    table = frontier.read_table(frontier.SHIPPED)
    found = frontier.samples(frontier.SHIPPED.with_name("samples"), list(table["method"]))
    assert list(found) == list(table["method"])


def test_what_is_no_benchmark_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("method,solver\na,b\n")
    with pytest.raises(ValueError, match="other.csv is not a table of analysis.benchmark: column 'steps' is missing"):
        frontier.read_table(tmp_path / "other.csv")


def test_an_export_is_made_again(table: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = frontier.results(table, "kid", ["DDIM", "LatentCRF"], tmp_path / "benchmark" / "samples")
    names = write_results(made, tmp_path / "first")
    assert {"settings.json", "benchmark.csv", "frontier.html", "DDIM-9_LatentCRF__8__9_.png"} <= set(names)
    again = ["--from", str(tmp_path / "first" / "settings.json"), "--out", f"{tmp_path}/second/"]
    assert frontier.main(again) == 0
    assert "written" in capsys.readouterr().out
    for name in ("settings.json", "benchmark.csv", "DDIM-9_LatentCRF__8__9_.png"):
        assert (tmp_path / "second" / name).read_bytes() == (tmp_path / "first" / name).read_bytes()
    assert frontier.main([*again, "--families", "Euler"]) == 1
    assert "error: family 'Euler' is not in the table" in capsys.readouterr().err


def test_tab_shows_the_shipped_table(table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tab, "SHIPPED", tmp_path / "benchmark")
    measures, families, methods = tab.first()
    assert measures["choices"] == ["KID to real images", "PSNR to the full run"]
    assert families["value"] == ["DDIM", "UniPC", "LatentCRF"] and methods["value"] == "DDIM-9 LatentCRF (8, 9)"
    status, figure, rows, made = tab.draw("KID to real images", ["DDIM"], True)
    assert "2 methods" in status and len(rows["value"]) == 2 and figure.layout.paper_bgcolor == "rgba(0, 0, 0, 0)"
    assert tab.results(made).options == {"measure": "kid", "families": ["DDIM"]}
    assert "No method is left" in tab.draw("KID to real images", [], False)[0]
    image, words = tab.sample("DDIM-9 LatentCRF (8, 9)")
    assert image["value"].shape == (8, 24, 3) and "same prompts and noise" in words
    assert "No images of this method" in tab.sample("UniPC-6")[1]
    assert tab.sample("../../etc/passwd")[0]["visible"] is False
    assert tab.clicked_method("1764000000000 DDIM-9 LatentCRF (8, 9)") == "DDIM-9 LatentCRF (8, 9)"


def test_tab_without_a_table_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tab, "SHIPPED", tmp_path / "a" / "benchmark")
    status, figure, rows, made = tab.draw("KID to real images", [], False)
    assert "python -m analysis.benchmark" in status and str(tmp_path) not in status
    assert len(figure.data) == 0 and made is None and rows["visible"] is False
    tab.first(), tab.sample("DDIM-50")
    (tmp_path / "a" / "benchmark").mkdir(parents=True)
    (tmp_path / "a" / "benchmark" / "benchmark.csv").write_text("not,a,table\n")
    assert "cannot be read" in tab.draw("KID to real images", [], False)[0]


def test_tab_knows_every_measure() -> None:
    assert list(tab.MEASURES.values()) == list(frontier.AXES)


def test_no_run_with_a_crf_is_called_one_without() -> None:
    methods = all_methods(("bypass", "LatentCRF", "static", "plain"), ("static", "scaling", "learned", "plain"))
    table = pd.DataFrame([asdict(method) | {"name": method.name} for method in methods])
    families = frontier.with_families(table)["family"]
    for method, family in zip(methods, families, strict=True):
        assert family.startswith("LatentCRF") == method.is_ours, method.name
