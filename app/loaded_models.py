"""A model set in memory. Imported with torch and diffusers, which takes seconds: by `app.work` alone."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from torch import nn
from transformers.utils import logging as transformers_logging

from analysis.metrics.perceptual import load_features, load_lpips
from analysis.sampling import load_pipeline
from app.models import ModelSet
from app.settings import Settings
from latentcrf import LatentCRF
from latentcrf.precision import choose_precision, precision_name


@dataclass(frozen=True)
class LoadedModels:
    """What the page computes with, on its device.

    Attributes:
        model_set: where they come from.
        pipeline: the base model.
        crf: the bypass CRF.
        finisher: the CRF that corrects final latents.
        lpips: the LPIPS network.
        features: EfficientNet-Lite0, for Vendi scores.
        precision: type in which the sampler's networks compute.
        origin: what made an image: weights, device, precision.
    """

    model_set: ModelSet
    pipeline: StableDiffusionPipeline
    crf: LatentCRF
    finisher: LatentCRF
    lpips: nn.Module
    features: nn.Module
    precision: torch.dtype
    origin: dict[str, str] = field(default_factory=dict)

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
        unused = {"finisher": not settings.finisher, "crf": bool(settings.few_steps)}
        return {key: value for key, value in self.origin.items() if not unused.get(key)}


def load_models(model_set: ModelSet) -> LoadedModels:
    """Load a model set onto the GPU, or the CPU where there is none.

    Args:
        model_set: its files were checked (`ModelSet.check`).

    Returns:
        The models.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file is not what its name says.
    """
    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()  # the text encoder is not the one that pipelines expect: known, and right
        library.disable_progress_bar()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder = model_set.folder
    precision = choose_precision("auto", device)
    names = {"ldm": model_set.pipeline, "crf": model_set.crf, "finisher": model_set.finisher}
    origin = {key: f"{name} {compute_fingerprint(folder / name)}" for key, name in names.items()}
    origin |= {"device": device.type, "precision": precision_name(precision), "torch": torch.__version__}
    crf, finisher = (
        LatentCRF.from_pretrained(folder / name, torch_dtype=torch.float32, use_safetensors=True).to(device).eval()
        for name in (model_set.crf, model_set.finisher)
    )
    return LoadedModels(
        model_set,
        load_pipeline(folder / model_set.pipeline, device.type),
        crf,
        finisher,
        load_lpips().to(device),
        load_features().to(device),
        precision,
        origin,
    )


def compute_fingerprint(folder: Path) -> str:
    """Compute a fingerprint of a model folder's weights.

    Args:
        folder: of the model.

    Returns:
        The first 12 hex digits of the SHA-256 over its safetensors files, in the order of their paths.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
