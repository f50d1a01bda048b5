"""The frontier: what its figure and table show, and its export, repeated from its settings."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from analysis.benchmark.methods import Method, list_methods
from analysis.export import write_results
from analysis.figures.frontier import (
    MARKS,
    draw_empty_frontier,
    draw_frontier,
    find_free_corner,
    place_labels,
    state_finding,
)
from analysis.frontier import build_results, main
from analysis.studies import frontier

METHODS = [
    Method("DDIM", 50),
    Method("DDIM", 20),
    Method("UniPC", 8, guidance="cut-off 1/3"),
    Method("DDIM", 50, (33, 49), "conditional"),
    Method("DDIM", 50, (33, 49), "plain"),
    Method("UniPC", 4),
]


@pytest.fixture
def table(tmp_path: Path) -> pd.DataFrame:
    """A small benchmark.csv, written and read again."""
    rows: list[dict[str, Any]] = []
    for method, time, kid, psnr in zip(
        METHODS, (1.0, 0.4, 0.12, 0.68, 0.68, 0.08), (0.1, 0.5, 0.6, 0.05, 0.2, 0.9), (100, 20, 18, 25, 24, 9),
        strict=True,
    ):  # fmt: skip
        row = asdict(method) | {"method": method.name, "bypass": "" if method.bypass is None else str(method.bypass)}
        row |= {"denoiser_calls": 8, "network_evaluations": 16, "prompts": 50, "seeds": 8, "vendi": np.nan}
        row["default"] = method.steps != 4
        values = (("time_ratio", time), ("kid", kid), ("kid_difference", kid - 0.1), ("psnr_full", psnr))
        for name, value in values:
            row |= {name: value, f"{name}_low": value - 0.01, f"{name}_high": value + 0.02}
        rows.append(row)
    folder = tmp_path / "benchmark"
    (folder / "samples").mkdir(parents=True)
    pd.DataFrame(rows).to_csv(folder / "benchmark.csv", index=False)
    Image.new("RGB", (24, 8), "red").save(folder / "samples" / "DDIM-50_LatentCRF__33__49_.webp")
    return frontier.read_table(folder / "benchmark.csv")


def test_figure_has_intervals_front_and_each_points_settings(table: pd.DataFrame) -> None:
    figure = draw_frontier(table, "kid", presentation=True)
    traces = {trace.name: trace for trace in figure.data}
    assert set(traces) == {"Pareto front", "Few-step solvers", "Guidance cut-off", "LatentCRF bypass"}
    assert list(traces["Pareto front"].x) == [0.12, 0.4, 0.68]
    ours = traces["LatentCRF bypass"]
    assert ours.y[0] == pytest.approx(-50)  # 50 less the full run's 100
    assert (ours.error_y.arrayminus[0], ours.error_y.array[0]) == (pytest.approx(10), pytest.approx(20))
    assert (ours.error_x.arrayminus[0], ours.error_x.array[0]) == (pytest.approx(0.01), pytest.approx(0.02))
    hover = ours.customdata[0][0]
    for words in (
        "DDIM-50 LatentCRF (33, 49)",
        "16 network evaluations, 8 denoiser calls",
        "steps (33, 49) bypassed",
        "0.68 (0.67 to 0.7)",
        "kid less the full run's: -50 (-60 to -30)",
        "kid 50 (40 to 70)",
        "50 prompts x 8 seeds",
    ):
        assert words in hover
    assert "bypassed" not in traces["Few-step solvers"].customdata[0][0]
    assert figure.layout.title.text == (
        "DDIM-50 LatentCRF (33, 49): KID x 1000 -50 against the full run, in 0.68 of its time"
    )
    assert figure.layout.yaxis.title.text == "KID x 1000 less the full run's; lower is better"
    assert figure.layout.hoverlabel.bgcolor == "#1e293b" and figure.layout.hoverlabel.font.color == "#ffffff"
    assert figure.layout.xaxis.type == "log" and "lower is better" in figure.layout.yaxis.title.text
    assert figure.layout.shapes[0].y0 == 0  # the full run


def test_every_mark_has_its_name_in_its_familys_colour_and_none_covers_another(table: pd.DataFrame) -> None:
    figure = draw_frontier(table, "kid")
    labels = {note.text: note for note in figure.layout.annotations}
    assert set(labels) == {"full run", "DDIM-20", "UniPC-8 cut-off 1/3", "(33, 49)"}
    assert labels["UniPC-8 cut-off 1/3"].font.color == MARKS[frontier.CUT_OFF][0]
    low, high = figure.layout.xaxis.range
    assert all(low < note.x < high for note in labels.values())
    assert not draw_frontier(pd.concat([table] * 8), "kid", all_methods=True).layout.annotations  # too many
    texts, random = ["DDIM-50 LatentCRF (33, 49)", "UniPC-12"] * 12, np.random.default_rng(0)
    points = [(float(x), float(y)) for x, y in random.uniform((100, 50), (900, 350), (24, 2))]
    boxes = []
    for (x, y), (dx, dy), text in zip(points, place_labels(points, texts, 12, (1010, 400)), texts, strict=True):
        width, height = 0.28 * 12 * len(text), 0.6 * 12
        boxes.append((x + dx - width, y + dy - height, x + dx + width, y + dy + height))
    covered = sum(
        a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
        for index, a in enumerate(boxes) for b in boxes[:index]
    )  # fmt: skip
    assert covered <= 1  # of 276 pairs


def test_the_title_states_the_finding(table: pd.DataFrame) -> None:
    rows = frontier.select_rows(table, "psnr_full")
    assert state_finding(rows, "psnr_full", "psnr_full").endswith("comes nearest to the full run, in 0.68 of its time")
    same = table.assign(kid_difference_high=0.01)
    title = draw_frontier(same, "kid").layout.title.text
    assert title == "KID x 1000: no method is significantly better than the full run"


def test_the_legend_takes_the_emptiest_corner() -> None:
    assert find_free_corner([(0.9, 0.9), (0.1, 0.1)]) == (False, True)
    assert find_free_corner([(0.5, 0.5)]) == (True, True)
    assert find_free_corner([(0.9, 0.9), (0.1, 0.9), (0.1, 0.1)]) == (True, False)


def test_families_and_measures(table: pd.DataFrame) -> None:
    assert list(frontier.add_families(table)["family"]) == [
        frontier.FEW_STEPS, frontier.FEW_STEPS, frontier.CUT_OFF, frontier.BYPASS, frontier.OTHERS, frontier.FEW_STEPS,
    ]  # fmt: skip
    assert frontier.list_metrics(table) == ["kid", "psnr_full"]  # a column without values is no measure
    every = {trace.name for trace in draw_frontier(table, "kid", all_methods=True).data}
    assert every >= {"Other baselines", "Few-step solvers"}
    # the full run is not compared with itself
    to_full = frontier.select_rows(table, "psnr_full")
    assert "DDIM-50" not in set(to_full["method"]) and len(to_full) == 3
    assert not draw_frontier(table, "psnr_full").layout.shapes
    with pytest.raises(ValueError, match="'vendi' is not in the table; accepted are kid, psnr_full"):
        draw_frontier(table, "vendi")
    rows = frontier.list_rows(table, "kid")
    assert rows["Method"].tolist() == ["UniPC-8 cut-off 1/3", "DDIM-20", "DDIM-50 LatentCRF (33, 49)", "DDIM-50"]
    assert rows["KID to real images x 1000"].tolist() == [600, 500, 50, 100]
    assert rows["Difference to the full run"].tolist() == [500, 400, -50, 0]
    assert rows["95 % interval"][3] == "-10 to 20" and rows["Prompts"].tolist() == [50] * 4
    assert len(frontier.list_rows(table, "kid", all_methods=True)) == 6


def test_the_shipped_figure_has_at_most_25_marks_of_five_families() -> None:
    table = frontier.read_table(frontier.SHIPPED / "benchmark.csv")
    rows = frontier.select_rows(table, "kid")
    assert len(rows) <= 25 and set(rows["family"]) == set(frontier.FAMILIES) - {frontier.OTHERS}
    assert len(draw_frontier(table, "kid").layout.annotations) == len(rows)
    assert len(frontier.select_rows(table, "kid", all_methods=True)) == len(table)


def test_the_shipped_samples_are_found_by_their_methods_names() -> None:
    table = frontier.read_table(frontier.SHIPPED / "benchmark.csv")
    samples = frontier.read_samples(frontier.SHIPPED / "samples", list(table["method"]))
    assert list(samples) == list(table["method"])


def test_what_is_no_benchmark_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("method,solver\na,b\n")
    with pytest.raises(ValueError, match="other.csv is not a table of analysis.benchmark: column 'steps' is missing"):
        frontier.read_table(tmp_path / "other.csv")


def test_an_export_is_made_again(
    table: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.export.draw_png", lambda figure, name: None)  # Chrome is tested elsewhere
    results = build_results(table, "kid", True, tmp_path / "benchmark" / "samples")
    names = write_results(results, tmp_path / "first")
    assert {"settings.json", "benchmark.csv", "frontier.html", "DDIM-50_LatentCRF__33__49_.png"} <= set(names)
    again = ["--from", str(tmp_path / "first" / "settings.json"), "--out", f"{tmp_path}/second/"]
    assert main(again) == 0
    assert "written" in capsys.readouterr().out
    for name in ("settings.json", "benchmark.csv", "DDIM-50_LatentCRF__33__49_.png"):
        assert (tmp_path / "second" / name).read_bytes() == (tmp_path / "first" / name).read_bytes()
    assert '"all": true' in (tmp_path / "second" / "settings.json").read_text()


def test_a_crf_takes_part_in_bypasses_and_finished_runs_alone() -> None:
    methods = list_methods()
    families = frontier.add_families(pd.DataFrame([asdict(method) for method in methods]))["family"]
    for method, family in zip(methods, families, strict=True):
        assert (family in (frontier.BYPASS, frontier.FINISHED)) <= method.uses_crf, method.name
    by_name = dict(zip((method.name for method in methods), families, strict=True))
    for name, family in {
        "UniPC-12": frontier.FEW_STEPS, "DPM-Solver++-10 AYS": frontier.FEW_STEPS,
        "UniPC-12 interval 1/4-2/3": frontier.CUT_OFF, "DDIM-50 DeepCache 3": frontier.CACHING,
        "UniPC-12 cut-off 1/3 + finisher": frontier.FINISHED,
        "DDIM-50 LatentCRF (33, 49) + finisher": frontier.FINISHED,
        "UniPC-12 + plain finisher": frontier.OTHERS, "DDIM-50 guidance 2": frontier.OTHERS,
        "DDIM-50 zero-parameter bypass (33, 49)": frontier.OTHERS,
    }.items():  # fmt: skip
        assert by_name[name] == family, name


def test_pareto_front() -> None:
    times, values = np.array([1.0, 2.0, 2.0, 3.0, 4.0]), np.array([5.0, 4.0, 6.0, 6.0, 7.0])
    assert frontier.find_pareto_front(times, values, higher_is_better=True).tolist() == [0, 2, 4]
    assert frontier.find_pareto_front(times, values, higher_is_better=False).tolist() == [0, 1]


def test_command_line(table: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--table", str(tmp_path / "none.csv"), "--out", str(tmp_path / "figure")]) == 1
    assert "none.csv" in capsys.readouterr().err
    source = str(tmp_path / "benchmark" / "benchmark.csv")
    assert main(["--table", source, "--out", str(tmp_path / "figure")]) == 0
    assert (tmp_path / "figure.html").stat().st_size > 1_000_000  # opens offline: Plotly is in it
    assert (tmp_path / "figure.png").exists() or "figure.png is not written" in capsys.readouterr().err


def test_without_a_table_there_are_axes() -> None:
    figure = draw_empty_frontier("vendi")
    assert len(figure.data) == 0 and "Vendi score" in figure.layout.title.text
