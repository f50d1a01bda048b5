"""Take one run apart, for the page that teaches the method: its steps, its energies, its descent, its hand-over.

    python -m analysis.method --out results/method

The full run and LatentCRF start from the same noise. Written to --out: settings.json, steps.csv (variance and change at
each step of the full run), candidates.csv (the energy of latents on the way), weights.csv (the energy's terms at the
minimum and what its image is like, for other weights of each), descent.csv (energy against iteration), hand-over.csv,
and the figures of them as HTML and PNG.
"""

import sys
from pathlib import Path

from analysis.arguments import add_arguments, build_parser, find_network, load_crf_argument, load_finisher, parse_prompt
from analysis.export import Results, parse, write_results
from analysis.figures.walkthrough import COLUMNS, draw_figures
from analysis.sampling import STEPS, load_pipeline
from analysis.studies.walkthrough import PROMPT, SOLVED, Walkthrough, compute
from latentcrf.precision import choose_precision
from latentcrf.utils.arguments import int_between, run_command
from latentcrf.utils.files import claim_folder, release_folder


def build_results(walkthrough: Walkthrough) -> Results:
    """Put together what is exported: tables and figures.

    Args:
        walkthrough: as of `analysis.studies.walkthrough.compute`.
    """
    tables = {"steps": walkthrough.steps, "hand-over": walkthrough.hand_over}
    for name in ("candidates", "weights", "descent"):
        if getattr(walkthrough, name) is not None:  # without a CRF there is no energy
            tables[name] = getattr(walkthrough, name)
    return Results("method", walkthrough.options, tables, draw_figures(walkthrough))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: default: the process's.

    Returns:
        The exit status: 0, or 1 after an error message.
    """
    parser = build_parser("analysis.method", __doc__)
    add = parser.add_argument
    add_arguments(parser, "out")
    add("--prompt", type=parse_prompt, default=PROMPT, help=f"what to draw (default: {PROMPT})")
    add("--steps", type=int_between(COLUMNS, 200), default=STEPS, metavar="N",
        help=f"of the full run, {COLUMNS} to 200 (default {STEPS})")  # fmt: skip
    add_arguments(parser, "seed", "bypass", "guidance", "model", "crf", "precision", crf={
        "help": "bypass CRF (default: shipped); none: the zero-parameter bypass, without what needs an energy"
    })  # fmt: skip
    add("--iterations", type=int_between(0, 50), default=SOLVED, metavar="N",
        help=f"of the CRFs' solver (default {SOLVED})")  # fmt: skip
    add("--finisher", type=Path, metavar="FOLDER", help="finisher; none: no finisher (default: shipped, of its LDM)")
    options = parse(parser, "method", arguments)
    try:
        claim_folder(options.out)
        precision = choose_precision(options.precision, "cpu")
        pipeline, crf = load_pipeline(options.model), load_crf_argument(options)
        folder = find_network(options, "finisher", "emoji-latentcrf-finisher")
        walkthrough = compute(
            pipeline, crf, options.prompt, options.seed,
            bypass=tuple(options.bypass), steps=options.steps, guidance=options.guidance,
            iterations=options.iterations, finisher=load_finisher(folder, options.iterations), precision=precision,
        )  # fmt: skip
        names = write_results(build_results(walkthrough), options.out)
    except (OSError, ValueError) as error:
        release_folder(options.out)
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"written: {options.out}/{', '.join(names)}")
    return 0


if __name__ == "__main__":
    run_command(main)
