"""What visitors type, as the emoji model reads it: emoji by name, words that it cannot read, what it cannot do."""

from pathlib import Path

import pytest

from app.prompts import list_notes, list_subjects, read_prompt, read_subjects
from app.settings import DECLARATIONS, SettingsError
from tests.app.driving import EMOJI

SUBJECTS = EMOJI.subjects
COUNTS, TWO = "does not count", "one subject; two in a prompt mix"


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        ("🍎", "red apple"), ("🍕🍕", "pizza"), ("😺", "grinning cat"), ("❤️", "red heart"), ("♥", "heart suit"),
        ("love 🍕", "love pizza"), ("🍕, 3d", "pizza, 3d"), ("👍🏽", "thumbs up"), ("👮🏽‍♂️", "man police officer"),
        ("red apple", "red apple"), ("  kept  as is", "  kept  as is"), ("a‍b", "a‍b"), ("©®", "copyright registered"),
    ],
)  # fmt: skip
def test_emoji_are_read_by_name(typed: str, text: str) -> None:
    prompt = read_prompt(typed, SUBJECTS)
    assert prompt.text == text
    assert ("is read as" in " ".join(prompt.notes)) == (typed != text)


@pytest.mark.parametrize(
    ("typed", "note"),
    [
        ("红苹果", "The model cannot read: 红苹果; try: red apple."),
        ("красное яблоко", "The model cannot read: красное, яблоко; try: red apple."),
        ("🇩🇪", "The model cannot read: 🇩🇪; try: English words, such as red apple."),
    ],
)
def test_a_prompt_of_which_nothing_is_read_is_refused(typed: str, note: str) -> None:
    with pytest.raises(SettingsError, match=f"Prompt: {note}"):
        EMOJI.read_prompt(typed)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("big 红苹果", "cannot read: 红苹果; try: red apple"), ("roter Apfel", "reads English; try: red apple"),
        ("x " + "字" * 200, "cannot read: " + "字" * 40 + ";"), ("no apple", "does not understand “no”"),
        ("three cats", COUNTS), ("12 pizzas", COUNTS), ("🍕🍕", COUNTS), ("a cat and a dog", TWO), ("🐱🐶", TWO),
        ("dog with hat", TWO), ("👮", "never learned to draw “police officer”"),
        ("naïve café", "None of these words names"), ("the quantum flux capacitor", "None of these words names"),
    ],
)  # fmt: skip
def test_a_note_says_what_the_model_cannot_do(typed: str, words: str) -> None:
    notes = EMOJI.read_prompt(typed).notes
    assert words in " ".join(notes) and all(len(note) < 250 for note in notes)


def test_notes_on_several_prompts_name_them() -> None:
    def read(*typed: str) -> list[str]:
        return list_notes({each: EMOJI.read_prompt(each) for each in typed})

    assert read("no apple") == list(EMOJI.read_prompt("no apple").notes) and read("pizza", "red apple") == []
    assert read("pizza", "🍕") == ["“🍕”: 🍕 is read as “pizza”."]
    many = read("pizza", *(f"no {each}" for each in ("apple", "dog", "cat", "moon", "sun")))
    assert len(many) == 4 and many[3] == "There are notes on 2 more of the prompts."


def test_subjects_and_captions_have_no_note() -> None:
    """What it learned is not warned of: "two hearts", "fork and knife", "snowman without snow"."""
    learned = [subject for subject in SUBJECTS if subject.is_learned]
    captions = [f"{each.label}, {', '.join(each.tags[:2])}" for each in learned if "cat" in each.label]
    for typed in (*(each.label for each in learned), *captions, *EMOJI.prompts):
        prompt = read_prompt(typed, SUBJECTS)
        assert not prompt.notes and prompt.text == typed and prompt.is_readable
    assert {"two hearts", "fork and knife", "snowman without snow"} <= {each.label for each in learned}
    assert list_subjects(read_subjects(EMOJI.model.folder)) == [each.label for each in learned] and len(learned) > 1000


def test_a_prompt_of_many_emoji_stays_within_the_length() -> None:
    prompt = read_prompt("😀🐱" * 150, SUBJECTS)
    assert DECLARATIONS["prompt"].check(prompt.text) == prompt.text and prompt.text.endswith("face")


def test_a_model_without_a_table_reads_what_was_typed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_subjects(tmp_path) == ()
    assert read_prompt("🍎 红苹果, no cats and 3 dogs", ()).text == "🍎 红苹果, no cats and 3 dogs"
    damaged = tmp_path / "model"
    damaged.mkdir()
    (damaged / "subjects.json").write_text('{"subjects": [{}]}')
    assert read_subjects(damaged) == () and "subjects.json is damaged" in caplog.text


@pytest.mark.parametrize("character", ["\u200b", "\ufe0f", "\ufeff", "\u2060", "\u00ad", "\u3164", "\u2800", "\u0301"])
def test_an_invisible_character_is_an_empty_prompt(character: str) -> None:
    for typed in (character, f" {character}{character} "):
        with pytest.raises(SettingsError, match="it was left empty"):
            DECLARATIONS["prompt"].check(typed)
    assert DECLARATIONS["prompt"].check(f"a{character}") == f"a{character}"
