"""LatentCRF and what one would do instead, on the same prompts and from the same noise.

    python -m analysis.benchmark --data data/emoji --out results/benchmark --prompts 50 --seeds 8

Rivals: DDIM with fewer steps, DPM-Solver++ 2M, UniPC, the bypass without parameters, and with `--plain FOLDER` a plain
convolutional network of the CRF's size in its place. Each is compared with the full run (distance to its latents and
images, time of the sampler, interleaved pairs) and with the data set's images (KID, Frechet distance, retrieval of the
prompted subject), and its seeds with each other (diversity). The prompts are not those of `analysis.quality`, on
which choices may be made; `--validation` takes those.

Written to --out: benchmark.csv (a row a method), comparisons.csv (each LatentCRF run against the best rival that takes
no more time), frontier.html and frontier.png, benchmark.md, a row of images a method in `samples`, and in `methods`
what each method has been measured to, from which a broken-off benchmark goes on.
"""

import argparse
import hashlib
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from analysis import frontier, measures
from analysis.export import write_figure
from analysis.frontier import FULL
from analysis.gallery import embed, load_gallery
from analysis.generate import GUIDANCE, counted, decode, load_pipeline, sample
from analysis.quality import draw_prompts, remaining_prompts, time_ratios
from analysis.rivals import Method, all_methods, scheduler_of
from analysis.tables import compare, markdown, row_of
from latentcrf import LatentCRF
from latentcrf.emoji.dataset import DatasetError, load
from latentcrf.files import replacing
from latentcrf.perceptual import MODELS, load_features, load_lpips

RESAMPLES, FRECHET_RESAMPLES = 2000, 200
SAMPLES = 6  # images shown of each method


@dataclass(frozen=True)
class Task:
    """What all methods have in common: prompts x seeds, prompt by prompt.

    Attributes:
        captions, seeds: one an image (N,); prompt: the number of its prompt, 0..C-1.
        labels: the prompted subject's code point, one an image.
    """

    captions: list[str]
    seeds: list[int]
    prompt: np.ndarray
    labels: list[str]
    guidance: float
    batch_size: int
    bf16: bool
    rounds: int
    threads: int

    @classmethod
    def of(cls, prompts: pd.DataFrame, options: argparse.Namespace) -> "Task":
        repeated = prompts.loc[prompts.index.repeat(options.seeds)]
        first = 10_000 + options.seed  # far from the seeds of `analysis.quality`
        return cls(
            captions=repeated["subject"].tolist(),
            seeds=[first + index for index in range(len(repeated))],
            prompt=np.repeat(np.arange(len(prompts)), options.seeds),
            labels=repeated["code_point"].tolist(),
            guidance=options.guidance,
            batch_size=options.batch_size,
            bf16=options.bf16,
            rounds=options.rounds,
            threads=options.threads,
        )


@dataclass(frozen=True)
class Judges:
    """What the images are judged by."""

    lpips: nn.Module
    features: nn.Module
    gallery: Tensor
    labels: list[str]
    real: measures.RealFeatures
    weights: np.ndarray


def run(
    task: Task, pipeline: StableDiffusionPipeline, scheduler: Any, count: int, batch_size: int, **how: Any
) -> Tensor:
    """Latents of the first `count` images."""
    method_steps = how.pop("steps")
    return sample(
        pipeline, task.captions[:count], task.seeds[:count], steps=method_steps, guidance=task.guidance,
        scheduler=scheduler, batch_size=batch_size, bf16=task.bf16, **how,
    )  # fmt: skip


def by_prompt(values: Tensor | np.ndarray, task: Task) -> np.ndarray:
    """Mean over each prompt's images (C,) of one value an image (N,)."""
    return np.asarray(values, dtype=float).reshape(task.prompt.max() + 1, -1).mean(1)


def judge(
    images: Tensor, latents: Tensor, full: tuple[Tensor, Tensor], task: Task, judges: Judges
) -> dict[str, np.ndarray]:
    """Each measure's draws (1 + resamples,): the estimate, then its bootstrap over prompts."""
    features, weights = embed(judges.features, images), judges.weights
    ranks = measures.retrieval_ranks(features, task.labels, judges.gallery, judges.labels)
    full_images, full_latents = full
    a_prompt = {
        "r_at_1": by_prompt(ranks <= 1, task),
        "r_at_5": by_prompt(ranks <= 5, task),
        "lpips_full": by_prompt(measures.lpips(judges.lpips, images, full_images), task),
        "psnr_full": by_prompt(measures.psnr(images, full_images).clamp(max=100), task),  # equal images: infinite
        "latent_mse_full": by_prompt(measures.latent_mse(latents, full_latents), task),
        "edges": by_prompt(measures.edge_strength(images), task),
    }
    groups = [np.flatnonzero(task.prompt == prompt) for prompt in range(task.prompt.max() + 1)]
    if len(groups[0]) > 1:
        a_prompt["pairwise_lpips"] = np.array([measures.pairwise_lpips(judges.lpips, images[g]) for g in groups])
        a_prompt["vendi"] = np.array([measures.vendi(features[g]) for g in groups])
    draws = {name: measures.mean_draws(values, weights) for name, values in a_prompt.items()}
    draws["kid"] = measures.kid_draws(features, task.prompt, judges.real, weights)
    draws["frechet"] = measures.frechet_draws(features, task.prompt, judges.real, weights[: 1 + FRECHET_RESAMPLES])
    return draws


def measure(
    method: Method, task: Task, pipeline: StableDiffusionPipeline, scheduler: Any, full: tuple[Tensor, Tensor] | None,
    judges: Judges, real_images: Tensor,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Everything about one method, as arrays to be kept: latents, draws of each measure, seconds, calls."""
    with counted(pipeline.unet) as batches:
        run(task, pipeline, scheduler, 1, 1, steps=method.steps)
    latents = run(
        task, pipeline, scheduler, len(task.captions), task.batch_size, steps=method.steps, progress=method.name
    )
    images = decode(pipeline, latents, bf16=task.bf16)
    draws = judge(images, latents, full or (images, latents), task, judges)
    threads = torch.get_num_threads()
    torch.set_num_threads(task.threads)
    settings = {"full": (None, 50), "this": (scheduler, method.steps)}

    def once(which: str) -> None:
        chosen, steps = settings[which]
        run(task, pipeline, chosen, 1, 1, steps=steps)

    full_seconds, seconds = time_ratios(once, "full", "this", task.rounds)
    torch.set_num_threads(threads)
    return {
        **{f"draws_{name}": values for name, values in draws.items()},
        "latents": latents.numpy(),
        "calls": np.array(len(batches)),
        "ratios": seconds / full_seconds,
        "spectrum_error": np.array(measures.spectrum_error(images, real_images)),
    }


def key_of(task: Task, pipeline: StableDiffusionPipeline, networks: dict[str, LatentCRF | None]) -> str:
    """A hash of all that the kept results depend on."""
    digest = hashlib.sha256(json.dumps(asdict(task) | {"prompt": task.prompt.tolist()}, sort_keys=True).encode())
    for module in (pipeline.unet, pipeline.vae, *(network for network in networks.values() if network is not None)):
        for weight in module.state_dict().values():
            digest.update(weight.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


def benchmark(options: argparse.Namespace) -> pd.DataFrame:
    """Measure every method that has not been measured yet, then write tables and figure; returns benchmark.csv's table.

    Raises:
        ValueError: wrong options, or --out holds a benchmark of other settings or weights.
    """
    rows, pixels = load(options.data)
    drawn = draw_prompts if options.validation else remaining_prompts
    task = Task.of(drawn(rows, options.prompts, options.seed), options)
    pipeline = load_pipeline(options.model)
    networks: dict[str, LatentCRF | None] = {"bypass": None, "LatentCRF": LatentCRF.from_pretrained(options.crf).eval()}
    if options.plain:
        networks["plain"] = LatentCRF.from_pretrained(options.plain).eval()
    methods = all_methods(tuple(networks))
    if options.only:
        unknown = set(options.only) - {method.name for method in methods}
        if unknown:
            raise ValueError(
                f"--only {sorted(unknown)[0]!r} is not a method; accepted are {', '.join(m.name for m in methods)}."
            )
        methods = [method for method in methods if method.name in {FULL, *options.only}]

    key, folder = key_of(task, pipeline, networks), options.out / "methods"
    folder.mkdir(parents=True, exist_ok=True)
    key_file = folder / "key.txt"
    if key_file.exists() and key_file.read_text() != key:
        raise ValueError(f"{options.out} holds a benchmark of other settings or weights; choose another --out.")
    key_file.write_text(key)

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
    begin, done = time.monotonic(), 0
    for index, method in enumerate(methods):
        path = folder / f"{frontier.file_name(method.name)}.npz"
        if not path.exists():
            found = measure(method, task, pipeline, scheduler_of(method, pipeline, networks), full, judges, real_images)
            with replacing(path) as temporary, open(temporary, "wb") as file:
                np.savez_compressed(file, **found)  # type: ignore[arg-type]
            done += 1
            left = (time.monotonic() - begin) / done * (len(methods) - index - 1) / 60
            tqdm.write(f"{index + 1} of {len(methods)} methods, about {left:.0f} minutes left")
        with np.load(path) as file:
            kept[method.name] = dict(file)
        if full is None:
            latents = torch.from_numpy(kept[method.name]["latents"])
            full = decode(pipeline, latents, bf16=task.bf16), latents

    table = pd.DataFrame([row_of(method, kept[method.name], options.prompts, options.seeds) for method in methods])
    comparisons = compare(methods, kept)
    for name, frame in (("benchmark", table), ("comparisons", comparisons)):
        with replacing(options.out / f"{name}.csv") as temporary:
            frame.to_csv(temporary, index=False, float_format="%.6g")
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
        row = np.concatenate(list(measures.to_pixels(decode(pipeline, latents, bf16=task.bf16))), axis=1)
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
    add(
        "--plain", type=Path, metavar="FOLDER", help="the plain network, a LatentCRF without pairwise terms and experts"
    )
    add("--prompts", type=int, default=50, metavar="N", help="number of prompts (default 50)")
    add("--seeds", type=int, default=8, metavar="M", help="images a prompt (default 8); 1 leaves diversity out")
    add("--seed", type=int, default=0, help="of the prompts' choice and the first image (default 0)")
    add("--validation", action="store_true", help="take the prompts of analysis.quality: for choices, not for reports")
    add("--only", nargs="+", metavar="METHOD", help="these methods (and DDIM-50) instead of all")
    add("--guidance", type=float, default=GUIDANCE, help=f"guidance scale (default {GUIDANCE:g})")
    add("--batch-size", type=int, default=16, metavar="N", help="images at a time (default 16)")
    add("--rounds", type=int, default=7, metavar="N", help="timed pairs a method (default 7)")
    add("--threads", type=int, default=2, metavar="N", help="CPU threads while timing (default 2)")
    add("--fp32", dest="bf16", action="store_false", help="float32 networks instead of bfloat16")
    return parser


def main(arguments: list[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_args(arguments)
    for name, least in (("prompts", 2), ("seeds", 1), ("batch_size", 1), ("rounds", 1), ("threads", 1)):
        if getattr(options, name) < least:
            parser.error(f"--{name.replace('_', '-')} {getattr(options, name)} is out of range: {least} or more.")
    try:
        benchmark(options)
    except (DatasetError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
