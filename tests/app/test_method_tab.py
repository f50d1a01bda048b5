"""The method tab: what it draws, its sliders, messages for bad input."""

from typing import Any

import torch
from diffusers import StableDiffusionPipeline

from app.page import Turns
from app.services import Services
from app.tabs import method as tab
from latentcrf import LatentCRF
from tests.analysis.test_walkthrough import crf as crf


class Stand:
    """The page's services with the tiny pipeline."""

    def __init__(self, pipeline: StableDiffusionPipeline, crf: LatentCRF) -> None:
        self.models = type("Models", (), {"pipeline": pipeline, "crf": crf, "precision": torch.float32})()

    def stream(self, work: Any) -> Any:
        reports: list[Any] = []
        work(self.models, reports.append)
        return (report for report in reports)


def test_the_tab_draws_and_its_sliders_answer(tiny_pipeline: StableDiffusionPipeline, crf: LatentCRF) -> None:
    services: Any = Stand(tiny_pipeline, crf)
    answers = list(tab.run(services, "red apple", 3, False, 1, Turns(asked=1)))
    width = 4 + len(tab.NOTES) + 2 * len(tab.TERMS)
    assert all(len(answer) == width for answer in answers)
    made, examples = answers[-1][3], answers[-1][-len(tab.TERMS) :]
    assert all("data:image/png;base64," in example and "Counts × 1." in example for example in examples)
    turned = tab.turn(services, "unary", made, -2)
    assert "Counts × 0.01." in turned and turned != examples[0]
    assert "Weight must be a number from -2 to 2" in tab.turn(services, "unary", made, float("nan"))
    assert "Press Run first" in tab.turn(services, "unary", None, 0)
    assert tab.draw(None, True)[0] == tab.draw(None, False)[0]


def test_the_tab_answers_bad_input_with_a_sentence() -> None:
    (answer,) = tab.run(Services(), " ", -1, False, 1, Turns(asked=1))
    assert "Prompt must be" in answer[0] and "Seed must be" in answer[0]
