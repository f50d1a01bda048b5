"""Latent variance: against the pipeline's own latents, the summary, the proposal, the figure, the command line."""

from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import StableDiffusionPipeline

from analysis import prompts
from analysis.figures.variance import AXES, draw_quantity
from analysis.sampling import sample
from analysis.studies import variance
from analysis.variance import main
from latentcrf import LatentCRFScheduler

PROMPTS, SEEDS, BYPASS = ["red apple", "pizza", "apple"], [4, 5, 6], (5, 9)


@pytest.fixture(scope="module")
def runs(tiny_pipeline: StableDiffusionPipeline) -> pd.DataFrame:
    calls: list[int] = []
    tables = variance.compute(tiny_pipeline, PROMPTS, SEEDS, None, BYPASS, steps=10, batch_size=2, report=calls.append)
    runs = pd.concat(tables, ignore_index=True)
    # two runs, then one: ten calls of the full run and six of the bypass
    assert calls == [*range(2, 33, 2), *range(33, 49)]
    return runs


def test_steps_and_values(tiny_pipeline: StableDiffusionPipeline, runs: pd.DataFrame) -> None:
    full, bypassed = (runs[runs["method"] == name] for name in ("full run", "zero-parameter bypass"))
    assert sorted(full["run"].unique()) == [0, 1, 2]
    assert full[full["run"] == 1]["step"].tolist() == list(range(11))
    assert bypassed[bypassed["run"] == 1]["step"].tolist() == [0, 1, 2, 3, 4, 9, 10]
    # the last row is what the pipeline returns
    final = sample(tiny_pipeline, PROMPTS, SEEDS, steps=10)
    np.testing.assert_allclose(full[full["step"] == 10]["variance"], final.flatten(1).var(1, correction=0), rtol=1e-4)
    scheduler = LatentCRFScheduler(tiny_pipeline.scheduler, None, bypass=BYPASS)
    final = sample(tiny_pipeline, PROMPTS, SEEDS, steps=10, scheduler=scheduler)
    np.testing.assert_allclose(
        bypassed[bypassed["step"] == 10]["variance"], final.flatten(1).var(1, correction=0), rtol=1e-4
    )
    # up to the bypass both are the same run, and from then on they are not
    for step, same in ((0, True), (4, True), (9, False)):
        a, b = (table[table["step"] == step]["variance"].to_numpy() for table in (full, bypassed))
        assert np.allclose(a, b, rtol=1e-5) == same
    assert runs[runs["step"] == 10]["change"].isna().all() and runs[runs["step"] < 10]["change"].gt(0).all()


def test_the_clean_estimate_is_the_schedulers(tiny_pipeline: StableDiffusionPipeline, runs: pd.DataFrame) -> None:
    scheduler = tiny_pipeline.scheduler
    estimates = []
    step = scheduler.step

    def watched(*arguments: object, **options: object) -> object:
        output = step(*arguments, **{**options, "return_dict": True})
        estimates.append(output.pred_original_sample)
        return (output.prev_sample,) if options.get("return_dict") is False else output

    scheduler.step = watched
    try:
        sample(tiny_pipeline, PROMPTS, SEEDS, steps=10)
    finally:
        del scheduler.step
    full = runs[(runs["method"] == "full run")]
    for index in (3, 7):
        change = (estimates[index + 1] - estimates[index]).square().flatten(1).mean(1).sqrt()
        np.testing.assert_allclose(full[full["step"] == index]["estimate_change"], change, rtol=1e-3)
        expected = estimates[index].flatten(1).var(1, correction=0)
        np.testing.assert_allclose(full[full["step"] == index]["estimate_variance"], expected, rtol=1e-3)


def curve(values: list[float]) -> pd.DataFrame:
    rows = [
        {"method": name, "run": run, "step": step, "timestep": 1000 - step, "log_snr": float(step), "variance": v + run,
         "estimate_variance": v, "change": v, "estimate_change": v}
        for name in ("full run", "LatentCRF") for run in range(3) for step, v in enumerate(values)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_summary_and_proposed_bypass() -> None:
    summary = variance.summarize(curve([9.0, 4.0, 2.0, 0.1, 0.2, 0.1, 3.0]))
    row = summary[(summary["method"] == "full run") & (summary["step"] == 1)].iloc[0]
    assert (row["variance"], row["n"]) == (5, 3)
    assert (row["variance_low"], row["variance_high"]) == (pytest.approx(4.1), pytest.approx(5.9))
    assert variance.propose_bypass(summary, 0.03) == (3, 6)
    assert variance.propose_bypass(summary, 0.25) == (2, 6)
    assert variance.propose_bypass(summary, 1.0) == (1, 7)  # a run's first step is never proposed
    assert variance.propose_bypass(variance.summarize(curve([9.0, 4.0, 8.0])), 0.1) is None
    last = variance.summarize(curve([9.0, 0.1, 0.1, np.nan]))  # the last denoiser call is never skipped
    assert variance.propose_bypass(last, 0.1) == (1, 3)


def test_figure() -> None:
    summary = variance.summarize(curve([0.0, 4.0, 8.0, 8.1, 8.2, 8.2, 10.0]))
    figure = draw_quantity(summary, "variance", (2, 5), "step", log_y=True, proposal=(3, 6))
    names = [trace.name for trace in figure.data]
    assert "full run" in names and "LatentCRF" in names
    dashed = figure.data[names.index("LatentCRF, bypass")]
    assert list(dashed.x) == [1, 5] and dashed.line.dash == "dash"
    title = figure.layout.title.text
    assert title.startswith("Steps 2 to 4 of 6 move the variance of the latents by 2% of its range (mean of 3 runs)")
    assert figure.layout.yaxis.type == "log"
    bypassed, proposed = figure.layout.shapes
    assert (bypassed.x0, bypassed.x1, proposed.x0, proposed.x1) == (2, 5, 3, 6)
    assert [note.text for note in figure.layout.annotations] == ["bypass in use"]
    assert proposed.label.text == "proposed bypass"
    changes = variance.summarize(curve([8.0, 4.0, 1.0, 0.5, 0.5, 2.0, np.nan]))
    title = draw_quantity(changes, "estimate_change", (2, 5)).layout.title.text
    assert title.startswith("Steps 2 to 4 of 6 make 12% of the clean estimate's change (mean of 3 runs)")
    for axis, words in AXES.items():
        assert draw_quantity(summary, "change", (2, 5), axis).layout.xaxis.title.text == words
    with pytest.raises(ValueError, match="'noise' is not drawn; accepted are estimate_change, variance"):
        draw_quantity(summary, "noise", (2, 5))


@pytest.fixture
def quick(tiny_pipeline: StableDiffusionPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line with the tiny pipeline and without Chrome, which is tested elsewhere."""
    monkeypatch.setattr("analysis.variance.load_pipeline", lambda folder, device: tiny_pipeline)
    monkeypatch.setattr("analysis.export.draw_png", lambda figure, name: None)


@pytest.mark.usefixtures("quick")
def test_command_line(small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path), "--prompts", "0"])
    assert "argument --prompts: 0 is out of range: 1 or more, parti, or a file that exists" in capsys.readouterr().err
    arguments = ["--data", str(small_data), "--out", str(tmp_path / "out"), "--prompts", "1", "--bypass", "40", "51"]
    with pytest.raises(SystemExit):
        main(arguments)
    assert "--bypass 40 51 must be FIRST below LAST, and LAST at most the 50 steps" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*arguments[:-2], "2", "49"]) == 0
    table = pd.read_csv(tmp_path / "out" / "variance.csv")
    assert set(table["method"]) == {"full run", "LatentCRF"} and len(table) == 51 + 4
    assert (tmp_path / "out" / "variance.html").stat().st_size > 1_000_000
    assert torch.isfinite(torch.tensor(table["variance"].to_numpy())).all()


@pytest.mark.usefixtures("quick")
def test_the_summary_alone_and_made_again(small_data: Path, tmp_path: Path) -> None:
    arguments = ["--data", str(small_data), "--prompts", "2", "--text", "red apple", "--bypass", "2", "49"]
    assert main([*arguments, "--seed", "7", "--summary-only", "--out", str(tmp_path / "first")]) == 0
    assert {path.name for path in (tmp_path / "first").iterdir()} == {"settings.json", "variance.csv"}
    again = ["--from", str(tmp_path / "first" / "settings.json"), "--summary-only", "--out", str(tmp_path / "second")]
    assert main(again) == 0
    for name in ("settings.json", "variance.csv"):
        assert (tmp_path / "second" / name).read_text() == (tmp_path / "first" / name).read_text()


@pytest.mark.usefixtures("quick")
def test_a_killed_analysis_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("analysis.variance.QUANTITIES", ())  # the figures are tested above
    words = ["--text", "red apple", "pizza", "--prompts", "3", "--batch-size", "2", "--bypass", "2", "49"]
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    begun: list[int] = []

    def compute(pipeline: Any, batch: list[str], *rest: Any, **settings: Any) -> Any:
        begun.append(len(batch))
        if len(begun) == 2:
            raise KeyboardInterrupt
        return variance.compute(pipeline, batch, *rest, **settings)

    monkeypatch.setattr("analysis.variance.compute", compute)
    with pytest.raises(KeyboardInterrupt):
        main([*words, "--out", str(tmp_path / "out")])
    assert main([*words, "--out", str(tmp_path / "out"), "--guidance", "5"]) == 1
    assert (
        "parts holds results of other settings or weights: guidance is 3.0 there and 5.0 here"
        in capsys.readouterr().err
    )
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    assert begun == [2, 1, 1]  # the first batch is not computed again
    for name in ("variance.csv", "runs.csv", "settings.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert (
        pd.read_csv(tmp_path / "out" / "runs.csv").groupby("method")["run"].unique().map(sorted).tolist()
        == [[0, 1, 2]] * 2
    )


def test_parti_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_network(url: str, timeout: float) -> Any:
        raise URLError("Name or service not known")

    monkeypatch.setattr(prompts, "urlopen", no_network)
    assert main(["--prompts", "parti", "--out", str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err
    assert "error: the Parti prompts could not be fetched from https://" in message
    assert "(Name or service not known). Is there a network?" in message and "--prompts" in message
    assert not (tmp_path / "out").exists()
