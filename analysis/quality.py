"""Measure the embedded models, each with one command.

    python -m analysis.quality autoencoder --data data/emoji --out results
    python -m analysis.quality ldm --data data/emoji --out results --prompts 200
    python -m analysis.quality crf --data data/emoji --out results --prompts 100
    python -m analysis.quality cost --out results

autoencoder: PSNR (dB) and LPIPS of the held-out images. ldm: how often the prompted subject is among the data-set
images nearest to a generated one (EfficientNet-Lite0 features, cosine), beside what real images reach among the others.
crf: distance of LatentCRF, and of the zero-parameter bypass, to the full run from the same noise; denoiser calls and
network evaluations; time of the sampler (without text encoder and decoder) against the full run's. cost: time
(milliseconds) and parameters of each CRF, and time of the VAE round trip, beside a guided denoiser call. Each writes
NAME.csv (a row an item; cost: a round) and NAME-summary.csv (with 95 % bootstrap intervals) to --out.
"""

import argparse
import sys
from pathlib import Path

from analysis.arguments import COUNT, add_arguments, build_parser, load_features_argument, load_lpips_argument
from analysis.figures.grid import draw_captioned_sheet
from analysis.markdown import format_statistics
from analysis.prompts import DEFAULT_PROMPTS, draw_prompts
from analysis.reference_features import load_gallery
from analysis.sampling import load_pipeline
from analysis.studies.quality import Quality, Sampling, measure_autoencoder, measure_cost, measure_crf, measure_ldm
from latentcrf import LatentCRF
from latentcrf.precision import choose_precision, precision_name
from latentcrf.training.data import DatasetError, read_image_folder
from latentcrf.utils.arguments import int_between, run_command
from latentcrf.utils.files import claim_folder, replace_file
from latentcrf.utils.weights import MODELS

CRFS = (
    *("emoji-latentcrf", "emoji-latentcrf-static", "emoji-latentcrf-finisher"),
    *("emoji-plain", "emoji-plain-finisher"),
)
EXAMPLES = {
    name: f"Example: python -m analysis.quality {words}"
    for name, words in {
        "autoencoder": "autoencoder --data data/emoji --out results",
        "ldm": "ldm --data data/emoji --out results --prompts 200",
        "crf": "crf --data data/emoji --out results --prompts 100",
        "cost": "cost --out results",
    }.items()
}
SHEET = 64  # images on the LDM's sheet


def write(name: str, quality: Quality, options: argparse.Namespace) -> None:
    """Write both tables to --out, each with a column `precision`, and print the summary.

    Args:
        name: of the files.
        quality: what was measured.
        options: out, precision.
    """
    for ending, table in (("", quality.items), ("-summary", quality.summary)):
        with replace_file(options.out / f"{name}{ending}.csv") as temporary:
            table = table.assign(precision=precision_name(options.precision))
            table.to_csv(temporary, index=False, float_format="%.6g")
    print(format_statistics(quality.summary, ".4g"))
    print(f"written: {options.out / name}.csv, {options.out / name}-summary.csv")


def load_crf(folder: Path) -> LatentCRF:
    """Load a CRF.

    Args:
        folder: of the model.
    """
    return LatentCRF.from_pretrained(folder, use_safetensors=True, local_files_only=True).eval()


def autoencoder(options: argparse.Namespace) -> None:
    """Measure the reconstruction of the held-out images: PSNR in dB, LPIPS(alex)."""
    rows, pixels = read_image_folder(options.data)
    pipeline, lpips = load_pipeline(options.model), load_lpips_argument(options)
    quality = measure_autoencoder(pipeline, lpips, rows, pixels, options.batch_size, options.precision)
    write("autoencoder", quality, options)


def ldm(options: argparse.Namespace) -> None:
    """Measure retrieval of the prompted subject, R@1 and R@5, beside real images'; draw a sheet of the first images."""
    rows, pixels = read_image_folder(options.data)
    prompts = draw_prompts(rows, options.prompts, options.seed)
    features = load_features_argument(options)
    gallery, labels = load_gallery(features, rows, pixels, options.data)
    seeds = [options.seed + index for index in range(len(prompts))]
    quality = measure_ldm(
        load_pipeline(options.model), features, gallery, labels, prompts, seeds, read_sampling(options)
    )
    assert quality.images is not None
    with replace_file(options.out / "ldm-sheet.png") as temporary:
        draw_captioned_sheet(quality.images[:SHEET], prompts["text"].tolist()[:SHEET]).save(temporary)
    write("ldm", quality, options)


def crf(options: argparse.Namespace) -> None:
    """Measure LatentCRF and the zero-parameter bypass against the full run from the same noise."""
    rows, _ = read_image_folder(options.data)
    prompts = draw_prompts(rows, options.prompts, options.seed)
    seeds = [options.seed + index for index in range(len(prompts))]
    quality = measure_crf(
        load_pipeline(options.model), load_crf(options.crf), load_lpips_argument(options), prompts, seeds,
        read_sampling(options), options.iterations, options.rounds, options.threads,
    )  # fmt: skip
    write("crf", quality, options)


def cost(options: argparse.Namespace) -> None:
    """Measure what each shipped CRF, plain network and the VAE round trip take beside a guided denoiser call."""
    crfs = {name: load_crf(MODELS / name) for name in CRFS}
    quality = measure_cost(
        load_pipeline(options.model), crfs, options.iterations, options.rounds, options.threads, options.precision
    )
    write("cost", quality, options)


def read_sampling(options: argparse.Namespace) -> Sampling:
    """Read how to sample from the command line.

    Args:
        options: guidance, batch_size, precision.
    """
    return Sampling(options.guidance, options.batch_size, options.precision)


def build_arguments() -> argparse.ArgumentParser:
    """Build the command line's parser."""
    parser = build_parser("analysis.quality", __doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="{autoencoder,ldm,crf,cost}")
    for run in (autoencoder, ldm, crf, cost):
        sub = commands.add_parser(
            run.__name__, help=run.__doc__, description=run.__doc__, epilog=EXAMPLES[run.__name__]
        )
        sub.set_defaults(run=run)
        if run is not cost:
            add_arguments(sub, "data", "batch-size")
        add_arguments(sub, "out", "model", "precision")
        if prompts := DEFAULT_PROMPTS.get(run.__name__):
            sub.add_argument("--prompts", type=COUNT, default=prompts, metavar="N",
                             help=f"number of prompts (default {prompts})")  # fmt: skip
            add_arguments(
                sub, "seed", "guidance", seed={"help": "of the prompts' choice and the first image (default 0)"}
            )
        if run in (autoencoder, crf):
            add_arguments(sub, "lpips")
        if run is ldm:
            add_arguments(sub, "features")
        if run is crf:
            add_arguments(sub, "crf")
        if run in (crf, cost):
            rounds = 15 if run is crf else 40
            add = sub.add_argument
            add("--iterations", type=int_between(0, 1000), default=5, metavar="N", help="CRF iterations (default 5)")
            add("--rounds", type=COUNT, default=rounds, metavar="N", help=f"timed rounds (default {rounds})")
            add("--threads", type=COUNT, default=2, metavar="N", help="CPU threads while timing (default 2)")
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
        claim_folder(options.out)
        options.precision = choose_precision(options.precision, "cpu")
        options.run(options)
    except (DatasetError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    run_command(main)
