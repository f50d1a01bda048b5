"""The frontier tab: with the shipped table and without one."""

from pathlib import Path

import pandas as pd
import pytest

from analysis.studies.frontier import METRICS
from app.tabs import frontier as tab
from tests.analysis.test_frontier import table as table


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
    assert list(tab.MEASURES.values()) == list(METRICS)
