"""The frontier tab: with the shipped table and without one."""

from pathlib import Path

import pandas as pd
import pytest

from analysis.frontier import build_results
from analysis.studies.frontier import METRICS
from app.tabs import frontier as tab
from tests.analysis.test_frontier import table as table


def test_tab_shows_the_shipped_table(table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tab, "SHIPPED", tmp_path / "benchmark")
    metrics, methods = tab.list_choices()
    assert metrics["choices"] == ["KID to real images", "PSNR to the full run"]
    assert methods["value"] == "DDIM-50 LatentCRF (33, 49)" and len(methods["choices"]) == 6
    assert "6 methods" in tab.draw("KID to real images", True, True)[0]
    status, figure, links, rows, outcome = tab.draw("KID to real images", False, True)
    assert "4 methods" in status and len(rows["value"]) == 4 and figure.layout.paper_bgcolor == "rgba(0, 0, 0, 0)"
    assert 'download="latentcrf-frontier-figure.csv"' in links
    shipped, _ = tab.read_shipped()
    assert shipped is not None
    options = build_results(shipped, outcome.metric, outcome.all_methods, tab.SHIPPED / "samples").options
    assert options == {"measure": "kid", "all": False}
    image, words = tab.show_samples("DDIM-50 LatentCRF (33, 49)")
    assert image["value"].shape == (8, 24, 3) and "same prompts and noise" in words
    assert "No images of this method" in tab.show_samples("DDIM-20")[1]
    assert tab.show_samples("../../etc/passwd")[0]["visible"] is False
    assert tab.choose_clicked("1764000000000 DDIM-50 LatentCRF (33, 49)") == "DDIM-50 LatentCRF (33, 49)"


def test_tab_without_a_table_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tab, "SHIPPED", tmp_path / "a" / "benchmark")
    status, figure, links, rows, outcome = tab.draw("KID to real images", False, False)
    assert "python -m analysis.benchmark" in status and str(tmp_path) not in status
    assert len(figure.data) == 0 and outcome is None and rows["visible"] is False and "CSV" not in links
    tab.list_choices(), tab.show_samples("DDIM-50")
    (tmp_path / "a" / "benchmark").mkdir(parents=True)
    (tmp_path / "a" / "benchmark" / "benchmark.csv").write_text("not,a,table\n")
    assert "cannot be read" in tab.draw("KID to real images", False, False)[0]


def test_tab_knows_every_metric() -> None:
    assert [metric.column for metric in tab.METRICS.values()] == list(METRICS)
