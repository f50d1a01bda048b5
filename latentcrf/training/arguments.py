"""Options that several training command lines share."""

import argparse
from pathlib import Path

from latentcrf.precision import add_precision_argument, choose_precision
from latentcrf.training.loop import best_device
from latentcrf.training.presets import PRESETS
from latentcrf.training.recording import HELD_OUT_EVERY
from latentcrf.utils.arguments import float_between, int_between


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of every training run: folder, time, resuming, seed, precision."""
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the run")
    parser.add_argument(
        "--minutes",
        type=float_between(0, 100_000, above=True),
        default=60.0,
        help="wall-clock training time of the whole run, above 0 (default 60)",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the run's last checkpoint; the other options must be those in DIR/options.json, but for --minutes, "
        "--checkpoint-seconds and, where it exists, --keep-start",
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
        help=f"{samples} a step, 1 to 4096 (default {batch_size or 'the preset’s, for a CPU'})",
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
    parser.add_argument("--base", required=True, metavar="FOLDER", help="the LDM: a StableDiffusionPipeline folder")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help="image folder with metadata.jsonl (see latentcrf.training.data), for instance of recipes.emoji.dataset",
    )
    parser.add_argument("--preset", choices=accepted, default=preset, help=f"size and recipe (default {preset})")
    parser.add_argument(
        "--init-from",
        metavar="FOLDER",
        help="start from the weights of this LatentCRF, or of a plain network of its size",
    )


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
            f"--chunk {options.chunk} is too much for {options.runs} runs: guidance and steps change from chunk to chunk, "
            f"and there must be {kinds} chunks at least."
        )


def parse_arguments(parser: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    """Parse a training command line.

    Args:
        parser: with the options of `add_run_arguments`.
        arguments: the words of the command line; None: those of the process.

    Returns:
        The options; `precision` is the type that its name stands for on `best_device`.
    """
    options = parser.parse_args(arguments)
    try:
        options.precision = choose_precision(options.precision, best_device())
    except ValueError as error:
        parser.error(str(error))
    return options
