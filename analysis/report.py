"""The README's tables, made from the tables that ship.

    python -m analysis.report

Each stands in README.md between <!-- NAME --> and <!-- /NAME -->, where it is written anew; the rest of the file stays.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd

from analysis.ablation import FULL as LDM
from analysis.ablation import IMAGE_KINDS, KINDS
from analysis.benchmark.tables import markdown_table
from analysis.frontier import FULL
from latentcrf.utils.files import replace_file

ROOT = Path(__file__).parents[1]
# the README's choice of the benchmark's methods
FINISHED = (
    FULL,
    "DDIM-34",
    *(
        f"DDIM-50 {refiner} {bypass}"
        for bypass in ("(33, 49)", "(17, 42)")
        for refiner in ("LatentCRF", "static", "bypass")
    ),
    *(f"UniPC-{steps}" for steps in (15, 12, 10, 8, 6, 5, 4)),
    *(f"DPM-Solver++-{steps}" for steps in (12, 10, 8, 6, 5, 4)),
)
# against what the same run ends with else: column -> ending
TWINS = {
    "to the static finisher, its teacher": "static finisher",
    "to a plain network that learned the same": "plain finisher",
    "to the round trip alone": "round trip",
    "to scaling and the round trip": "scaled round trip",
}
# the ablation's models as the README calls them; others keep their names
NAMES = {
    "emoji": "whole: unary, pairwise, higher-order",
    "emoji-plain": "unary only: the network's u, a plain network",
    "emoji-pairwise": "unary and pairwise",
    "emoji-experts": "unary and higher-order",
    "emoji-static": "static form, whole",
    "emoji-static-pairwise": "static form, unary and pairwise",
    "emoji-static-experts": "static form, unary and higher-order",
    "emoji-mean": "whole, mean of before and after stage 3",
    "emoji-3": "whole, then stage 3",
    "emoji-no-adversary-3": "whole, then stage 3 without its adversarial loss",
    "emoji-plain-3": "plain network, then stage 3",
    "emoji-plain-on": "what ships: plain network, trained on",
    "emoji-grown": "what ships: whole, grown out of that plain network",
    LDM: "the LDM's own images",
}


class ReportError(Exception):
    """The README or a table is not what it has to be; the message says which and where."""


class Compared:
    """What comparisons.csv says, as text: value (low to high)."""

    def __init__(self, comparisons: pd.DataFrame) -> None:
        self.rows = comparisons.set_index(["method", "against", "measure"]).sort_index()

    def __call__(
        self, method: str, against: str, measure: str, digits: int, factor: float = 1, optional: bool = False
    ) -> str:
        """`factor` times the figures, with `digits` after the point; ratios come without a sign.

        Raises:
            ReportError: the two were not compared; with `optional` that is an empty text.
        """
        key = (method, against, measure)
        if key not in self.rows.index:
            if optional:
                return ""
            raise ReportError(f"comparisons.csv has no {measure!r} of {method} against {against}.")
        sign = "" if measure.endswith("ratio") else "+"
        value, low, high = (f"{factor * self.rows.loc[key][end]:{sign}.{digits}f}" for end in ("value", "low", "high"))
        return f"{value} ({low} to {high})"


def finisher_table(table: pd.DataFrame, comparisons: pd.DataFrame) -> str:
    """Runs with the finisher against those without it, against the best rival of no more time, and against runs that end otherwise.

    Args:
        table: benchmark.csv's.
        comparisons: comparisons.csv's.

    Raises:
        ReportError: a run or a comparison is missing.
    """
    by_name, compared = table.set_index("method"), Compared(comparisons)
    # what a user would do instead: runs whose last latents stay as they are
    rivals = by_name[by_name["finisher"].isna() & ~by_name["refiner"].isin(["LatentCRF", "static"])]
    kid = "kid, difference"
    rows = []
    for name in FINISHED:
        ours = f"{name} + finisher"
        if ours not in by_name.index:
            raise ReportError(f"benchmark.csv has no {ours}.")
        row = by_name.loc[ours]
        quick = rivals[rivals["time_ratio"] <= row["time_ratio"]]
        if quick.empty:
            raise ReportError(f"benchmark.csv has no rival that takes no more time than {ours}.")
        best = quick["kid"].idxmin()
        rows.append(
            [
                name, str(row["denoiser_calls"]), f"{row['time_ratio']:.2f}", f"{1000 * row['kid']:.1f}",
                compared(ours, FULL, kid, 1, 1000), compared(ours, name, kid, 1, 1000),
                f"{compared(ours, best, kid, 1, 1000)}, {best}",
                *(compared(ours, f"{name} + {twin}", kid, 1, 1000, optional=True) for twin in TWINS.values()),
                compared(ours, FULL, "r_at_5, difference", 3), compared(ours, FULL, "pairwise_lpips, ratio", 3),
            ]
        )  # fmt: skip
    titles = ["run + finisher", "U-Net calls", "time / full run", "KID x 1000", "to the full run"]
    titles += ["to the same run without", "to the best solver or bypass that takes no more time"]
    titles += [*TWINS, "R@5, to the full run", "pairwise LPIPS / full run"]
    return markdown_table(titles, rows)


def bypass_table(table: pd.DataFrame, comparisons: pd.DataFrame) -> str:
    """The conditional form at each bypass, against the full run, no parameters and the plain network.

    Args:
        table: benchmark.csv's.
        comparisons: comparisons.csv's.

    Raises:
        ReportError: a comparison is missing.
    """
    compared = Compared(comparisons)
    rows = []
    for _, row in table[(table["refiner"] == "LatentCRF") & table["finisher"].isna()].iterrows():
        ours = row["method"]
        without, plain = (ours.replace(" LatentCRF ", f" {twin} ") for twin in ("bypass", "plain"))
        rows.append(
            [
                f"{row['bypass']} of {row['steps']}, {row['solver']}", str(row["denoiser_calls"]), f"{row['time_ratio']:.2f}",
                compared(ours, FULL, "kid, difference", 1, 1000), compared(ours, without, "kid, difference", 1, 1000),
                compared(ours, plain, "kid, difference", 1, 1000),
                compared(ours, without, "lpips_full, difference", 4),
                compared(ours, without, "latent_mse_full, difference", 4),
                compared(ours, plain, "latent_mse_full, difference", 4),
                compared(ours, FULL, "pairwise_lpips, ratio", 3),
            ]
        )  # fmt: skip
    titles = ["bypass", "U-Net calls", "time / full run", "KID x 1000, to the full run"]
    titles += ["to the bypass without parameters", "to the plain network"]
    titles += ["LPIPS to the full run, to the bypass without parameters"]
    titles += ["latent MSE, to the bypass without parameters", "to the plain network", "pairwise LPIPS / full run"]
    return markdown_table(titles, rows)


def ablation_table(table: pd.DataFrame) -> str:
    """The ablation's figures, a star where the interval of the difference to the first row excludes zero.

    Args:
        table: ablation.csv's.
    """
    rows, usual, titles = [], table["iterations"].iloc[0], KINDS | IMAGE_KINDS
    for _, row in table.iterrows():
        name = NAMES.get(row["model"], row["model"])
        if row["iterations"] not in (usual, 0):
            name = f"{name.strip('*').split(':')[0]}, {row['iterations']} iteration{'s' * (row['iterations'] > 1)}"
        cells = [name, f"{row['parameters']:,}" if row["parameters"] else ""]
        for kind in titles:
            sure = row[f"{kind}_difference_low"] > 0 or row[f"{kind}_difference_high"] < 0
            cells.append("" if pd.isna(row[kind]) else f"{row[kind]:.{4 if kind in KINDS else 1}f}{'*' * sure}")
        rows.append(cells)
    return markdown_table(["model", "parameters", *titles.values()], rows)


def tables(results: Path) -> dict[str, str]:
    """Each table by the name of its marks, from the folders `benchmark` and `ablation` of `results`.

    Raises:
        OSError, ValueError: a table is missing, or is none.
        ReportError: a table lacks what the README tells.
    """
    benchmark, comparisons = (
        pd.read_csv(results / "benchmark" / f"{name}.csv") for name in ("benchmark", "comparisons")
    )
    return {
        "finisher": finisher_table(benchmark, comparisons),
        "bypasses": bypass_table(benchmark, comparisons),
        "ablation": ablation_table(pd.read_csv(results / "ablation" / "ablation.csv")),
    }


def insert(text: str, name: str, table: str) -> str:
    """`text` with `table` between the marks of `name`.

    Raises:
        ReportError: the marks are not there, once each and in order.
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    if (text.count(begin), rest.count(end), text.count(end)) != (1, 1, 1):
        raise ReportError(f"the README needs the lines {begin} and {end} once each, in this order, around its table.")
    return f"{before}{begin}\n{table}\n{end}{after}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--readme", type=Path, default=ROOT / "README.md", metavar="FILE", help="default: the project's")
    add("--results", type=Path, default=ROOT / "assets" / "results", metavar="DIR", help="default: what ships")
    options = parser.parse_args(arguments)
    try:
        text = options.readme.read_text(encoding="utf-8")
        for name, table in tables(options.results).items():
            text = insert(text, name, table)
    except (OSError, ValueError, ReportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    with replace_file(options.readme) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"written: {options.readme}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
