"""The README's tables are those of the CSVs that ship."""

import pandas as pd
import pytest

from analysis import report

RESULTS = report.ROOT / "assets" / "results"


def test_readme_holds_the_tables_that_ship():
    text = (report.ROOT / "README.md").read_text(encoding="utf-8")
    for name, table in report.tables(RESULTS).items():
        assert report.insert(text, name, table) == text, f"{name}: run `python -m analysis.report`"


def test_a_changed_figure_changes_the_readme(tmp_path):
    for folder, names in (("benchmark", ("benchmark", "comparisons")), ("ablation", ("ablation",))):
        (tmp_path / folder).mkdir()
        for name in names:
            table = pd.read_csv(RESULTS / folder / f"{name}.csv")
            if name == "benchmark":
                table.loc[table["method"] == "UniPC-8 + finisher", "kid"] = 0.0123
            table.to_csv(tmp_path / folder / f"{name}.csv", index=False)
    readme = tmp_path / "README.md"
    readme.write_text((report.ROOT / "README.md").read_text(encoding="utf-8") + "last words", encoding="utf-8")
    assert report.main(["--readme", str(readme), "--results", str(tmp_path)]) == 0
    row = next(line for line in readme.read_text(encoding="utf-8").splitlines() if line.startswith("| UniPC-8 |"))
    assert row.split(" | ")[3] == "12.3"
    assert readme.read_text(encoding="utf-8").endswith("last words")


@pytest.mark.parametrize("text", ["", "<!-- /a --> <!-- a -->", "<!-- a --><!-- /a --><!-- a --><!-- /a -->"])
def test_marks_that_are_not_there_once_are_refused(text):
    with pytest.raises(report.ReportError, match="<!-- a -->"):
        report.insert(text, "a", "| table |")


def test_a_missing_table_leaves_the_readme(tmp_path, capsys):
    readme = tmp_path / "README.md"
    readme.write_text("untouched")
    assert report.main(["--readme", str(readme), "--results", str(tmp_path)]) == 1
    assert "benchmark.csv" in capsys.readouterr().err
    assert readme.read_text() == "untouched"


def test_a_star_says_that_the_interval_excludes_zero():
    row = {"model": "emoji", "iterations": 5, "parameters": 1000}
    for kind in report.MEASURED:
        row |= {kind: 2.0, f"{kind}_difference_low": 0.0, f"{kind}_difference_high": 0.0}
    sure = row | {"iterations": 1, "parameters": 0, "mse_difference_low": 0.1, "mse_difference_high": 0.2}
    *_, first, second = report.ablation_table(pd.DataFrame([row, sure])).splitlines()
    assert first == "| whole: unary, pairwise, higher-order | 1,000 | 2.0000 | 2.0000 | 2.0 | 2.0 | 2.0 |"
    assert second == "| whole, 1 iteration |  | 2.0000* | 2.0000 | 2.0 | 2.0 | 2.0 |"
