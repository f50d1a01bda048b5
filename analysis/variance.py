"""Measure the latent variance over the steps of a run (paper, Fig. A.1).

    python -m analysis.variance --data data/emoji --out results/variance --prompts 1000

The full run and LatentCRF start from the same noise. Measured at each step: the variance of the latents over all
their dimensions, that of the clean estimate x0_hat, and the root mean square change of the latents a step of the full
run. Where little happens, a bypass costs little. Written to --out: settings.json, variance.csv (mean, 5th and 95th
percentile over the runs), runs.csv (a row a run and step) and a figure of each quantity as HTML and PNG. With
--summary-only only settings.json and variance.csv, about a hundred rows: what ships.
"""

import argparse
import sys
from typing import Any

import pandas as pd
from tqdm import tqdm

from analysis import prompts as prompt_lists
from analysis.arguments import add_arguments, build_parser
from analysis.export import Results, parse, write_results
from analysis.figures.variance import QUANTITIES, draw_quantity
from analysis.sampling import BYPASS, load_pipeline
from analysis.studies.variance import compute, summarize
from latentcrf import LatentCRF
from latentcrf.precision import choose_precision, precision_name
from latentcrf.training.data import DatasetError, read_image_folder
from latentcrf.utils.files import replace_file

SAVED = ("prompts", "text", "seed", "guidance", "batch_size")  # options that settings.json names


def build_results(
    summary: pd.DataFrame, options: dict[str, Any], bypass: tuple[int, int] = BYPASS, with_figures: bool = True
) -> Results:
    """Put together what is exported.

    Args:
        summary: as of `analysis.studies.variance.summarize`.
        options: of this command line, which repeat it.
        bypass: (first, last), default (33, 49).
        with_figures: whether a figure of each quantity is among them, default True.
    """
    figures = {name: draw_quantity(summary, name, bypass) for name in QUANTITIES} if with_figures else {}
    return Results("variance", options, {"variance": summary}, figures)


def number_or_parti(text: str) -> int | str:
    """Parse `--prompts`: a number of runs, 1 or more, or "parti".

    Args:
        text: the option's.

    Raises:
        argparse.ArgumentTypeError: anything else.
    """
    if text.strip().lower() == "parti":
        return "parti"
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is out of range: 1 or more, or parti.")
    return int(text)


def choose_prompts(options: argparse.Namespace) -> list[str]:
    """Choose the prompts that the command line asks for, one a run.

    Args:
        options: prompts, text, data.

    Raises:
        PromptsError, DatasetError, OSError: they cannot be had.
    """
    if options.prompts == "parti":
        return prompt_lists.parti()
    listed = options.text or prompt_lists.core_subjects(read_image_folder(options.data)[0])["text"].tolist()
    return [listed[index % len(listed)] for index in range(options.prompts)]


def main(arguments: list[str] | None = None) -> int:
    parser = build_parser("analysis.variance", __doc__)
    crf_help = {"help": "bypass CRF (default: shipped); none: the zero-parameter bypass"}
    add_arguments(parser, "data", "out", "model", "crf", crf=crf_help)
    parser.add_argument(
        "--prompts", type=number_or_parti, default=1000, metavar="N",
        help="runs, one a prompt, in turn (default 1000); parti: all Parti prompts, fetched, for Stable Diffusion",
    )  # fmt: skip
    parser.add_argument(
        "--text", action="extend", nargs="+", metavar="PROMPT", help="the prompts (default: the data set's subjects)"
    )
    add_arguments(parser, "seed", "bypass", "guidance", "batch-size", "precision")
    parser.add_argument("--summary-only", action="store_true", help="write settings.json and variance.csv only")
    options = parse(parser, "variance", arguments)
    if options.prompts == "parti" and options.text:
        parser.error("--prompts parti and --text name two sets of prompts; give one.")
    bypass = (options.bypass[0], options.bypass[1])
    try:
        precision = choose_precision(options.precision, "cpu")
        prompts = choose_prompts(options)
        seeds = [options.seed + index for index in range(len(prompts))]
        crf = None if str(options.crf) == "none" else LatentCRF.from_pretrained(options.crf).eval()
        tables = compute(
            load_pipeline(options.model), prompts, seeds, crf, bypass,
            guidance=options.guidance, batch_size=options.batch_size, precision=precision,
        )  # fmt: skip
        count = 2 * -(-len(prompts) // options.batch_size)
        runs = pd.concat(tqdm(tables, total=count, desc="variance", unit="batch"), ignore_index=True)
        settings = {name: getattr(options, name) for name in SAVED}
        settings |= {"bypass": options.bypass, "precision": precision_name(precision)}
        if crf is None:
            settings["crf"] = "none"
        results = build_results(summarize(runs), settings, bypass, with_figures=not options.summary_only)
        names = write_results(results, options.out)
        if not options.summary_only:
            with replace_file(options.out / "runs.csv") as temporary:
                runs.assign(precision=settings["precision"]).to_csv(temporary, index=False, float_format="%.6g")
            names.append("runs.csv")
    except (DatasetError, prompt_lists.PromptsError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"written: {options.out}/{', '.join(names)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
