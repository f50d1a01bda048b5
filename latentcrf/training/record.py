"""Record the LDM's own runs, for the training of a bypass CRF or of a finisher.

    python -m latentcrf.training.record --base PIPELINE --data DATA --out runs/recordings --runs 4096
    python -m latentcrf.training.record --base PIPELINE --data DATA --out runs/final-latents --static CRF --runs 10240

Several processes share the work, on several machines too if they see one folder:

    accelerate launch --multi_gpu -m latentcrf.training.record ...

A stopped recording goes on when its command is given again; damaged files are recorded again. The trainings read the
folder with `--recordings`, the same `--chunk`, `--guidance` and `--precision`.
"""

import argparse
import sys

from latentcrf.precision import add_precision_argument
from latentcrf.training.arguments import (
    add_data_arguments,
    add_guidance_argument,
    check_chunk,
    find_source,
    parse_arguments,
)
from latentcrf.training.data import DatasetError, read_prompts
from latentcrf.training.final_latents import FinalLatentsSettings, load_static, record_final_latents
from latentcrf.training.ldm import load_ldm
from latentcrf.training.loop import RunError
from latentcrf.training.processes import best_device, find_processes
from latentcrf.training.recording import HELD_OUT_EVERY, RecordingSettings, record_runs
from latentcrf.utils.arguments import int_between, output_folder, run_command
from latentcrf.utils.files import claim_folder


def record(options: argparse.Namespace) -> None:
    """Record what the command line describes."""
    if find_processes().is_main_process:
        claim_folder(options.out)
    prompts = read_prompts(find_source(options))
    ldm = load_ldm(options.base, best_device())
    if options.static:
        static = load_static(options.static, ldm)
        final = FinalLatentsSettings.choose(options.guidance, options.chunk)
        record_final_latents(ldm, static, prompts, options.out, options.runs, final, options.precision)
    else:
        runs = RecordingSettings.choose(options.guidance, options.chunk)
        record_runs(ldm, prompts, options.out, options.runs, runs, options.precision)
    process = find_processes()
    size = sum(path.stat().st_size for path in options.out.glob("[0-9]*.safetensors"))
    print(
        f"process {process.process_index + 1} of {process.num_processes} is done; {options.out} holds "
        f"{size / 1e9:.2f} GB",
        flush=True,
    )


def build_parser() -> argparse.ArgumentParser:
    """Build the command line's parser."""
    parser = argparse.ArgumentParser(
        prog="python -m latentcrf.training.record",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--base", required=True, metavar="PIPELINE", help="the LDM: folder or hub id of a pipeline")
    add_data_arguments(parser)
    add("--out", type=output_folder, required=True, metavar="DIR", help="folder of the recordings")
    add("--runs", type=int_between(16, 1_000_000), required=True, metavar="N", help="LDM runs, 16 to 1000000")
    add("--static", metavar="FOLDER",
        help="LatentCRF of the static form: record final latents and what the finisher's teacher makes of them "
        "(default: runs with all steps, for a bypass CRF)")  # fmt: skip
    add("--chunk", type=int_between(HELD_OUT_EVERY, 4096), metavar="N",
        help="LDM runs that are recorded at once, with the same guidance and steps, and make a file: "
        f"{HELD_OUT_EVERY} to 4096 (default {RecordingSettings.chunk}, with --static "
        f"{FinalLatentsSettings.chunk})")  # fmt: skip
    add_guidance_argument(parser)
    add_precision_argument(parser)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = build_parser()
    options = parse_arguments(parser, arguments)
    settings = FinalLatentsSettings() if options.static else RecordingSettings()
    if options.chunk is None:
        options.chunk = settings.chunk
    else:
        check_chunk(parser, options, settings.num_kinds)
    try:
        record(options)
    except (RunError, DatasetError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    run_command(main)
