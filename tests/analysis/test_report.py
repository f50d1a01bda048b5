"""The tables of README, docs and model cards are those of the shipped CSVs."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from analysis import report

RESULTS = report.ROOT / "assets" / "results"
CSVS = (
    "benchmark/benchmark",
    "benchmark/comparisons",
    "benchmark/floors",
    "diversity/comparisons",
    "ablation/ablation",
)


@pytest.fixture(scope="module")
def results() -> report.Results:
    return report.Results.load(RESULTS)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The documents and the tables, as `main` wants them."""
    for name in (*report.DOCUMENTS, *(f"assets/results/{name}.csv" for name in CSVS)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(report.ROOT / name, tmp_path / name)
    return tmp_path


def run(root: Path) -> int:
    return report.main(["--root", str(root), "--results", str(root / "assets" / "results")])


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_documents_hold_the_shipped_tables(results: report.Results) -> None:
    for path, text in report.fill_documents(report.ROOT, results).items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run `python -m analysis.report`"


def test_a_changed_figure_changes_its_documents_alone(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(copy) == 0 and capsys.readouterr().out == ""  # nothing to write
    path = copy / "assets" / "results" / "benchmark" / "comparisons.csv"
    table = pd.read_csv(path)
    is_headline = (table["method"] == report.HEADLINE) & (table["against"] == report.FULL_RUN)
    table.loc[is_headline & (table["measure"] == report.KID), "value"] = 0.0123
    table.to_csv(path, index=False)
    readme = copy / "README.md"
    readme.write_text(readme.read_text(encoding="utf-8") + "last words", encoding="utf-8")
    assert run(copy) == 0
    text = readme.read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if line.startswith("| UniPC, 12 steps, guidance cut-off + finisher"))
    assert cells_of(row)[3].startswith("+12.3 (") and text.endswith("last words")
    assert "docs/ablation.md" not in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "<!-- /a --> <!-- a -->", "<!-- a --><!-- /a --><!-- a --><!-- /a -->"])
def test_marks_that_are_not_there_once_are_refused(text: str) -> None:
    with pytest.raises(report.ReportError, match="<!-- a -->"):
        report.insert(text, "a", "| table |")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("<!-- summary -->\n", ""), "'summary' has 0 places"),
        (lambda text: text + "\n<!-- floors -->\n<!-- /floors -->\n", "'floors' has 2 places"),
        (lambda text: text + "\n<!-- nothing -->\n<!-- /nothing -->\n", "'nothing', which is no table"),
        (lambda text: text.replace("<!-- /summary -->", ""), "README.md: the document needs the lines"),
    ],
)
def test_a_table_has_one_place(
    copy: Path, capsys: pytest.CaptureFixture[str], change: Callable[[str], str], message: str
) -> None:
    readme = copy / "README.md"
    changed = change(readme.read_text(encoding="utf-8"))
    readme.write_text(changed, encoding="utf-8")
    assert run(copy) == 1
    assert message in capsys.readouterr().err
    assert readme.read_text(encoding="utf-8") == changed


@pytest.mark.parametrize("name", CSVS)
def test_a_missing_csv_leaves_the_documents(copy: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    (copy / "assets" / "results" / f"{name}.csv").unlink()
    assert run(copy) == 1
    assert f"{name}.csv" in capsys.readouterr().err


def test_a_missing_row_is_named(results: report.Results) -> None:
    without = results.benchmark[results.benchmark["method"] != "UniPC-8 + finisher"]
    with pytest.raises(report.ReportError, match=re.escape("benchmark.csv has no UniPC-8 + finisher")):
        report.finisher_table(replace(results, benchmark=without))
    rows = results.comparisons
    without = rows[(rows["method"] != report.BYPASS_33_49) | (rows["measure"] != report.KID)]
    with pytest.raises(report.ReportError, match="no 'kid, difference' of DDIM-50 LatentCRF .* against DDIM-50"):
        report.bypass_cost_table(replace(results, comparisons=without))


def benchmark_of(*rows: tuple[str, str | None, str | None, float, float]) -> pd.DataFrame:
    """benchmark.csv's table of (method, crf_form, finisher, time ratio, KID)."""
    columns = ["method", "crf_form", "finisher", "time_ratio", "kid"]
    table = pd.DataFrame(rows, columns=columns).assign(bypass="(8, 9)", steps=9, solver="DDIM", r_at_5=0.5)
    return table.assign(network_evaluations=16, denoiser_calls=8)


def comparisons_of(*rows: tuple[str, str, str, float]) -> pd.DataFrame:
    """comparisons.csv's table of (method, against, measure, value); each interval reaches 1 to either side."""
    table = pd.DataFrame(rows, columns=["method", "against", "measure", "value"])
    return table.assign(low=table["value"] - 1, high=table["value"] + 1)


METHOD = "DDIM-9 LatentCRF (8, 9)"
ZERO, PLAIN = "DDIM-9 zero-parameter bypass (8, 9)", "DDIM-9 plain network (8, 9)"


def test_each_column_of_the_bypasses_has_its_own_comparison(results: report.Results) -> None:
    measures = (report.KID, report.LPIPS, report.LATENT_MSE)
    values = {ZERO: (0.001, 2, 3), PLAIN: (0.004, 5, 6)}
    rows = [(METHOD, against, *pair) for against in values for pair in zip(measures, values[against], strict=True)]
    finished = (f"{METHOD} + finisher", "conditional", "finisher", 0.2, 0.1)
    table = benchmark_of((METHOD, "conditional", None, 0.2, 0.1), finished, (ZERO, "zero-parameter", None, 0.2, 0.1))
    small = replace(results, benchmark=table, comparisons=comparisons_of(*rows))
    for name, expected in (("bypass-gain", ["+1.0", "+2.0000", "+3.0000"]), ("bypass-plain", ["+4.0", "+5.0000"])):
        lines = report.TABLES[name](small).splitlines()
        assert len(lines) == 3  # finished runs are not among them
        cells = cells_of(lines[2])
        assert cells[0] == "(8, 9) of 9, DDIM"
        assert [cell.split(" (")[0] for cell in cells[1 : 1 + len(expected)]] == expected
    with pytest.raises(report.ReportError, match="no 'kid, difference' of DDIM-9 LatentCRF .* zero-parameter"):
        report.bypass_gain_table(replace(small, comparisons=small.comparisons.iloc[1:]))


def test_counts_are_of_intervals_that_exclude_0(results: report.Results) -> None:
    methods = [f"DDIM-9 LatentCRF ({first}, 9)" for first in (6, 7, 8)]
    rows = [
        (method, name, measure, value)
        for method, value in zip(methods, (-2.0, 0.5, 3.0), strict=True)
        for name in (report.zero_parameter_of(method), report.plain_of(method))
        for measure in (report.KID, report.LPIPS, report.LATENT_MSE)
    ]
    table = benchmark_of(*((method, "conditional", None, 0.2, 0.1) for method in methods))
    small = replace(results, benchmark=table, comparisons=comparisons_of(*rows))
    for line in report.bypass_counts_table(small).splitlines()[2:]:
        assert cells_of(line)[2:] == ["1", "1", "1"]


def test_the_best_baseline_is_the_one_that_the_benchmark_names(results: report.Results) -> None:
    rows = comparisons_of(*(("UniPC-8 + finisher", name, report.KID, 0.1) for name in ("UniPC-8", ZERO, "DDIM-20")))
    named = rows.assign(best_baseline=rows["against"] == ZERO)
    assert report.best_baseline(replace(results, comparisons=named), "UniPC-8 + finisher")["against"] == ZERO
    with pytest.raises(report.ReportError, match="has no baseline that takes no more time than UniPC-8"):
        report.best_baseline(replace(results, comparisons=rows.assign(best_baseline=False)), "UniPC-8 + finisher")


def test_the_summary_counts_a_cut_off_as_fewer_network_evaluations(results: report.Results) -> None:
    rows = {cells[0]: cells for cells in map(cells_of, report.summary_table(results).splitlines()[2:])}
    assert list(rows) == list(report.SUMMARY) and len(rows) == 5
    assert rows["full run (DDIM, 50 steps)"][1:3] == ["100", "1"]
    evaluations = {report.SUMMARY[name]: int(cells[1]) for name, cells in rows.items()}
    calls = {method: results.row(method)["denoiser_calls"] for method in evaluations}
    guided = {method: evaluations[method] - calls[method] for method in evaluations}  # two for a guided call
    assert calls["UniPC-12 cut-off 1/3"] == 12 and guided["UniPC-12 cut-off 1/3"] == guided[report.HEADLINE] == 8
    assert all(guided[method] == calls[method] for method in calls if "cut-off" not in method)
    assert all(results.row(method)["prompts"] >= 200 for method in evaluations)


def test_a_star_marks_a_significant_difference(results: report.Results) -> None:
    row = {"model": "emoji", "iterations": 5, "parameters": 1000}
    for kind in report.ERRORS | report.KIDS:
        row |= {kind: 2.0, f"{kind}_difference_low": 0.0, f"{kind}_difference_high": 0.0}
    significant = row | {"iterations": 1, "parameters": 0, "mse_difference_low": 0.1, "mse_difference_high": 0.2}
    images_alone = row | {"model": "full run", "mse": float("nan"), "few": float("nan")}
    small = replace(results, ablation=pd.DataFrame([row, significant, images_alone]))
    first, second = report.ablation_errors_table(small).splitlines()[2:]  # the last has no error
    assert cells_of(first) == ["conditional form: all three terms", "1,000", "2.0000", "2.0000"]
    assert cells_of(second) == ["conditional form, 1 iteration", "", "2.0000*", "2.0000"]
    assert len(report.ablation_kid_table(small).splitlines()) == 5


def test_documents_keep_their_lines_short() -> None:
    pages = [report.ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    pages += [*(report.ROOT / "docs").glob("*.md"), *(report.ROOT / "assets").rglob("README.md")]
    for path in pages:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            # a link or a hash cannot be wrapped
            assert len(line) <= 120 or line.startswith("|") or "://" in line or "SHA-256" in line, f"{path}:{number}"


def test_the_readme_is_short() -> None:
    text = report.ROOT.joinpath("README.md").read_text(encoding="utf-8").split("\n---\n", 1)[1]
    assert len(text.splitlines()) <= 120 and len(text.split()) <= 900


def test_links_of_the_documents_lead_somewhere() -> None:
    def anchors(path: Path) -> set[str]:
        titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}

    pages = [report.ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    pages += [*(report.ROOT / "docs").glob("*.md"), *(report.ROOT / "assets").rglob("README.md")]
    for page in pages:
        for target in re.findall(r"\]\((?!http)([^)]+)\)", page.read_text(encoding="utf-8")):
            name, _, anchor = target.partition("#")
            path = page.parent / name if name else page
            assert path.exists(), f"{page}: {target}"
            assert not anchor or anchor in anchors(path), f"{page}: {target}"
