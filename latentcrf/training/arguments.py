"""Options that several training command lines share."""

import argparse
from pathlib import Path

from latentcrf.precision import add_precision_argument, choose_precision
from latentcrf.training.data import DataSource
from latentcrf.training.presets import PRESETS, Preset
from latentcrf.training.processes import best_device
from latentcrf.training.recording import HELD_OUT_EVERY
from latentcrf.utils.arguments import float_between, int_between, output_folder

MINUTES = 60.0  # of a run that names no budget


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of every training run: folder, budget, resuming, seed, precision, accumulation, log."""
    parser.add_argument("--out", type=output_folder, required=True, metavar="DIR", help="folder of the run")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument(
        "--minutes",
        type=float_between(0, 100_000, above=True),
        help=f"wall-clock training time of the whole run, above 0 (default {MINUTES:g}, without --max-steps)",
    )
    budget.add_argument(
        "--max-steps",
        type=int_between(1, 10**9),
        metavar="N",
        help="steps of the whole run, instead of a time; learning rate and stages follow them, so that a run is the "
        "same on every machine",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the run's last checkpoint; the other options must be those in OUT/options.json, but for "
        "--minutes, --max-steps, --checkpoint-seconds, --report-to and, where it exists, --keep-start; there must be "
        "as many processes as before",
    )
    parser.add_argument(
        "--checkpoint-seconds",
        type=float_between(1, 3600),
        default=240.0,
        metavar="S",
        help="seconds between checkpoints, 1 to 3600 (default 240)",
    )
    parser.add_argument(
        "--seed", type=int_between(0, 2**63 - 1), default=0, help="of weights and data order, at least 0 (default 0)"
    )
    parser.add_argument(
        "--gradient-accumulation",
        type=int_between(1, 4096),
        default=1,
        metavar="N",
        help="batches a step, for GPUs that have no room for a larger batch, 1 to 4096 (default 1)",
    )
    parser.add_argument(
        "--report-to", choices=["tensorboard"], help="write losses and reports to OUT/tensorboard too (default: no)"
    )
    add_precision_argument(parser)


def add_step_arguments(
    parser: argparse.ArgumentParser, batch_size: int | None, learning_rate: float | None, samples: str
) -> None:
    """Add the options of a training step.

    Args:
        parser: of the command line.
        batch_size: default; None: the preset's.
        learning_rate: default; None: the preset's.
        samples: what a batch consists of, for the help text.
    """
    parser.add_argument(
        "--batch-size",
        type=int_between(1, 4096),
        default=batch_size,
        metavar="N",
        help=f"{samples} a batch in each process, 1 to 4096 (default {batch_size or 'the preset’s, for a CPU'})",
    )
    parser.add_argument(
        "--learning-rate",
        type=float_between(0, 0.1, above=True),
        default=learning_rate,
        help=f"peak, before the cosine, above 0, at most 0.1 (default {learning_rate or 'the preset’s'})",
    )


def add_model_arguments(parser: argparse.ArgumentParser, preset: str) -> None:
    """Add the options that name the LDM, the data and the CRF's preset.

    Args:
        parser: of the command line.
        preset: the default; presets of its kind (for a bypass, or for a finisher) are accepted.
    """
    accepted = sorted(name for name in PRESETS if PRESETS[name].corrects_clean == PRESETS[preset].corrects_clean)
    parser.add_argument(
        "--base",
        required=True,
        metavar="PATH_OR_ID",
        help="the LDM: folder or hub id of a StableDiffusionPipeline or StableDiffusionXLPipeline",
    )
    add_data_arguments(parser)
    parser.add_argument("--preset", choices=accepted, default=preset, help=f"size and recipe (default {preset})")
    parser.add_argument(
        "--init-from",
        metavar="FOLDER",
        help="start from the weights of this LatentCRF, or of a plain network of its size",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print parameters, FLOPs, memory, disk and the expected time after ten steps on random data; nothing else "
        "is computed and nothing is written",
    )


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the training data; `find_source` reads them."""
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="PATH",
        help="folder with metadata.jsonl or metadata.csv (file_name, text), Parquet files or WebDataset tars, or one "
        "such file; see latentcrf.training.data",
    )
    parser.add_argument("--image-column", metavar="NAME", help="default: image; of tars the first one with images")
    parser.add_argument("--caption-column", metavar="NAME", help="default: text; of tars txt")


def add_guidance_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option of the recorded runs' guidance."""
    parser.add_argument(
        "--guidance",
        type=float_between(1, 100),
        default=Preset.guidance,
        metavar="SCALE",
        help="main scale of classifier-free guidance of the LDM's runs, 1 to 100, 1 is none; others, of the recipe, "
        f"keep their ratio to it (default {Preset.guidance:g}, the emoji model's; Stable Diffusion's usual one is 7.5)",
    )


def find_source(options: argparse.Namespace) -> DataSource:
    """Return the source that the options of `add_data_arguments` name."""
    return DataSource(options.data, options.image_column, options.caption_column)


def add_recording_arguments(
    parser: argparse.ArgumentParser, runs: int, smallest: int, chunk: int, subfolder: str
) -> None:
    """Add the options of recorded runs.

    Args:
        parser: of the command line.
        runs: default number of runs.
        smallest: fewest runs accepted.
        chunk: default number of runs a chunk.
        subfolder: of the run's folder, where recordings lie by default.
    """
    parser.add_argument(
        "--runs",
        type=int_between(smallest, 1_000_000),
        default=runs,
        help=f"LDM runs to learn from, recorded where they are missing, {smallest} to 1000000 (default {runs})",
    )
    parser.add_argument(
        "--recordings",
        type=Path,
        metavar="DIR",
        help=f"folder of the recordings, which several trainings may share (default OUT/{subfolder})",
    )
    add_guidance_argument(parser)
    parser.add_argument(
        "--chunk",
        type=int_between(HELD_OUT_EVERY, 4096),
        default=chunk,
        metavar="N",
        help="LDM runs that are recorded at once, with the same guidance and steps, "
        f"{HELD_OUT_EVERY} to 4096: a GPU wants more (default {chunk})",
    )


def check_chunk(parser: argparse.ArgumentParser, options: argparse.Namespace, kinds: int) -> None:
    """Exit with an error where the runs make too few chunks.

    Args:
        parser: of the command line.
        options: with `chunk` and `runs`.
        kinds: chunks until every guidance scale and kind of run has occurred.
    """
    if options.chunk != parser.get_default("chunk") and options.runs < (kinds - 1) * options.chunk + 1:
        parser.error(
            f"--chunk {options.chunk} is too much for {options.runs} runs: guidance and steps change from chunk to "
            f"chunk, and there must be {kinds} chunks at least."
        )


def parse_arguments(parser: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    """Parse a training command line.

    Args:
        parser: with `--precision`, as of `add_run_arguments`.
        arguments: the words of the command line; None: those of the process.

    Returns:
        The options; `precision` is the type that its name stands for on `best_device`.
    """
    options = parser.parse_args(arguments)
    if "minutes" in options and options.minutes is None and options.max_steps is None:
        options.minutes = MINUTES
    try:
        options.precision = choose_precision(options.precision, best_device())
    except ValueError as error:
        parser.error(str(error))
    return options
