"""A model set in memory. Imported with torch and diffusers, which takes seconds: by `app.work` alone."""

import gc
import hashlib
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from torch import nn
from transformers.utils import logging as transformers_logging

from analysis.metrics.perceptual import load_features, load_lpips
from analysis.sampling import load_pipeline
from app.call_memory import Memories
from app.device import is_on_zero_gpu
from app.models import CRF_FILES, ModelSet, find_file
from app.models_file import ModelsError, Source
from app.previews import load_preview
from app.settings import Settings
from latentcrf import LatentCRF
from latentcrf.precision import choose_precision, precision_name
from latentcrf.utils.manifest import ASSETS, find_damage

ROOM = 0.7  # share of the GPU's free memory that weights may take; the rest is for what a run computes


@dataclass
class LoadedModels:
    """What the page computes with, on its device.

    Attributes:
        model_set: where they come from.
        pipeline: the base model.
        crf: the bypass CRF; None: the zero-parameter bypass.
        finisher: the CRF that corrects final latents; None: a VAE round trip.
        lpips: the LPIPS network.
        features: EfficientNet-Lite0, for Vendi scores.
        precision: type in which the sampler's networks compute.
        preview: matrix of previews (C + 1, 3), as of `app.previews.fit_preview`.
        origin: what made an image: weights, device, precision.
        memories: what the visitors' last comparisons computed.
        is_offloaded: whether the pipeline's networks come to the GPU one at a time, as its memory is short.
        device: on which all networks lie, or to which they come one at a time.
    """

    model_set: ModelSet
    pipeline: StableDiffusionPipeline
    crf: LatentCRF | None
    finisher: LatentCRF | None
    lpips: nn.Module
    features: nn.Module
    precision: torch.dtype
    preview: torch.Tensor
    origin: dict[str, str] = field(default_factory=dict)
    memories: Memories = field(default_factory=Memories)
    is_offloaded: bool = False
    device: torch.device = torch.device("cpu")

    @property
    def precision_name(self) -> str:
        """The precision as exports record it, "bfloat16"."""
        return precision_name(self.precision)

    def select_origin(self, settings: Settings) -> dict[str, str]:
        """Select what made the images of a comparison.

        Args:
            settings: of the comparison.

        Returns:
            `origin` without the CRFs that the settings do not use.
        """
        unused = {"finisher": not (settings.finisher or settings.full_finisher), "crf": bool(settings.few_steps)}
        return {key: value for key, value in self.origin.items() if not unused.get(key)}

    @property
    def networks(self) -> list[nn.Module]:
        """The networks beside the pipeline."""
        return [each for each in (self.crf, self.finisher, self.lpips, self.features) if each is not None]

    def count_bytes(self, device_type: str | None = None) -> int:
        """Count the bytes of the weights.

        Args:
            device_type: only of those that are there; None (default): of all.
        """
        parts = [part for part in self.pipeline.components.values() if isinstance(part, nn.Module)]
        weights = (weight for part in (*parts, *self.networks) for weight in part.parameters())
        return sum(weight.nbytes for weight in weights if device_type in (None, weight.device.type))

    def move_to(self, device: torch.device, free_bytes: int | None = None) -> None:
        """Move all networks to a device.

        Where the GPU's memory is short, the pipeline's networks stay on the CPU and come to the GPU one at a time, when
        they compute.

        Args:
            device: where to.
            free_bytes: of the device; None: it has room.
        """
        if device.type != "cpu" and free_bytes is not None and self.count_bytes() > ROOM * free_bytes:
            self.is_offloaded = True
        self.device = device
        for network in self.networks:
            network.to(device)
        if device.type == "cpu":
            self.pipeline.remove_all_hooks()
        elif self.is_offloaded:
            self.pipeline.enable_model_cpu_offload(device=device)
            return
        self.pipeline.to(device)


def find_damaged_results() -> list[str]:
    """Compare the stored examples and tables that the page shows with the manifest.

    Returns:
        A few words for each file that is damaged, missing or foreign.
    """
    folders = (ASSETS / name for name in ("examples", "results/benchmark", "results/variance"))
    return [each for folder in folders if folder.is_dir() for each in find_damage(folder)]


def find_device() -> torch.device:
    """Find the GPU, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def check_compile() -> None:
    """Check that the device is one for which U-Nets are compiled.

    Raises:
        ModelsError: it is a CPU, or a GPU that is lent to each call (ZeroGPU).
    """
    if find_device().type != "cuda" or is_on_zero_gpu():
        raise ModelsError("--compile needs a GPU with CUDA of the page's own, and none is here. Start without it.")


def compile_unet(pipeline: StableDiffusionPipeline) -> None:
    """Let `torch.compile` make the U-Net's work at its next call, which takes minutes for a large one.

    Args:
        pipeline: the LDM.
    """
    # its `forward` alone: hooks that count calls stay outside, as each new one would compile it again
    pipeline.unet.forward = torch.compile(pipeline.unet.forward)


def load_models(model_set: ModelSet, compiles: bool = False) -> LoadedModels:
    """Load a model set into the CPU's memory, in the type in which the device computes; `use_device` moves it there.

    Args:
        model_set: its files were checked (`ModelSet.check`).
        compiles: whether the U-Net is compiled, default False; see `check_compile`.

    Returns:
        The models.

    Raises:
        OSError: a file cannot be read or fetched.
        ValueError: a file is not what its name says.
    """
    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()  # the text encoder is not the one that pipelines expect: known, and right
        library.disable_progress_bar()
    device = find_device()
    precision = choose_precision("auto", device)
    folders = {name: fetch_model(source, name) for name, source in model_set.sources.items()}
    origin = {"model": model_set.name}
    origin |= {name: name_weights(source, folders[name]) for name, source in model_set.sources.items()}
    if "finisher" not in origin:
        origin["finisher"] = "VAE round trip"
    origin |= {"device": device.type, "precision": precision_name(precision), "torch": torch.__version__}
    crf, finisher = (
        LatentCRF.from_pretrained(folders[name], torch_dtype=torch.float32, use_safetensors=True).eval()
        if name in folders
        else None
        for name in ("crf", "finisher")
    )
    weights = precision if device.type != "cpu" else torch.float32  # half as much of the GPU's memory
    pipeline = load_pipeline(folders["ldm"], precision=weights)
    preview = load_preview(folders["ldm"], pipeline.vae)
    if compiles:
        compile_unet(pipeline)
        origin["compiled"] = "U-Net"
    if device.type == "cpu":  # decoding takes 0.87 of the time there; not measured on a GPU
        pipeline.vae.to(memory_format=torch.channels_last)
    return LoadedModels(model_set, pipeline, crf, finisher, load_lpips(), load_features(), precision, preview, origin)


def use_device(models: LoadedModels, others: list[LoadedModels]) -> None:
    """Move models to the GPU, unless they are there; the other ones make room. Without a GPU nothing is moved.

    Args:
        models: to compute with.
        others: loaded ones.
    """
    device = find_device()
    # those that come one at a time are moved again: what computed last may be there still
    if device.type == "cpu" or (models.device == device and not models.is_offloaded):
        return
    if is_on_zero_gpu():  # the GPU is lent to a call: weights are put there once, before any
        models.move_to(device)
        return
    for other in others:
        if other.device.type != "cpu":
            other.move_to(torch.device("cpu"))
    free_device_memory()
    models.move_to(device, torch.cuda.mem_get_info(device)[0] + models.count_bytes(device.type))


def free_device_memory() -> None:
    """Give the GPU's memory that nothing holds back to it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def save_memory(models: LoadedModels) -> None:
    """After the GPU's memory ran out: free it, and let the pipeline's networks come to it one at a time from now on.

    Args:
        models: that computed.
    """
    free_device_memory()
    if find_device().type != "cpu" and not is_on_zero_gpu():
        models.is_offloaded = True
        models.move_to(torch.device("cpu"))
        free_device_memory()


def fetch_model(source: Source, name: str) -> Path:
    """Fetch a model from the hub, unless it is a folder of this machine. Only safetensors weights are fetched.

    Args:
        source: of the model.
        name: "ldm" for a pipeline, else a CRF's.

    Returns:
        The folder.

    Raises:
        OSError: it cannot be fetched.
    """
    if not source.on_hub:
        return source.folder
    if name != "ldm":
        config, weights = (find_file(source, file) for file in CRF_FILES)
        if config is None or weights is None:
            raise OSError(f"{source} is no LatentCRF: it lacks {' or '.join(CRF_FILES)}.")
        return config.parent
    with warnings.catch_warnings():  # of the weights in other forms that a repository holds as well
        warnings.simplefilter("ignore", category=FutureWarning)
        return Path(DiffusionPipeline.download(source.place, revision=source.revision, use_safetensors=True))


def name_weights(source: Source, folder: Path) -> str:
    """Name the weights of a model so that others with the same name differ from them.

    Args:
        source: of the model.
        folder: that holds it.

    Returns:
        The last part of its place with the commit's first 12 digits, or the first 12 hex digits of the SHA-256 over its
        safetensors files, in the order of their paths.
    """
    name = Path(source.place).resolve().name if not source.on_hub else source.place
    if source.on_hub and source.is_pinned:
        return f"{name} {(source.revision or '')[:12]}"
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
    return f"{name} {digest.hexdigest()[:12]}"
