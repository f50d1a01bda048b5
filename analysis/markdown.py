"""Tables for people: in Markdown, and what stands in them for a statistic that is not defined."""

import math
from collections.abc import Iterable, Sequence

import pandas as pd

ABSENT = "-"
WHY_ABSENT = f"{ABSENT}: not defined for so few prompts or seeds, or for images that are all alike."


def format_number(number: float, form: str) -> str:
    """Format a statistic.

    Args:
        number: its value; NaN or infinite: it is not defined.
        form: as of `format`, "+.3f".
    """
    return format(number, form) if math.isfinite(number) else ABSENT


def format_interval(low: float, high: float, form: str) -> str:
    """Format an interval, "0.1 to 0.2".

    Args:
        low: its lower end.
        high: its upper end.
        form: as of `format_number`.
    """
    ends = format_number(low, form), format_number(high, form)
    return ABSENT if ABSENT in ends else " to ".join(ends)


def format_statistics(table: pd.DataFrame, form: str) -> str:
    """Format a table of statistics for a terminal; where one is not defined, a line says why.

    Args:
        table: of numbers and text.
        form: of the numbers, as of `format_number`.
    """
    text = table.to_string(index=False, na_rep=ABSENT, float_format=lambda number: format_number(number, form))
    numbers = table.select_dtypes("number").to_numpy(dtype=float)
    return text if all(map(math.isfinite, numbers.ravel())) else f"{text}\n{WHY_ABSENT}"


def format_markdown_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a Markdown table.

    Args:
        titles: of the columns.
        rows: their cells.
    """
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
