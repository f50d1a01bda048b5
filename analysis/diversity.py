"""Measure whether a faster sampler loses diversity (paper, Fig. 2).

    python -m analysis.diversity --prompt "red apple" --seeds 16 --out results/diversity

One prompt, many seeds, the same noise for every method. Mean pairwise LPIPS (all n (n - 1) / 2 pairs) and Vendi score
over the seeds of each method, with 95 % jackknife intervals over the seeds, and their ratios to the full run's.
Written to --out: settings.json, diversity.csv, pairs.csv (each pair's LPIPS), each image, and as HTML and PNG the
image grid, the heat maps of the pairs and the metrics.
"""

import sys
from collections.abc import Sequence
from typing import Any

from analysis.arguments import add_arguments, build_parser, load_features_argument, load_lpips_argument, parse_prompt
from analysis.export import Results, parse, write_results
from analysis.figures.diversity import draw_figures
from analysis.sampling import load_pipeline
from analysis.studies import FULL_RUN
from analysis.studies.diversity import CALLS, MethodImages, compute, tabulate, tabulate_pairs
from latentcrf import LatentCRF
from latentcrf.precision import choose_precision, precision_name
from latentcrf.utils.arguments import int_between

SAVED = ("prompt", "seeds", "seed", "guidance")  # options that settings.json names


def build_results(results: Sequence[MethodImages], seeds: Sequence[int], options: dict[str, Any]) -> Results:
    """Put together what is exported: tables, figures and each method's images.

    Args:
        results: as of `analysis.studies.diversity.compute`.
        seeds: one an image.
        options: of this command line, which repeat it.
    """
    table = tabulate(results)
    images = {f"{result.method.replace(', ', '-').replace(' ', '-')}-{seed}": image
              for result in results for seed, image in zip(seeds, result.images, strict=True)}  # fmt: skip
    tables = {"diversity": table, "pairs": tabulate_pairs(results, seeds)}
    return Results("diversity", options, tables, draw_figures(results, table, seeds), images)


def main(arguments: list[str] | None = None) -> int:
    parser = build_parser("analysis.diversity", __doc__)
    add = parser.add_argument
    add_arguments(parser, "out")
    add("--prompt", type=parse_prompt, default="red apple", help="(default: red apple)")
    add("--seeds", type=int_between(4, 64), default=16, metavar="N", help="number of seeds, 4 to 64 (default 16)")
    add("--methods", action="extend", nargs="+", choices=CALLS, metavar="METHOD",
        help=f"of {', '.join(CALLS)} (default: all)")  # fmt: skip
    add_arguments(parser, "seed", "guidance", "model", "crf", "lpips", "features", "precision")
    options = parse(parser, "diversity", arguments)
    seeds = [options.seed + i for i in range(options.seeds)]
    methods = list(dict.fromkeys([FULL_RUN, *(options.methods or CALLS)]))
    try:
        precision = choose_precision(options.precision, "cpu")
        lpips, features = load_lpips_argument(options), load_features_argument(options)
        results = compute(
            load_pipeline(options.model), LatentCRF.from_pretrained(options.crf).eval(), lpips, features,
            options.prompt, seeds, methods, guidance=options.guidance, precision=precision,
        )  # fmt: skip
        settings = {name: getattr(options, name) for name in SAVED}
        settings |= {"precision": precision_name(precision), "methods": methods}
        names = write_results(build_results(results, seeds, settings), options.out)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(tabulate(results).to_string(index=False, float_format="%.3f"))
    print(f"written: {options.out}, {len(names)} files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
