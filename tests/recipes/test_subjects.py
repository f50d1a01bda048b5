"""The table of subjects that ships with the emoji model."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from recipes.emoji import subjects
from recipes.emoji.drawings import WORDS

ROWS = [
    {"text": "red apple", "tags": ["fruit"], "code_point": "1f34e", "core": True, "split": "test"},
    {"text": "red apple", "tags": ["fruit"], "code_point": "1f34e", "core": True, "split": "train"},
    {"text": "police officer", "tags": [], "code_point": "1f46e", "core": False, "split": "train"},
    {"text": "pirate flag", "tags": ["jolly"], "code_point": "1f3f4-200d-2620", "core": True, "split": "test"},
]
NAMES = {
    "de/data.json": [{"hexcode": "1F34E", "label": "Roter Apfel"}, {"hexcode": "1F46E", "label": "Polizist"}],
    "zh/data.json": [{"hexcode": "1F34E", "label": "红苹果"}, {"hexcode": "1F34E", "label": "red apple"}],
    "en/data.json": [{"hexcode": "1F34E", "label": "not this"}],
}


def test_the_table_has_each_subject_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = tmp_path / "words.tgz"
    with tarfile.open(words, "w:gz") as archive:
        for name, entries in NAMES.items():
            content = json.dumps(entries).encode()
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    monkeypatch.setattr(subjects, "fetch", lambda package, folder: words if package == WORDS else None)
    monkeypatch.setattr(subjects, "read_metadata", lambda folder: ROWS)
    out = tmp_path / "model" / "subjects.json"
    assert subjects.main(["--data", str(tmp_path), "--out", str(out)]) == 0
    assert "3 subjects, 1 of them learned" in capsys.readouterr().out
    assert json.loads(out.read_text(encoding="utf-8"))["subjects"] == [
        {
            "label": "red apple",
            "emoji": "🍎",
            "is_learned": True,
            "tags": ["fruit"],
            "names": ["roter apfel", "红苹果"],
        },
        {"label": "police officer", "emoji": "👮", "is_learned": False},
        {"label": "pirate flag", "emoji": "🏴\u200d☠", "is_learned": False},
    ]


def test_a_missing_data_set_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert subjects.main(["--data", str(tmp_path), "--out", str(tmp_path / "x.json")]) == 1
    assert capsys.readouterr().err.startswith("error: ") and not (tmp_path / "x.json").exists()
