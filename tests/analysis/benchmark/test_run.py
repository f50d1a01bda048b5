"""The benchmark's command line: wrong options, and one small run for real."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from PIL import Image

from analysis.benchmark import run
from analysis.benchmark.__main__ import main
from analysis.benchmark.measure import measure
from analysis.benchmark.timing import measure_time_ratios
from analysis.studies.frontier import FULL_METHOD
from latentcrf import LatentCRF
from latentcrf.utils.weights import MODELS


@pytest.mark.parametrize("arguments", (["--prompts", "1"], ["--seeds", "0"], ["--rounds", "0"]))
def test_wrong_numbers_are_met_with_the_accepted_range(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path), *arguments])
    assert f"argument {arguments[0]}: {arguments[1]} is out of range" in capsys.readouterr().err


@pytest.mark.slow
def test_a_small_benchmark_goes_on_where_it_stopped(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["--data", str(small_data), "--out", str(out), "--prompts", "2", "--seeds", "2"]
    arguments += ["--rounds", "1", "--threads", "1", "--only", "DDIM-4", "DDIM-5 LatentCRF (4, 5)"]
    assert main(arguments) == 0
    table = pd.read_csv(out / "benchmark.csv").set_index("method")
    assert (table["network_evaluations"] == 2 * table["denoiser_calls"]).all()  # guided
    assert table["denoiser_calls"].to_dict() == {FULL_METHOD: 50, "DDIM-4": 4, "DDIM-5 LatentCRF (4, 5)": 4}
    assert (
        table.loc[FULL_METHOD, "lpips_full"] == pytest.approx(0, abs=1e-6)
        and table.loc["DDIM-4", "latent_mse_full"] > 0
    )
    assert table.loc["DDIM-4", "time_ratio"] < 0.5
    assert {"comparisons.csv", "benchmark.md", "frontier.html"} <= {path.name for path in out.iterdir()}
    rows = [Image.open(path) for path in (out / "samples").iterdir()]
    assert [row.size for row in rows] == [(2 * 128, 128)] * 3

    def never(*_: Any) -> None:
        raise AssertionError("what has been measured is measured again")

    monkeypatch.setattr(run, "measure_time_ratios", never)
    with monkeypatch.context() as other:
        other.setattr(run, "measure", never)
        assert main(arguments) == 0
    assert pd.read_csv(out / "benchmark.csv").set_index("method").equals(table)
    crf = LatentCRF.from_pretrained(MODELS / "emoji-latentcrf")
    with torch.no_grad():
        next(crf.parameters()).mul_(1.1)
    crf.save_pretrained(tmp_path / "crf")
    measured = []
    monkeypatch.setattr(run, "measure", lambda method, *rest: measured.append(method.name) or measure(method, *rest))
    monkeypatch.setattr(run, "measure_time_ratios", measure_time_ratios)
    assert main([*arguments, "--crf", str(tmp_path / "crf")]) == 0
    assert measured == ["DDIM-5 LatentCRF (4, 5)"]  # the others do not depend on it
    again = pd.read_csv(out / "benchmark.csv").set_index("method")
    assert (again["lpips_full"] != table["lpips_full"]).to_dict() == {
        FULL_METHOD: False,
        "DDIM-4": False,
        measured[0]: True,
    }
    assert main([*arguments, "--guidance", "2"]) == 1
    assert "holds a benchmark of other settings" in capsys.readouterr().err
    assert main([*arguments, "DDIM-3"]) == 1
    assert "--only 'DDIM-3' is not a method; accepted are DDIM-50, DDIM-34" in capsys.readouterr().err
