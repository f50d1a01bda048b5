"""The diversity tab: a row of images with its metrics for each method."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from diffusers import StableDiffusionPipeline

from analysis.studies import FULL_RUN, diversity
from app.device import DeviceWorker
from app.settings import METHOD
from app.tabs import diversity as tab
from app.text import DIVERSITY_NOTES
from latentcrf import LatentCRF
from tests.analysis.test_diversity import SEEDS, made_up
from tests.analysis.test_walkthrough import crf as crf
from tests.app.driving import EMOJI, build_tiny_worker, run_tab


def test_the_tab_shows_each_methods_row_with_its_metrics() -> None:
    rows, worker = [made_up(FULL_RUN, 0), made_up("LatentCRF", 1)], DeviceWorker()
    outcome = tab.Outcome(rows, "red apple", SEEDS, {})
    shown = tab.draw(worker, outcome, False)
    assert len(shown) == len(tab.draw(worker, None, False)) == 2 * tab.ROWS + 2 * len(DIVERSITY_NOTES)
    galleries, texts = shown[: 2 * tab.ROWS : 2], shown[1 : 2 * tab.ROWS : 2]
    assert [gallery["visible"] for gallery in galleries] == [True, True, False, False, False]
    assert [label for _, label in galleries[1]["value"]] == [f"seed {seed}" for seed in SEEDS]
    table = diversity.tabulate(rows).set_index("method")
    assert "of the full run's" not in texts[0] and texts[2] == ""
    assert f"diversity {table.loc[FULL_RUN, 'pairwise_lpips']:.3f} (mean pairwise LPIPS)" in texts[0]
    assert f"diversity {table.loc['LatentCRF', 'pairwise_lpips_ratio']:.2f} of the full run's (" in texts[1]
    assert f"{table.loc[FULL_RUN, 'network_evaluations']} network evaluations a seed" in texts[0]
    event: Any = SimpleNamespace(index=2)
    prompt, seed, random, tabs = tab.open_in_compare(outcome, event)
    assert (prompt, seed, random, tabs.selected) == ("red apple", SEEDS[2], False, "compare")
    assert tab.open_in_compare(None, event) == [gr.skip()] * 4


def test_the_last_update_has_the_notes_on_the_prompt(
    tiny_pipeline: StableDiffusionPipeline, crf: LatentCRF, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = build_tiny_worker(tiny_pipeline, crf)
    rows = [made_up(FULL_RUN, 0), made_up("LatentCRF", 1)]
    monkeypatch.setattr(worker, "stream", lambda *_, **__: (row for row in rows))  # drawing takes minutes
    values = ["two dogs", 0, 4, ["LatentCRF"], *tab.list_first_values(EMOJI)[4:], False]
    num_outputs = len(tab.draw(worker, None, False)) + 2
    *_, before, last = run_tab(tab.run_diversity, worker, values, num_outputs)
    assert "is done" in before[0] and "4 seeds from 0. The model draws one subject and does not count." in last[0]


def test_the_cost_is_stated_before_a_run() -> None:
    method = [getattr(EMOJI.defaults, name) for name in METHOD]
    text = tab.show_cost(DeviceWorker(), 8, ["LatentCRF", "DDIM-4"], "emoji", *method)
    assert "3 methods, 8 seeds: 704 denoiser calls" in text
    few = dict(zip(METHOD, method, strict=True)) | {"few_steps": 12, "finisher": True}
    text = tab.show_cost(DeviceWorker(), 8, ["LatentCRF", "DDIM-4"], "emoji", *few.values())
    assert "3 methods, 8 seeds: 528 denoiser calls" in text
    assert "Seeds must be" in tab.show_cost(DeviceWorker(), 3, [], "emoji", *method)


def test_the_export_repeats_latentcrfs_setting() -> None:
    defaults = EMOJI.defaults
    options = tab.list_options(EMOJI, replace(defaults, finisher=True))
    assert (options["finisher"], options["bypass"]) == ("shipped", list(defaults.bypass))
    assert tab.list_options(EMOJI, replace(defaults, finisher=False))["finisher"] == "none"
