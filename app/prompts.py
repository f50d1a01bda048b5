"""What a visitor typed, as a model reads it: emoji by their names, and notes on what the model cannot do.

A model that ships with a table of subjects (`subjects.json` in its folder, by `recipes.emoji.subjects`) learned these
subjects alone. Prompts of a model without one stay as they are.
"""

import json
import logging
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from app.settings import LONGEST_PROMPT

SUBJECTS = "subjects.json"
SHOWN = 40  # characters of a word that a note repeats
WORDS_SHOWN = 3  # unread words that a note repeats
NOTED = 3  # prompts of several whose notes are shown
# variation selectors and skin tones, which the table does without
MODIFIERS = "[\ufe0e\ufe0f\U0001f3fb-\U0001f3ff]*"
NEGATION = re.compile(r"\b(no|not|without|never|none)\b", re.IGNORECASE)
COUNT = re.compile(
    r"\b(two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|dozens?|several|many|[2-9]|\d\d+) (?=[\w\0])"
)
JOINERS = r"\b(?:and|with|next to|beside|between)\b|[&+]"  # between subjects, in lower case
MASK = "\0"  # stands for a subject's label within a prompt
SMALL_WORDS = (
    "the", "and", "with", "for", "from", "that", "this", "are", "was", "its", "his", "her", "their", "one", "some",
    "near", "into", "over", "under",
)  # fmt: skip
SCRIPTS = ("LATIN", "MODIFIER", "FEMININE", "MASCULINE")  # how the names of letters begin that are read
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Subject:
    """A subject of the data set that a model was trained on.

    Attributes:
        label: its English name, "red apple".
        emoji: its characters, without variation selectors.
        is_learned: whether the model was trained to draw it; if not, only its autoencoder saw it.
        tags: English words about it.
        names: in other languages, in lower case.
    """

    label: str
    emoji: str
    is_learned: bool
    tags: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prompt:
    """A prompt as a model reads it.

    Attributes:
        text: with emoji in words.
        notes: sentences for the visitor: what was replaced, what is not read, what the model cannot do.
        is_readable: whether the model reads any word of it.
    """

    text: str
    notes: tuple[str, ...] = ()
    is_readable: bool = True


# ------------------------------------------------------------------------------------------ the table


@cache
def read_subjects(folder: Path) -> tuple[Subject, ...]:
    """Read a model's table of subjects.

    Args:
        folder: of the model.

    Returns:
        The subjects; none where the model ships without a table, or it is damaged: that is logged.
    """
    path = folder / SUBJECTS
    if not path.is_file():
        return ()
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["subjects"]
        return tuple(
            Subject(
                row["label"], row["emoji"], row["is_learned"], tuple(row.get("tags", ())), tuple(row.get("names", ()))
            )
            for row in rows
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        log.error("%s is damaged (%r): emoji are not read.", path, error)
        return ()


def list_subjects(subjects: Sequence[Subject]) -> list[str]:
    """List what a model learned to draw, for a searchable list.

    Args:
        subjects: of the model.

    Returns:
        Labels, in the order of the emoji keyboard.
    """
    return [subject.label for subject in subjects if subject.is_learned]


@dataclass(frozen=True)
class _Index:
    """A table made searchable: emoji, their pattern; of learned subjects labels, last words, tags, names, words."""

    by_emoji: dict[str, Subject]
    emoji: re.Pattern[str]
    labels: re.Pattern[str]
    heads: frozenset[str]
    tags: dict[str, tuple[str, ...]]
    by_name: dict[str, str]
    words: frozenset[str]


@cache
def _index(subjects: tuple[Subject, ...]) -> _Index:
    by_emoji = {subject.emoji: subject for subject in subjects if not subject.emoji[0].isascii()}
    keys = sorted(by_emoji, key=len, reverse=True)
    learned = [subject for subject in subjects if subject.is_learned]
    labels = sorted((subject.label.lower() for subject in learned), key=len, reverse=True)
    # a plural is the same subject
    pattern = "|".join(rf"{re.escape(label)}(?:e?s)?" for label in labels)
    return _Index(
        by_emoji,
        re.compile("|".join("".join(re.escape(each) + MODIFIERS for each in key) for key in keys)),
        re.compile(rf"(?<!\w)(?:{pattern})(?!\w)"),
        frozenset(label.split()[-1] for label in labels),
        {subject.label.lower(): subject.tags for subject in learned},
        {name: subject.label for subject in reversed(learned) for name in subject.names},
        frozenset(word for each in learned for text in (each.label, *each.tags) for word in _list_words(text)),
    )


def _list_words(text: str) -> list[str]:
    """List the words of a text that may name something, in lower case and without the s of a plural."""
    words = (word.removesuffix("s") for word in re.findall(r"[^\W\d_]{3,}", text.lower()))
    return [word for word in words if word not in SMALL_WORDS]


# ------------------------------------------------------------------------------------------ reading


def read_prompt(typed: str, subjects: tuple[Subject, ...]) -> Prompt:
    """Read a prompt as a model does.

    Args:
        typed: by a visitor, on one line.
        subjects: of the model; none: the prompt stays as it is.

    Returns:
        The prompt; without emoji in it, `text` is `typed`.
    """
    if not subjects:
        return Prompt(typed)
    index = _index(subjects)
    text, found = _replace_emoji(typed, index)
    notes = [f"{emoji} is read as “{subject.label}”." for emoji, subject in found.items()]
    notes += [f"It never learned to draw “{each.label}”." for each in found.values() if not each.is_learned]
    unread = [word for word in text.split() if _is_unread(word)]
    notes += _propose(text, unread, index)
    notes += _describe_limits(typed, text, index)
    words = _list_words(text)
    if not notes and words and not index.words.intersection(words):
        notes.append("None of these words names what the model learned to draw; the page lists its subjects.")
    return Prompt(text, tuple(notes), is_readable=len(unread) < len(text.split()))


def list_notes(prompts: Mapping[str, Prompt]) -> list[str]:
    """List the notes on the prompts of a run.

    Args:
        prompts: as the model reads them, by what was typed.

    Returns:
        The notes; those on one of several prompts begin with it, and those on more than `NOTED` prompts are counted.
    """
    if len(prompts) == 1:
        return [note for prompt in prompts.values() for note in prompt.notes]
    noted = {typed: prompt.notes for typed, prompt in prompts.items() if prompt.notes}
    shown = [f"“{typed[:SHOWN]}”: {' '.join(notes)}" for typed, notes in list(noted.items())[:NOTED]]
    left = len(noted) - len(shown)
    return [*shown, f"There are notes on {left} more of the prompts."] if left else shown


def _replace_emoji(typed: str, index: _Index) -> tuple[str, dict[str, Subject]]:
    """Put the label in the place of each emoji; the same one again in a row counts once."""
    found: dict[str, Subject] = {}
    last_end, last_label = -1, ""

    def name(match: re.Match[str]) -> str:
        nonlocal last_end, last_label
        emoji = re.sub(MODIFIERS, "", match[0])
        subject = index.by_emoji[emoji]
        found.setdefault(match[0], subject)
        is_repeated = subject.label == last_label and not typed[last_end : match.start()].strip()
        last_end, last_label = match.end(), subject.label
        return " " if is_repeated else f" {subject.label} "

    text = index.emoji.sub(name, typed)
    if not found:
        return typed, found
    text = re.sub(r" (?=[,.;:!?])", "", " ".join(text.split()))
    return (text if len(text) <= LONGEST_PROMPT else text[:LONGEST_PROMPT].rsplit(" ", 1)[0]), found


def _is_unread(word: str) -> bool:
    """Tell whether a word has letters of another script than Latin, or symbols without a name."""
    for character in word:
        category = unicodedata.category(character)
        if category in ("So", "Co", "Cn"):
            return True
        if category.startswith("L") and not unicodedata.name(character, "").startswith(SCRIPTS):
            return True
    return False


def _propose(text: str, unread: list[str], index: _Index) -> list[str]:
    """Say what is not read, with English words for it where the table has them."""
    whole = index.by_name.get(text.lower())
    if not unread:  # Latin letters: it may be a subject in another language
        is_english = whole is None or index.labels.search(text.lower()) is not None
        return [] if is_english else [f"The model reads English; try: {whole}."]
    proposed = [whole] if whole else [_find_name(word.lower(), index) for word in unread]
    advice = "; ".join(dict.fromkeys(each for each in proposed if each)) or "English words, such as red apple"
    shown = ", ".join(word[:SHOWN] for word in unread[:WORDS_SHOWN]) + (" …" if len(unread) > WORDS_SHOWN else "")
    return [f"The model cannot read: {shown}; try: {advice}."]


def _find_name(word: str, index: _Index) -> str | None:
    """Find a subject by its name, or by a name that holds the word: the shortest."""
    if word in index.by_name:
        return index.by_name[word]
    holding = [name for name in index.by_name if word in name] if len(word) > 1 else []
    return index.by_name[min(holding, key=len)] if holding else None


def _describe_limits(typed: str, text: str, index: _Index) -> list[str]:
    """Say what the model cannot do of what the prompt asks for."""
    first, *others = text.lower().split(",")
    # "dog face, pet, dog": a caption's tags are no further subjects
    tags = {tag for match in index.labels.finditer(first) for tag in index.tags.get(match[0], ())}
    masked = index.labels.sub(MASK, ",".join([first, *(part for part in others if part.strip() not in tags)]))
    notes = []
    if negation := NEGATION.search(masked):
        notes.append(f"The model does not understand “{negation[0]}”: it draws what is named.")
    matches = [re.sub(MODIFIERS, "", match[0]) for match in index.emoji.finditer(typed)]
    if COUNT.search(masked) or len(set(matches)) < len(matches):
        notes.append("The model draws one subject and does not count.")
    parts = [
        part for part in re.split(f"{JOINERS}|,", masked) if MASK in part or any(w in index.heads for w in part.split())
    ]
    if masked.count(MASK) > 1 or (re.search(JOINERS, masked) and len(parts) > 1):
        notes.append("The model learned pictures of one subject; two in a prompt mix.")
    return notes
