"""Draw the speed/quality frontier: the benchmark's table as a figure.

    python -m analysis.frontier --table results/benchmark/benchmark.csv --out results/frontier --measure kid

Time runs to the right, quality upwards or downwards as its axis says. The line joins the methods that no other beats in
both. Written: PATH.html and PATH.png. Where --out is a folder (it exists, or ends in /): settings.json, the table, the
figure and the methods' rows of images.
"""

import os
import sys
from pathlib import Path

import pandas as pd

from analysis.arguments import build_parser
from analysis.export import Results, parse, write_figure, write_results
from analysis.figures.frontier import draw_frontier
from analysis.studies.frontier import METRICS, SHIPPED, name_file, read_samples, read_table
from latentcrf.utils.arguments import run_command
from latentcrf.utils.files import claim_folder


def build_results(table: pd.DataFrame, metric: str, all_methods: bool = False, folder: Path | None = None) -> Results:
    """Put together what is exported: the table, its figure, and the methods' rows of images.

    Args:
        table: as of `analysis.studies.frontier.read_table`.
        metric: a key of `METRICS`.
        all_methods: as of `analysis.studies.frontier.select_rows`.
        folder: of the images; None (default): no images.
    """
    images = read_samples(folder, list(table["method"])) if folder else {}
    options = {"measure": metric, "all": all_methods}
    return Results(
        "frontier", options, {"benchmark": table}, {"frontier": draw_frontier(table, metric, all_methods)},
        {name_file(method): image for method, image in images.items()},
    )  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: default: the process's.

    Returns:
        The exit status: 0, or 1 after an error message.
    """
    parser = build_parser("analysis.frontier", __doc__)
    add = parser.add_argument
    add("--table", type=Path, metavar="FILE",
        help="benchmark.csv of analysis.benchmark (default: the one beside --from's file, else the shipped one)",
    )  # fmt: skip
    add("--out", required=True, metavar="PATH", help="of the figure, without ending; or a folder, for everything")
    add("--measure", choices=sorted(METRICS), default="kid", help="the quality drawn (default kid)")
    add("--all", action="store_true", help="show all methods of the table, without names (default: at most 25)")
    options = parse(parser, "frontier", arguments)
    shipped = SHIPPED / "benchmark.csv"
    beside = options.settings_file.with_name("benchmark.csv") if options.settings_file else shipped
    source = options.table or (beside if beside.is_file() else shipped)
    is_folder, out = options.out.endswith(("/", os.sep)) or Path(options.out).is_dir(), Path(options.out)
    try:
        table = read_table(source)
        if is_folder:
            claim_folder(out)
            # in the benchmark's folder the images are in `samples`, in an export beside the table
            samples = folder if (folder := source.with_name("samples")).is_dir() else source.parent
            names = write_results(build_results(table, options.measure, options.all, samples), out)
            print(f"written: {out}/{', '.join(names)}")
        else:
            out.parent.mkdir(parents=True, exist_ok=True)
            write_figure(draw_frontier(table, options.measure, options.all), out)
            print(f"written: {out}.html")  # `write_figure` says where there is no PNG
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    run_command(main)
