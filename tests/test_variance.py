"""Latent variance: against the pipeline's own latents, the summary, the proposal, the figure."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import StableDiffusionPipeline

from analysis import variance
from analysis.generate import sample
from latentcrf import LatentCRFScheduler

PROMPTS, SEEDS, GAP = ["red apple", "pizza", "apple"], [4, 5, 6], (5, 9)


@pytest.fixture(scope="module")
def runs(tiny_pipeline: StableDiffusionPipeline) -> pd.DataFrame:
    parts = variance.compute(tiny_pipeline, PROMPTS, SEEDS, None, GAP, steps=10, batch_size=2, bf16=False)
    return pd.concat(parts, ignore_index=True)


def test_steps_and_values(tiny_pipeline: StableDiffusionPipeline, runs: pd.DataFrame) -> None:
    full, ours = (runs[runs["method"] == name] for name in ("full LDM", "LatentCRF"))
    assert sorted(full["run"].unique()) == [0, 1, 2]
    assert full[full["run"] == 1]["step"].tolist() == list(range(11))
    assert ours[ours["run"] == 1]["step"].tolist() == [0, 1, 2, 3, 4, 9, 10]
    # the last row is what the pipeline returns
    final = sample(tiny_pipeline, PROMPTS, SEEDS, steps=10, bf16=False)
    np.testing.assert_allclose(full[full["step"] == 10]["variance"], final.flatten(1).var(1, correction=0), rtol=1e-4)
    bypassed = LatentCRFScheduler(tiny_pipeline.scheduler, None, bypass=GAP)
    final = sample(tiny_pipeline, PROMPTS, SEEDS, steps=10, scheduler=bypassed, bf16=False)
    np.testing.assert_allclose(ours[ours["step"] == 10]["variance"], final.flatten(1).var(1, correction=0), rtol=1e-4)
    # up to the gap both are the same run, and from then on they are not
    for step, same in ((0, True), (4, True), (9, False)):
        a, b = (table[table["step"] == step]["variance"].to_numpy() for table in (full, ours))
        assert np.allclose(a, b, rtol=1e-5) == same
    assert runs[runs["step"] == 10]["change"].isna().all() and runs[runs["step"] < 10]["change"].gt(0).all()


def test_the_clean_estimate_is_the_schedulers(tiny_pipeline: StableDiffusionPipeline, runs: pd.DataFrame) -> None:
    scheduler = tiny_pipeline.scheduler
    seen = []
    step = scheduler.step

    def watched(*arguments: object, **options: object) -> object:
        output = step(*arguments, **{**options, "return_dict": True})
        seen.append(output.pred_original_sample)
        return (output.prev_sample,) if options.get("return_dict") is False else output

    scheduler.step = watched
    try:
        sample(tiny_pipeline, PROMPTS, SEEDS, steps=10, bf16=False)
    finally:
        del scheduler.step
    full = runs[(runs["method"] == "full LDM") & runs["step"].isin([3, 7])]
    for index in (3, 7):
        expected = seen[index].flatten(1).var(1, correction=0)
        np.testing.assert_allclose(full[full["step"] == index]["estimate_variance"], expected, rtol=1e-3)


def curve(values: list[float]) -> pd.DataFrame:
    rows = [
        {"method": name, "run": run, "step": step, "timestep": 1000 - step, "log_snr": float(step), "variance": v + run,
         "estimate_variance": v, "change": v}
        for name in ("full LDM", "LatentCRF") for run in range(3) for step, v in enumerate(values)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_summary_and_proposed_bypass() -> None:
    summary = variance.summarize(curve([0.0, 4.0, 8.0, 8.1, 8.2, 8.2, 10.0]))
    row = summary[(summary["method"] == "full LDM") & (summary["step"] == 1)].iloc[0]
    assert (row["variance"], row["n"]) == (5, 3)
    assert (row["variance_low"], row["variance_high"]) == (pytest.approx(4.1), pytest.approx(5.9))
    assert variance.propose_bypass(summary, 0.02) == (2, 5)
    assert variance.propose_bypass(summary, 0.2) == (2, 6)
    assert variance.propose_bypass(summary, 1.0) == (1, 6)  # one U-Net call always comes first
    assert variance.propose_bypass(variance.summarize(curve([0.0, 4.0, 8.0])), 0.1) is None


def test_figure() -> None:
    summary = variance.summarize(curve([0.0, 4.0, 8.0, 8.1, 8.2, 8.2, 10.0]))
    drawn = variance.figure(summary, "variance", (2, 5), "step", log_y=True)
    names = [trace.name for trace in drawn.data]
    assert "full LDM" in names and "LatentCRF" in names and "the CRF's jump" in names
    jump = drawn.data[names.index("the CRF's jump")]
    assert list(jump.x) == [1, 5] and jump.line.dash == "dash"
    assert "3 runs" in drawn.layout.title.text and drawn.layout.yaxis.type == "log"
    assert (drawn.layout.shapes[0].x0, drawn.layout.shapes[0].x1) == (2, 5)
    for axis, words in variance.AXES.items():
        assert variance.figure(summary, "change", (2, 5), axis).layout.xaxis.title.text == words
    with pytest.raises(ValueError, match="'noise' is not drawn; accepted are variance"):
        variance.figure(summary, "noise")


def test_command_line(small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        variance.main(["--out", str(tmp_path), "--prompts", "0"])
    assert "--prompts 0 is out of range: 1 or more" in capsys.readouterr().err
    arguments = ["--data", str(small_data), "--out", str(tmp_path / "out"), "--prompts", "1", "--bypass", "40", "51"]
    assert variance.main(arguments) == 1
    assert "50" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert variance.main([*arguments[:-2], "2", "49"]) == 0
    table = pd.read_csv(tmp_path / "out" / "variance.csv")
    assert set(table["method"]) == {"full LDM", "LatentCRF"} and len(table) == 51 + 4
    assert (tmp_path / "out" / "variance.html").stat().st_size > 1_000_000
    assert torch.isfinite(torch.tensor(table["variance"].to_numpy())).all()
