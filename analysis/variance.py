"""Measure the latent variance over the steps of a run (paper, Fig. A.1).

    python -m analysis.variance --data data/emoji --out results/variance --prompts 1000
    accelerate launch -m analysis.variance --model FOLDER --crf FOLDER --prompts PartiPrompts.tsv --out results/variance

The full run and LatentCRF start from the same noise. Measured at each step: how far the clean estimate x0_hat and the
latents move, in root mean square a step of the full run, and the variance of both over all their dimensions. A step
that hardly moves the clean estimate is redundant. Written to --out: settings.json, variance.csv (mean, 5th and 95th
percentile over the runs), runs.csv (a row a run and step) and a figure of each quantity as HTML and PNG. With
--summary-only only settings.json and variance.csv, about a hundred rows: what ships.

A launcher's processes share the batches, each with its own GPU; the tables are the same for any number of processes.
Until the tables are written --out holds a folder `parts`: started again, a killed analysis goes on from there.
"""

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import prompts as prompt_lists
from analysis.arguments import add_arguments, build_parser, find_network
from analysis.export import Results, parse, write_results
from analysis.figures.variance import draw_quantity
from analysis.sampling import BYPASS, STEPS, load_pipeline
from analysis.sharding import Part, compute_share, join_processes, open_folder, read_parts
from analysis.studies.variance import QUANTITIES, compute, summarize
from latentcrf import LatentCRF, LatentCRFScheduler
from latentcrf.precision import choose_precision, precision_name
from latentcrf.training.data import DatasetError, read_metadata
from latentcrf.utils.arguments import int_between, run_command
from latentcrf.utils.files import replace_file

SAVED = ("prompts", "text", "seed", "guidance", "steps", "batch_size")  # options that settings.json names


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


def number_or_prompts(text: str) -> int | str:
    """Parse `--prompts`: a number of runs, 1 or more, "parti", or a file of prompts.

    Args:
        text: the option's.

    Raises:
        argparse.ArgumentTypeError: anything else.
    """
    if text.strip().lower() == "parti":
        return "parti"
    if text.strip().isdecimal() and int(text) >= 1:
        return int(text)
    if Path(text).is_file():
        return text
    raise argparse.ArgumentTypeError(f"{text} is out of range: 1 or more, parti, or a file that exists.")


def choose_prompts(options: argparse.Namespace) -> list[str]:
    """Choose the prompts that the command line asks for, one a run.

    Args:
        options: prompts, text, data.

    Raises:
        PromptsError, DatasetError, OSError: they cannot be had.
    """
    if options.prompts == "parti":
        return prompt_lists.parti()
    if isinstance(options.prompts, str):
        return prompt_lists.read_file(options.prompts)
    listed = options.text or prompt_lists.core_subjects(read_metadata(options.data))["text"].tolist()
    return [listed[index % len(listed)] for index in range(options.prompts)]


def run_variance(options: argparse.Namespace) -> list[str]:
    """Compute this process's share of the runs; the main process writes the results to --out.

    Args:
        options: of the command line.

    Returns:
        The names of the written files; none in the other processes.

    Raises:
        PromptsError, DatasetError, OSError, ValueError: wrong options, or --out holds parts of other settings.
    """
    state = join_processes()
    bypass = (options.bypass[0], options.bypass[1])
    precision = choose_precision(options.precision, state.device)
    prompts = choose_prompts(options)
    pipeline = load_pipeline(options.model, state.device)
    crf_folder = find_network(options, "crf", "emoji-latentcrf")
    has_crf = crf_folder is not None and str(crf_folder) != "none"
    crf = LatentCRF.from_pretrained(crf_folder).eval() if has_crf else None
    LatentCRFScheduler(pipeline.scheduler, crf, bypass=bypass).set_timesteps(
        options.steps
    )  # refuses a wrong bypass now
    settings = {name: getattr(options, name) for name in SAVED}
    settings |= {"bypass": options.bypass, "precision": precision_name(precision)}
    encoders = {name: network for name, network in pipeline.components.items() if name.startswith("text_encoder")}
    networks = {**encoders, "unet": pipeline.unet, "crf": crf}
    folder = options.out / "parts"
    key = open_folder(folder, settings | {"prompts": prompts}, networks, state)
    count, size = -(-len(prompts) // options.batch_size), options.batch_size
    parts = [Part(folder / f"{index:05}.npz", key) for index in range(count)]

    def compute_part(index: int) -> None:
        if parts[index].is_stored():
            return
        begin, batch = index * size, prompts[index * size : (index + 1) * size]
        seeds = [options.seed + begin + number for number in range(len(batch))]
        tables = compute(
            pipeline, batch, seeds, crf, bypass, steps=options.steps, guidance=options.guidance, batch_size=size,
            precision=precision,
        )  # fmt: skip
        runs = pd.concat(tables, ignore_index=True)
        runs["run"] += begin
        arrays = {name: runs[name].to_numpy() for name in runs}
        parts[index].write(arrays | {"method": arrays["method"].astype(str)})  # objects cannot be stored

    compute_share(count, compute_part, state, "variance")
    if not state.is_main_process:
        return []
    runs = pd.concat([pd.DataFrame(arrays) for arrays in read_parts(parts)], ignore_index=True)
    if crf is None:
        settings["crf"] = "none"
    names = write_results(
        build_results(summarize(runs), settings, bypass, with_figures=not options.summary_only), options.out
    )
    if not options.summary_only:
        with replace_file(options.out / "runs.csv") as temporary:
            runs.assign(precision=settings["precision"]).to_csv(temporary, index=False, float_format="%.6g")
        names.append("runs.csv")
    shutil.rmtree(folder)
    return names


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: default: the process's.

    Returns:
        The exit status: 0, or 1 after an error message.
    """
    parser = build_parser("analysis.variance", __doc__)
    crf = {"default": None, "help": "bypass CRF (default: shipped; with another --model none: zero-parameter bypass)"}
    add_arguments(parser, "data", "out", "model", "crf", crf=crf)
    parser.add_argument(
        "--prompts", type=number_or_prompts, default=1000, metavar="N",
        help="runs, one a prompt, in turn (default 1000); parti: all Parti prompts, fetched; or a file of prompts, one "
        "a line, or a .tsv with a column Prompt, as PartiPrompts.tsv: all of it",
    )  # fmt: skip
    parser.add_argument(
        "--text", action="extend", nargs="+", metavar="PROMPT", help="the prompts (default: the data set's subjects)"
    )
    parser.add_argument("--steps", type=int_between(2, 200), default=STEPS, metavar="N",
                        help=f"of the full run, 2 to 200 (default {STEPS})")  # fmt: skip
    add_arguments(parser, "seed", "bypass", "guidance", "batch-size", "precision")
    parser.add_argument("--summary-only", action="store_true", help="write settings.json and variance.csv only")
    options = parse(parser, "variance", arguments)
    if isinstance(options.prompts, str) and options.text:
        parser.error(f"--prompts {options.prompts} and --text name two sets of prompts; give one.")
    try:
        names = run_variance(options)
    except (DatasetError, prompt_lists.PromptsError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if names:
        print(f"written: {options.out}/{', '.join(names)}")
    return 0


if __name__ == "__main__":
    run_command(main)
