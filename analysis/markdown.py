"""Markdown tables."""

from collections.abc import Iterable, Sequence


def format_markdown_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a Markdown table.

    Args:
        titles: of the columns.
        rows: their cells.
    """
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
