"""Latent variance: against the pipeline's own latents, the summary, the proposal, the figure."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import StableDiffusionPipeline

from analysis import prompts, variance
from analysis.export import write_results
from analysis.generate import sample
from app.page import Turns
from app.settings import SettingsError
from app.tabs import variance as tab
from latentcrf import LatentCRF, LatentCRFScheduler

PROMPTS, SEEDS, GAP = ["red apple", "pizza", "apple"], [4, 5, 6], (5, 9)


@pytest.fixture(scope="module")
def runs(tiny_pipeline: StableDiffusionPipeline) -> pd.DataFrame:
    parts = variance.compute(tiny_pipeline, PROMPTS, SEEDS, None, GAP, steps=10, batch_size=2)
    return pd.concat(parts, ignore_index=True)


def test_steps_and_values(tiny_pipeline: StableDiffusionPipeline, runs: pd.DataFrame) -> None:
    full, ours = (runs[runs["method"] == name] for name in ("full LDM", "bypass without parameters"))
    assert sorted(full["run"].unique()) == [0, 1, 2]
    assert full[full["run"] == 1]["step"].tolist() == list(range(11))
    assert ours[ours["run"] == 1]["step"].tolist() == [0, 1, 2, 3, 4, 9, 10]
    # the last row is what the pipeline returns
    final = sample(tiny_pipeline, PROMPTS, SEEDS, steps=10)
    np.testing.assert_allclose(full[full["step"] == 10]["variance"], final.flatten(1).var(1, correction=0), rtol=1e-4)
    bypassed = LatentCRFScheduler(tiny_pipeline.scheduler, None, bypass=GAP)
    final = sample(tiny_pipeline, PROMPTS, SEEDS, steps=10, scheduler=bypassed)
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
        sample(tiny_pipeline, PROMPTS, SEEDS, steps=10)
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
    assert variance.propose_bypass(summary, 1.0) == (2, 6)
    # a start in noise, where the variance stands still as well, is not proposed; nor is a run's first step
    noisy = variance.summarize(curve([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 4.0, 5.0, 5.0, 5.0]))
    assert variance.propose_bypass(noisy, 0.02) == (7, 9)
    falling = variance.summarize(curve([9.0, 9.0, 9.0, 9.0, 3.0, 1.0, 1.0, 1.0]))
    assert variance.propose_bypass(falling, 0.02) == (5, 7)
    assert variance.propose_bypass(variance.summarize(curve([1.0, 1.0, 1.0])), 0.02) == (1, 2)
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


@pytest.fixture
def quick(tiny_pipeline: StableDiffusionPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line with the tiny pipeline and without Chrome, which is tested elsewhere."""
    monkeypatch.setattr(variance, "load_pipeline", lambda folder: tiny_pipeline)
    monkeypatch.setattr("analysis.export.figure_png", lambda drawn, name: None)


@pytest.mark.usefixtures("quick")
def test_command_line(small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        variance.main(["--out", str(tmp_path), "--prompts", "0"])
    assert "--prompts 0 is out of range: 1 or more, or parti" in capsys.readouterr().err
    arguments = ["--data", str(small_data), "--out", str(tmp_path / "out"), "--prompts", "1", "--bypass", "40", "51"]
    assert variance.main(arguments) == 1
    assert "50" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert variance.main([*arguments[:-2], "2", "49"]) == 0
    table = pd.read_csv(tmp_path / "out" / "variance.csv")
    assert set(table["method"]) == {"full LDM", "LatentCRF"} and len(table) == 51 + 4
    assert (tmp_path / "out" / "variance.html").stat().st_size > 1_000_000
    assert torch.isfinite(torch.tensor(table["variance"].to_numpy())).all()


@pytest.mark.usefixtures("quick")
def test_the_summary_alone_and_made_again(small_data: Path, tmp_path: Path) -> None:
    arguments = ["--data", str(small_data), "--prompts", "2", "--text", "red apple", "--bypass", "2", "49"]
    assert variance.main([*arguments, "--seed", "7", "--summary-only", "--out", str(tmp_path / "first")]) == 0
    assert {path.name for path in (tmp_path / "first").iterdir()} == {"settings.json", "variance.csv"}
    again = ["--from", str(tmp_path / "first" / "settings.json"), "--summary-only", "--out", str(tmp_path / "second")]
    assert variance.main(again) == 0
    for name in ("settings.json", "variance.csv"):
        assert (tmp_path / "second" / name).read_text() == (tmp_path / "first" / name).read_text()


def test_parti_prompts_are_read_as_they_stand() -> None:
    text = 'Prompt\tCategory\tNote\na corgi\tAnimals\t\n\n"hello" on a wall, in 5\' letters \tArts\tquotes\n\tArts\t\n'
    assert prompts.read_parti(text) == ["a corgi", '"hello" on a wall, in 5\' letters']
    opened = prompts.parti(lambda url, timeout: io.BytesIO(text.encode()))
    assert opened == prompts.read_parti(text)
    with pytest.raises(prompts.PromptsError, match="it has no column Prompt"):
        prompts.read_parti("<html>")
    with pytest.raises(prompts.PromptsError, match="is empty"):
        prompts.read_parti("Prompt\tCategory\n")


def test_parti_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_network(url: str, timeout: float) -> Any:
        raise URLError("Name or service not known")

    monkeypatch.setattr(prompts, "urlopen", no_network)
    assert variance.main(["--prompts", "parti", "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "error: the Parti prompts could not be fetched from https://" in said
    assert "(Name or service not known). Is there a network?" in said and "--prompts" in said
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------ the tab

LOOK = ["Latents' variance", "Step", False, 2, False]


@pytest.fixture
def services(tiny_pipeline: StableDiffusionPipeline) -> Any:
    """Stands in for the page's services: the tiny pipeline, what `work` reports all at once."""
    crf = LatentCRF(num_experts=2, pairwise_rank=2, channels=8, coarse_channels=8, num_coarse_blocks=1).eval()
    models = SimpleNamespace(pipeline=tiny_pipeline, crf=crf, precision=torch.float32, precision_name="float32")

    def stream(work: Any) -> Iterator[Any]:
        events: list[Any] = []
        work(models, events.append)
        yield from events

    return SimpleNamespace(models=models, stream=stream)


@pytest.mark.usefixtures("quick")
def test_tab_streams_batches_and_exports_what_it_drew(services: Any, tmp_path: Path) -> None:
    steps = list(tab.run(services, "red apple\n\npizza", 10, 3, LOOK, 1, Turns(asked=1)))
    assert len(steps) == 3  # at once, after 8 runs, after 10
    assert "8 of 10 runs" in steps[1][0] and "10 runs." in steps[2][0]
    made, figure, words, told = steps[2][3:]
    assert made["options"]["text"][:3] == ["red apple", "pizza", "red apple"] and made["options"]["seed"] == 3
    assert "10 runs" in figure.layout.title.text and steps[1][4].layout.title.text.count("8 runs") == 1
    assert "seeds 3 to 12" in told and "red apple, pizza" in told
    names = write_results(tab.results(made), tmp_path)
    record = json.loads((tmp_path / "settings.json").read_text())
    assert (
        "variance.html" in names and record["options"]["prompts"] == 10 and record["options"]["precision"] == "float32"
    )


def test_tab_stops_where_the_visitor_cancels(services: Any) -> None:
    turns = Turns(asked=1)
    steps = tab.run(services, "pizza", 10, 0, LOOK, 1, turns)
    next(steps), next(steps)
    turns.stopped = 1
    assert ["Stopped." in step[0] for step in steps] == [True]


@pytest.mark.parametrize(
    ("text", "runs", "seed", "words"),
    (
        ("", 4, 0, "Prompt must be text of 1 to 300 characters; it was left empty."),
        ("a" * 301, 4, 0, "Prompt must be text of 1 to 300 characters; it had 301."),
        ("pizza", 65, 0, "Runs must be a whole number from 2 to 64; it was 65."),
        ("pizza", None, 0, "Runs must be a whole number from 2 to 64; it was left empty."),
        ("pizza", 4, -1, "First seed must be a whole number from 0 to"),
    ),
)
def test_tab_names_what_is_wrong(services: Any, text: str, runs: Any, seed: Any, words: str) -> None:
    with pytest.raises(SettingsError):
        tab.parse(text, runs, seed)
    (step,) = tab.run(services, text, runs, seed, LOOK, 1, Turns(asked=1))
    assert words in step[0]


def test_tab_shows_what_ships_and_says_where_nothing_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tab, "SHIPPED", tmp_path)
    assert tab.shipped() is None
    figure, words, told = tab.draw(None, *LOOK)
    assert "No table is shipped" in words and tab.COMMAND in words
    summary = variance.summarize(curve([0.0, 4.0, 8.0, 8.1, 8.2, 8.2, 10.0]))
    write_results(variance.results(summary, {"prompts": 3, "seed": 0, "bypass": [2, 5]}, (2, 5), False), tmp_path)
    made = tab.shipped()
    assert made is not None and tab.bypass_of(made) == (2, 5)
    figure, words, told = tab.draw(made, *LOOK)
    assert "3 runs" in figure.layout.title.text and "<b>2 to 5</b>" in words
    assert "3 runs, the table that comes with the project" in told and "--from assets/results/variance" in told
    assert "Threshold must be a number from 0.2 to 10" in tab.draw(made, *LOOK[:3], float("nan"), False)[1]
    assert tab.take_over(made, 2)[:5] == [50, 2, 5, 0, (2 / 50, 5 / 50)]
    assert tab.take_over(None, 2) == tab.take_over(made, None)
    assert "&lt;b&gt;" in tab.computed({"summary": summary, "options": {"seed": 1, "text": ["<b>"]}, "shipped": False})
