"""The variance tab: batches, exports, messages, the shipped table."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import StableDiffusionPipeline

from analysis.export import write_results
from analysis.studies import variance
from analysis.variance import build_results
from app import settings
from app.device import DeviceWorker
from app.runs import RunCounter, cancel_runs
from app.settings import SettingsError
from app.tabs import variance as tab
from latentcrf import LatentCRF
from tests.analysis.test_variance import curve
from tests.app.driving import EMOJI, build_tiny_worker, run_tab

LOOK: list[Any] = ["Estimate's change", "Step", False, 30, False, "emoji"]
METHOD = [getattr(EMOJI.defaults, name) for name in settings.METHOD]
WIDTH = 5  # outcome, figure, links, proposal, note


@pytest.fixture
def worker(tiny_pipeline: StableDiffusionPipeline) -> DeviceWorker:
    crf = LatentCRF(num_experts=2, pairwise_rank=2, channels=8, coarse_channels=8, num_coarse_blocks=1).eval()
    return build_tiny_worker(tiny_pipeline, crf)


def test_tab_streams_batches_and_exports_what_it_drew(
    worker: DeviceWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.export.draw_png", lambda figure, name: None)  # Chrome is tested elsewhere
    steps = list(run_tab(tab.run_variance, worker, ["🍎\n\npizza", 10, 3, *METHOD, *LOOK], WIDTH))
    steps = [steps[0], *(step for step in steps if "runs" in step[0])]  # between them the denoiser calls are counted
    assert len(steps) == 3  # at once, after 8 runs, after 10
    assert "8 runs are drawn; 672 of 840 denoiser calls" in steps[1][0] and "10 runs. “🍎”: 🍎 is read" in steps[2][0]
    outcome, figure, links, _, note = steps[2][3:]
    assert outcome.options["text"][:3] == ["red apple", "pizza", "red apple"] and outcome.options["seed"] == 3
    assert "10 runs" in figure.layout.title.text and steps[1][4].layout.title.text.count("8 runs") == 1
    assert "seeds 3 to 12" in note and "red apple, pizza" in note and "CSV" in links
    path = worker.call(
        "write_export", tmp_path / "x.zip", "export_variance", outcome.summary, outcome.options, outcome.bypass
    )
    with zipfile.ZipFile(path) as archive:
        assert "variance/variance.html" in archive.namelist()
        options = json.loads(archive.read("variance/settings.json"))["options"]
    assert options["prompts"] == 10 and options["precision"] == "float32"


def test_tab_stops_where_the_visitor_cancels(worker: DeviceWorker) -> None:
    counter = RunCounter(last=1)
    steps = run_tab(tab.run_variance, worker, ["pizza", 10, 0, *METHOD, *LOOK], WIDTH, counter)
    next(steps), next(steps)  # in a batch
    cancel_runs(counter)
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
def test_tab_names_what_is_wrong(worker: DeviceWorker, text: str, runs: Any, seed: Any, words: str) -> None:
    with pytest.raises(SettingsError):
        tab.parse(text, runs, seed)
    (step,) = run_tab(tab.run_variance, worker, [text, runs, seed, *METHOD, *LOOK], WIDTH)
    assert words in step[0]


def test_tab_shows_what_ships_and_says_where_nothing_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = DeviceWorker()
    monkeypatch.setattr(tab, "SHIPPED", tmp_path)
    assert tab.read_shipped(EMOJI) is None
    _, _, words, note = tab.draw(worker, None, *LOOK)
    assert "No table is shipped" in words and tab.COMMAND in words
    summary = variance.summarize(curve([9.0, 4.0, 1.0, 0.5, 0.5, 4.0, np.nan]))
    write_results(build_results(summary, {"prompts": 3, "seed": 0, "bypass": [2, 5]}, (2, 5), False), tmp_path)
    outcome = tab.read_shipped(EMOJI)
    assert outcome is not None and outcome.bypass == (2, 5)
    figure, _, words, note = tab.draw(worker, outcome, *LOOK)
    assert "3 runs" in figure.layout.title.text and "<b>(2, 5)</b> of 6" in words and "is the bypass in use" in words
    wide = outcome._replace(options={"bypass": [3, 5]})
    assert "The bypass in use, (3, 5), lies within it." in tab.draw(worker, wide, *LOOK)[2]
    other = outcome._replace(options={"bypass": [1, 4]})
    assert "The bypass in use, (1, 4), skips 1 step beyond it." in tab.draw(worker, other, *LOOK)[2]
    sentence = tab.draw(worker, outcome, *LOOK[:3], 1, *LOOK[4:])[2]
    assert "No bypass is proposed" in sentence and "In the bypass in use, (2, 5), it is up to 11 %." in sentence
    assert "3 runs, the table that comes with the project" in note and "--from assets/results/variance" in note
    wrong = tab.draw(worker, outcome, *LOOK[:3], float("nan"), False, "emoji")
    assert "Threshold must be a whole number from 1 to 100" in wrong[2]
    assert tab.use_in_compare(worker, outcome, 30, "emoji")[:5] == [6, 2, 5, 0, 0.0]
    unchanged = tab.use_in_compare(worker, None, 2, "emoji")
    assert unchanged == tab.use_in_compare(worker, outcome, None, "emoji")  # type: ignore[arg-type]
    own = tab.Outcome(summary, {"seed": 1, "text": ["<b>"], "guidance": 3.0}, False)
    assert "&lt;b&gt;" in tab.describe_computation(EMOJI, own)
