"""The benchmark's run: measure and time every method that is not stored yet, then write tables, figure and samples."""

import argparse
import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import PartialState
from diffusers import StableDiffusionPipeline
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from analysis.arguments import find_network, load_features_argument, load_lpips_argument
from analysis.benchmark.floors import measure_floors
from analysis.benchmark.measure import Metrics, Task, decode_latents, generate, measure
from analysis.benchmark.methods import (
    CRF_FORMS,
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
from analysis.real_images import RealImages
from analysis.reference_features import load_gallery
from analysis.sampling import CachedUNet, import_deep_cache, load_pipeline, use_unet
from analysis.sharding import Arrays, Part, compute_share, join_processes, open_folder, read_parts
from analysis.studies.frontier import name_file
from latentcrf import Finisher, LatentCRF, VAERoundTrip
from latentcrf.precision import choose_precision, precision_name
from latentcrf.utils.content_hash import content_hash
from latentcrf.utils.files import replace_file

RESAMPLES = 2000
SAMPLES = 6  # images shown of each method
PAIRS = 64  # prompts on the sheet of the full run and the headline method
TIMED_TOGETHER = 8  # methods beside one full run
PARTS = "parts"  # folder of batches of latents, below that of the methods
SPECTRA = 500  # real images at least, where there are as many, whose spectrum is that of all
NETWORKS = {  # CRF form or finisher of a method -> (option that names its folder, shipped model, what it is)
    "conditional": ("crf", "emoji-latentcrf", "bypass CRF"),
    "static": ("static", "emoji-latentcrf-static", "bypass CRF of the static form"),
    "plain": ("plain", "emoji-plain", "plain network for the bypass"),
    "finisher": ("finisher", "emoji-latentcrf-finisher", "finisher"),
    "plain finisher": ("plain-finisher", "emoji-plain-finisher", "plain network for final latents"),
}


def find_networks(options: argparse.Namespace) -> dict[str, Path]:
    """Find the folders of the networks that there are for the LDM.

    Args:
        options: model, and the options of `NETWORKS`: None where the command line does not name them.

    Returns:
        By the keys of `NETWORKS`, as of `analysis.arguments.find_network`; without those that there are not.
    """
    found = {name: find_network(options, option, shipped) for name, (option, shipped, _) in NETWORKS.items()}
    return {name: folder for name, folder in found.items() if folder is not None}


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
    def load(cls, pipeline: StableDiffusionPipeline, folders: Mapping[str, Path]) -> "Networks":
        """Load the CRFs from their folders.

        Args:
            pipeline: the LDM.
            folders: as of `find_networks`; others are not loaded.

        Raises:
            OSError: one is missing.
        """
        loaded = {name: LatentCRF.from_pretrained(folder).eval() for name, folder in folders.items()}
        finishers = {name: Finisher(crf) for name, crf in loaded.items() if name in FINISHERS}
        crfs = {name: crf for name, crf in loaded.items() if name in CRF_FORMS}
        return cls(
            pipeline,
            CachedUNet(pipeline.unet),
            {"zero-parameter": None} | crfs,
            finishers | {"VAE round trip": VAERoundTrip(pipeline.vae)},
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


@dataclass(frozen=True)
class Entry:
    """A method of this benchmark, with what it generates and the files of its results.

    Attributes:
        method: one of `list_methods`.
        task: what to generate with it.
        key: as of `Networks.hash_method`.
        folder: of the files.
    """

    method: Method
    task: Task
    key: str
    folder: Path

    @property
    def result(self) -> Part:
        """What it is measured to, as of `analysis.benchmark.measure.measure`."""
        return Part(self.folder / f"{name_file(self.method.name)}.npz", self.key)

    def find_batch(self, number: int) -> Part:
        """Find the latents of a batch, which are there until all methods are measured."""
        return Part(self.folder / PARTS / f"{name_file(self.method.name)}-{number:05}.npz", self.key)

    @property
    def batches(self) -> list[Part]:
        """The latents of each batch, until all methods are measured."""
        return [self.find_batch(number) for number in range(self.task.num_batches)]

    def read_latents(self) -> Tensor:
        """Read the latents of all batches (N, C, h, w).

        Raises:
            ValueError: some are missing.
        """
        stored = self.result.read()
        arrays = read_parts(self.batches) if stored is None else [stored]
        return torch.from_numpy(np.concatenate([each["latents"] for each in arrays]))


def choose_methods(only: Sequence[str] | None, all_methods: bool, networks: Mapping[str, Path]) -> list[Method]:
    """Choose the methods to measure, the full run first.

    Args:
        only: their names, beside the full run's; None: as `all_methods` says.
        all_methods: all instead of those of the default table.
        networks: as of `find_networks`. Methods that need another one are left out, with a message.

    Raises:
        ValueError: `only` names a method that does not exist, or that needs another network.
    """

    def find_missing(method: Method) -> list[str]:
        names = (method.crf_form, method.finisher)
        return [f"--{NETWORKS[name][0]}" for name in names if name in NETWORKS and name not in networks]

    if not only:
        methods = list_methods() if all_methods else list_default_methods()
        if missing := sorted({option for method in methods for option in find_missing(method)}):
            tqdm.write(f"left out: the methods that need {', '.join(missing)}, for which no folder is given")
        return [method for method in methods if not find_missing(method)]
    methods = list_methods()
    names = [method.name for method in methods]
    if unknown := sorted(set(only) - set(names)):
        raise ValueError(f"--only {unknown[0]!r} is not a method; accepted are {', '.join(names)}.")
    chosen = [method for method in methods if method.name in {names[0], *only}]
    for method in chosen:
        if missing := find_missing(method):
            raise ValueError(f"--only {method.name!r} needs {' and '.join(missing)} FOLDER, made for this --model.")
    return chosen


def load_metrics(options: argparse.Namespace, real_images: RealImages) -> Metrics:
    """Load what images are measured with, and compute the real images' features where they are not stored.

    Args:
        options: data, features, lpips.
        real_images: of the data set.

    Raises:
        FileNotFoundError: the weights of the features or of LPIPS are missing.
    """
    features = load_features_argument(options)
    gallery, labels = load_gallery(features, real_images.rows, real_images, options.data)
    core = [index for index, row in enumerate(real_images.rows) if row["core"]]
    return Metrics(
        lpips=load_lpips_argument(options),
        features=features,
        gallery=gallery,
        labels=labels if real_images.has_subjects else None,
        real=RealFeatures(gallery[core]),
        real_images=to_images(real_images[core[:: max(8, len(core) // SPECTRA)]]),
        resamples=RESAMPLES,
    )


def run_benchmark(options: argparse.Namespace) -> pd.DataFrame | None:
    """Measure and time every method that is not stored yet, then write tables, figure and samples to --out.

    A launcher's processes share the batches to sample, then the methods to measure. Then the main process goes on
    alone: it times, while no other process computes, and writes.

    Args:
        options: of the command line.

    Returns:
        The table of benchmark.csv; None in the other processes.

    Raises:
        ValueError: wrong options, or --out holds a benchmark of other settings or weights.
    """
    state = join_processes()
    folders = find_networks(options)
    methods = choose_methods(options.only, options.all, folders)
    if any(method.cache_interval > 1 for method in methods):
        import_deep_cache()  # a missing package is named now, not after hours
    networks = Networks.load(load_pipeline(options.model, state.device), folders)
    pipeline = networks.pipeline
    real_images = RealImages(options.data, pipeline.unet.config.sample_size * pipeline.vae_scale_factor)
    draw_prompts = validation_prompts if options.validation else remaining_prompts
    task = Task.from_prompts(
        draw_prompts(real_images.rows, options.prompts, options.seed), options.seeds, options.seed, options.guidance,
        options.batch_size, choose_precision(options.precision, state.device),
    )  # fmt: skip
    few = min(options.few_prompts, options.prompts)
    precision = precision_name(task.precision)

    folder = options.out / "methods"
    settings = asdict(task) | {
        "precision": precision,
        "few_prompts": few,
        "prompt": task.prompt.tolist(),
        "images": [row["pixels_sha256"] for row in real_images.rows],
    }
    names = ("text_encoder", "text_encoder_2", "unet", "vae")
    open_folder(folder, settings, {name: getattr(pipeline, name) for name in names if hasattr(pipeline, name)}, state)

    core = list_core_methods()
    entries = [
        Entry(method, task if method in core else task.first(few), networks.hash_method(method, task.guidance), folder)
        for method in methods
    ]
    load = cache(partial(load_metrics, options, real_images))
    if state.is_main_process and load().labels is None:  # stores the features, before the others read them
        tqdm.write(f"left out: R@1 and R@5, as the images of {options.data} have no code_point, their subject")
    measure_methods(entries, networks, load, few, state)
    if not state.is_main_process:
        return None
    results = read_parts([entry.result for entry in entries])
    arrays = {entry.method.name: result for entry, result in zip(entries, results, strict=True)}
    # Timed apart from the rest, so that all are timed under the same conditions.
    ratios = time_methods(methods, task, networks, options.rounds, folder)
    for name in arrays:
        arrays[name] |= ratios[name]

    table = build_table(methods, arrays, precision, options.seeds)
    comparisons = compare(methods, arrays).assign(precision=precision)
    floors = measure_floors(task, real_images, pipeline, load()).assign(precision=precision)
    for name, frame in (("benchmark", table), ("comparisons", comparisons), ("floors", floors)):
        with replace_file(options.out / f"{name}.csv") as temporary:
            frame.to_csv(temporary, index=False, float_format="%.6g")
    with replace_file(options.out / "benchmark.md") as temporary:
        temporary.write_text(format_overview(table), encoding="utf-8")
    write_samples(methods, arrays, task, pipeline, options.out / "samples")
    if HEADLINE in methods:
        write_pairs(arrays, task, pipeline, options.out / "pairs.webp")
    write_figure(draw_frontier(table, "kid", all_methods=bool(options.only)), options.out / "frontier")
    shutil.rmtree(folder / PARTS, ignore_errors=True)
    return table


def measure_methods(
    entries: Sequence[Entry], networks: Networks, load: Callable[[], Metrics], few: int, state: PartialState
) -> None:
    """Sample and measure the methods that are not stored yet, together with the other processes.

    Args:
        entries: the full run first.
        networks: what to sample with.
        load: returns what to measure with; called once a batch and method at most, by processes that measure.
        few: the number of prompts, the first, that all methods are measured on, so that every two can be compared on
            the same prompts. The core methods are measured on all their prompts too.
        state: as of `analysis.sharding.join_processes`.
    """
    due = [entry for entry in entries if not entry.result.is_stored()]
    if state.is_main_process:
        for entry in due:
            if entry.result.path.exists():
                tqdm.write(f"{entry.method.name} was measured with another CRF: it is measured again")

    def sample_batch(number: int) -> None:
        networks.unet.answers.clear()  # of the batch before
        for entry in due:
            if number < entry.task.num_batches and not entry.find_batch(number).is_stored():
                scheduler = networks.build_scheduler(entry.method)
                with networks.prepare(entry.method) as pipeline:
                    latents = generate(entry.method, entry.task.batch(number), pipeline, scheduler)
                entry.find_batch(number).write({"latents": latents})

    @cache
    def read_full_run() -> tuple[Tensor, Tensor]:
        latents = entries[0].read_latents()
        return decode_latents(latents, entries[0].task, networks.pipeline), latents

    def measure_method(index: int) -> None:
        entry = due[index]
        latents, scheduler = entry.read_latents(), networks.build_scheduler(entry.method)
        counts = sorted({few, entry.task.num_prompts})
        with networks.prepare(entry.method) as pipeline:
            arrays = measure(
                entry.method, entry.task, pipeline, scheduler, latents, read_full_run(), load(), counts
            )  # fmt: skip
        entry.result.write(arrays)

    compute_share(max((entry.task.num_batches for entry in due), default=0), sample_batch, state, "sampling")
    networks.unet.answers.clear()
    compute_share(len(due), measure_method, state, "measuring")


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
    settings = {"rounds": rounds, "together": TIMED_TOGETHER}
    parts = {}
    for method in methods:
        key = content_hash(settings | {"network": networks.hash_method(method, task.guidance)})
        parts[method.name] = Part(folder / f"{name_file(method.name)}-time.npz", key)
    due = [method for method in methods if not parts[method.name].is_stored()]
    for begin in tqdm(range(0, len(due), TIMED_TOGETHER), desc="timing", unit="group"):
        group = due[begin : begin + TIMED_TOGETHER]
        schedulers = [networks.build_scheduler(method) for method in group]
        ratios = measure_time_ratios(group, task, networks.pipeline, schedulers, rounds)
        for method, values in zip(group, ratios, strict=True):
            parts[method.name].write({"ratios": values})
    return dict(zip(parts, read_parts(list(parts.values())), strict=True))


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
        row = np.concatenate(list(to_pixels(decode_latents(latents, task, pipeline))), axis=1)
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
        to_pixels(decode_latents(torch.from_numpy(arrays[method.name]["latents"][firsts]), task, pipeline))
        for method in (FULL_RUN, HEADLINE)
    ]
    sheet = draw_captioned_sheet(np.concatenate(both, axis=2), [task.captions[first] for first in firsts])
    with replace_file(path) as temporary:
        sheet.save(temporary, "WEBP", quality=85, method=6)
