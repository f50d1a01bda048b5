"""Exports: files whole, the ZIP, and the settings with which a command line makes the same again."""

import argparse
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from analysis.export import Results, parse, write_results, write_zip
from analysis.figures.style import FONT_SIZE, PRESENTATION_FONT_SIZE, apply_style
from latentcrf.precision import add_precision_argument

OPTIONS = {
    "prompt": "-red apple",
    "seeds": 3,
    "bypass": [5, 9],
    "text": ["-apple", "blue heart"],
    "finished": True,
    "precision": "float32",
    "unused": None,
}


@pytest.fixture
def results() -> Results:
    table = pd.DataFrame({"a": [1.0, 2.5]})
    return Results("demo", OPTIONS, {"table": table}, {}, {"image": np.full((4, 6, 3), 200, np.uint8)})


def parser() -> argparse.ArgumentParser:
    demo = argparse.ArgumentParser()
    demo.add_argument("--prompt", default="pizza")
    demo.add_argument("--seeds", type=int, default=1)
    demo.add_argument("--bypass", type=int, nargs=2, default=(1, 2))
    demo.add_argument("--text", action="extend", nargs="+")
    demo.add_argument("--finished", action="store_true")
    add_precision_argument(demo)
    demo.add_argument("--unused")
    demo.add_argument("--out", required=True)
    return demo


def test_folder_and_zip_hold_the_same(results: Results, tmp_path: Path) -> None:
    names = write_results(results, tmp_path / "out")
    assert names == ["settings.json", "table.csv", "image.png"]
    archive = zipfile.ZipFile(write_zip(results, tmp_path / "demo.zip"))
    assert archive.namelist() == [f"demo/{name}" for name in names]
    for name in names:
        assert archive.read(f"demo/{name}") == (tmp_path / "out" / name).read_bytes()
    assert (tmp_path / "out" / "table.csv").read_text() == "a,precision\n1,float32\n2.5,float32\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo.zip", "out"]


def test_a_figure_is_written_as_html_that_opens_offline(tmp_path: Path) -> None:
    figure = apply_style(go.Figure(go.Scatter(y=[1, 2])), "Title")
    names = write_results(Results("demo", {}, {}, {"figure": figure}), tmp_path)
    assert "figure.html" in names and (tmp_path / "figure.html").stat().st_size > 1_000_000


@pytest.mark.slow
def test_a_chrome_that_never_answers_costs_only_its_png(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chrome = tmp_path / "chrome"
    chrome.write_text("#!/bin/sh\nexec sleep 60\n")
    chrome.chmod(0o755)
    monkeypatch.setenv("BROWSER_PATH", str(chrome))
    monkeypatch.setattr("analysis.export.PNG_SECONDS", 2)
    results = Results("demo", {}, {"table": pd.DataFrame({"a": [1]})}, {"figure": go.Figure(go.Scatter(y=[1, 2]))})
    begin = time.monotonic()
    names = write_results(results, tmp_path / "out")
    assert time.monotonic() - begin < 30
    message = capsys.readouterr().err
    assert "it did not answer within 2 s; the other files are complete" in message and "Traceback" not in message
    assert names == ["settings.json", "table.csv", "figure.html"]


def test_settings_make_the_same_options_again(results: Results, tmp_path: Path) -> None:
    write_results(results, tmp_path)
    file = str(tmp_path / "settings.json")
    options = parse(parser(), "demo", ["--from", file, "--out", "x"])
    assert (options.prompt, options.seeds, options.bypass, options.finished) == ("-red apple", 3, [5, 9], True)
    assert options.text == ["-apple", "blue heart"] and options.precision == "float32"
    assert parse(parser(), "demo", ["--from", file, "--out", "x", "--text", "rocket"]).text == ["rocket"]
    assert parse(parser(), "demo", ["--out", "x", f"--from={file}", "--seeds", "7"]).seeds == 7  # the line wins
    assert parse(parser(), "demo", ["--out", "x"]).prompt == "pizza"


@pytest.mark.parametrize(
    ("content", "words"),
    (
        ("nonsense", "cannot be read"),
        (json.dumps({"options": {}}), "cannot be read"),
        (json.dumps({"analysis": "other", "options": {}}), "belongs to analysis.other; this is analysis.demo"),
        (json.dumps({"analysis": "demo", "options": {"speed": 1}}), "'speed', which is no option; accepted are"),
        (json.dumps({"analysis": "demo", "options": {"seeds": "many"}}), "invalid int value: 'many'"),
    ),
)
def test_wrong_settings_are_met_with_a_sentence(
    content: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "settings.json"
    file.write_text(content)
    with pytest.raises(SystemExit):
        parse(parser(), "demo", ["--from", str(file), "--out", "x"])
    assert words in capsys.readouterr().err


def test_settings_are_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    write_results(Results("demo", {"prompt": "Äpfel, 苹果"}, {}, {}), tmp_path)
    assert "Äpfel, 苹果" in (tmp_path / "settings.json").read_bytes().decode("utf-8")
    code = (
        "import argparse; from analysis.export import parse; p = argparse.ArgumentParser(); "
        "p.add_argument('--prompt'); "
        f"print(ascii(parse(p, 'demo', ['--from', {str(tmp_path / 'settings.json')!r}]).prompt))"
    )
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | locale, capture_output=True, text=True)
    assert done.stdout.strip() == ascii("Äpfel, 苹果"), done.stderr


def test_words_that_are_no_option_are_refused(
    results: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_results(results, tmp_path)
    with pytest.raises(SystemExit):
        parse(parser(), "demo", ["--from", str(tmp_path / "settings.json"), "--out", "x", "--colour", "red"])
    assert "unrecognized arguments: --colour red" in capsys.readouterr().err


def test_a_missing_settings_file_is_met_with_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(parser(), "demo", ["--from", str(tmp_path / "none.json"), "--out", "x"])
    assert "none.json cannot be read" in capsys.readouterr().err


def test_presentation_enlarges_type_and_the_page_shines_through() -> None:
    small, large = (
        apply_style(go.Figure(go.Scatter(y=[1, 2])), "T", presentation=big, on_page=big) for big in (False, True)
    )
    assert (small.layout.font.size, large.layout.font.size) == (FONT_SIZE, PRESENTATION_FONT_SIZE)
    assert large.layout.title.text == "T" and large.layout.paper_bgcolor == "rgba(0, 0, 0, 0)"
    assert small.layout.width == 1180 and large.layout.width is None
