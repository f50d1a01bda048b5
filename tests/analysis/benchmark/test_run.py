"""The benchmark's command line: wrong options, and one small run for real."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from analysis.benchmark import run
from analysis.benchmark.__main__ import main
from analysis.benchmark.measure import measure
from analysis.benchmark.methods import list_default_methods
from analysis.studies.frontier import FULL_METHOD
from latentcrf import LatentCRF
from latentcrf.utils.weights import MODELS
from tests.training.tiny import build_sd


@pytest.mark.parametrize("arguments", (["--prompts", "1"], ["--seeds", "0"], ["--rounds", "0"]))
def test_wrong_numbers_are_met_with_the_accepted_range(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path), *arguments])
    assert f"argument {arguments[0]}: {arguments[1]} is out of range" in capsys.readouterr().err


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No PNG and no timing, both tested elsewhere, and intervals from few resamples."""
    monkeypatch.setattr("analysis.export.draw_png", lambda figure, name: None)
    monkeypatch.setattr(run, "measure_time_ratios", count_steps)
    monkeypatch.setattr(run, "RESAMPLES", 100)


def count_steps(methods: Any, *_: Any) -> Any:
    """Stands in for the clock: shares of the full run's steps."""
    return [np.full(1, method.steps / 50) for method in methods]


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_small_benchmark_goes_on_where_it_stopped(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    crf_method, cut_off = "DPM-Solver++-12 LatentCRF (8, 12)", "UniPC-12 cut-off 1/3"
    arguments = ["--data", str(small_data), "--out", str(out), "--prompts", "3", "--few-prompts", "2", "--seeds", "1"]
    arguments += ["--only", "DDIM-4", crf_method, cut_off, f"{cut_off} + finisher", "UniPC-12 DeepCache 2"]
    assert main(arguments) == 0
    table = pd.read_csv(out / "benchmark.csv").set_index("method")
    finished, cached = f"{cut_off} + finisher", "UniPC-12 DeepCache 2"
    calls = {FULL_METHOD: 50, cut_off: 12, finished: 12, "DDIM-4": 4, cached: 12, crf_method: 8}
    assert table["denoiser_calls"].to_dict() == calls
    evaluations = table["network_evaluations"].to_dict()
    assert 12 < evaluations.pop(cached) < 20  # of 24 without the cache; half of the calls are whole
    assert evaluations == {FULL_METHOD: 100, cut_off: 20, finished: 20, "DDIM-4": 8, crf_method: 16}
    # what a conclusion rests on is measured on all prompts, and on those of the others too
    assert table["prompts"].to_dict() == {
        FULL_METHOD: 3, cut_off: 3, finished: 3, "DDIM-4": 2, cached: 2, crf_method: 2,
    }  # fmt: skip
    compared = pd.read_csv(out / "comparisons.csv").set_index(["method", "against", "measure"])["prompts"]
    assert (
        compared[finished, cut_off, "kid, difference"] == 3
        and compared[crf_method, FULL_METHOD, "kid, difference"] == 2
    )
    floors = pd.read_csv(out / "floors.csv").set_index("images")
    assert floors["count"].tolist() == [9, 9] and (floors["kid_low"] <= floors["kid"]).all()
    assert (floors["kid_others"] > floors["kid"]).all()  # without themselves among the real images
    assert (
        table.loc[FULL_METHOD, "lpips_full"] == pytest.approx(0, abs=1e-6)
        and table.loc["DDIM-4", "latent_mse_full"] > 0
    )
    assert table["time_ratio"].to_dict() == {name: int(re.search(r"\d+", name)[0]) / 50 for name in calls}
    assert {"comparisons.csv", "benchmark.md", "frontier.html"} <= {path.name for path in out.iterdir()}
    assert Image.open(out / "pairs.webp").size[0] > 8 * 256
    rows = [Image.open(path) for path in (out / "samples").iterdir()]
    assert [row.size for row in rows] == [(2 * 128, 128)] * 6

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
    measured, timed = [], []
    monkeypatch.setattr(run, "measure", lambda method, *rest: measured.append(method.name) or measure(method, *rest))

    def time_again(methods: Any, *rest: Any) -> Any:
        timed.extend(method.name for method in methods)
        return count_steps(methods, *rest)

    monkeypatch.setattr(run, "measure_time_ratios", time_again)
    assert main([*arguments, "--crf", str(tmp_path / "crf")]) == 0
    assert measured == timed == [crf_method]  # the others do not depend on it
    again = pd.read_csv(out / "benchmark.csv").set_index("method")
    assert (again["lpips_full"] != table["lpips_full"]).to_dict() == {name: name == crf_method for name in calls}
    assert main([*arguments, "--guidance", "2"]) == 1
    assert "holds results of other settings or weights: guidance" in capsys.readouterr().err
    assert main([*arguments, "DDIM-3"]) == 1
    assert "--only 'DDIM-3' is not a method; accepted are DDIM-50, DDIM-34" in capsys.readouterr().err


TEN = (
    "DDIM-50", "DDIM-34", "UniPC-12", "UniPC-8", "UniPC-12 cut-off 1/3", "DDIM-50 DeepCache 3",
    "DDIM-50 zero-parameter bypass (33, 49)", "DDIM-50 LatentCRF (33, 49)", "DDIM-50 + finisher",
    "UniPC-12 cut-off 1/3 + finisher",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_ten_methods_of_a_stable_diffusion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_sd(sample_size=32).save_pretrained(tmp_path / "sd")  # images of 64 px, PNDM
    LatentCRF(form="static", num_experts=3, pairwise_rank=3, channels=8).save_pretrained(tmp_path / "crf")
    images = tmp_path / "images"
    images.mkdir()
    rows = []
    for index, size in enumerate([(96, 64), (64, 64), (70, 130)] * 4):
        Image.effect_mandelbrot(size, (-2, -1.5, 1, 1.5), 10 + index).convert("RGB").save(images / f"{index}.png")
        rows.append({"file_name": f"{index}.png", "text": f"a picture of {'abcdefghijkl'[index]}"})
    (images / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    arguments = ["--model", str(tmp_path / "sd"), "--data", str(images), "--out", str(tmp_path / "out")]
    arguments += ["--prompts", "4", "--seeds", "2", "--batch-size", "4", "--guidance", "7.5"]
    crf = str(tmp_path / "crf")
    assert main([*arguments, "--crf", crf, "--only", *TEN]) == 1
    assert (
        "--only 'UniPC-12 cut-off 1/3 + finisher' needs --finisher FOLDER, made for this --model"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()
    assert main([*arguments, "--crf", crf, "--finisher", crf, "--only", *TEN]) == 0
    assert "left out: R@1 and R@5" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "out" / "benchmark.csv").set_index("method")
    assert set(table.index) == set(TEN) and table["prompts"].eq(4).all()
    assert not [name for name in table if name.startswith("r_at")]
    assert table[["kid", "frechet", "lpips_full", "pairwise_lpips"]].notna().all(axis=None)
    floors = pd.read_csv(tmp_path / "out" / "floors.csv")
    assert floors["count"].tolist() == [4, 4] and "r_at_5" not in floors
    assert "R@5" not in (tmp_path / "out" / "benchmark.md").read_text()


def test_methods_without_their_network_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    methods = run.choose_methods(None, False, {"conditional": Path("crf")})
    assert {method.crf_form for method in methods} == {"", "zero-parameter", "conditional"}
    assert {method.finisher for method in methods} == {""}
    assert "left out: the methods that need --finisher, --plain, --plain-finisher" in capsys.readouterr().out
    assert run.choose_methods(None, False, dict.fromkeys(run.NETWORKS, Path("x"))) == list_default_methods()
