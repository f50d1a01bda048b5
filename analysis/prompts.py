"""Prompts for measurements: subjects of the data set, and the Parti prompts, fetched where there is a network."""

import csv
from collections.abc import Callable
from typing import Any
from urllib.request import urlopen

import numpy as np
import pandas as pd

DEFAULT_PROMPTS = {"ldm": 200, "crf": 100}  # drawn by the commands of `analysis.quality`
PARTI_URL = "https://raw.githubusercontent.com/google-research/parti/main/PartiPrompts.tsv"
PARTI = 1632  # as many as the paper's Fig. A.1 averages over
TIMEOUT = 30  # seconds
MAX_BYTES = 5_000_000  # the table has about 120 kB


class PromptsError(RuntimeError):
    """The prompts cannot be had; the message says why and what to do."""


def parti(opener: Callable[..., Any] | None = None) -> list[str]:
    """The 1,632 Parti prompts (arXiv 2206.10789), in the order of their table.

    Args:
        opener: stands in for `urllib.request.urlopen`.

    Raises:
        PromptsError: no network, or what came is not the table.
    """
    try:
        with (opener or urlopen)(PARTI_URL, timeout=TIMEOUT) as answer:
            content = answer.read(MAX_BYTES)
    except OSError as error:  # URLError, HTTPError and time-outs are all of them
        raise PromptsError(
            f"the Parti prompts could not be fetched from {PARTI_URL} ({getattr(error, 'reason', error)}). Is there a "
            "network? Without one give a number to --prompts, or your own prompts to --text."
        ) from error
    return read_parti(content.decode("utf-8", errors="replace"))


def read_parti(text: str) -> list[str]:
    """The column Prompt of the tab-separated table, without empty ones.

    Raises:
        PromptsError: there is no such column, or nothing in it.
    """
    # Quotation marks belong to the prompts ("a sign that says ..."); no field goes over a line's end.
    rows = csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    if "Prompt" not in (rows.fieldnames or ()):
        raise PromptsError(f"what {PARTI_URL} answered is not the table of Parti prompts: it has no column Prompt.")
    prompts = [" ".join((row["Prompt"] or "").split()) for row in rows]
    if not (prompts := [prompt for prompt in prompts if prompt]):
        raise PromptsError(f"the table of Parti prompts at {PARTI_URL} is empty.")
    return prompts


def core_subjects(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The core subjects seen in training: (subject, code_point)."""
    table = pd.DataFrame(rows)
    return table[table["core"] & (table["split"] == "train")][["text", "code_point"]].drop_duplicates()


def draw_prompts(rows: list[dict[str, Any]], count: int, seed: int) -> pd.DataFrame:
    """`count` subjects (subject, code_point) drawn without repetition from the core subjects seen in training.

    Raises:
        ValueError: there are not so many.
    """
    return _draw(core_subjects(rows), count, seed)


def remaining_prompts(rows: list[dict[str, Any]], count: int, seed: int) -> pd.DataFrame:
    """As `draw_prompts`, but from the subjects that none of `analysis.quality`'s commands draws by default.

    Choices are made on those; what has been chosen is reported on these.

    Raises:
        ValueError: there are not so many.
    """
    subjects = core_subjects(rows)
    return _draw(subjects[~_drawn_by_default(subjects)], count, seed)


def validation_prompts(rows: list[dict[str, Any]], count: int, seed: int) -> pd.DataFrame:
    """As `draw_prompts`, but from the subjects that `remaining_prompts` leaves out: for choices.

    Raises:
        ValueError: there are not so many.
    """
    subjects = core_subjects(rows)
    return _draw(subjects[_drawn_by_default(subjects)], count, seed)


def _drawn_by_default(subjects: pd.DataFrame) -> pd.Series:
    """Whether one of `analysis.quality`'s commands draws it."""
    counts = [count for count in DEFAULT_PROMPTS.values() if count <= len(subjects)]
    drawn = [code_point for count in counts for code_point in _draw(subjects, count, 0)["code_point"]]
    return subjects["code_point"].isin(drawn)


def _draw(subjects: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    if not 1 <= count <= len(subjects):
        raise ValueError(f"--prompts {count} is out of range: 1 to {len(subjects)}, the number of core subjects.")
    chosen = np.random.default_rng(seed).choice(len(subjects), size=count, replace=False)
    return subjects.iloc[chosen].reset_index(drop=True)
