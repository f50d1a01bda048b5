"""Measure what each part of the CRF adds: models of several presets, and iteration counts, on the same recorded runs.

    python -m analysis.ablation --recordings runs/recordings --out results/ablation \\
        --crf emoji=runs/emoji/latentcrf emoji-plain=runs/emoji-plain/latentcrf

The models are those of `latentcrf.training.train --preset NAME --recordings runs/recordings`, with equal options else.
Each is given the held-out recorded runs. Measured is the mean squared error of its latents against the LDM's own, for
the bypass (33, 49) of 50 and for runs of 4 to 12 steps that the CRF ends. With --data also KID to the data set's
images: of runs that the CRF ends, from step 33 of 50 and at the last step but one of 4 to 12, and of full runs that the
CRF finishes. Written to --out: ablation.csv (a row a model and iteration count) and ablation.md, with 95 % bootstrap
intervals over the runs, the differences to the first model paired. The CRFs compute in float32; --precision is the
decoder's.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd
import torch
from diffusers import DDIMScheduler

from analysis.arguments import add_arguments, build_parser, load_features_argument
from analysis.markdown import ABSENT, WHY_ABSENT, format_interval, format_markdown_table, format_number
from analysis.metrics.distributions import RealFeatures
from analysis.reference_features import load_gallery
from analysis.sampling import load_pipeline
from analysis.studies.ablation import IMAGE_KINDS, KINDS, SUFFIXES, RunImages, compute
from latentcrf import LatentCRF
from latentcrf.precision import choose_precision, precision_name
from latentcrf.training.data import DatasetError, read_image_folder
from latentcrf.training.loop import RunError
from latentcrf.training.recording import RecordedRuns, load_recorded_runs
from latentcrf.training.train import split
from latentcrf.utils.arguments import int_between, run_command
from latentcrf.utils.files import claim_folder, replace_file


def parse_named_folder(text: str) -> tuple[str, Path]:
    """Parse NAME=FOLDER of --crf.

    Args:
        text: the option's.

    Raises:
        argparse.ArgumentTypeError: anything else.
    """
    name, sign, folder = text.partition("=")
    if not (name and sign and folder):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FOLDER.")
    return name, Path(folder)


def format_table(table: pd.DataFrame) -> str:
    """Format the table as Markdown, with its intervals.

    Args:
        table: as of `analysis.studies.ablation.compute`.
    """
    titles = {kind: title for kind, title in (KINDS | IMAGE_KINDS).items() if kind in table}
    header = ["model", "iterations", "parameters"]
    header += [cell for title in titles.values() for cell in (title, "against the first")]
    rows = []
    for index, row in table.iterrows():
        cells = [row["model"], str(row["iterations"]), f"{row['parameters']:,}"]
        for kind in titles:
            if pd.isna(row[kind]):  # the full run's latents have no error
                cells += ["", ""]
                continue
            digits = 4 if kind in KINDS else 1
            difference, low, high = (row[f"{kind}_difference{end}"] for end in SUFFIXES)
            form = f"+.{digits}f"
            against = f"{format_number(difference, form)} ({format_interval(low, high, form)})"
            cells += [f"{row[kind]:.{digits}f}", against if index else ""]
        rows.append(cells)
    lacks = any(cell.endswith(f"({ABSENT})") for cells in rows for cell in cells)
    return format_markdown_table(header, rows) + "\n" + (f"\n{WHY_ABSENT}\n" if lacks else "")


def load_images(options: argparse.Namespace, runs: RecordedRuns, precision: torch.dtype) -> RunImages:
    """Load what images are measured with.

    Args:
        options: data, model, features.
        runs: held-out recorded runs.
        precision: in which the decoder computes.

    Raises:
        DatasetError, OSError: no data set, or no pipeline.
    """
    rows, pixels = read_image_folder(options.data)
    features = load_features_argument(options)
    gallery, _ = load_gallery(features, rows, pixels, options.data)
    core = [index for index, row in enumerate(rows) if row["core"]]
    return RunImages(load_pipeline(options.model), runs, features, RealFeatures(gallery[core]), precision)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: default: the process's.

    Returns:
        The exit status: 0, or 1 after an error message.
    """
    parser = build_parser("analysis.ablation", __doc__)
    add = parser.add_argument
    add("--recordings", type=Path, required=True, metavar="DIR", help="recorded runs of latentcrf.training.train")
    add("--crf", type=parse_named_folder, nargs="+", required=True, metavar="NAME=FOLDER",
        help="models, the complete one first")  # fmt: skip
    add_arguments(parser, "out", "model", "features", "data", data={
        "default": None, "help": "data set, to measure images too (default: latents alone)"})  # fmt: skip
    add("--iterations", type=int_between(0, 100), nargs="+", default=[1, 2, 3, 5, 10], metavar="N",
        help="iteration counts of the first model, 0 to 100 (default 1 2 3 5 10)")  # fmt: skip
    add_arguments(parser, "precision")
    options = parser.parse_args(arguments)
    try:
        precision = choose_precision(options.precision, "cpu")
        scheduler = DDIMScheduler.from_pretrained(options.model, subfolder="scheduler", local_files_only=True)
        held_out, _ = split(load_recorded_runs(options.recordings, scheduler))
        crfs = {
            name: LatentCRF.from_pretrained(folder, torch_dtype=torch.float32).eval() for name, folder in options.crf
        }
        claim_folder(options.out)
        images = load_images(options, held_out, precision) if options.data else None
        table = compute(crfs, held_out, options.iterations, images)
    except (DatasetError, OSError, RunError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    with replace_file(options.out / "ablation.csv") as temporary:
        table.assign(precision=precision_name(precision)).to_csv(temporary, index=False, float_format="%.6g")
    with replace_file(options.out / "ablation.md") as temporary:
        temporary.write_text(f"{format_table(table)}\n{len(held_out)} held-out runs.\n", encoding="utf-8")
    print(format_table(table))
    print(f"written: {options.out}/ablation.csv, ablation.md; {len(held_out)} held-out runs")
    return 0


if __name__ == "__main__":
    run_command(main)
