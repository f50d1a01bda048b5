"""The settings of one comparison, and the only place where they are checked: page, API, PNG files and links alike."""

import math
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

MAX_PROMPT = 300  # characters; the text encoder of the embedded LDM reads about the first dozen words
MAX_SEED = 2**32 - 1


class SettingsError(ValueError):
    """Settings that cannot be used; the message is a sentence for the visitor, one line for each wrong field."""


@dataclass(frozen=True)
class Limit:
    """A number's accepted range, both ends included; `step` is what the page's slider moves by."""

    name: str
    low: float
    high: float
    step: float = 1

    def check(self, value: Any) -> float:
        """Return `value` as a number in the range; whole numbers as int.

        Raises:
            SettingsError: it is not a number, not finite, not whole where it must be, or out of the range.
        """
        whole = float(self.step).is_integer()
        wanted = f"{self.name} must be a {'whole ' if whole else ''}number from {self.low:,} to {self.high:,}"
        if value is None or isinstance(value, bool) or (isinstance(value, str) and not value.strip()):
            raise SettingsError(f"{wanted}; it was left empty.")
        try:
            # Whole numbers do not go through float, which would round large seeds.
            number = value if isinstance(value, int) else float(value[:64] if isinstance(value, str) else value)
            outside = not self.low <= number <= self.high  # NaN is outside of every range
        except (TypeError, ValueError, OverflowError):
            raise SettingsError(f"{wanted}; {_short(value)} is not one.") from None
        if outside or (whole and number != math.floor(number)):
            raise SettingsError(f"{wanted}; it was {_short(value)}.")
        return int(number) if whole else float(number)


LIMITS = {
    "seed": Limit("Seed", 0, MAX_SEED),
    "steps": Limit("Steps", 2, 200),
    "guidance": Limit("Guidance", 1.0, 15.0, 0.1),
    "iterations": Limit("CRF iterations", 1, 20),
    "bypass_start": Limit("Bypass start", 1, 199),
    "bypass_end": Limit("Bypass end", 2, 200),
    "finisher": Limit("Finisher", 0.0, 1.0, 0.1),
    "few_steps": Limit("Few steps", 0, 50),
}


@dataclass(frozen=True)
class Settings:
    """One comparison. Build it with `Settings.parse`, which checks; the defaults are the paper's setting, finished as was
    measured to be best.

    Attributes:
        prompt: what to draw, 1 to 300 characters.
        seed: of the initial noise, 0 to 2^32 - 1.
        steps: of the full run, 2 to 200.
        guidance: weight of classifier-free guidance, 1 (none) to 15.
        iterations: of the CRF's solver, 1 to 20.
        bypass_start: U-Net steps before the CRF, 1 to steps - 1.
        bypass_end: step after which the U-Net takes over again; `steps` means never: the run ends with the CRF.
        finisher: how far LatentCRF's last latents go towards what a second CRF, trained to finish runs, makes of them, 0 (it
            is left out) to 1.
        few_steps: 0 for a run of `steps` with the bypass; else, up to steps - 1, LatentCRF's run is one of so many steps of a
            faster solver (UniPC), none of them left out, and finished; the bypass is not used then.
    """

    prompt: str
    seed: int = 0
    steps: int = 50
    guidance: float = 3.0
    iterations: int = 5
    bypass_start: int = 33
    bypass_end: int = 49
    finisher: float = 1.0
    few_steps: int = 0

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> "Settings":
        """Read settings from untrusted values; unknown names are ignored, missing ones take the default.

        Raises:
            SettingsError: with a line for each field that is wrong: its name, its range and what it was.
        """
        problems: list[str] = []
        checked: dict[str, Any] = {}
        for field in fields(cls):
            default = "" if field.name == "prompt" else field.default
            value = values.get(field.name, default)
            try:
                checked[field.name] = check_prompt(value) if field.name == "prompt" else LIMITS[field.name].check(value)
            except SettingsError as error:
                problems.append(str(error))
        if not problems:
            steps, few_steps = checked["steps"], checked["few_steps"]
            if few_steps:
                problems = check_few_steps(few_steps, steps, checked["finisher"])
            else:
                problems = check_bypass(steps, checked["bypass_start"], checked["bypass_end"])
        if problems:
            raise SettingsError("\n".join(problems))
        return cls(**checked)

    def as_dict(self) -> dict[str, Any]:
        """Plain values by name, as `parse` reads them."""
        return asdict(self)


NAMES = tuple(field.name for field in fields(Settings))


def check_prompt(value: Any) -> str:
    """Return the prompt on one line, without control characters.

    Raises:
        SettingsError: it is blank, too long or not text.
    """
    wanted = f"Prompt must be text of 1 to {MAX_PROMPT} characters"
    if not isinstance(value, str):
        raise SettingsError(f"{wanted}; it was left empty." if value is None else f"{wanted}; it was not text.")
    if len(value) > 100 * MAX_PROMPT or len(text := " ".join(value.split())) > MAX_PROMPT:
        raise SettingsError(f"{wanted}; it had {len(value):,}.")
    # Control characters and lone surrogates are no text, and the tokenizer refuses the latter.
    text = "".join(character for character in text if unicodedata.category(character) not in ("Cc", "Cs"))
    if not text.strip():
        raise SettingsError(f"{wanted}; it was left empty.")
    return text


def check_bypass(steps: int, start: int, end: int) -> list[str]:
    """What is wrong with a bypass from `start` to `end` of `steps`; an empty list if nothing is."""
    if start >= steps:
        return [f"Bypass start must be a whole number from 1 to {steps - 1}, below the {steps} steps; it was {start}."]
    if not start < end <= steps:
        return [
            f"Bypass end must be a whole number from {start + 1}, above the bypass start, to {steps}, "
            f"the number of steps; it was {end}."
        ]
    return []


def check_few_steps(few_steps: int, steps: int, finisher: float) -> list[str]:
    """What is wrong with a run of `few_steps` beside one of `steps`; an empty list if nothing is."""
    problems = []
    if few_steps >= steps:
        problems.append(
            f"Few steps must be a whole number from 1 to {steps - 1}, below the full run's {steps}, or 0 for the bypass; it "
            f"was {few_steps}."
        )
    if not finisher:
        problems.append(
            "Finisher must be above 0 where Few steps is: in a run of few steps it is all that LatentCRF does."
        )
    return problems


def _short(value: Any) -> str:
    if isinstance(value, int):
        # Python refuses to write out integers of thousands of digits.
        return f"{value:,}" if abs(value) < 10**24 else "a number of more than 24 digits"
    if isinstance(value, float):
        return f"{value:,g}"
    text = str(value) if isinstance(value, str) else type(value).__name__
    return repr(text if len(text) <= 40 else text[:37] + "...")
