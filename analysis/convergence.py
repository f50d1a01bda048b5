"""Measure how the CRF converges (paper, Fig. A.2): images, energy and residual after each iteration.

    python -m analysis.convergence --prompt "red apple" --seeds 4 --out results/convergence

The LDM runs once up to the bypass. There both solvers minimize the CRF's energy from where the sampler stopped: from
its clean estimate, and from its noisy latents. LatentCRF itself starts at its network's target u; the table has that
start too. Written to --out: settings.json, convergence.csv (a row a seed, start, solver and iteration), and for each of
the first two starts, as HTML and PNG, the iterates with their difference to the last one, the energy and residual
curves, and maps of the energy of each site.
"""

import sys
from typing import Any

from analysis.arguments import add_arguments, build_parser, parse_prompt
from analysis.export import Results, parse, write_results
from analysis.figures.convergence import STARTS, draw_figures
from analysis.sampling import STEPS, load_pipeline
from analysis.studies.convergence import Convergence, compute
from latentcrf import LatentCRF
from latentcrf.precision import choose_precision, precision_name
from latentcrf.utils.arguments import int_between, run_command
from latentcrf.utils.files import claim_folder, release_folder

SAVED = ("prompt", "seeds", "seed", "steps", "guidance", "bypass")  # options that settings.json names


def build_results(convergence: Convergence, options: dict[str, Any]) -> Results:
    """Put together what is exported.

    Args:
        convergence: as of `analysis.studies.convergence.compute`.
        options: of this command line, which repeat it.
    """
    figures = {f"{name}-from-{start}": figure
               for start in STARTS for name, figure in draw_figures(convergence, start).items()}  # fmt: skip
    return Results("convergence", options, {"convergence": convergence.table}, figures)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: default: the process's.

    Returns:
        The exit status: 0, or 1 after an error message.
    """
    parser = build_parser("analysis.convergence", __doc__)
    add = parser.add_argument
    add_arguments(parser, "out")
    add("--prompt", type=parse_prompt, default="red apple", help="what to draw (default: red apple)")
    add("--seeds", type=int_between(1, 6), default=4, metavar="N", help="number of seeds, 1 to 6 (default 4)")
    add("--steps", type=int_between(2, 200), default=STEPS, metavar="N",
        help=f"of the full run, 2 to 200 (default {STEPS})")  # fmt: skip
    add_arguments(parser, "seed", "bypass", "guidance", "model", "crf", "precision")
    options = parse(parser, "convergence", arguments)
    try:
        claim_folder(options.out)
        precision = choose_precision(options.precision, "cpu")
        pipeline, crf = load_pipeline(options.model), LatentCRF.from_pretrained(options.crf).eval()
        convergence = compute(
            pipeline, crf, options.prompt,
            [options.seed + i for i in range(options.seeds)], bypass=tuple(options.bypass), steps=options.steps,
            guidance=options.guidance, precision=precision,
        )  # fmt: skip
        settings = {name: getattr(options, name) for name in SAVED} | {"precision": precision_name(precision)}
        names = write_results(build_results(convergence, settings), options.out)
    except (OSError, ValueError) as error:
        release_folder(options.out)
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"written: {options.out}/{', '.join(names)}")
    return 0


if __name__ == "__main__":
    run_command(main)
