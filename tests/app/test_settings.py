"""The one place where a run's settings are checked."""

import math
from dataclasses import replace

import pytest

from app.settings import DECLARATIONS, MAX_SEED, NAMES, Settings, SettingsError, get_number
from tests.app.driving import EMOJI

WRONG = [
    ("prompt", "", "Prompt", "1 to 300"),
    ("prompt", " \n\t ", "Prompt", "1 to 300"),
    ("prompt", "\x00\x07", "Prompt", "1 to 300"),
    ("prompt", None, "Prompt", "1 to 300"),
    ("prompt", 7, "Prompt", "1 to 300"),
    ("prompt", "x" * 301, "Prompt", "1 to 300"),
    ("prompt", "x" * 10_000, "Prompt", "10,000"),
    ("prompt", "x" * 10_000_000, "Prompt", "1 to 300"),
    ("seed", -1, "Seed", "0 to 4,294,967,295"),
    ("seed", 2**32, "Seed", "0 to 4,294,967,295"),
    ("seed", 2**70, "Seed", "0 to 4,294,967,295"),
    ("seed", 10**5000, "Seed", "0 to 4,294,967,295"),
    ("seed", 1.5, "Seed", "whole number"),
    ("seed", None, "Seed", "left empty"),
    ("seed", "9" * 5000, "Seed", "0 to 4,294,967,295"),
    ("steps", 0, "Steps", "2 to 200"),
    ("steps", 10_000, "Steps", "2 to 200"),
    ("steps", math.nan, "Steps", "2 to 200"),
    ("steps", "many", "Steps", "'many'"),
    ("steps", True, "Steps", "2 to 200"),
    ("guidance", math.nan, "Guidance", "1.0 to 15.0"),
    ("guidance", math.inf, "Guidance", "1.0 to 15.0"),
    ("guidance", -math.inf, "Guidance", "1.0 to 15.0"),
    ("guidance", "1e999", "Guidance", "1.0 to 15.0"),
    ("guidance", [3], "Guidance", "list"),
    ("guidance", None, "Guidance", "left empty"),
    ("iterations", 0, "CRF iterations", "1 to 20"),
    ("iterations", 21, "CRF iterations", "1 to 20"),
    ("bypass_start", 0, "Bypass start", "1 to 199"),
    ("bypass_start", 50, "Bypass start", "1 to 49"),
    ("bypass_end", 33, "Bypass end", "34"),
    ("bypass_end", 20, "Bypass end", "34"),
    ("bypass_end", 51, "Bypass end", "50"),
    ("finisher", 0.7, "Finisher", "on or off (true or false); it was 0.7"),  # a strength, in files before 0.2
    ("finisher", "much", "Finisher", "'much'"),
    ("finisher", None, "Finisher", "left empty"),
    ("finisher", math.nan, "Finisher", "on or off"),
    ("finisher", [1], "Finisher", "list"),
    ("few_steps", 51, "Few steps", "0 to 50"),
    ("few_steps", 2.5, "Few steps", "whole number"),
    ("images", 5, "Images", "1 to 4"),
    ("images", 0, "Images", "1 to 4"),
    ("full_finisher", "half", "Finish the full run too", "on or off"),
    ("guidance_cutoff", 0.95, "Guidance cut-off", "0.0 to 0.9"),
    ("guidance_cutoff", -0.1, "Guidance cut-off", "0.0 to 0.9"),
    ("guidance_cutoff", "half", "Guidance cut-off", "'half'"),
]


def parse(values: dict[str, object]) -> Settings:
    return Settings.parse(values, EMOJI.defaults)


@pytest.mark.parametrize(
    ("name", "value", "field", "words"), WRONG, ids=[f"{row[0]}-{i}" for i, row in enumerate(WRONG)]
)
def test_a_wrong_value_is_met_with_a_sentence(name: str, value: object, field: str, words: str) -> None:
    """The sentence names the field and what is accepted, and is short whatever came in."""
    with pytest.raises(SettingsError) as caught:
        parse({"prompt": "red apple", name: value})
    message = str(caught.value)
    assert message.startswith(field) and words in message and message.endswith(".")
    assert len(message) < 200


def test_few_steps_want_the_finisher() -> None:
    assert parse({"prompt": "red apple", "few_steps": 6}).few_steps == 6
    short = parse({"prompt": "red apple", "few_steps": 6, "steps": 20})
    assert short.bypass_end == 49  # which is not used then
    with pytest.raises(SettingsError, match="^Finisher must be on where Few steps is above 0: "):
        parse({"prompt": "red apple", "few_steps": 6, "finisher": 0})
    with pytest.raises(SettingsError, match="^Few steps must be a whole number from 1 to 5, below .* it was 6.$"):
        parse({"prompt": "red apple", "few_steps": 6, "steps": 6})


def test_seeds_count_up_from_the_first() -> None:
    assert parse({"prompt": "a", "seed": 5, "images": 3}).seeds == [5, 6, 7]
    assert parse({"prompt": "a", "seed": MAX_SEED, "images": 2}).seeds == [MAX_SEED, 0]
    assert parse({"prompt": "a"}).seeds == [0]


def test_all_wrong_fields_are_named_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        parse({"prompt": "", "seed": -1, "steps": 0})
    assert [line.split()[0] for line in str(caught.value).splitlines()] == ["Prompt", "Seed", "Steps"]


def test_both_ends_of_each_range_are_accepted() -> None:
    for name in ("seed", "guidance", "iterations"):
        for value in (get_number(name).low, get_number(name).high):
            assert getattr(parse({"prompt": "a", name: value}), name) == value
    shortest = parse({"prompt": "a", "steps": 2, "bypass_start": 1, "bypass_end": 2})
    assert (shortest.steps, shortest.bypass_start, shortest.bypass_end) == (2, 1, 2)
    assert parse({"prompt": "a" * 300, "steps": 200, "bypass_start": 199, "bypass_end": 200})


def test_numbers_come_as_a_page_and_as_a_link_write_them() -> None:
    """The page sends floats, a link sends text; whole numbers are whole afterwards, large seeds exact."""
    settings = parse({"prompt": "a", "seed": "4294967294", "steps": 40.0, "guidance": "2.5", "bypass_end": 39})
    assert (settings.seed, settings.steps, settings.guidance) == (4294967294, 40, 2.5)
    assert type(settings.seed) is int and type(settings.steps) is int


def test_the_prompt_becomes_one_clean_line() -> None:
    assert parse({"prompt": "  red \n apple\x00\ud800 "}).prompt == "red apple"
    assert parse({"prompt": "Äpfel 🍎 <b>"}).prompt == "Äpfel 🍎 <b>"


def test_unknown_names_are_ignored_and_missing_ones_take_the_default() -> None:
    assert parse({"prompt": "a", "shell": "rm"}) == replace(EMOJI.defaults, prompt="a")


def test_settings_survive_a_link() -> None:
    from urllib.parse import parse_qsl, urlencode

    settings = Settings("red & blue=green ü", 7, 20, 2.5, 3, 8, 20, False, 0, 0.33, 3, True, "emoji")
    assert parse(dict(parse_qsl(urlencode(settings.as_dict())))) == settings


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, True),
        (False, False),
        (1.0, True),
        (0.0, False),
        ("true", True),
        ("False", False),
        ("1", True),
        ("off", False),
    ],
)
def test_the_finisher_is_read_from_page_link_and_older_files(value: object, expected: bool) -> None:
    assert parse({"prompt": "a", "finisher": value}).finisher is expected


def test_a_guided_call_is_two_network_evaluations() -> None:
    assert parse({"prompt": "a"}).network_evaluations == {"full": 100, "latentcrf": 68}
    assert parse({"prompt": "a", "guidance": 1}).network_evaluations == {"full": 50, "latentcrf": 34}
    cut_off = parse({"prompt": "a", "few_steps": 12, "guidance_cutoff": 0.33})
    assert cut_off.denoiser_calls == {"full": 50, "latentcrf": 12}
    assert cut_off.network_evaluations == {"full": 100, "latentcrf": 20}


def test_the_guidance_cutoff_counts_as_the_library_does() -> None:
    from latentcrf.guidance import cutoff

    for hundredths in range(91):
        share = hundredths / 100
        for steps in range(3, 60):
            settings = replace(EMOJI.defaults, steps=steps, bypass_start=1, bypass_end=2, guidance_cutoff=share)
            assert settings.guided_calls["latentcrf"] == cutoff(share).guided_calls(steps - 1), (share, steps)


def test_api_and_link_follow_the_declarations() -> None:
    """Each setting has its parameter with default, range and description, and its name in a link."""
    from app.api import OF_AN_IMAGE, list_settings
    from app.components.form import WRITE_ADDRESS_JS

    parameters = list_settings(EMOJI, OF_AN_IMAGE)
    assert set(NAMES) - set(parameters) == {"images"}
    for name, parameter in parameters.items():
        assert f"'{name}'" in WRITE_ADDRESS_JS and parameter.text == DECLARATIONS[name].info
        assert parameter.default == getattr(EMOJI.defaults, name)
    assert parameters["steps"].text == "2 to 200: denoiser calls of the full run"
