"""Prompts: subjects seen in training, choices apart from reports, the Parti prompts."""

import io
from typing import Any

import pytest

from analysis import prompts
from analysis.prompts import core_subjects, draw_prompts, remaining_prompts, validation_prompts


def some_rows(count: int = 20) -> list[dict[str, Any]]:
    return [
        {"text": f"s{i}", "code_point": str(i), "core": i >= 5, "split": "test" if i < 8 else "train",
         "pixels_sha256": str(i)}
        for i in range(count)
    ]  # fmt: skip


def subject_rows(count: int) -> list[dict[str, Any]]:
    return [
        {"text": f"subject {i}", "code_point": f"{i:x}", "style": style, "core": True, "split": "train",
         "pixels_sha256": f"{i}-{style}"}
        for i in range(count) for style in ("flat", "noto")
    ]  # fmt: skip


def test_prompts_are_seen_core_subjects() -> None:
    drawn = draw_prompts(some_rows(), 12, seed=0)
    assert sorted(drawn["code_point"], key=int) == [str(i) for i in range(8, 20)]
    assert draw_prompts(some_rows(), 5, 1).equals(draw_prompts(some_rows(), 5, 1))
    assert not draw_prompts(some_rows(), 5, 1).equals(draw_prompts(some_rows(), 5, 2))
    with pytest.raises(ValueError, match="--prompts 13 is out of range: 1 to 12"):
        draw_prompts(some_rows(), 13, seed=0)


def test_reported_prompts_are_not_those_of_choices() -> None:
    rows = subject_rows(400)
    reported = set(remaining_prompts(rows, 100, 0)["code_point"])
    assert len(reported) == 100
    for count in (100, 200):
        assert not reported & set(draw_prompts(rows, count, 0)["code_point"])
    assert reported <= set(core_subjects(rows)["code_point"])
    for count in (10, 50, 100):
        chosen = set(validation_prompts(rows, count, 0)["code_point"])
        assert len(chosen) == count and not chosen & reported
    with pytest.raises(ValueError, match="out of range: 1 to "):
        remaining_prompts(rows, 400, 0)


def test_parti_prompts_are_read_as_they_stand() -> None:
    text = 'Prompt\tCategory\tNote\na corgi\tAnimals\t\n\n"hello" on a wall, in 5\' letters \tArts\tquotes\n\tArts\t\n'
    assert prompts.read_parti(text) == ["a corgi", '"hello" on a wall, in 5\' letters']
    opened = prompts.parti(lambda url, timeout: io.BytesIO(text.encode()))
    assert opened == prompts.read_parti(text)
    with pytest.raises(prompts.PromptsError, match="it has no column Prompt"):
        prompts.read_parti("<html>")
    with pytest.raises(prompts.PromptsError, match="is empty"):
        prompts.read_parti("Prompt\tCategory\n")
