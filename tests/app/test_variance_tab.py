"""The variance tab: batches, exports, messages, the shipped table."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

from analysis.export import write_results
from analysis.studies import variance
from analysis.variance import build_results
from app.page import Turns
from app.settings import SettingsError
from app.tabs import variance as tab
from latentcrf import LatentCRF
from tests.analysis.test_variance import curve

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
    write_results(build_results(summary, {"prompts": 3, "seed": 0, "bypass": [2, 5]}, (2, 5), False), tmp_path)
    made = tab.shipped()
    assert made is not None and tab.bypass_of(made) == (2, 5)
    figure, words, told = tab.draw(made, *LOOK)
    assert "3 runs" in figure.layout.title.text and "<b>2 to 5</b>" in words
    assert "3 runs, the table that comes with the project" in told and "--from assets/results/variance" in told
    assert "Threshold must be a number from 0.2 to 10" in tab.draw(made, *LOOK[:3], float("nan"), False)[1]
    assert tab.take_over(made, 2)[:5] == [50, 2, 5, 0, (2 / 50, 5 / 50)]
    assert tab.take_over(None, 2) == tab.take_over(made, None)
    assert "&lt;b&gt;" in tab.computed({"summary": summary, "options": {"seed": 1, "text": ["<b>"]}, "shipped": False})
