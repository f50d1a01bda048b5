"""Prompts: subjects seen in training, choices apart from reports, the Parti prompts."""

import io
from pathlib import Path
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
    subjects = draw_prompts(some_rows(), 12, seed=0)
    assert sorted(subjects["code_point"], key=int) == [str(i) for i in range(8, 20)]
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
    assert prompts.read_table(text, "x.tsv") == ["a corgi", '"hello" on a wall, in 5\' letters']
    opened = prompts.parti(lambda url, timeout: io.BytesIO(text.encode()))
    assert opened == prompts.read_table(text, "x.tsv")
    with pytest.raises(prompts.PromptsError, match="x.tsv is no table of prompts: it has no column Prompt"):
        prompts.read_table("<html>", "x.tsv")
    with pytest.raises(prompts.PromptsError, match="is empty"):
        prompts.read_table("Prompt\tCategory\n", "x.tsv")


def test_files_of_prompts(tmp_path: Path) -> None:
    lines, table, empty = tmp_path / "mine.txt", tmp_path / "PartiPrompts.tsv", tmp_path / "empty.txt"
    lines.write_text("a  corgi\n\n a red apple \n")
    assert prompts.read_file(lines) == ["a corgi", "a red apple"]
    table.write_text("Prompt\tCategory\na corgi\tAnimals\n")
    assert prompts.read_file(table) == ["a corgi"]
    empty.write_text("\n")
    with pytest.raises(prompts.PromptsError, match="empty.txt holds no prompt: one prompt a line is accepted"):
        prompts.read_file(empty)
    empty.write_bytes(b"\xff\xfe")
    with pytest.raises(prompts.PromptsError, match="cannot be read as a text of prompts"):
        prompts.read_file(empty)


def test_captions_are_subjects_where_the_folder_names_none() -> None:
    rows = [{"file_name": f"{i}.png", "text": f"a picture of {i // 2}"} for i in range(8)]
    drawn = remaining_prompts(rows, 4, 0)
    assert sorted(drawn["text"]) == [f"a picture of {i}" for i in range(4)]
    assert drawn["code_point"].equals(drawn["text"])
