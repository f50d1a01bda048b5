"""Write the tables of the README, the docs and the model cards from the CSVs of assets/results.

    python -m analysis.report

A table stands in its document between <!-- NAME --> and <!-- /NAME -->. The command writes what is between the marks
anew; the rest of the document stays. Each table has one place.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.markdown import format_markdown_table
from analysis.tables import read_csv
from latentcrf.utils.arguments import run_command
from latentcrf.utils.files import replace_file

ROOT = Path(__file__).parents[1]
DOCUMENTS = (
    "README.md",
    "docs/results.md",
    "docs/finisher.md",
    "docs/ablation.md",
    "assets/models/emoji-latentcrf/README.md",
    "assets/models/emoji-latentcrf-finisher/README.md",
    "assets/models/emoji-latentcrf-static/README.md",
)
MARK = re.compile(r"^<!-- ([a-z][a-z-]*) -->$", flags=re.MULTILINE)

FULL_RUN = "DDIM-50"
BYPASS_33_49 = "DDIM-50 LatentCRF (33, 49)"
KID, R_AT_5 = "kid, difference", "r_at_5, difference"
LPIPS, LATENT_MSE = "lpips_full, difference", "latent_mse_full, difference"
PAIRWISE_LPIPS, VENDI = "pairwise_lpips, ratio", "vendi, ratio"
CRF_FORMS = ("conditional", "static")  # the values of the column crf_form in which a CRF acts at the bypass

HEADLINE = "UniPC-12 cut-off 1/3 + finisher"

# the README's rows: title -> method
SUMMARY = {
    "full run (DDIM, 50 steps)": FULL_RUN,
    "DDIM, 34 steps": "DDIM-34",
    "LatentCRF, bypass (33, 49)": BYPASS_33_49,
    "UniPC, 12 steps, guidance cut-off": "UniPC-12 cut-off 1/3",
    "UniPC, 12 steps, guidance cut-off + finisher": HEADLINE,
}
# what the bypass, the cut-off and the finisher contribute: method -> what it is compared with
CLAIMS = (
    (BYPASS_33_49, "DDIM-34"),
    (BYPASS_33_49, "DDIM-50 DeepCache 3"),
    (BYPASS_33_49, "DDIM-50 zero-parameter bypass (33, 49)"),
    (BYPASS_33_49, "DDIM-50 plain network (33, 49)"),
    ("UniPC-12 cut-off 1/3", "UniPC-12"),
    ("UniPC-12 + finisher", "UniPC-12"),
    (HEADLINE, "UniPC-12 cut-off 1/3"),
    (HEADLINE, "UniPC-12 + finisher"),
    (HEADLINE, "UniPC-12 cut-off 1/3 + plain finisher"),
    (f"{BYPASS_33_49} + finisher", "UniPC-12 cut-off 1/3"),
)
# the docs' choice of runs without bypass, cut-off and cache
WHOLE_RUNS = (
    *(f"DDIM-{steps}" for steps in (34, 25, 20, 12, 8)),
    *(f"DPM-Solver++-{steps}" for steps in (20, 12, 8, 6)),
    *(f"DPM-Solver++-{steps} AYS" for steps in (10, 8, 6)),
    *(f"UniPC-{steps}" for steps in (20, 12, 8, 6, 4)),
)
GUIDED_RUNS = ("DDIM-50", "DPM-Solver++-12", "UniPC-12", "UniPC-8")
GUIDANCES = ("cut-off 1/3", "cut-off 1/2", "interval 1/4-2/3", "guidance 2")
CACHED = (*(f"DDIM-50 DeepCache {interval}" for interval in (3, 5)), "UniPC-20 DeepCache 2", "UniPC-12 DeepCache 2")
# the docs' choice of finished runs
FINISHED = (
    FULL_RUN,
    "DDIM-34",
    *(
        f"DDIM-50 {form} {bypass}"
        for bypass in ("(33, 49)", "(17, 42)")
        for form in ("LatentCRF", "static LatentCRF", "zero-parameter bypass")
    ),
    *(f"UniPC-{steps}" for steps in (20, 12, 8, 6, 4)),
    *(f"DPM-Solver++-{steps}" for steps in (20, 12, 8)),
    *(f"{run} cut-off 1/3" for run in GUIDED_RUNS),
    "UniPC-12 cut-off 1/2", "UniPC-12 guidance 2", "DDIM-50 DeepCache 3", "DPM-Solver++-10 AYS",
)  # fmt: skip
CARD_FINISHED = (FULL_RUN, "UniPC-12", "UniPC-12 cut-off 1/3", "UniPC-8", "UniPC-6", BYPASS_33_49)
CARD_BYPASSES = (BYPASS_33_49, "DDIM-50 LatentCRF (17, 42)")

# the ablation's columns and models; a model that is not here keeps its name
ERRORS = {"mse": "MSE, bypass (33, 49) of 50", "few": "MSE, runs of 4 to 12 steps"}
KIDS = {
    "kid": "KID x 1000, bypass (33, 50) of 50",
    "kid_few": "KID x 1000, runs of 4 to 12 steps",
    "kid_finished": "KID x 1000, as finisher at 0.7",
}
MODELS = {
    "emoji": "conditional form: all three terms",
    "emoji-plain": "plain network",
    "emoji-pairwise": "conditional form: unary and pairwise",
    "emoji-experts": "conditional form: unary and higher-order",
    "emoji-static": "static form: all three terms",
    "emoji-static-pairwise": "static form: unary and pairwise",
    "emoji-static-experts": "static form: unary and higher-order",
    "emoji-mean": "conditional form, mean of before and after stage 3",
    "emoji-3": "conditional form, then stage 3",
    "emoji-no-adversary-3": "conditional form, then stage 3 without its adversarial loss",
    "emoji-plain-3": "plain network, then stage 3",
    "emoji-plain-on": "shipped: plain network, trained on",
    "emoji-grown": "shipped: conditional form, started from that plain network",
    "full run": "the full run's own images",
}


class ReportError(Exception):
    """A document or a table is not what it has to be; the message says which and where."""


@dataclass(frozen=True)
class Results:
    """The tables of assets/results.

    Attributes:
        benchmark: benchmark/benchmark.csv, a row a method.
        comparisons: benchmark/comparisons.csv, a row a paired difference or ratio.
        floors: benchmark/floors.csv, the data set's own images measured like generated ones.
        diversity: diversity/comparisons.csv, of 12 prompts x 16 seeds.
        ablation: ablation/ablation.csv, a row a model and iteration count.
    """

    benchmark: pd.DataFrame
    comparisons: pd.DataFrame
    floors: pd.DataFrame
    diversity: pd.DataFrame
    ablation: pd.DataFrame

    @classmethod
    def load(cls, folder: Path) -> "Results":
        """Read the tables of `folder`.

        Raises:
            OSError, ValueError: a table is missing, or is none.
        """
        names = ("benchmark/benchmark", "benchmark/comparisons", "benchmark/floors", "diversity/comparisons")
        return cls(*(read_csv(folder / f"{name}.csv") for name in (*names, "ablation/ablation")))

    def row(self, method: str) -> pd.Series:
        """The method's row of benchmark.csv.

        Raises:
            ReportError: it has none.
        """
        rows = self.benchmark[self.benchmark["method"] == method]
        if len(rows) != 1:
            raise ReportError(f"benchmark.csv has no {method}.")
        return rows.iloc[0]

    def methods(self, forms: Sequence[str]) -> list[str]:
        """Methods without finisher whose crf_form is one of `forms`."""
        table = self.benchmark
        return list(table["method"][table["crf_form"].isin(forms) & table["finisher"].isna()])


# ------------------------------------------------------------------------------------------- cells


def with_interval(row: pd.Series, name: str, digits: int, factor: float = 1, sign: str = "") -> str:
    """`value (low to high)` of a column with its interval."""
    value, low, high = (f"{factor * row[f'{name}{end}']:{sign}.{digits}f}" for end in ("", "_low", "_high"))
    return f"{value} ({low} to {high})"


class Comparisons:
    """The rows of a comparisons.csv as text."""

    def __init__(self, table: pd.DataFrame) -> None:
        self.rows = table.set_index(["method", "against", "measure"]).sort_index()

    def row(self, method: str, against: str, measure: str) -> pd.Series:
        """The row of one comparison.

        Raises:
            ReportError: the two were not compared.
        """
        key = (method, against, measure)
        if key not in self.rows.index:
            raise ReportError(f"comparisons.csv has no {measure!r} of {method} against {against}.")
        return self.rows.loc[key]

    def __call__(self, method: str, against: str, measure: str, digits: int, factor: float = 1) -> str:
        """`factor` times value and interval; a difference has a sign, a ratio none.

        Raises:
            ReportError: the two were not compared.
        """
        row = self.row(method, against, measure)
        sign = "" if measure.endswith("ratio") else "+"
        value, low, high = (f"{factor * row[end]:{sign}.{digits}f}" for end in ("value", "low", "high"))
        return f"{value} ({low} to {high})"

    def has(self, method: str, against: str, measure: str) -> bool:
        """Whether the two were compared."""
        return (method, against, measure) in self.rows.index


def evaluations(row: pd.Series) -> str:
    return str(row["network_evaluations"])


def time_ratio(row: pd.Series) -> str:
    return f"{row['time_ratio']:.2f}"


def zero_parameter_of(method: str) -> str:
    """The zero-parameter bypass of the same run."""
    return re.sub(r" (static )?LatentCRF \(", " zero-parameter bypass (", method)


def plain_of(method: str) -> str:
    """The plain network at the same bypass."""
    return re.sub(r" (static )?LatentCRF \(", " plain network (", method)


def bypass_title(row: pd.Series) -> str:
    return f"{row['bypass']} of {row['steps']}, {row['solver']}"


# ------------------------------------------------------------------------------------------ tables


def summary_table(results: Results) -> str:
    """The README's five rows."""
    compared, rows = Comparisons(results.comparisons), []
    for title, method in SUMMARY.items():
        row = results.row(method)
        cells = [title, evaluations(row)]
        if method == FULL_RUN:
            cells += ["1", "0", "0", "1"]
        else:
            cells += [with_interval(row, "time_ratio", 2), compared(method, FULL_RUN, KID, 1, 1000)]
            cells += [compared(method, FULL_RUN, R_AT_5, 3), compared(method, FULL_RUN, PAIRWISE_LPIPS, 3)]
        rows.append(cells)
    titles = ["method", "network evaluations", "time / full run", "KID x 1000, to the full run"]
    return format_markdown_table([*titles, "R@5, to the full run", "diversity / full run"], rows)


RUN_TITLES = [
    *("run", "NFE", "time / full run", "KID x 1000, to the full run", "R@5, to the full run"),
    *("pairwise LPIPS / full run", "prompts"),
]


def _run_cells(results: Results, compared: Comparisons, method: str) -> list[str]:
    """Cells of a run under `RUN_TITLES`, without its name."""
    row = results.row(method)
    return [
        evaluations(row), time_ratio(row), compared(method, FULL_RUN, KID, 1, 1000),
        compared(method, FULL_RUN, R_AT_5, 3), compared(method, FULL_RUN, PAIRWISE_LPIPS, 3), str(row["prompts"]),
    ]  # fmt: skip


def _runs_table(results: Results, methods: Iterable[str]) -> str:
    compared = Comparisons(results.comparisons)
    return format_markdown_table(RUN_TITLES, [[method, *_run_cells(results, compared, method)] for method in methods])


def core_table(results: Results) -> str:
    """The methods that a conclusion rests on."""
    table = results.benchmark
    return _runs_table(results, [name for name in table["method"][table["core"]] if name != FULL_RUN])


def claims_table(results: Results) -> str:
    """What each part contributes: pairs of core methods."""
    compared = Comparisons(results.comparisons)
    rows = [
        [method, against, compared(method, against, KID, 1, 1000), compared(method, against, R_AT_5, 3)]
        for method, against in CLAIMS
    ]
    return format_markdown_table(["method", "against", "KID x 1000", "R@5"], rows)


def floors_table(results: Results) -> str:
    """The data set's own images, and the full run and the headline method beside them."""
    rows = []
    for _, row in results.floors.iterrows():
        cells = [with_interval(row, name, 1, 1000) for name in ("kid", "kid_others")]
        rows.append([row["images"], *cells, with_interval(row, "r_at_5", 2), with_interval(row, "edges", 4)])
    for method in (FULL_RUN, HEADLINE):
        row = results.row(method)
        cells = [with_interval(row, "kid", 1, 1000), "", with_interval(row, "r_at_5", 2)]
        rows.append([method, *cells, with_interval(row, "edges", 4)])
    titles = ["images", "KID x 1000", "without them among the real images", "R@5", "edge strength"]
    return format_markdown_table(titles, rows)


def whole_runs_table(results: Results) -> str:
    """Runs with fewer steps."""
    return _runs_table(results, WHOLE_RUNS)


def guidance_table(results: Results) -> str:
    """Runs that are guided in a part only, or less."""
    return _runs_table(results, [name for run in GUIDED_RUNS for name in (run, *(f"{run} {how}" for how in GUIDANCES))
                                 if name != FULL_RUN])  # fmt: skip


def caching_table(results: Results) -> str:
    """Runs with DeepCache."""
    return _runs_table(results, CACHED)


def bypass_cost_table(results: Results) -> str:
    """The bypass CRF against the full run."""
    compared = Comparisons(results.comparisons)
    rows = [
        [bypass_title(results.row(method)), *_run_cells(results, compared, method)]
        for method in results.methods(["conditional"])
    ]
    return format_markdown_table(["bypass", *RUN_TITLES[1:]], rows)


def _bypass_against(results: Results, methods: Iterable[str], baseline_of: Callable[[str], str]) -> str:
    compared, rows = Comparisons(results.comparisons), []
    for method in methods:
        baseline = baseline_of(method)
        rows.append(
            [bypass_title(results.row(method)), compared(method, baseline, KID, 1, 1000),
             compared(method, baseline, LPIPS, 4), compared(method, baseline, LATENT_MSE, 4)]
        )  # fmt: skip
    return format_markdown_table(["bypass", "KID x 1000", "LPIPS to the full run", "latent MSE to the full run"], rows)


def bypass_gain_table(results: Results) -> str:
    """The bypass CRF against the zero-parameter bypass."""
    return _bypass_against(results, results.methods(["conditional"]), zero_parameter_of)


def bypass_plain_table(results: Results) -> str:
    """The bypass CRF against the plain network."""
    return _bypass_against(results, results.methods(["conditional"]), plain_of)


def bypass_counts_table(results: Results) -> str:
    """At how many bypasses the bypass CRF is significantly better and worse."""
    compared, rows = Comparisons(results.comparisons), []
    methods = results.methods(["conditional"])
    for title, baseline_of in (("zero-parameter bypass", zero_parameter_of), ("plain network", plain_of)):
        for measure, name in ((KID, "KID"), (LPIPS, "LPIPS to the full run"), (LATENT_MSE, "latent MSE")):
            found = [compared.row(method, baseline_of(method), measure) for method in methods]
            better, worse = sum(row["high"] < 0 for row in found), sum(row["low"] > 0 for row in found)
            rows.append([title, name, str(better), str(worse), str(len(methods) - better - worse)])
    return format_markdown_table(["against", "measure", "better", "worse", "no significant difference"], rows)


def static_table(results: Results) -> str:
    """The static form at the bypass."""
    compared, rows = Comparisons(results.comparisons), []
    for method in results.methods(["static"]):
        zero = zero_parameter_of(method)
        rows.append(
            [bypass_title(results.row(method)), compared(method, FULL_RUN, KID, 1, 1000),
             compared(method, zero, KID, 1, 1000), compared(method, zero, LPIPS, 4),
             compared(method, FULL_RUN, PAIRWISE_LPIPS, 3)]
        )  # fmt: skip
    titles = ["bypass", "KID x 1000, to the full run", "KID x 1000, to the zero-parameter bypass"]
    titles += ["LPIPS to the full run, to the zero-parameter bypass", "pairwise LPIPS / full run"]
    return format_markdown_table(titles, rows)


def diversity_table(results: Results) -> str:
    """Diversity over 16 seeds a prompt."""
    compared = Comparisons(results.diversity)
    table = results.diversity
    methods = table["method"][table["measure"] == VENDI].unique()
    rows = [
        [method, compared(method, FULL_RUN, PAIRWISE_LPIPS, 3), compared(method, FULL_RUN, VENDI, 3)]
        for method in methods
    ]
    return format_markdown_table(["method", "pairwise LPIPS / full run", "Vendi score / full run"], rows)


def best_baseline(results: Results, method: str, measure: str = KID) -> pd.Series:
    """The comparison with the best run without CRF and without finisher that takes no more time than `method`.

    Raises:
        ReportError: there is none.
    """
    rows = results.comparisons
    rows = rows[(rows["method"] == method) & (rows["measure"] == measure) & rows["best_baseline"]]
    if rows.empty:
        raise ReportError(f"comparisons.csv has no baseline that takes no more time than {method}.")
    return rows.iloc[0]


def finisher_table(results: Results, runs: Sequence[str] | None = None) -> str:
    """Finished runs against the full run and against themselves without the finisher."""
    compared, rows = Comparisons(results.comparisons), []
    for run in FINISHED if runs is None else runs:
        method = f"{run} + finisher"
        row = results.row(method)
        rows.append(
            [run, evaluations(row), time_ratio(row), compared(method, FULL_RUN, KID, 1, 1000),
             compared(method, run, KID, 1, 1000), str(row["prompts"])]
        )  # fmt: skip
    titles = ["run + finisher", "NFE", "time / full run", "KID x 1000, to the full run", "to the same run without"]
    return format_markdown_table([*titles, "prompts"], rows)


def finisher_baselines_table(results: Results) -> str:
    """Finished runs against the best baseline that takes no more time."""
    compared, rows = Comparisons(results.comparisons), []
    for run in FINISHED:
        method, cells = f"{run} + finisher", [run]
        for measure, digits, factor in ((KID, 1, 1000), (R_AT_5, 3, 1)):
            best = best_baseline(results, method, measure)
            cells += [best["against"], compared(method, best["against"], measure, digits, factor)]
            cells.append(str(best["prompts"]))
        rows.append(cells)
    titles = ["run + finisher", "best in KID", "KID x 1000, to it", "prompts", "best in R@5", "R@5, to it", "prompts"]
    return format_markdown_table(titles, rows)


def finisher_endings_table(results: Results) -> str:
    """The finisher against other things to do with final latents, where they were measured."""
    compared, rows = Comparisons(results.comparisons), []
    for run in FINISHED:
        method, cells = f"{run} + finisher", []
        for other in (f"{run} + plain finisher", f"{run} + VAE round trip"):
            has = compared.has(method, other, KID)
            cells.append(compared(method, other, KID, 1, 1000) if has else "")
            cells.append(str(compared.row(method, other, KID)["prompts"]) if has else "")
        if any(cells):
            rows.append([run, *cells])
    titles = ["run", "to the plain finisher", "prompts", "to the VAE round trip", "prompts"]
    return format_markdown_table(titles, rows)


def finisher_images_table(results: Results) -> str:
    """What the finisher does to prompt fidelity, diversity and edges."""
    compared, rows = Comparisons(results.comparisons), []
    for run in FINISHED:
        method = f"{run} + finisher"
        row = results.row(method)
        rows.append(
            [run, compared(method, FULL_RUN, R_AT_5, 3), compared(method, run, R_AT_5, 3) if run != FULL_RUN else "",
             compared(method, FULL_RUN, PAIRWISE_LPIPS, 3), with_interval(row, "edges_difference", 4, sign="+")]
        )  # fmt: skip
    titles = ["run + finisher", "R@5, to the full run", "to the same run without", "pairwise LPIPS / full run"]
    return format_markdown_table([*titles, "edge strength, to the full run"], rows)


def round_trip_table(results: Results) -> str:
    """Runs that end with the VAE round trip instead of the finisher."""
    compared, rows = Comparisons(results.comparisons), []
    ending = " + VAE round trip"
    table = results.benchmark
    for method in table["method"][table["method"].str.endswith(ending)]:
        run, row = method.removesuffix(ending), results.row(method)
        rows.append(
            [run, time_ratio(row), compared(method, FULL_RUN, KID, 1, 1000), compared(method, run, KID, 1, 1000),
             compared(method, FULL_RUN, R_AT_5, 3), compared(method, FULL_RUN, PAIRWISE_LPIPS, 3)]
        )  # fmt: skip
    titles = ["run + VAE round trip", "time / full run", "KID x 1000, to the full run", "to the same run without"]
    return format_markdown_table([*titles, "R@5, to the full run", "pairwise LPIPS / full run"], rows)


def _ablation(table: pd.DataFrame, kinds: dict[str, str], digits: int) -> str:
    """The models' figures; a star where the interval of the difference to the first row excludes 0."""
    rows, usual = [], table["iterations"].iloc[0]
    for _, row in table.iterrows():
        if all(pd.isna(row[kind]) for kind in kinds):
            continue
        name = MODELS.get(row["model"], row["model"])
        if row["iterations"] not in (usual, 0):
            name = f"{name.split(':')[0]}, {row['iterations']} iteration{'s' * (row['iterations'] > 1)}"
        cells = [name, f"{row['parameters']:,}" if row["parameters"] else ""]
        for kind in kinds:
            significant = row[f"{kind}_difference_low"] > 0 or row[f"{kind}_difference_high"] < 0
            cells.append("" if pd.isna(row[kind]) else f"{row[kind]:.{digits}f}{'*' * significant}")
        rows.append(cells)
    return format_markdown_table(["model", "parameters", *kinds.values()], rows)


def ablation_errors_table(results: Results) -> str:
    """Distance of the latents handed back to the full run's."""
    return _ablation(results.ablation, ERRORS, 4)


def ablation_kid_table(results: Results) -> str:
    """KID of the images of runs that the model ends or finishes."""
    return _ablation(results.ablation, KIDS, 1)


def card_bypass_table(results: Results) -> str:
    """The bypass CRF's card: two bypasses."""
    compared, rows = Comparisons(results.comparisons), []
    for method in CARD_BYPASSES:
        row, zero = results.row(method), zero_parameter_of(method)
        rows.append(
            [bypass_title(row), evaluations(row), compared(method, FULL_RUN, KID, 1, 1000),
             compared(method, zero, LPIPS, 4), compared(method, zero, LATENT_MSE, 4)]
        )  # fmt: skip
    titles = ["bypass", "NFE", "KID x 1000, to the full run", "LPIPS to the full run, to the zero-parameter bypass"]
    return format_markdown_table([*titles, "latent MSE, to the zero-parameter bypass"], rows)


def card_finisher_table(results: Results) -> str:
    """The finisher's card: six runs."""
    return finisher_table(results, CARD_FINISHED)


TABLES: dict[str, Callable[[Results], str]] = {
    "summary": summary_table,
    "core": core_table,
    "claims": claims_table,
    "floors": floors_table,
    "whole-runs": whole_runs_table,
    "guidance": guidance_table,
    "caching": caching_table,
    "bypass-cost": bypass_cost_table,
    "bypass-gain": bypass_gain_table,
    "bypass-plain": bypass_plain_table,
    "bypass-counts": bypass_counts_table,
    "diversity": diversity_table,
    "finisher": finisher_table,
    "finisher-baselines": finisher_baselines_table,
    "finisher-endings": finisher_endings_table,
    "finisher-images": finisher_images_table,
    "round-trip": round_trip_table,
    "ablation-errors": ablation_errors_table,
    "ablation-kid": ablation_kid_table,
    "card-bypass": card_bypass_table,
    "card-finisher": card_finisher_table,
    "card-static": static_table,
}


# --------------------------------------------------------------------------------------- documents


def insert(text: str, name: str, table: str) -> str:
    """`text` with `table` between the marks of `name`.

    Raises:
        ReportError: the marks are not there, once each and in order.
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    if (text.count(begin), rest.count(end), text.count(end)) != (1, 1, 1):
        raise ReportError(f"the document needs the lines {begin} and {end} once each, in this order, around its table.")
    return f"{before}{begin}\n{table}\n{end}{after}"


def fill_documents(root: Path, results: Results) -> dict[Path, str]:
    """The new text of each of `DOCUMENTS` under `root`.

    Raises:
        OSError: a document is missing.
        ReportError: a mark of no table, a table without a place or with two, or a table that lacks a row.
    """
    texts, places = {}, dict.fromkeys(TABLES, 0)
    for path in (root / name for name in DOCUMENTS):
        text = path.read_text(encoding="utf-8")
        for name in MARK.findall(text):
            if name not in TABLES:
                raise ReportError(f"{path} has marks of {name!r}, which is no table.")
            places[name] += 1
            try:
                text = insert(text, name, TABLES[name](results))
            except ReportError as error:
                raise ReportError(f"{path}: {error}") from None
        texts[path] = text
    for name, count in places.items():
        if count != 1:
            raise ReportError(f"the table {name!r} has {count} places in {', '.join(DOCUMENTS)}; it needs one.")
    return texts


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--root", type=Path, default=ROOT, metavar="DIR", help="folder of the documents (default: the project's)")
    add("--results", type=Path, default=ROOT / "assets" / "results", metavar="DIR", help="default: the shipped tables")
    options = parser.parse_args(arguments)
    try:
        texts = fill_documents(options.root, Results.load(options.results))
    except (OSError, ValueError, ReportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for path, text in texts.items():
        if path.read_text(encoding="utf-8") != text:
            with replace_file(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
            print(f"written: {path}")
    return 0


if __name__ == "__main__":
    run_command(main)
