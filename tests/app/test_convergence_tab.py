"""The convergence tab: its figures from both starts, messages for bad input."""

from typing import Any

import pytest
from diffusers import StableDiffusionPipeline

from app.device import DeviceWorker
from app.settings import METHOD
from app.tabs import convergence as tab
from app.text import CONVERGENCE_NOTES
from latentcrf import LatentCRF
from tests.analysis.test_walkthrough import crf as crf
from tests.app.driving import EMOJI, build_tiny_worker, run_tab


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"count": 7}, "Seeds must be a whole number from 1 to 6"), ({"steps": 1}, "Steps must be"),
     ({"guidance": 99}, "Guidance must be"), ({"bypass_end": 60}, "Bypass end must be"),
     ({"prompt": " "}, "Prompt must be")],
)  # fmt: skip
def test_the_tab_answers_bad_input_with_a_sentence(wrong: dict[str, Any], words: str) -> None:
    good = dict(zip(("prompt", "seed", "count", *METHOD, "start"), tab.list_first_values(EMOJI), strict=True))
    num_outputs = 2 + 2 * len(CONVERGENCE_NOTES)
    values = [*(good | wrong).values(), False]
    (answer,) = run_tab(tab.run_convergence, DeviceWorker(), values, num_outputs)
    assert words in answer[0] and len(answer) == 3 + num_outputs


def test_the_tab_draws_from_both_starts_and_ends_with_its_work(
    tiny_pipeline: StableDiffusionPipeline, crf: LatentCRF
) -> None:
    values = ["🍎", 0, 2, *(getattr(EMOJI.defaults, name) for name in METHOD)]
    worker, num_outputs = build_tiny_worker(tiny_pipeline, crf), 2 + 2 * len(CONVERGENCE_NOTES)
    answers = list(run_tab(tab.run_convergence, worker, [*values, "Clean estimate", False], num_outputs))
    status, outcome = answers[-1][0], answers[-1][3]
    assert "Drawing the figures" in answers[-2][0] and "2 seeds from 0. The descents from all starts end" in status
    assert status.index("The descents") < status.index("🍎 is read as “red apple”.")
    titles = [
        tab.draw(worker, outcome, start, False)[0].layout.title.text for start in ("Clean estimate", "Noisy latents")
    ]
    assert "From the clean estimate" in titles[0] and "From the noisy latents" in titles[1]
