"""The README's tables are those of the CSVs that ship."""

import pandas as pd
import pytest

from analysis import ablation, report

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
    for kind in ablation.KINDS | ablation.IMAGE_KINDS:
        row |= {kind: 2.0, f"{kind}_difference_low": 0.0, f"{kind}_difference_high": 0.0}
    sure = row | {"iterations": 1, "parameters": 0, "mse_difference_low": 0.1, "mse_difference_high": 0.2}
    *_, first, second = report.ablation_table(pd.DataFrame([row, sure])).splitlines()
    assert first == "| whole: unary, pairwise, higher-order | 1,000 | 2.0000 | 2.0000 | 2.0 | 2.0 | 2.0 |"
    assert second == "| whole, 1 iteration |  | 2.0000* | 2.0000 | 2.0 | 2.0 | 2.0 |"


def benchmark_of(*rows: tuple[str, str | None, str | None, float, float]) -> pd.DataFrame:
    """benchmark.csv's table of (method, refiner, finisher, time ratio, KID)."""
    columns = ["method", "refiner", "finisher", "time_ratio", "kid"]
    return pd.DataFrame(rows, columns=columns).assign(denoiser_calls=8, bypass="(8, 9)", steps=9, solver="DDIM")


def comparisons_of(*rows: tuple[str, str, str, float]) -> pd.DataFrame:
    """comparisons.csv's table of (method, against, measure, value); each interval reaches 1 to either side."""
    table = pd.DataFrame(rows, columns=["method", "against", "measure", "value"])
    return table.assign(low=table["value"] - 1, high=table["value"] + 1)


def test_each_column_of_the_bypasses_tells_its_own_comparison():
    ours = "DDIM-9 LatentCRF (8, 9)"
    bypass, plain = (ours.replace("LatentCRF", twin) for twin in ("bypass", "plain"))
    told = [
        (report.FULL, "kid, difference", 0.002), (bypass, "kid, difference", 0.003),
        (bypass, "lpips_full, difference", 4), (bypass, "latent_mse_full, difference", 5),
        (plain, "latent_mse_full, difference", 6), (report.FULL, "pairwise_lpips, ratio", 7),
        (plain, "kid, difference", 0.008), (report.FULL, "lpips_full, difference", 9),
    ]  # fmt: skip
    finished = (f"{ours} + finisher", "LatentCRF", "finisher", 0.2, 0.1)
    table = benchmark_of((ours, "LatentCRF", None, 0.2, 0.1), finished, (bypass, "bypass", None, 0.2, 0.1))
    comparisons = comparisons_of(*((ours, *one) for one in told))
    *_, row = report.bypass_table(table, comparisons).splitlines()
    cells = row.strip("| ").split(" | ")
    assert cells[:3] == ["(8, 9) of 9, DDIM", "8", "0.20"]
    values = [cell.split(" (")[0] for cell in cells[3:]]
    assert values == ["+2.0", "+3.0", "+8.0", "+4.0000", "+5.0000", "+6.0000", "7.000"]
    assert report.bypass_table(table, comparisons).count("\n") == 2  # finished runs are not among them
    with pytest.raises(report.ReportError, match="no 'kid, difference' of DDIM-9 LatentCRF .* against DDIM-50"):
        report.bypass_table(table, comparisons.iloc[1:])


def test_the_best_rival_is_no_slower_and_no_crf(monkeypatch):
    monkeypatch.setattr(report, "FINISHED", ("UniPC-8",))
    ours = "UniPC-8 + finisher"
    rivals = [
        ("UniPC-8", None, None, 0.17, 0.3), ("DDIM-20", None, None, 0.4, 0.1), ("DDIM-9 bypass (8, 9)", "bypass", None, 0.16, 0.2),
        ("DDIM-9 static (8, 9)", "static", None, 0.16, 0.15), ("UniPC-8 + static finisher", None, "static finisher", 0.17, 0.12),
        ("UniPC-8 + plain finisher", None, "plain finisher", 0.17, 0.13),
        ("UniPC-8 + round trip", None, "round trip", 0.17, 0.12),
    ]  # fmt: skip
    table = benchmark_of((ours, None, "finisher", 0.18, 0.1), *rivals)
    told = [
        (ours, against, "kid, difference", -0.002 - i / 1000)
        for i, against in enumerate((report.FULL, *table["method"]))
    ]
    told += [(ours, report.FULL, "r_at_5, difference", 0.5), (ours, report.FULL, "pairwise_lpips, ratio", 0.75)]
    *_, row = report.finisher_table(table, comparisons_of(*told)).splitlines()
    cells = [cell.split(" (")[0] for cell in row.strip("| ").split(" | ")]
    assert cells == [
        "UniPC-8",
        "8",
        "0.18",
        "100.0",
        "-2.0",
        "-4.0",
        "-6.0",
        "-8.0",
        "-9.0",
        "-10.0",
        "",
        "+0.500",
        "0.750",
    ]
    assert "), DDIM-9 bypass (8, 9) |" in row
    with pytest.raises(report.ReportError, match="benchmark.csv has no rival that takes no more time than UniPC-8"):
        report.finisher_table(table.iloc[[0, 2]], comparisons_of(*told))
    with pytest.raises(report.ReportError, match="benchmark.csv has no UniPC-8"):
        report.finisher_table(table.iloc[1:], comparisons_of(*told))
