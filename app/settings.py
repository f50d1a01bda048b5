"""The settings of one comparison: each is declared once here; form, API, PNG files and links are derived from it."""

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, get_type_hints

MAX_SEED = 2**32 - 1
LONGEST_PROMPT = 300  # characters
FILLERS = "\u115f\u1160\u2800\u3164\uffa0"  # letters and a symbol by their category, drawn as nothing


class SettingsError(ValueError):
    """Settings that cannot be used; the message is a sentence for the visitor, one line for each wrong field."""


@dataclass(frozen=True)
class Number:
    """The declaration of a number.

    Attributes:
        label: its name on the page.
        low: the lowest accepted value.
        high: the highest accepted value.
        step: by how much a click changes it; a whole number admits whole numbers only.
        help: what it is, in a few words.
    """

    label: str
    low: float
    high: float
    step: float = 1
    help: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether only whole numbers are accepted."""
        return float(self.step).is_integer()

    @property
    def range_text(self) -> str:
        """The accepted range, "2 to 200"."""
        return f"{self.low:,} to {self.high:,}"

    @property
    def info(self) -> str:
        """Range and help, as form and API show them."""
        return f"{self.range_text}: {self.help}" if self.help else self.range_text

    def check(self, value: Any) -> float:
        """Check a number.

        Args:
            value: anything; text is read as a number.

        Returns:
            The number; an int where `is_whole`.

        Raises:
            SettingsError: it is not a number, not finite, not whole where it must be, or out of the range.
        """
        wanted = f"{self.label} must be a {'whole ' if self.is_whole else ''}number from {self.range_text}"
        if value is None or isinstance(value, bool) or (isinstance(value, str) and not value.strip()):
            raise SettingsError(f"{wanted}; it was left empty.")
        try:
            # Whole numbers do not go through float, which would round large seeds.
            number = value if isinstance(value, int) else float(value[:64] if isinstance(value, str) else value)
            outside = not self.low <= number <= self.high  # NaN is outside of every range
        except (TypeError, ValueError, OverflowError):
            raise SettingsError(f"{wanted}; {_shorten(value)} is not one.") from None
        if outside or (self.is_whole and number != math.floor(number)):
            raise SettingsError(f"{wanted}; it was {_shorten(value)}.")
        return int(number) if self.is_whole else float(number)


@dataclass(frozen=True)
class Switch:
    """The declaration of a setting that is on or off.

    Attributes:
        label: its name on the page.
        help: what it does where it is on.
    """

    label: str
    help: str

    @property
    def info(self) -> str:
        """The help, as form and API show it."""
        return self.help

    def check(self, value: Any) -> bool:
        """Check a switch.

        Args:
            value: a bool, 1 or 0, or one of these words as a link holds it: true, false, on, off, 1, 0.

        Returns:
            Whether it is on.

        Raises:
            SettingsError: it is anything else.
        """
        word = value.strip().lower() if isinstance(value, str) else value
        if isinstance(word, (bool, int, float)) and word in (0, 1):
            return bool(word)
        if isinstance(word, str) and word in ("true", "on", "1", "1.0", "false", "off", "0", "0.0"):
            return word in ("true", "on", "1", "1.0")
        wanted = f"{self.label} must be on or off (true or false)"
        raise SettingsError(f"{wanted}; it was {'left empty' if word is None or word == '' else _shorten(value)}.")


@dataclass(frozen=True)
class Text:
    """The declaration of a text of one line.

    Attributes:
        label: its name on the page.
        longest: the most characters that are accepted; one is the least.
        help: what it is, in a few words.
    """

    label: str
    longest: int
    help: str

    @property
    def info(self) -> str:
        """Length and help, as the API shows them."""
        return f"1 to {self.longest} characters: {self.help}"

    def check(self, value: Any) -> str:
        """Check a text.

        Args:
            value: anything.

        Returns:
            The text on one line, without control characters.

        Raises:
            SettingsError: it is blank, too long or not text.
        """
        wanted = f"{self.label} must be text of 1 to {self.longest} characters"
        if not isinstance(value, str):
            raise SettingsError(f"{wanted}; it was left empty." if value is None else f"{wanted}; it was not text.")
        if len(value) > 100 * self.longest or len(text := " ".join(value.split())) > self.longest:
            raise SettingsError(f"{wanted}; it had {len(value):,}.")
        # Control characters and lone surrogates are no text, and the tokenizer refuses the latter.
        text = "".join(character for character in text if unicodedata.category(character) not in ("Cc", "Cs"))
        if all(_is_invisible(character) for character in text):
            raise SettingsError(f"{wanted}; it was left empty.")
        return text


@dataclass(frozen=True)
class Choice:
    """The declaration of a name from a list that the page knows when it starts.

    Attributes:
        label: its name on the page.
        help: what it is, in a few words.
    """

    label: str
    help: str

    @property
    def info(self) -> str:
        """The help, as form and API show it."""
        return self.help

    def check(self, value: Any) -> str:
        """Check that a value can be a name. Whether it is in the list is checked where the list is.

        Args:
            value: anything.

        Returns:
            The name.

        Raises:
            SettingsError: it is no text, or longer than 64 characters.
        """
        if not isinstance(value, str) or not 1 <= len(value) <= 64:
            raise SettingsError(f"{self.label} must be a name of 1 to 64 characters; it was {_shorten(value)}.")
        return value


Declaration = Number | Switch | Text | Choice


@dataclass(frozen=True)
class Settings:
    """One comparison. Build it from untrusted values with `Settings.parse`, which checks.

    Defaults are a base model's own (`app.models.ModelSet.defaults`): `app.models.Catalog.parse` finds them.

    Attributes:
        prompt: what to draw, 1 to 300 characters.
        seed: of the initial noise, 0 to 2^32 - 1.
        steps: of the full run, 2 to 200.
        guidance: weight of classifier-free guidance, 1 (none) to 15.
        iterations: of the CRF's solver, 1 to 20.
        bypass_start: first skipped step, 1 to steps - 1.
        bypass_end: step that follows the skipped ones, above `bypass_start`; `steps` ends the run with the CRF.
        finisher: whether a second CRF corrects LatentCRF's final latents.
        few_steps: 0 for a run of `steps` with the bypass. Else LatentCRF's run is one of so many steps of a faster
            solver (UniPC), 1 to steps - 1, with the finisher and without the bypass.
        guidance_cutoff: share of LatentCRF's denoiser calls, the last ones, that are made without guidance, 0 (none)
            to 0.9; each is one network evaluation instead of two. The full run is always guided.
        images: for how many seeds both methods draw, counting up from `seed`, 1 to 4.
        full_finisher: whether the finisher corrects the full run's final latents too.
        model: name of the base model, as `app.models.ModelSet.name`.
    """

    prompt: Annotated[str, Text("Prompt", LONGEST_PROMPT, "what to draw")]
    seed: Annotated[int, Number("Seed", 0, MAX_SEED, help="of the initial noise")]
    steps: Annotated[int, Number("Steps", 2, 200, help="denoiser calls of the full run")]
    guidance: Annotated[float, Number("Guidance", 1.0, 15.0, 0.1, "how closely the image follows the prompt")]
    iterations: Annotated[int, Number("CRF iterations", 1, 20, help="the solver has converged after about 3")]
    bypass_start: Annotated[int, Number("Bypass start", 1, 199, help="denoiser calls before the CRF takes over")]
    bypass_end: Annotated[
        int, Number("Bypass end", 2, 200, help="step at which the denoiser takes over again; equal to Steps: never")
    ]
    finisher: Annotated[bool, Switch("Finisher", "a second CRF, trained for that, corrects LatentCRF's final latents")]
    few_steps: Annotated[
        int,
        Number(
            "Few steps", 0, 50, help="0 is the bypass; else LatentCRF runs so many steps of UniPC, then the finisher"
        ),
    ]
    guidance_cutoff: Annotated[
        float, Number("Guidance cut-off", 0.0, 0.9, 0.01, "share of LatentCRF's calls, the last, without guidance")
    ]
    images: Annotated[int, Number("Images", 1, 4, help="of each method, their seeds counting up from Seed")]
    full_finisher: Annotated[
        bool,
        Switch(
            "Finish the full run too", "the finisher corrects its final latents: what is left is the bypass' effect"
        ),
    ]
    model: Annotated[str, Choice("Model", "name of a model that this page offers")]

    @classmethod
    def parse(cls, values: Mapping[str, Any], defaults: "Settings") -> "Settings":
        """Read settings from untrusted values.

        Args:
            values: by name; unknown names are ignored.
            defaults: of the model, for the names that are missing. A prompt has no default; with few steps the finisher
                is on where it is missing.

        Returns:
            The checked settings.

        Raises:
            SettingsError: with a line for each field that is wrong: its name, its range and what it was.
        """
        problems: list[str] = []
        checked: dict[str, Any] = {}
        for name, declaration in DECLARATIONS.items():
            default = "" if name == "prompt" else getattr(defaults, name)
            try:
                checked[name] = declaration.check(values.get(name, default))
            except SettingsError as error:
                problems.append(str(error))
        if not problems and checked["model"] != defaults.model:
            problems.append(f"Model must be {defaults.model}; it was {checked['model']}.")
        if not problems:
            checked["finisher"] |= "finisher" not in values and bool(checked["few_steps"])
            settings = cls(**checked)
            problems = settings._find_few_steps_problems() if settings.few_steps else settings._find_bypass_problems()
        if problems:
            raise SettingsError("\n".join(problems))
        return settings

    def as_dict(self) -> dict[str, Any]:
        """Give plain values by name, as `parse` reads them."""
        return asdict(self)

    @property
    def seeds(self) -> list[int]:
        """Seeds of the images."""
        return [(self.seed + i) % (MAX_SEED + 1) for i in range(self.images)]

    @property
    def bypass(self) -> tuple[int, int]:
        """First skipped step and the one that follows the skipped ones."""
        return self.bypass_start, self.bypass_end

    @property
    def denoiser_calls(self) -> dict[str, int]:
        """Denoiser calls of the full run and of LatentCRF's, by method."""
        kept = self.few_steps or self.steps - self.bypass_end + self.bypass_start
        return {"full": self.steps, "latentcrf": kept}

    @property
    def guided_calls(self) -> dict[str, int]:
        """How many of the denoiser calls, the first ones, are guided, by method."""
        if self.guidance <= 1:
            return {"full": 0, "latentcrf": 0}
        # as `latentcrf.guidance.cutoff` counts them; this module does without torch
        kept = self.denoiser_calls["latentcrf"]
        return {"full": self.steps, "latentcrf": max(1, kept - round(self.guidance_cutoff * kept))}

    @property
    def network_evaluations(self) -> dict[str, int]:
        """Network evaluations of an image, by method: two for a guided denoiser call, one for another."""
        return {method: calls + self.guided_calls[method] for method, calls in self.denoiser_calls.items()}

    def _find_bypass_problems(self) -> list[str]:
        steps, start, end = self.steps, self.bypass_start, self.bypass_end
        if start >= steps:
            return [
                f"Bypass start must be a whole number from 1 to {steps - 1}, below the {steps} steps; it was {start}."
            ]
        if not start < end <= steps:
            return [
                f"Bypass end must be a whole number from {start + 1}, above the bypass start, to {steps}, "
                f"the number of steps; it was {end}."
            ]
        return []

    def _find_few_steps_problems(self) -> list[str]:
        problems = []
        if self.few_steps >= self.steps:
            problems.append(
                f"Few steps must be a whole number from 1 to {self.steps - 1}, below the full run's {self.steps}, "
                f"or 0 for the bypass; it was {self.few_steps}."
            )
        if not self.finisher:
            problems.append("Finisher must be on where Few steps is above 0: a run of few steps has no other CRF.")
        return problems


def _read_declarations() -> dict[str, Declaration]:
    hints = get_type_hints(Settings, include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items()}


DECLARATIONS = _read_declarations()  # by name, in the order of form, API and links
NAMES = tuple(DECLARATIONS)
# LatentCRF's setting, with the sampler that it belongs to: the compare tab's form holds it for all tabs.
METHOD = (
    "steps", "guidance", "iterations", "bypass_start", "bypass_end", "finisher", "few_steps", "guidance_cutoff",
)  # fmt: skip


def name_method(values: Sequence[Any]) -> dict[str, Any]:
    """Name the values of LatentCRF's setting, for `Settings.parse`.

    Args:
        values: of `METHOD`, in its order, as a form holds them.

    Returns:
        The values by name, unchecked.
    """
    return dict(zip(METHOD, values, strict=True))


def get_number(name: str) -> Number:
    """Look up the declaration of a number.

    Args:
        name: of a setting.

    Returns:
        Its declaration.

    Raises:
        TypeError: the setting is not a number.
    """
    declaration = DECLARATIONS[name]
    if not isinstance(declaration, Number):
        raise TypeError(f"the setting {name} is a {type(declaration).__name__}, not a Number.")
    return declaration


def _is_invisible(character: str) -> bool:
    """Tell whether a character alone shows nothing: a space, of zero width, a selector, a byte order mark, a filler."""
    return unicodedata.category(character)[0] in "ZCM" or character in FILLERS


def _shorten(value: Any) -> str:
    if isinstance(value, int):
        # Python refuses to write out integers of thousands of digits.
        return f"{value:,}" if abs(value) < 10**24 else "a number of more than 24 digits"
    if isinstance(value, float):
        return f"{value:,g}"
    text = str(value) if isinstance(value, str) else type(value).__name__
    return repr(text if len(text) <= 40 else text[:37] + "...")
