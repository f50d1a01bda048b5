"""Prompts for measurements: the Parti prompts, fetched where there is a network."""

import csv
from collections.abc import Callable
from typing import Any
from urllib.request import urlopen

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
