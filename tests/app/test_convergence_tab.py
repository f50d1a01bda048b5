"""The convergence tab: messages for bad input."""

from typing import Any

import pytest

from app.device import DeviceWorker
from app.tabs import convergence as tab
from app.text import CONVERGENCE_NOTES
from tests.app.driving import run_tab


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"count": 7}, "Seeds must be a whole number from 1 to 6"), ({"steps": 1}, "Steps must be"),
     ({"guidance": 99}, "Guidance must be"), ({"end": 60}, "Bypass end must be"), ({"prompt": " "}, "Prompt must be")],
)  # fmt: skip
def test_the_tab_answers_bad_input_with_a_sentence(wrong: dict[str, Any], words: str) -> None:
    good: dict[str, Any] = {
        "prompt": "red apple",
        "seed": 0,
        "count": 2,
        "steps": 50,
        "guidance": 3,
        "start": 33,
        "end": 49,
    }
    num_outputs = 2 + 2 * len(CONVERGENCE_NOTES)
    values = [*(good | wrong).values(), False]
    (answer,) = run_tab(tab.run_convergence, DeviceWorker(), values, num_outputs)
    assert words in answer[0] and len(answer) == 3 + num_outputs
