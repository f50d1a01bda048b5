"""What each part of the CRF adds: models of several presets, and iteration counts, on the same recorded runs.

    python -m analysis.ablation --recordings runs/recordings --out results/ablation \\
        --crf emoji=runs/emoji/latentcrf emoji-plain=runs/emoji-plain/latentcrf

The models are those of `latentcrf.training.train --preset NAME --recordings runs/recordings`, with equal options else. Of
the recorded runs the held-out ones are handed over to each: mean squared error of the latents handed back against the
LDM's own, for the bypass (33, 49) of 50 and for runs of 4 to 12 steps that the CRF ends. With `--data` also what the
latents decode to: KID to the data set's images of runs that the CRF ends, from step 33 of 50 and at the last step but
one of 4 to 12, and of the LDM's own runs that the CRF finishes; beside that of the LDM's own images. Written to --out:
ablation.csv (a row a model and iteration count) and ablation.md, with 95 % bootstrap intervals over the runs, the
differences to the first model paired. The CRFs compute in float32; `--precision` is the decoder's.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from torch import Tensor, nn

from analysis.benchmark.tables import markdown_table
from analysis.measures import RealFeatures, cluster_weights, interval, kid_draws, mean_draws
from analysis.metrics.perceptual import load_features
from analysis.reference_features import embed, load_gallery
from analysis.sampling import decode, load_pipeline
from latentcrf import LatentCRF, Observation
from latentcrf.observation import trend
from latentcrf.precision import add_precision_argument, choose_precision, precision_name
from latentcrf.training.data import DatasetError, read_image_folder
from latentcrf.training.loop import RunError
from latentcrf.training.observations import observe_coarse, observe_run
from latentcrf.training.recording import RecordedRuns, RecordingSettings, load_recorded_runs
from latentcrf.training.train import PAPER_BYPASS, measure_errors, split
from latentcrf.utils.files import replace_file
from latentcrf.utils.weights import MODELS

CPU = torch.device("cpu")
FINISHING_SHARE = (
    0.7  # how far final latents go towards a model's result: best for the static form on validation prompts
)
ITERATIONS = 5
KINDS = {"mse": "(33, 49) of 50", "few": "4 to 12 steps, to the end"}
IMAGE_KINDS = {
    "kid": "KID x 1000, (33, 50) of 50",
    "kid_few": "KID x 1000, 4 to 12 steps",
    "kid_finished": "KID x 1000, as finisher",
}
NO_PARAMETERS, FULL = "without parameters", "the LDM's own"
LINE, SLOPE = "a straight line through two estimates", 0.4  # units of log-SNR, chosen on recorded runs that are learned
ENDS = ("", "_low", "_high")
Mend = Callable[[Observation], Tensor]


def named_folder(text: str) -> tuple[str, Path]:
    """NAME=FOLDER of --crf."""
    name, sign, folder = text.partition("=")
    if not (name and sign and folder):
        raise argparse.ArgumentTypeError(f"--crf {text!r} is not NAME=FOLDER.")
    return name, Path(folder)


class EndedRuns:
    """KID x 1000, to real images, of the images at which recorded runs arrive that a CRF ends or finishes.

    Args:
        runs: the recorded runs (n); resampled are they.
        features: reads the images.
        real: of the data set's images.
        precision: in which the decoder computes.
    """

    def __init__(
        self, pipeline: StableDiffusionPipeline, runs: RecordedRuns, features: nn.Module, real: RealFeatures,
        precision: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        assert runs.coarse is not None
        self.pipeline, self.features, self.real, self.precision = pipeline, features, real, precision
        self.weights, self.own = cluster_weights(len(runs)), runs.latents[:, -1]
        steps, every, end = runs.coarse, torch.arange(len(runs)), torch.full((len(runs),), runs.steps)
        first = torch.full_like(end, PAPER_BYPASS[0])
        # the last of a coarse run's recorded steps: the next is another run's, or the same run's by another solver
        another = (steps.runs[1:] != steps.runs[:-1]) | (steps.alphas[1:] < steps.alphas[:-1])
        last = torch.cat([another, torch.tensor([True])]).nonzero()[:, 0]
        last = last[steps.runs[last].argsort(stable=True)].view(len(runs), -1)
        self.endings = {
            "kid": [observe_run(runs, every, first - 1, first, end)[0]],
            "kid_few": [observe_coarse(runs, by_solver)[0] for by_solver in last.T],
            "kid_finished": [Observation(self.own, self.own, 1.0, 1.0)],
        }

    @torch.no_grad()
    def draws(self, mend: Mend | None) -> dict[str, np.ndarray]:
        """`measures.kid_draws` for each of `IMAGE_KINDS`, of `mend`'s latents or, for None, of the LDM's own; mean over the
        solvers, each for itself: two solvers' images from one noise are no two draws."""
        return {
            kind: np.mean([self._kid(self._ended(kind, each, mend)) for each in handed], axis=0)
            for kind, handed in self.endings.items()
        }

    def _ended(self, kind: str, handed: Observation, mend: Mend | None) -> Tensor:
        if mend is None:
            return self.own
        return self.own.lerp(mend(handed), FINISHING_SHARE) if kind == "kid_finished" else mend(handed)

    def _kid(self, latents: Tensor) -> np.ndarray:
        features = embed(self.features, decode(self.pipeline, latents, precision=self.precision))
        return 1000 * kid_draws(features, np.arange(len(features)), self.real, self.weights)


def straight_line(handed: Observation) -> Tensor:
    """What one would do with the trend and no network: from the earlier clean estimate through the last, and `SLOPE` on."""
    level = handed.alpha_in if handed.alpha_denoised is None else handed.alpha_denoised
    return handed.denoised + SLOPE * trend(handed, level)[0]


def compute(
    crfs: dict[str, LatentCRF], runs: RecordedRuns, counts: list[int], images: EndedRuns | None = None
) -> pd.DataFrame:
    """A row a model with `ITERATIONS` iterations, and of the first model one for each other count.

    Columns: model, iterations, parameters, and for each of `KINDS` its mean error, the interval's ends (_low, _high), and
    the difference to the first row (_difference, and its ends), negative where better than it. With `images` alike for
    each of `IMAGE_KINDS`, and a row for the LDM's own images. At the end what needs no training: the last estimate, and the
    straight line.
    """
    first = next(iter(crfs))
    cases = [(name, ITERATIONS) for name in crfs] + [(first, count) for count in counts if count != ITERATIONS]
    ways: list[tuple[str, int, int, Mend | None]] = [
        (name, count, sum(p.numel() for p in crfs[name].parameters()), partial(crfs[name], num_iterations=count))
        for name, count in cases
    ]
    ways += [(LINE, 0, 1, straight_line), (NO_PARAMETERS, 0, 0, lambda handed: handed.denoised)]
    if images is not None:
        ways.append((FULL, 0, 0, None))
    rows: list[dict[str, object]] = []
    start: dict[str, np.ndarray] = {}
    weights = cluster_weights(len(runs))
    for name, count, parameters, mend in ways:
        row: dict[str, object] = {"model": name, "iterations": count, "parameters": parameters}
        found = {} if images is None else images.draws(mend)
        if mend is not None:
            by_run = measure_errors(mend, runs, CPU)
            found = {kind: mean_draws(by_run[kind].numpy(), weights) for kind in KINDS} | found
        start = start or found
        for kind, draws in found.items():
            for suffix, numbers in (("", draws), ("_difference", draws - start[kind])):
                ends = interval(numbers, distance=kind in IMAGE_KINDS)
                row |= {f"{kind}{suffix}{end}": value for end, value in zip(ENDS, ends, strict=True)}
        rows.append(row)
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    """The table to be read, intervals and all."""
    titles = {kind: title for kind, title in (KINDS | IMAGE_KINDS).items() if kind in table}
    header = ["model", "iterations", "parameters"]
    header += [cell for title in titles.values() for cell in (title, "against the first")]
    rows = []
    for index, row in table.iterrows():
        cells = [row["model"], str(row["iterations"]), f"{row['parameters']:,}"]
        for kind in titles:
            if pd.isna(row[kind]):  # the LDM's own latents have no error
                cells += ["", ""]
                continue
            digits = 4 if kind in KINDS else 1
            difference, low, high = (f"{row[f'{kind}_difference{end}']:+.{digits}f}" for end in ENDS)
            cells += [f"{row[kind]:.{digits}f}", f"{difference} ({low} to {high})" if index else ""]
        rows.append(cells)
    return markdown_table(header, rows) + "\n"


def ended_runs(options: argparse.Namespace, runs: RecordedRuns, precision: torch.dtype) -> EndedRuns:
    """As the command line wants it.

    Raises:
        DatasetError, OSError: no data set, or no pipeline.
    """
    rows, pixels = read_image_folder(options.data)
    features = load_features()
    gallery, _ = load_gallery(features, rows, pixels, options.data)
    core = [index for index, row in enumerate(rows) if row["core"]]
    return EndedRuns(load_pipeline(options.model), runs, features, RealFeatures(gallery[core]), precision)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.ablation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--recordings", type=Path, required=True, metavar="DIR", help="recorded runs of latentcrf.training.train")
    add("--crf", type=named_folder, nargs="+", required=True, metavar="NAME=FOLDER", help="models, the whole one first")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for the tables")
    add(
        "--model",
        type=Path,
        default=MODELS / "emoji-ldm",
        metavar="FOLDER",
        help="the LDM's pipeline (default: shipped)",
    )
    add("--data", type=Path, metavar="DIR", help="data set, to judge images too (default: latents alone)")
    add("--iterations", type=int, nargs="+", default=[1, 2, 3, 5, 10], metavar="N",
        help="iteration counts of the first model (default 1 2 3 5 10)")  # fmt: skip
    add_precision_argument(parser)
    options = parser.parse_args(arguments)
    if wrong := [count for count in options.iterations if not 0 <= count <= 100]:
        parser.error(f"--iterations {wrong[0]} is out of range: 0 to 100.")
    try:
        precision = choose_precision(options.precision, "cpu")
        scheduler = DDIMScheduler.from_pretrained(options.model, subfolder="scheduler", local_files_only=True)
        held_out, _ = split(load_recorded_runs(options.recordings, scheduler, RecordingSettings()))
        crfs = {
            name: LatentCRF.from_pretrained(folder, torch_dtype=torch.float32).eval() for name, folder in options.crf
        }
        images = ended_runs(options, held_out, precision) if options.data else None
        table = compute(crfs, held_out, options.iterations, images)
    except (DatasetError, OSError, RunError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    with replace_file(options.out / "ablation.csv") as temporary:
        table.assign(precision=precision_name(precision)).to_csv(temporary, index=False, float_format="%.6g")
    with replace_file(options.out / "ablation.md") as temporary:
        temporary.write_text(f"{markdown(table)}\n{len(held_out)} held-out runs.\n")
    print(markdown(table))
    print(f"written: {options.out}/ablation.csv, ablation.md; {len(held_out)} held-out runs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
