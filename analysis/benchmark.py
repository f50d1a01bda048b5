"""LatentCRF and what one would do instead, on the same prompts and from the same noise.

    python -m analysis.benchmark --data data/emoji --out results/benchmark --prompts 50 --seeds 8

LatentCRF is measured in its conditional form and in its static form at the hand-over, and as a finisher of runs: in its static
form, with the autoencoder's round trip after it and without, and in the conditional form that learned to do both at once.
Rivals: DDIM with fewer steps, DPM-Solver++ 2M, UniPC, the bypass without parameters, the round trip without a CRF, mere
scaling in the CRF's place, and plain convolutional networks of the CRFs' sizes in their places. Each is compared with the full
run (distance to its latents and images, time of the sampler, interleaved pairs) and with the data set's images (KID, Frechet
distance, retrieval of the prompted subject), and its seeds with each other (diversity). The prompts are not those of
`analysis.quality`, on which choices may be made; `--validation` takes those.

Written to --out: benchmark.csv (a row a method), comparisons.csv (each run against the full run, those with a CRF
also against the best rival that takes no more time and their twins: without parameters, plain, without finisher, with
another one), frontier.html and frontier.png, benchmark.md, a row of images a method in `samples`, and in `methods` what each method has been measured
to: a broken-off benchmark goes on from there, and with another CRF only its own methods are measured again.
"""

import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from analysis import frontier, measures
from analysis.export import write_figure
from analysis.frontier import FULL
from analysis.gallery import load_gallery
from analysis.generate import GUIDANCE, decode, load_pipeline, remembering
from analysis.prompts import remaining_prompts, validation_prompts
from analysis.rivals import ENDINGS, SCALE, Method, Scaling, all_methods, scheduler_of
from analysis.tables import compare, markdown, row_of
from analysis.trials import Judges, Task, clock, measure
from latentcrf import LatentCRF
from latentcrf.digest import digest
from latentcrf.emoji.dataset import DatasetError, load
from latentcrf.files import replacing
from latentcrf.perceptual import MODELS, load_features, load_lpips
from latentcrf.precision import add_precision_argument, choose_precision, precision_name

RESAMPLES = 2000
SAMPLES = 6  # images shown of each method
TIMED_TOGETHER = 8  # methods beside one full run


def read_kept(path: Path, key: str) -> dict[str, np.ndarray] | None:
    """What `keep` wrote into `path`, or None where there is nothing or another key's."""
    if not path.exists():
        return None
    with np.load(path) as file:
        if file["key"].item() == key:
            return dict(file)
    tqdm.write(f"{path.stem} was measured with another CRF or other settings of the time: again")
    return None


def keep(path: Path, key: str, found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Write `found` into `path`, together with its `key`; returns it."""
    with replacing(path) as temporary, open(temporary, "wb") as opened:
        np.savez_compressed(opened, **found, key=np.array(key))  # type: ignore[arg-type]
    return found


class Countdown:
    """Tells how far a pass over `total` things has come, and how long the rest will take."""

    def __init__(self, total: int, what: str) -> None:
        self.total, self.what, self.begin, self.passed, self.made = total, what, time.monotonic(), 0, 0

    def tell(self, made: bool) -> None:
        """One more is there; `made`: it took its time, others were kept."""
        self.passed, self.made = self.passed + 1, self.made + made
        if made:
            left = (time.monotonic() - self.begin) / self.made * (self.total - self.passed) / 60
            tqdm.write(f"{self.passed} of {self.total} {self.what}, about {left:.0f} minutes left")


def benchmark(options: argparse.Namespace) -> pd.DataFrame:
    """Measure every method that has not been measured yet, then write tables and figure; returns benchmark.csv's table.

    Raises:
        ValueError: wrong options, or --out holds a benchmark of other settings or weights.
    """
    rows, pixels = load(options.data)
    drawn = validation_prompts if options.validation else remaining_prompts
    task = Task.of(drawn(rows, options.prompts, options.seed), options)
    precision = precision_name(task.precision)
    pipeline = load_pipeline(options.model)
    refiners: dict[str, LatentCRF | None] = {"bypass": None, "LatentCRF": LatentCRF.from_pretrained(options.crf).eval()}
    refiners["static"] = static = LatentCRF.from_pretrained(options.static).eval()
    finishers: dict[str, Any] = {"static": static, "scaling": Scaling()}
    for name, folder in (("learned", options.finisher), ("plain", options.plain_finisher)):
        finishers[name] = LatentCRF.from_pretrained(folder).eval()
    refiners["plain"] = LatentCRF.from_pretrained(options.plain).eval()
    methods = all_methods(tuple(refiners), tuple(finishers))
    if options.only:
        unknown = set(options.only) - {method.name for method in methods}
        if unknown:
            raise ValueError(
                f"--only {sorted(unknown)[0]!r} is not a method; accepted are {', '.join(m.name for m in methods)}."
            )
        methods = [method for method in methods if method.name in {FULL, *options.only}]

    folder = options.out / "methods"
    folder.mkdir(parents=True, exist_ok=True)
    settings = asdict(task) | {
        "precision": precision,
        "prompt": task.prompt.tolist(),
        "pictures": [row["pixels_sha256"] for row in rows],
    }
    key = digest(settings, pipeline.text_encoder, pipeline.unet, pipeline.vae)
    key_file = folder / "key.txt"
    if key_file.exists() and key_file.read_text() != key:
        raise ValueError(f"{options.out} holds a benchmark of other settings or weights; choose another --out.")
    key_file.write_text(key)
    hashes = {"": digest(None)} | {refiner: digest(network) for refiner, network in refiners.items()}
    endings = {
        name: digest(asdict(ending) | {"scale": SCALE}, network if isinstance(network, LatentCRF) else None)
        for name, ending in ENDINGS.items()
        for network in (finishers.get(ending.settles),)
    }
    keys = {method.name: hashes[method.refiner] + endings.get(method.finisher, "") for method in methods}

    features = load_features()
    gallery, labels = load_gallery(features, rows, pixels, options.data)
    core = [index for index, row in enumerate(rows) if row["core"]]
    judges = Judges(
        load_lpips(), features, gallery, labels, measures.RealFeatures(gallery[core]),
        measures.cluster_weights(options.prompts, RESAMPLES),
    )  # fmt: skip
    real_images = measures.to_images(pixels[core[::8]])

    kept: dict[str, dict[str, np.ndarray]] = {}
    full: tuple[Tensor, Tensor] | None = None
    left = Countdown(len(methods), "methods judged")
    with remembering(pipeline):  # many methods begin alike
        for method in methods:
            path = folder / f"{frontier.file_name(method.name)}.npz"
            found = read_kept(path, keys[method.name])
            if is_new := found is None:
                scheduler = scheduler_of(method, pipeline, refiners, finishers)
                made = measure(method, task, pipeline, scheduler, full, judges, real_images)
                found = keep(path, keys[method.name], made)
            kept[method.name] = found
            left.tell(is_new)
            if full is None:
                latents = torch.from_numpy(found["latents"])
                full = decode(pipeline, latents, precision=task.precision), latents

    # Timed apart from the rest, so that all are timed under the same conditions.
    paths = {each.name: folder / f"{frontier.file_name(each.name)}-time.npz" for each in methods}
    timing = {"rounds": options.rounds, "threads": options.threads, "together": TIMED_TOGETHER}
    time_keys = {each.name: digest(timing | {"network": keys[each.name]}) for each in methods}
    seconds = {each.name: read_kept(paths[each.name], time_keys[each.name]) for each in methods}
    due = [each for each in methods if seconds[each.name] is None]
    left = Countdown(len(due), "methods timed")
    for begin in range(0, len(due), TIMED_TOGETHER):
        group = due[begin : begin + TIMED_TOGETHER]
        schedulers = [scheduler_of(each, pipeline, refiners, finishers) for each in group]
        for method, ratios in zip(
            group, clock(group, task, pipeline, schedulers, options.rounds, options.threads), strict=True
        ):
            seconds[method.name] = keep(paths[method.name], time_keys[method.name], ratios)
            left.tell(True)
    for name, ratios_of in seconds.items():
        kept[name] |= ratios_of or {}

    table = pd.DataFrame([row_of(method, kept[method.name], options.prompts, options.seeds) for method in methods])
    comparisons = compare(methods, kept)
    for name, frame in (("benchmark", table), ("comparisons", comparisons)):
        with replacing(options.out / f"{name}.csv") as temporary:
            frame.assign(precision=precision).to_csv(temporary, index=False, float_format="%.6g")
    with replacing(options.out / "benchmark.md") as temporary:
        temporary.write_text(markdown(table))
    write_samples(methods, kept, task, pipeline, options.out / "samples")
    write_figure(frontier.figure(table, "kid"), options.out / "frontier")
    print(markdown(table))
    print(f"written: {options.out}/benchmark.csv, comparisons.csv, benchmark.md, frontier.html")
    return table


def write_samples(
    methods: list[Method], kept: dict[str, dict[str, np.ndarray]], task: Task, pipeline: StableDiffusionPipeline,
    folder: Path,
) -> None:  # fmt: skip
    """`folder`/METHOD.png: a row of the first `SAMPLES` prompts' first images, the same noise in every file."""
    folder.mkdir(exist_ok=True)
    first = [int(np.flatnonzero(task.prompt == prompt)[0]) for prompt in range(min(SAMPLES, task.prompt.max() + 1))]
    for method in methods:
        latents = torch.from_numpy(kept[method.name]["latents"][first])
        row = np.concatenate(list(measures.to_pixels(decode(pipeline, latents, precision=task.precision))), axis=1)
        with replacing(folder / f"{frontier.file_name(method.name)}.png") as temporary:
            Image.fromarray(row).save(temporary, "PNG")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, default=Path("data/emoji"), metavar="DIR", help="data set (default data/emoji)")
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the benchmark; a second run goes on with it")
    add("--model", type=Path, default=MODELS / "emoji-ldm", metavar="FOLDER", help="pipeline (default: shipped)")
    add("--crf", type=Path, default=MODELS / "emoji-latentcrf", metavar="FOLDER", help="LatentCRF (default: shipped)")
    add("--static", type=Path, default=MODELS / "emoji-latentcrf-static", metavar="FOLDER",
        help="LatentCRF's static form (default: shipped)")  # fmt: skip
    add("--finisher", type=Path, default=MODELS / "emoji-latentcrf-finisher", metavar="FOLDER",
        help="LatentCRF trained to finish runs (default: shipped)")  # fmt: skip
    add("--plain", type=Path, default=MODELS / "emoji-plain", metavar="FOLDER",
        help="plain network, a LatentCRF without pairwise terms and experts (default: shipped)")  # fmt: skip
    add("--plain-finisher", type=Path, default=MODELS / "emoji-plain-finisher", metavar="FOLDER",
        help="such a network, trained to finish runs (default: shipped)")  # fmt: skip
    add("--prompts", type=int, default=50, metavar="N", help="number of prompts (default 50)")
    add("--seeds", type=int, default=8, metavar="M", help="images a prompt (default 8); 1 leaves diversity out")
    add("--seed", type=int, default=0, help="of the prompts' choice and the first image (default 0)")
    add("--validation", action="store_true", help="take prompts of analysis.quality: for choices, not for reports")
    add("--only", nargs="+", metavar="METHOD", help="these methods (and DDIM-50) instead of all")
    add("--guidance", type=float, default=GUIDANCE, help=f"guidance scale (default {GUIDANCE:g})")
    add("--batch-size", type=int, default=16, metavar="N", help="images at a time (default 16)")
    add(
        "--rounds",
        type=int,
        default=7,
        metavar="N",
        help="timed pairs a method (default 7; 5 or more: of fewer the interval is narrower than 95 %%)",
    )
    add("--threads", type=int, default=2, metavar="N", help="CPU threads while timing (default 2)")
    add_precision_argument(parser)
    return parser


def main(arguments: list[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_args(arguments)
    for name, least in (("prompts", 2), ("seeds", 1), ("batch_size", 1), ("rounds", 1), ("threads", 1)):
        if getattr(options, name) < least:
            parser.error(f"--{name.replace('_', '-')} {getattr(options, name)} is out of range: {least} or more.")
    try:
        options.precision = choose_precision(options.precision, "cpu")
        benchmark(options)
    except (DatasetError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
