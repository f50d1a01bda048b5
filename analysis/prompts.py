"""Prompts for measurements: subjects of the data set, and the Parti prompts, fetched where there is a network."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pandas as pd

DEFAULT_PROMPTS = {"ldm": 200, "crf": 100}  # of the commands of `analysis.quality`
PARTI_URL = "https://raw.githubusercontent.com/google-research/parti/main/PartiPrompts.tsv"
TIMEOUT = 30  # seconds
MAX_BYTES = 5_000_000  # the table has about 120 kB


class PromptsError(RuntimeError):
    """The prompts cannot be had; the message says why and what to do."""


def parti(opener: Callable[..., Any] | None = None) -> list[str]:
    """Fetch the 1,632 Parti prompts (arXiv 2206.10789).

    Args:
        opener: stands in for `urllib.request.urlopen`; None (default): that function.

    Returns:
        The prompts, in the order of their table.

    Raises:
        PromptsError: no network, or the answer is not the table.
    """
    try:
        with (opener or urlopen)(PARTI_URL, timeout=TIMEOUT) as answer:
            content = answer.read(MAX_BYTES)
    except OSError as error:  # URLError, HTTPError and time-outs are all of them
        raise PromptsError(
            f"the Parti prompts could not be fetched from {PARTI_URL} ({getattr(error, 'reason', error)}). Is there a "
            "network? Without one give a number or a file of prompts to --prompts, or your own prompts to --text."
        ) from error
    return read_table(content.decode("utf-8", errors="replace"), PARTI_URL)


def read_file(path: str | Path) -> list[str]:
    """Read a file of prompts.

    Args:
        path: a table as of `read_table`, where the name ends in .tsv; else a text with a prompt a line.

    Returns:
        The prompts, without empty ones.

    Raises:
        PromptsError: it is no such file, or holds no prompt.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise PromptsError(f"{path} cannot be read as a text of prompts: {error}.") from error
    if Path(path).suffix.lower() == ".tsv":
        return read_table(text, str(path))
    if not (prompts := [" ".join(line.split()) for line in text.splitlines() if line.strip()]):
        raise PromptsError(f"{path} holds no prompt: one prompt a line is accepted.")
    return prompts


def read_table(text: str, source: str) -> list[str]:
    """Read the column Prompt of a tab-separated table, such as PartiPrompts.tsv.

    Args:
        text: of the table.
        source: its address or path, for messages.

    Returns:
        The prompts, without empty ones.

    Raises:
        PromptsError: there is no such column, or nothing in it.
    """
    # Quotation marks belong to the prompts ("a sign that says ..."); no field goes over a line's end.
    rows = csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    if "Prompt" not in (rows.fieldnames or ()):
        raise PromptsError(f"{source} is no table of prompts: it has no column Prompt.")
    prompts = [" ".join((row["Prompt"] or "").split()) for row in rows]
    if not (prompts := [prompt for prompt in prompts if prompt]):
        raise PromptsError(f"the table of prompts {source} is empty.")
    return prompts


def core_subjects(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """List the core subjects seen in training.

    Args:
        rows: of an image folder. Without the emoji data set's columns all rows are core and "train", and each caption
            is a subject.

    Returns:
        Columns text, code_point.
    """
    table = pd.DataFrame(rows)
    defaults = {"core": True, "split": "train", "code_point": table["text"]}
    table = table.assign(**{name: default for name, default in defaults.items() if name not in table})
    return table[table["core"] & (table["split"] == "train")][["text", "code_point"]].drop_duplicates()


def draw_prompts(rows: list[dict[str, Any]], count: int, seed: int) -> pd.DataFrame:
    """Draw core subjects seen in training, without repetition.

    Args:
        rows: of the data set.
        count: how many.
        seed: of the choice.

    Returns:
        Columns text, code_point.

    Raises:
        ValueError: there are not so many.
    """
    return _draw(core_subjects(rows), count, seed)


def remaining_prompts(rows: list[dict[str, Any]], count: int, seed: int) -> pd.DataFrame:
    """Draw as `draw_prompts`, from the subjects that none of `analysis.quality`'s commands takes by default.

    Choices are made on those prompts, results are reported on these.

    Args:
        rows: of the data set.
        count: how many.
        seed: of the choice.

    Returns:
        Columns text, code_point.

    Raises:
        ValueError: there are not so many.
    """
    subjects = core_subjects(rows)
    return _draw(subjects[~_is_default(subjects)], count, seed)


def validation_prompts(rows: list[dict[str, Any]], count: int, seed: int) -> pd.DataFrame:
    """Draw as `draw_prompts`, from the subjects that `remaining_prompts` excludes: for choices.

    Args:
        rows: of the data set.
        count: how many.
        seed: of the choice.

    Returns:
        Columns text, code_point.

    Raises:
        ValueError: there are not so many.
    """
    subjects = core_subjects(rows)
    return _draw(subjects[_is_default(subjects)], count, seed)


def _is_default(subjects: pd.DataFrame) -> pd.Series:
    """Find the subjects that one of `analysis.quality`'s commands takes by default."""
    counts = [count for count in DEFAULT_PROMPTS.values() if count <= len(subjects)]
    code_points = [code_point for count in counts for code_point in _draw(subjects, count, 0)["code_point"]]
    return subjects["code_point"].isin(code_points)


def _draw(subjects: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    if not 1 <= count <= len(subjects):
        raise ValueError(f"--prompts {count} is out of range: 1 to {len(subjects)}, the number of subjects.")
    indices = np.random.default_rng(seed).choice(len(subjects), size=count, replace=False)
    return subjects.iloc[indices].reset_index(drop=True)
