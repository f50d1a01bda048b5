"""Tables of the analyses: what is broken is named by file, line and column; what is not defined is shown as "-"."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.markdown import ABSENT, WHY_ABSENT, format_interval, format_number, format_statistics
from analysis.studies import FULL_RUN, frontier
from analysis.studies.diversity import MethodImages, tabulate
from analysis.tables import read_csv
from app.tabs.diversity import format_metrics

HEADER = "method,steps,kid,default\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", " is empty; a table with a header"),
        (f"{HEADER}a,1,0.5,True\nb,x,0.5,False\n", ", line 3: column steps: 'x' is no number."),
        (f"{HEADER}a,1,0.5\n", ", line 2: it has 3 cells, not 4 as the header."),
        (f"{HEADER}a,1,0.5,True,7\n", ", line 2: it has 5 cells, not 4 as the header."),
        (f'{HEADER}"a,1,0.5,True\n', ", line 2: "),
        (f"{HEADER}\u00e4,1,0.5,True\n", ", line "),
    ],
)
def test_a_broken_table_names_file_line_and_column(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="table.csv") as raised:
        read_csv(path)
    assert str(raised.value).startswith(f"{path}{problem}")


def test_shipped_tables_are_read_as_they_are() -> None:
    for path in frontier.SHIPPED.parent.rglob("*.csv"):
        pd.testing.assert_frame_equal(read_csv(path), pd.read_csv(path))


def test_what_is_not_defined_is_shown_with_the_reason() -> None:
    assert (format_number(np.nan, ".2f"), format_number(np.inf, ".2f"), format_number(1, ".2f")) == ("-", "-", "1.00")
    assert (format_interval(np.nan, 1, ".1f"), format_interval(-1, 1, ".1f")) == ("-", "-1.0 to 1.0")
    table = pd.DataFrame({"measure": ["a", "b"], "value": [0.5, np.nan], "high": [1.0, np.inf]})
    text = format_statistics(table, ".1f")
    assert text.endswith(WHY_ABSENT) and text.splitlines()[2].split() == ["b", ABSENT, ABSENT]
    assert WHY_ABSENT not in format_statistics(table[:1], ".1f")


@pytest.mark.filterwarnings("error")
def test_identical_images_have_no_diversity_ratio() -> None:
    alike = np.zeros((4, 4), np.float32)
    images = np.zeros((4, 8, 8, 3), np.uint8)
    results = [MethodImages(name, 50, 100, images, alike, np.ones(5)) for name in (FULL_RUN, "LatentCRF")]
    table = tabulate(results)
    assert table["pairwise_lpips_ratio"].isna().all() and np.allclose(table["vendi_ratio"], 1)
    assert "no ratio, as the full run's images are all alike" in format_metrics(table.iloc[1])
    assert format_statistics(table, ".3f").endswith(WHY_ABSENT)
