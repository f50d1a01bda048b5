"""Reading tables that the analyses wrote."""

import csv
from pathlib import Path

import pandas as pd

# All other columns hold numbers, or True and False.
TEXT = {
    *("method", "against", "measure", "model", "images", "solver", "spacing", "guidance", "bypass"),
    *("crf_form", "finisher", "precision"),
}


def read_csv(path: str | Path) -> pd.DataFrame:
    """Read a table.

    Args:
        path: of a CSV file of an analysis.

    Raises:
        OSError: there is no such file.
        ValueError: it is broken; the message names file, line and column.
    """
    with open(path, newline="", encoding="utf-8") as file:
        rows = csv.reader(file, strict=True)
        try:
            header = next(rows, [])
            for row in rows:
                if row and len(row) != len(header):
                    raise ValueError(f"it has {len(row)} cells, not {len(header)} as the header.")
                for name, cell in zip(header, row, strict=bool(row)):
                    if name not in TEXT and not _is_number(cell):
                        raise ValueError(f"column {name}: {cell[:40]!r} is no number.")
        except (csv.Error, ValueError) as error:  # UnicodeDecodeError is a ValueError
            raise ValueError(f"{path}, line {rows.line_num}: {error}") from None
    if not header:
        raise ValueError(f"{path} is empty; a table with a header is accepted.")
    return pd.read_csv(path)


def _is_number(cell: str) -> bool:
    try:
        float(cell or "nan")
    except ValueError:
        return cell in ("True", "False")
    return True
