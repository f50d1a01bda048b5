"""The file of the models that the page offers, and where a model's files are. Without libraries: it is read first."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MODELS_FILE = Path(__file__).with_name("models.json")
DEFAULTS: dict[str, Any] = {
    "seed": 0, "steps": 50, "guidance": 7.5, "iterations": 5, "bypass_start": 33, "bypass_end": 49, "finisher": False,
    "few_steps": 0, "guidance_cutoff": 0.0, "images": 1, "full_finisher": False,
}  # fmt: skip
# Key of an entry -> its type, and what it is called.
KEYS: dict[str, tuple[Any, str]] = {
    "name": (str, "a text"),
    "title": (str, "a text"),
    "model": (str, "a text"),
    "crf": (str, "a text"),
    "finisher": (str, "a text"),
    "defaults": (dict, "an object"),
    "fast": (dict, "an object"),
    "prompts": (list, "a list of texts"),
    "variance_prompts": (list, "a list of texts"),
}
NEEDED = ("name", "title", "model", "prompts")
FAST = ("few_steps", "guidance_cutoff")
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
REPOSITORY = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w.-]+))?")
COMMIT = re.compile(r"[0-9a-f]{40}")


class ModelsError(RuntimeError):
    """The models cannot be used; the message says what is wrong and what to do."""


@dataclass(frozen=True)
class Source:
    """Where the files of a model are: a folder, or a repository of the Hugging Face hub.

    Attributes:
        place: path of the folder, or id of the repository.
        on_hub: whether it is a repository.
        revision: of the repository: a commit, a branch or a tag; None: its main branch.
    """

    place: str
    on_hub: bool = False
    revision: str | None = None

    @classmethod
    def parse(cls, text: str, root: Path = Path()) -> "Source":
        """Read a source.

        Args:
            text: PATH, ID or ID@REVISION. A folder that exists is a path.
            root: what paths are relative to.

        Returns:
            The source.

        Raises:
            ModelsError: it is none of these.
        """
        if (root / text).is_dir():
            return cls(str(root / text))
        match = REPOSITORY.fullmatch(text)
        if match is None:
            raise ModelsError(
                f"{text} is no folder, and no repository of the Hugging Face hub (USER/NAME or USER/NAME@REVISION)."
            )
        return cls(match[1], True, match[2])

    def __str__(self) -> str:
        return f"{self.place}@{self.revision}" if self.revision else self.place

    @property
    def folder(self) -> Path:
        """The folder of a model that is not on the hub."""
        return Path(self.place)

    @property
    def is_pinned(self) -> bool:
        """Whether it always holds the same files: a folder, or a repository at a commit."""
        return not self.on_hub or COMMIT.fullmatch(self.revision or "") is not None


def names_hub_model(chosen: str | None, path: Path = MODELS_FILE) -> bool:
    """Tell whether a command line asks for a model of the hub.

    Args:
        chosen: as of `read_catalog`.
        path: of the file.

    Raises:
        ModelsError: as of `read_entries` and `Source.parse`.
    """
    if chosen is None:
        return False
    named = next((entry for entry in read_entries(path) if entry["name"] == chosen), None)
    return Source.parse(chosen).on_hub if named is None else Source.parse(named["model"], ROOT).on_hub


def read_entries(path: Path) -> list[dict[str, Any]]:
    """Read the entries of a models file and check keys and types.

    Args:
        path: of the file.

    Returns:
        The entries.

    Raises:
        ModelsError: it is not as described in docs/page.md; the message names entry and key.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ModelsError(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise ModelsError(f"{path} is not JSON: {error}.") from None
    entries = content.get("models") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise ModelsError(f'{path} must hold {{"models": [...]}}, a list of one entry or more.')
    for number, entry in enumerate(entries):
        where = f"{path}, entry {entry.get('name', number + 1)}"
        for key, value in entry.items():
            if key not in KEYS:
                raise ModelsError(f"{where}: {key} is unknown; accepted are {', '.join(KEYS)}.")
            kind, words = KEYS[key]
            if not isinstance(value, kind) or not value:
                raise ModelsError(f"{where}: {key} must be {words}, and not empty.")
            if isinstance(value, list) and not all(isinstance(text, str) and text.strip() for text in value):
                raise ModelsError(f"{where}: {key} must be a list of texts.")
        if missing := [key for key in NEEDED if key not in entry]:
            raise ModelsError(f"{where}: {missing[0]} is missing.")
        if not NAME.fullmatch(entry["name"]):
            raise ModelsError(f"{where}: name must be of a to z, 0 to 9, '.', '_' and '-', at most 64.")
        if unknown := set(entry.get("fast", ())) - set(FAST):
            raise ModelsError(f"{where}: fast has no {min(unknown)}; accepted are {', '.join(FAST)}.")
        if unknown := set(entry.get("defaults", ())) - {*DEFAULTS, "prompt"}:
            raise ModelsError(f"{where}: defaults has no {min(unknown)}; accepted are prompt, {', '.join(DEFAULTS)}.")
    names = [entry["name"] for entry in entries]
    if len(set(names)) < len(names):
        raise ModelsError(f"{path}: two entries have the same name.")
    return entries
