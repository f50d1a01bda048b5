"""Measure LatentCRF and its baselines on the same prompts and from the same noise.

    python -m analysis.benchmark --data data/emoji --out results/benchmark
    accelerate launch -m analysis.benchmark --model FOLDER --crf FOLDER --data IMAGE_FOLDER --out results/benchmark

LatentCRF acts at the bypass and as the finisher. Baselines: fewer steps (DDIM, DPM-Solver++ 2M, UniPC, "Align Your
Steps"), guidance cut-off, DeepCache, the zero-parameter bypass, and plain networks of the CRFs' sizes. Each is compared
with the full run (distance to its latents and images; CPU time of the sampler, interleaved) and with the data set's
images (KID, Frechet distance, retrieval of the prompted subject), and its seeds with each other (diversity). The
methods that a conclusion rests on are measured on all prompts, the others on the first --few-prompts of them. The
prompts are not those of `analysis.quality`, on which choices may be made; --validation takes those.

Written to --out: benchmark.csv (a row a method), comparisons.csv (paired differences: to the full run; of those with a
CRF also to the best baseline that takes no more time and to their variants), floors.csv (real images, and those through
the autoencoder), frontier.html and frontier.png, benchmark.md, a row of images a method in `samples`, pairs.webp (64
images of the full run beside those of UniPC-12 with cut-off and finisher), and in `methods` what each method has been
measured to: a stopped benchmark goes on from there, and with another CRF only that CRF's methods are measured again.

The processes of `accelerate launch` or `torchrun` share the work, each with its own GPU; the metrics are the same for
any number of processes. Of another --model than the shipped one the methods are measured whose networks are given.
Images without a column code_point have no subjects: R@1 and R@5 are left out.
"""

import argparse
import sys
from pathlib import Path

from analysis.arguments import COUNT, add_arguments, build_parser
from analysis.benchmark.run import NETWORKS, run_benchmark
from analysis.benchmark.tables import format_overview
from latentcrf.training.data import DatasetError
from latentcrf.utils.arguments import int_between, run_command


def build_arguments() -> argparse.ArgumentParser:
    """Build the command line's parser."""
    parser = build_parser("analysis.benchmark", __doc__)
    add = parser.add_argument
    add_arguments(
        parser, "data", "out", "model",
        data={"help": "image folder with captions (default data/emoji)"},
        out={"help": "folder of the benchmark; a second run goes on with it"},
    )  # fmt: skip
    for option, _, words in NETWORKS.values():
        add(f"--{option}", type=Path, metavar="FOLDER", help=f"{words} (default: shipped; none with another --model)")
    add_arguments(parser, "lpips", "features")
    prompts = int_between(2, 100_000)
    add("--prompts", type=prompts, default=200, metavar="N",
        help="number of prompts, of the methods that a conclusion rests on (default 200)")  # fmt: skip
    add("--few-prompts", type=prompts, default=50, metavar="N",
        help="number of prompts of the other methods, at most --prompts (default 50)")  # fmt: skip
    add("--seeds", type=COUNT, default=4, metavar="M", help="images a prompt (default 4); 1 leaves diversity out")
    add_arguments(parser, "seed", seed={"help": "of the prompts' choice and the first image (default 0)"})
    add("--validation", action="store_true", help="take prompts of analysis.quality: for choices, not for reports")
    add("--all", action="store_true", help="measure all methods, also those that nobody would choose")
    add("--only", nargs="+", metavar="METHOD", help="measure these methods (and DDIM-50)")
    add_arguments(parser, "guidance", "batch-size")
    add("--rounds", type=COUNT, default=7, metavar="N",
        help="timed pairs a method (default 7; 5 or more: of fewer the interval is narrower than 95 %%)")  # fmt: skip
    add_arguments(parser, "precision")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: default: the process's.

    Returns:
        The exit status: 0, or 1 after an error message.
    """
    options = build_arguments().parse_args(arguments)
    try:
        table = run_benchmark(options)
    except (DatasetError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if table is not None:
        print(format_overview(table))
        print(f"written: {options.out}/benchmark.csv, comparisons.csv, floors.csv, benchmark.md, frontier.html")
    return 0


if __name__ == "__main__":
    run_command(main)
