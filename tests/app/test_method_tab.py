"""The method tab: what a run and the stored example show, and messages for bad input."""

import base64
import io
import json
import re
from html import unescape
from itertools import product

import numpy as np
import pytest
from diffusers import StableDiffusionPipeline
from PIL import Image

from analysis.studies import TERMS
from app.components import talk
from app.device import DeviceWorker
from app.tabs import method as tab
from app.text import read_method
from latentcrf import LatentCRF
from tests.analysis.test_walkthrough import crf as crf
from tests.app.driving import EMOJI, build_tiny_worker, run_tab

WIDTH = 2 + len(tab.list_visuals(EMOJI))
SETTING = [10, 3.0, 5, 5, 9, True, 0, 0.0]  # of app.settings.METHOD


def read_lists(html: str, name: str) -> list[list[object]]:
    """Read the lists that follow a player."""
    return [json.loads(unescape(text)) for text in re.findall(rf"data-{name}=[\"'](\[.*?\])[\"']", html)]


@pytest.fixture(scope="module")
def stored() -> tuple[tab.Outcome, dict[str, str]]:
    outcome, _, *visuals = tab.show_stored(DeviceWorker(), "emoji", False)
    return outcome, dict(zip(tab.list_visuals(EMOJI), visuals, strict=True))


def test_a_run_fills_all_sections(tiny_pipeline: StableDiffusionPipeline, crf: LatentCRF) -> None:
    worker = build_tiny_worker(tiny_pipeline, crf)
    worker._loaded["emoji"].finisher = None  # a CRF for the bypass is none for final latents
    answers = list(run_tab(tab.run_walkthrough, worker, ["no red apple", 3, *SETTING], WIDTH))
    assert "seed 3. The model does not understand “no”" in answers[-1][0]
    assert all(len(answer) == 3 + WIDTH for answer in answers)
    outcome, example, *visuals = answers[-1][3:]
    assert outcome.walkthrough.options["steps"] == 10 and outcome.walkthrough.bypass == (5, 9) and example == ""
    shown = dict(zip(tab.list_visuals(EMOJI), visuals, strict=True))
    assert all("sprite" in shown[name] for name in read_method(EMOJI))
    assert "6 of 6 calls" in unescape(shown["steps"]) and "10 of 10 calls" in unescape(shown["steps"])


def test_every_number_of_a_player_has_its_picture(stored: tuple[tab.Outcome, dict[str, str]]) -> None:
    found, visuals = stored[0].walkthrough, stored[1]
    for name, count in (("steps", 50), ("redundancy", 50), ("weights", 61), ("descent", 11)):
        lists = [*read_lists(visuals[name], "texts"), *read_lists(visuals[name], "frames")]
        lists += read_lists(visuals[name], "widths")
        assert lists and all(len(each) == count for each in lists), name
    (index_map,) = read_lists(visuals["weights"], "map")
    assert len(index_map) == 5 ** len(TERMS)
    for position, exponents in enumerate(product(range(-2, 3), repeat=len(TERMS))):
        factors = found.weights.loc[index_map[position], [f"{term}_factor" for term in TERMS]].to_numpy(float)
        ratios = np.log10(factors) - np.log10(factors[0])
        assert ratios == pytest.approx(np.array(exponents) - exponents[0]), exponents
    assert "Steps 33 to 48" in visuals["redundancy"] and visuals["redundancy"].count("column skipped") == 16


def test_a_sheet_holds_the_frames_in_rows() -> None:
    frames = np.stack([np.full((16, 16, 3), 12 * number, np.uint8) for number in range(13)])
    head, content = talk.encode_sheet(frames).split(",")
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB")).astype(int)
    assert head == "data:image/webp;base64" and sheet.shape == (32, 160, 3)
    for number in range(13):
        row, column = divmod(number, 10)
        assert abs(sheet[16 * row + 8, 16 * column + 8].mean() - 12 * number) < 6
    sprite = talk.write_sprite("frames", 13, "a & b", range(13), 11)
    assert "background-position:11.11% 100%" in sprite and "a &amp; b" in sprite


def test_captions_say_what_was_measured(stored: tuple[tab.Outcome, dict[str, str]]) -> None:
    table, (texts, *_) = stored[0].walkthrough.weights, read_lists(stored[1]["weights"], "texts")[-1:]
    learned = table.iloc[0]
    for number, row in table.iterrows():
        if number == 0:
            assert "learned weights" in texts[number]
            continue
        contrast = re.search(r"contrast (about the same|[+−]\d+ %)", texts[number])
        assert contrast is not None
        change = row["contrast"] / learned["contrast"] - 1
        said = contrast[1]
        assert abs(change) < 0.02 if said == "about the same" else ("+" in said) == (change > 0), texts[number]
    fades = texts[int(table[(table["unary_factor"] == 0.01) & (table["pairwise_factor"] == 1)].index[0])]
    assert "contrast −77 %" in fades and "saturation −84 %" in fades


def test_each_section_has_a_heading_and_a_question() -> None:
    texts = read_method(EMOJI)
    assert list(texts) == [name for name in tab.list_visuals(EMOJI) if name != "sheets"]
    assert all(text.startswith("## ") and text.count("<details>") == 1 for text in texts.values())
    assert "@" not in "".join(texts.values()) and "128 × 128 pixels" in texts["steps"]
    assert talk.write_navigation(talk.list_titles([*texts.values()])).count("data-section") == len(texts)


def test_the_tab_answers_bad_input_with_a_sentence() -> None:
    (answer,) = run_tab(tab.run_walkthrough, DeviceWorker(), [" ", -1], WIDTH)
    assert "Prompt must be" in answer[0] and "Seed must be" in answer[0]
