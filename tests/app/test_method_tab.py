"""The method tab: what it draws, its sliders, messages for bad input."""

from diffusers import StableDiffusionPipeline

from app.device import DeviceWorker
from app.tabs import method as tab
from app.text import write_method_notes
from latentcrf import LatentCRF
from tests.analysis.test_walkthrough import crf as crf
from tests.app.driving import EMOJI, build_tiny_worker, run_tab

WIDTH = 2 + 2 * len(write_method_notes(EMOJI)) + 2 * len(tab.TERMS)


def test_the_tab_draws_and_its_sliders_answer(tiny_pipeline: StableDiffusionPipeline, crf: LatentCRF) -> None:
    worker = build_tiny_worker(tiny_pipeline, crf)
    answers = list(run_tab(tab.run_walkthrough, worker, ["red apple", 3, False], WIDTH))
    assert all(len(answer) == 3 + WIDTH for answer in answers)
    outcome, examples = answers[-1][3], answers[-1][-len(tab.TERMS) :]
    assert all("data:image/png;base64," in example and "Counts × 1." in example for example in examples)
    changed = tab.change_weight(worker, "unary", outcome, -2, "emoji")
    assert "Counts × 0.01." in changed and changed != examples[0]
    assert "Weight must be a number from -2 to 2" in tab.change_weight(worker, "unary", outcome, float("nan"), "emoji")
    assert "Press Run first" in tab.change_weight(worker, "unary", None, 0, "emoji")
    assert tab.draw(worker, None, True)[0] == tab.draw(worker, None, False)[0]


def test_the_tab_answers_bad_input_with_a_sentence() -> None:
    (answer,) = run_tab(tab.run_walkthrough, DeviceWorker(), [" ", -1, False], WIDTH)
    assert "Prompt must be" in answer[0] and "Seed must be" in answer[0]
