"""The benchmark's run: measure and time every method that is not stored yet, then write tables, figure and samples."""

import argparse
import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from analysis.arguments import load_features_argument, load_lpips_argument
from analysis.benchmark.floors import measure_floors
from analysis.benchmark.measure import Metrics, Task, measure
from analysis.benchmark.methods import (
    FINISHERS,
    FULL_RUN,
    HEADLINE,
    Method,
    build_scheduler,
    list_core_methods,
    list_default_methods,
    list_methods,
)
from analysis.benchmark.tables import build_table, compare, format_overview
from analysis.benchmark.timing import measure_time_ratios
from analysis.export import write_figure
from analysis.figures.frontier import draw_frontier
from analysis.figures.grid import draw_captioned_sheet
from analysis.metrics.distributions import RealFeatures
from analysis.metrics.pixels import to_images, to_pixels
from analysis.prompts import remaining_prompts, validation_prompts
from analysis.reference_features import load_gallery
from analysis.sampling import CachedUNet, decode, import_deep_cache, load_pipeline, use_unet
from analysis.studies.frontier import name_file
from latentcrf import Finisher, LatentCRF, VAERoundTrip
from latentcrf.precision import precision_name
from latentcrf.training.data import read_image_folder
from latentcrf.utils.content_hash import content_hash
from latentcrf.utils.files import replace_file

RESAMPLES = 2000
SAMPLES = 6  # images shown of each method
PAIRS = 64  # prompts on the sheet of the full run and the headline method
TIMED_TOGETHER = 8  # methods beside one full run

Arrays = dict[str, np.ndarray]


def read_stored(path: Path, key: str) -> Arrays | None:
    """Read what `store` wrote.

    Args:
        path: the file.
        key: as it was given to `store`.

    Returns:
        The arrays, or None where there is no file or that of another key.
    """
    if not path.exists():
        return None
    with np.load(path) as file:
        if file["key"].item() == key:
            return dict(file)
    tqdm.write(f"{path.stem} was measured with another CRF or other settings of the time: it is measured again")
    return None


def store(path: Path, key: str, arrays: Arrays) -> Arrays:
    """Write arrays.

    Args:
        path: the file.
        key: the hash of what the arrays depend on.
        arrays: by name.

    Returns:
        The arrays.
    """
    with replace_file(path) as temporary, open(temporary, "wb") as opened:
        np.savez_compressed(opened, **arrays, key=np.array(key))  # type: ignore[arg-type]
    return arrays


class Progress:
    """Prints how far a pass over `total` methods is and how long the rest takes.

    Args:
        total: number of methods.
        verb: what was done with them, "measured".
    """

    def __init__(self, total: int, verb: str) -> None:
        self.total, self.verb, self.begin, self.passed, self.computed = total, verb, time.monotonic(), 0, 0

    def advance(self, computed: bool) -> None:
        """Count one method.

        Args:
            computed: whether it took its time; False: it was stored.
        """
        self.passed, self.computed = self.passed + 1, self.computed + computed
        if computed:
            left = (time.monotonic() - self.begin) / self.computed * (self.total - self.passed) / 60
            tqdm.write(f"{self.passed} of {self.total} methods {self.verb}, about {left:.0f} minutes left")


@dataclass(frozen=True)
class Networks:
    """What the methods sample with.

    Attributes:
        pipeline: the LDM.
        unet: its U-Net, with a memory: many methods begin alike.
        crfs: what acts at the bypass, by the keys of `CRF_FORMS`.
        finishers: by `FINISHERS`.
    """

    pipeline: StableDiffusionPipeline
    unet: CachedUNet
    crfs: dict[str, LatentCRF | None]
    finishers: dict[str, Finisher | VAERoundTrip]

    @classmethod
    def load(cls, options: argparse.Namespace) -> "Networks":
        """Load them from the folders that the command line names.

        Args:
            options: model, crf, static, plain, finisher, plain_finisher.

        Raises:
            OSError: one is missing.
        """
        pipeline = load_pipeline(options.model)
        folders = {"conditional": options.crf, "static": options.static, "plain": options.plain}
        crfs = {form: LatentCRF.from_pretrained(folder).eval() for form, folder in folders.items()}
        finisher, plain = (
            Finisher(LatentCRF.from_pretrained(folder).eval()) for folder in (options.finisher, options.plain_finisher)
        )
        return cls(
            pipeline,
            CachedUNet(pipeline.unet),
            {"zero-parameter": None} | crfs,
            dict(zip(FINISHERS, (finisher, plain, VAERoundTrip(pipeline.vae)), strict=True)),
        )

    @contextlib.contextmanager
    def prepare(self, method: Method) -> Iterator[StableDiffusionPipeline]:
        """Give the pipeline the U-Net with a memory within the context, unless the method caches features itself.

        Args:
            method: one of `list_methods`.

        Yields:
            The pipeline.
        """
        with use_unet(self.pipeline, self.pipeline.unet if method.cache_interval > 1 else self.unet):
            yield self.pipeline

    def build_scheduler(self, method: Method) -> Any:
        """Build a method's scheduler.

        Args:
            method: one of `list_methods`.
        """
        return build_scheduler(method, self.pipeline, self.crfs, self.finishers)

    def hash_method(self, method: Method, scale: float) -> str:
        """Hash what a method's images depend on beside the LDM: its settings, its CRF and its finisher.

        Args:
            method: one of `list_methods`.
            scale: of the benchmark's guidance.
        """
        finisher = self.finishers.get(method.finisher)
        crfs = (self.crfs.get(method.crf_form), finisher.crf if isinstance(finisher, Finisher) else None)
        settings = {"crf_form": method.crf_form, "finisher": method.finisher, "cache_interval": method.cache_interval}
        return content_hash(settings | method.sampler_settings(scale), *crfs)


def choose_methods(only: Sequence[str] | None, all_methods: bool = False) -> list[Method]:
    """Choose the methods to measure, the full run first.

    Args:
        only: their names, beside the full run's; None: as `all_methods` says.
        all_methods: all instead of those of the default table.

    Raises:
        ValueError: a name that no method has.
    """
    if not only:
        return list_methods() if all_methods else list_default_methods()
    methods = list_methods()
    names = [method.name for method in methods]
    if unknown := sorted(set(only) - set(names)):
        raise ValueError(f"--only {unknown[0]!r} is not a method; accepted are {', '.join(names)}.")
    return [method for method in methods if method.name in {names[0], *only}]


def run_benchmark(options: argparse.Namespace) -> pd.DataFrame:
    """Measure and time every method that is not stored yet, then write tables, figure and samples to --out.

    Args:
        options: of the command line; `precision` is a torch.dtype.

    Returns:
        The table of benchmark.csv.

    Raises:
        ValueError: wrong options, or --out holds a benchmark of other settings or weights.
    """
    rows, pixels = read_image_folder(options.data)
    draw_prompts = validation_prompts if options.validation else remaining_prompts
    task = Task.from_prompts(
        draw_prompts(rows, options.prompts, options.seed), options.seeds, options.seed, options.guidance,
        options.batch_size, options.precision,
    )  # fmt: skip
    few = min(options.few_prompts, options.prompts)
    precision = precision_name(task.precision)
    methods = choose_methods(options.only, options.all)
    if any(method.cache_interval > 1 for method in methods):
        import_deep_cache()  # a missing package is named now, not after hours
    networks = Networks.load(options)
    pipeline = networks.pipeline

    folder = options.out / "methods"
    folder.mkdir(parents=True, exist_ok=True)
    settings = asdict(task) | {
        "precision": precision,
        "few_prompts": few,
        "prompt": task.prompt.tolist(),
        "images": [row["pixels_sha256"] for row in rows],
    }
    key = content_hash(settings, pipeline.text_encoder, pipeline.unet, pipeline.vae)
    key_file = folder / "key.txt"
    if key_file.exists() and key_file.read_text() != key:
        raise ValueError(f"{options.out} holds a benchmark of other settings or weights; choose another --out.")
    key_file.write_text(key)

    features = load_features_argument(options)
    gallery, labels = load_gallery(features, rows, pixels, options.data)
    core = [index for index, row in enumerate(rows) if row["core"]]
    metrics = Metrics(
        lpips=load_lpips_argument(options),
        features=features,
        gallery=gallery,
        labels=labels,
        real=RealFeatures(gallery[core]),
        real_images=to_images(pixels[core[::8]]),
        resamples=RESAMPLES,
    )
    arrays = measure_methods(methods, task, few, networks, metrics, folder)
    # Timed apart from the rest, so that all are timed under the same conditions.
    ratios = time_methods(methods, task, networks, options.rounds, folder)
    for name in arrays:
        arrays[name] |= ratios[name]

    table = build_table(methods, arrays, precision, options.seeds)
    comparisons = compare(methods, arrays).assign(precision=precision)
    floors = measure_floors(task, rows, pixels, pipeline, metrics).assign(precision=precision)
    for name, frame in (("benchmark", table), ("comparisons", comparisons), ("floors", floors)):
        with replace_file(options.out / f"{name}.csv") as temporary:
            frame.to_csv(temporary, index=False, float_format="%.6g")
    with replace_file(options.out / "benchmark.md") as temporary:
        temporary.write_text(format_overview(table))
    write_samples(methods, arrays, task, pipeline, options.out / "samples")
    if HEADLINE in methods:
        write_pairs(arrays, task, pipeline, options.out / "pairs.webp")
    write_figure(draw_frontier(table, "kid", all_methods=bool(options.only)), options.out / "frontier")
    return table


def measure_methods(
    methods: Sequence[Method], task: Task, few: int, networks: Networks, metrics: Metrics, folder: Path
) -> dict[str, Arrays]:
    """Measure the methods that are not stored yet.

    Args:
        methods: the full run first.
        task: what to generate with the core methods.
        few: the number of its prompts, the first, that the other methods are measured on. The core methods are
            measured on them too, so that every two methods can be compared on the same prompts.
        networks: what to sample with.
        metrics: what to measure with.
        folder: of the stored arrays.

    Returns:
        By name, as of `measure`.
    """
    arrays: dict[str, Arrays] = {}
    full: tuple[Tensor, Tensor] | None = None
    core, counts = list_core_methods(), sorted({few, task.num_prompts})
    progress = Progress(len(methods), "measured")
    for method in methods:
        path, key = folder / f"{name_file(method.name)}.npz", networks.hash_method(method, task.guidance)
        stored = read_stored(path, key)
        if stored is None:
            part, parts = (task, counts) if method in core else (task.first(few), counts[:1])
            scheduler = networks.build_scheduler(method)
            with networks.prepare(method) as pipeline:
                stored = store(path, key, measure(method, part, pipeline, scheduler, full, metrics, parts))
            progress.advance(True)
        else:
            progress.advance(False)
        arrays[method.name] = stored
        if full is None:
            latents = torch.from_numpy(stored["latents"])
            full = decode(networks.pipeline, latents, precision=task.precision), latents
    return arrays


def time_methods(
    methods: Sequence[Method], task: Task, networks: Networks, rounds: int, folder: Path
) -> dict[str, Arrays]:
    """Time the methods that are not stored yet.

    Args:
        methods: all.
        task: its first image is sampled.
        networks: what to sample with.
        rounds: how often each is timed.
        folder: of the stored arrays.

    Returns:
        By name: `ratios`, as of `measure_time_ratios`.
    """
    paths = {method.name: folder / f"{name_file(method.name)}-time.npz" for method in methods}
    settings = {"rounds": rounds, "together": TIMED_TOGETHER}
    hashes = {method.name: networks.hash_method(method, task.guidance) for method in methods}
    keys = {name: content_hash(settings | {"network": hashed}) for name, hashed in hashes.items()}
    stored = {method.name: read_stored(paths[method.name], keys[method.name]) for method in methods}
    arrays = {name: each for name, each in stored.items() if each is not None}
    due = [method for method in methods if method.name not in arrays]
    progress = Progress(len(due), "timed")
    for begin in range(0, len(due), TIMED_TOGETHER):
        group = due[begin : begin + TIMED_TOGETHER]
        schedulers = [networks.build_scheduler(method) for method in group]
        ratios = measure_time_ratios(group, task, networks.pipeline, schedulers, rounds)
        for method, values in zip(group, ratios, strict=True):
            name = method.name
            arrays[name] = store(paths[name], keys[name], {"ratios": values})
            progress.advance(True)
    return arrays


def write_samples(
    methods: Sequence[Method], arrays: Mapping[str, Arrays], task: Task, pipeline: StableDiffusionPipeline, folder: Path
) -> None:
    """Write a row of the first `SAMPLES` prompts' first images a method, the same noise in every file.

    Args:
        methods: all.
        arrays: by name, with `latents`.
        task: of the latents.
        pipeline: decodes them.
        folder: of the files METHOD.webp.
    """
    folder.mkdir(exist_ok=True)
    measured = min(len(each["latents"]) for each in arrays.values())
    firsts = [int(np.flatnonzero(task.prompt == prompt)[0]) for prompt in range(min(SAMPLES, task.num_prompts))]
    first = [index for index in firsts if index < measured]
    for method in methods:
        latents = torch.from_numpy(arrays[method.name]["latents"][first])
        row = np.concatenate(list(to_pixels(decode(pipeline, latents, precision=task.precision))), axis=1)
        with replace_file(folder / f"{name_file(method.name)}.webp") as temporary:
            Image.fromarray(row).save(temporary, "WEBP", quality=80, method=6)


def write_pairs(arrays: Mapping[str, Arrays], task: Task, pipeline: StableDiffusionPipeline, path: Path) -> None:
    """Write a sheet of pairs: of the first `PAIRS` prompts the full run's first image, and the headline method's.

    Args:
        arrays: by name, with `latents`.
        task: of the latents.
        pipeline: decodes them.
        path: of the WebP file.
    """
    firsts = [int(np.flatnonzero(task.prompt == prompt)[0]) for prompt in range(min(PAIRS, task.num_prompts))]
    both = [
        to_pixels(decode(pipeline, torch.from_numpy(arrays[method.name]["latents"][firsts]), precision=task.precision))
        for method in (FULL_RUN, HEADLINE)
    ]
    sheet = draw_captioned_sheet(np.concatenate(both, axis=2), [task.captions[first] for first in firsts])
    with replace_file(path) as temporary:
        sheet.save(temporary, "WEBP", quality=85, method=6)
