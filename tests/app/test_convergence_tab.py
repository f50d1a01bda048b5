"""The convergence tab: messages for bad input."""

from typing import Any

import pytest

from app.page import Turns
from app.services import Services
from app.tabs import convergence as tab


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
    answers = list(tab.run(Services(), **(good | wrong), presentation=False, ticket=1, turns=Turns(asked=1)))
    assert len(answers) == 1 and words in answers[0][0] and len(answers[0]) == 4 + len(tab.FIGURES)
