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

from analysis.arguments import (
    add_arguments,
    build_parser,
    load_crf_argument,
    load_features_argument,
    load_finisher,
    load_lpips_argument,
    parse_prompt,
)
from analysis.export import Results, parse, write_results
from analysis.figures.diversity import draw_figures
from analysis.markdown import format_statistics
from analysis.sampling import STEPS, load_pipeline
from analysis.studies import FULL_RUN, LATENTCRF
from analysis.studies.diversity import COMPARED, MethodImages, build_latentcrf, compute, tabulate, tabulate_pairs
from latentcrf import Finisher, VAERoundTrip
from latentcrf.precision import choose_precision, precision_name
from latentcrf.utils.arguments import float_between, int_between, run_command
from latentcrf.utils.files import claim_folder, release_folder
from latentcrf.utils.weights import MODELS

SAVED = (  # options that settings.json names
    "prompt", "seeds", "seed", "guidance", "steps", "bypass", "iterations", "finisher", "few_steps", "guidance_cutoff",
)  # fmt: skip


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


def choose_finisher(name: str, iterations: int, pipeline: Any) -> Finisher | VAERoundTrip | None:
    """Choose what corrects LatentCRF's final latents.

    Args:
        name: "none", "shipped", "vae", or a folder.
        iterations: of its solver.
        pipeline: whose autoencoder "vae" takes.

    Returns:
        A finisher; None for "none".

    Raises:
        OSError: there is no such folder.
    """
    if name == "vae":
        return VAERoundTrip(pipeline.vae)
    return load_finisher(MODELS / "emoji-latentcrf-finisher" if name == "shipped" else name, iterations)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: default: the process's.

    Returns:
        The exit status: 0, or 1 after an error message.
    """
    parser = build_parser("analysis.diversity", __doc__)
    add = parser.add_argument
    add_arguments(parser, "out")
    add("--prompt", type=parse_prompt, default="red apple", help="what to draw (default: red apple)")
    add("--seeds", type=int_between(4, 64), default=16, metavar="N", help="number of seeds, 4 to 64 (default 16)")
    add("--methods", action="extend", nargs="+", choices=COMPARED, metavar="METHOD",
        help=f"of {', '.join(COMPARED)} (default: all)")  # fmt: skip
    add("--steps", type=int_between(2, 200), default=STEPS, metavar="N",
        help=f"of the full run, 2 to 200 (default {STEPS})")  # fmt: skip
    add_arguments(parser, "seed", "bypass", "guidance", "model", "crf", "lpips", "features", "precision", crf={
        "help": "bypass CRF (default: shipped); none: there is none, and no LatentCRF among the methods"
    })  # fmt: skip
    add("--iterations", type=int_between(0, 100), default=5, metavar="N", help="of both CRFs' solver (default 5)")
    add(
        "--finisher",
        default="none",
        metavar="FOLDER",
        help="corrects LatentCRF's final latents: none (default), shipped, vae (VAE round trip), or a folder",
    )
    add(
        "--few-steps",
        type=int_between(0, 200),
        default=0,
        metavar="N",
        help="LatentCRF runs N steps of UniPC in place of the bypass (default 0: the bypass)",
    )
    add("--guidance-cutoff", type=float_between(0, 0.9), default=0.0, metavar="SHARE",
        help="of LatentCRF's denoiser calls, the last, without guidance (default 0)")  # fmt: skip
    options = parse(parser, "diversity", arguments)
    seeds = [options.seed + i for i in range(options.seeds)]
    without_crf = [name for name in COMPARED if name != LATENTCRF]
    default = without_crf if str(options.crf) == "none" else COMPARED
    methods = list(dict.fromkeys([FULL_RUN, *(options.methods or default)]))
    try:
        claim_folder(options.out)
        precision = choose_precision(options.precision, "cpu")
        lpips, features = load_lpips_argument(options), load_features_argument(options)
        pipeline, crf = load_pipeline(options.model), load_crf_argument(options)
        latentcrf = None if crf is None else build_latentcrf(
            pipeline.scheduler, crf, steps=options.steps, bypass=tuple(options.bypass), iterations=options.iterations,
            finisher=choose_finisher(options.finisher, options.iterations, pipeline), few_steps=options.few_steps,
            guidance_cutoff=options.guidance_cutoff,
        )  # fmt: skip
        results = compute(
            pipeline, latentcrf, lpips, features, options.prompt, seeds, methods,
            steps=options.steps, bypass=tuple(options.bypass), guidance=options.guidance, precision=precision,
        )  # fmt: skip
        settings = {name: getattr(options, name) for name in SAVED}
        settings |= {"precision": precision_name(precision), "methods": methods}
        names = write_results(build_results(results, seeds, settings), options.out)
    except (OSError, ValueError) as error:
        release_folder(options.out)
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(format_statistics(tabulate(results), ".3f"))
    print(f"written: {options.out}, {len(names)} files")
    return 0


if __name__ == "__main__":
    run_command(main)
