"""The training's three stages. A step of each draws a batch and trains the CRF and, where there is one, the discriminator."""

from dataclasses import fields, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from torch import Tensor

from latentcrf.model import LatentCRF
from latentcrf.observation import Observation
from latentcrf.precision import autocast
from latentcrf.training.discriminators import LatentDiscriminator, PairDiscriminator, build_optimizer
from latentcrf.training.loop import Stateful, optimise
from latentcrf.training.losses import (
    adversarial_ramp,
    denoising_loss,
    discriminator_loss,
    distillation_loss,
    feature_loss,
    generator_loss,
)
from latentcrf.training.observations import RealLatents, observe_drawn, observe_recorded
from latentcrf.training.presets import Preset
from latentcrf.training.recording import RecordedRuns


def draw_iterations() -> int:
    """Draw a number of iterations, 1 to 10, mostly few, so that the fixed point is learned and no certain iterate."""
    return int(torch.randint(1, 11, (2,)).min())


def to_device(observation: Observation, device: torch.device) -> Observation:
    """Return the observation on `device`, its levels as tensors."""
    values = {
        field.name: None if value is None else torch.as_tensor(value).to(device)
        for field in fields(observation)
        for value in (getattr(observation, field.name),)
    }
    return Observation(**values)  # type: ignore[arg-type]


def apply_crf(crf: LatentCRF, observation: Observation, precision: torch.dtype = torch.float32) -> Tensor:
    """Apply a CRF with a random number of iterations, some optional inputs dropped.

    Args:
        crf: the LatentCRF.
        observation: hand-overs.
        precision: in which its network computes.

    Returns:
        Clean latents y (B, C, H, W).
    """
    with autocast(observation.latents.device, precision):
        return crf(drop_optional_inputs(observation), draw_iterations())


def drop_optional_inputs(observation: Observation) -> Observation:
    """Drop the prompt in one of ten batches, and the earlier estimate in one of ten.

    A pipeline need not set `LatentCRFScheduler.prompt_embeds`, and a run that has just begun (image-to-image) has no
    earlier estimate.
    """
    if torch.rand(()) < 0.1:
        observation = replace(observation, prompt_embeds=None)
    return replace(observation, earlier=None, alpha_earlier=None) if torch.rand(()) < 0.1 else observation


class Stage(Protocol):
    """One stage.

    Attributes:
        learning_rate: its peak.
        batch_size: hand-overs a step.
        parts: what belongs in a checkpoint, by name.
    """

    learning_rate: float
    batch_size: int
    parts: dict[str, Stateful]

    def step(self, crf: LatentCRF, optimizer: torch.optim.Optimizer, share: float) -> dict[str, Tensor]:
        """Train the CRF for one step.

        Args:
            crf: the LatentCRF.
            optimizer: of its parameters.
            share: of the training's time since the stage began.

        Returns:
            Losses by name, scalars.
        """
        ...


class Denoising:
    """Stage 1: the CRF corrects clean estimates of noised real images.

    Real images' latents are noised, the LDM estimates the clean ones in one call, and the CRF corrects the estimate
    towards the real latents. A discriminator compares its latents with real ones.

    Args:
        preset: recipe.
        ldm: the pipeline.
        real: latents and captions of the training images.
        alphas: level abar of each step of a run, then 1 (S + 1,).
        precision: in which the CRF and the U-Net compute.
    """

    def __init__(
        self, preset: Preset, ldm: StableDiffusionPipeline, real: RealLatents, alphas: Tensor,
        precision: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        self.preset, self.ldm, self.real, self.alphas, self.precision = preset, ldm, real, alphas, precision
        self.learning_rate, self.batch_size = preset.learning_rate, preset.batch_size
        self.discriminator = LatentDiscriminator(ldm.unet.config.in_channels).to(ldm.device)
        self.discriminator_optimizer = build_optimizer(self.discriminator, learning_rate=3e-4)
        self.parts: dict[str, Stateful] = {
            "latent_discriminator": self.discriminator,
            "latent_discriminator_optimizer": self.discriminator_optimizer,
        }

    def step(self, crf: LatentCRF, optimizer: torch.optim.Optimizer, share: float) -> dict[str, Tensor]:
        """Train the CRF and the discriminator for one step; see `Stage`."""
        weight = self.preset.adversarial_weight
        observation, clean = observe_drawn(
            self.ldm, self.real, self.alphas, self.batch_size, self.preset.guidance, self.precision
        )
        y = apply_crf(crf, observation, self.precision)
        loss = denoising_loss(y, clean, torch.as_tensor(observation.alpha_denoised))
        losses = {"denoising": loss.detach()}
        if (ramp := weight * adversarial_ramp(share)) > 0:
            loss = loss + ramp * generator_loss(self.discriminator, y)
        optimise(loss, crf, optimizer)
        if weight > 0:
            losses["latent_discriminator"] = own_loss = discriminator_loss(self.discriminator, clean, y)
            optimise(own_loss, self.discriminator, self.discriminator_optimizer)
        return {name: value.detach() for name, value in losses.items()}


class Distillation:
    """Stage 2: from hand-overs of recorded runs, the CRF returns latents with which the LDM goes on as in the full run.

    Args:
        preset: recipe.
        runs: the recording.
        device: of the CRF.
        precision: in which the CRF computes.
    """

    def __init__(
        self, preset: Preset, runs: RecordedRuns, device: torch.device, precision: torch.dtype = torch.float32
    ) -> None:
        self.runs, self.device, self.precision = runs, device, precision
        self.learning_rate, self.batch_size = preset.learning_rate, preset.batch_size
        self.parts: dict[str, Stateful] = {}

    def step(self, crf: LatentCRF, optimizer: torch.optim.Optimizer, share: float) -> dict[str, Tensor]:
        """Train the CRF for one step; see `Stage`."""
        observation, target, _ = observe_recorded(self.runs, self.batch_size)
        observation, target = to_device(observation, self.device), target.to(self.device)
        loss = distillation_loss(apply_crf(crf, observation, self.precision), observation, target)
        optimise(loss, crf, optimizer)
        return {"distillation": loss.detach()}


class Refinement:
    """Stage 3: the images that the CRF's latents decode to are compared with those of the full runs.

    What minimizes a squared error of latents is a mean of many pictures, which does not decode to a good one. So
    hand-overs of recorded runs are decoded; pixels and a trained network's features shall be near the full run's, and a
    discriminator on these features compares the two images pair by pair. It compares with the LDM's images and not with
    real ones, because real ones contradict nearness to the LDM.

    Args:
        preset: recipe.
        ldm: the pipeline.
        runs: the recording.
        discriminator: of image pairs.
        precision: in which the CRF and the decoder compute.
    """

    EARLIEST = 0.3  # share of a run's steps: with more noise no image near the LDM's is within reach

    def __init__(
        self, preset: Preset, ldm: StableDiffusionPipeline, runs: RecordedRuns, discriminator: PairDiscriminator,
        precision: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        self.preset, self.runs, self.precision = preset, runs, precision
        self.learning_rate, self.batch_size = preset.final_learning_rate, preset.final_batch_size
        self.vae, self.device = ldm.vae.requires_grad_(False), ldm.device
        self.discriminator = discriminator.to(ldm.device)
        self.parts: dict[str, Stateful] = {
            "pair_discriminator": discriminator,
            "pair_discriminator_optimizer": discriminator.optimizer,
        }
        with torch.no_grad():  # decoded once: a batch of them costs more than the CRF
            images = [self.decode(part.to(self.device)).half().cpu() for part in runs.latents[:, -1].split(32)]
        self.target_images = torch.cat(images)  # not clamped: the discriminator would tell clamped ones apart

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents (B, C, h, w) to images (B, 3, H, W), about -1 to 1."""
        with autocast(self.device, self.precision):
            images: Tensor = self.vae.decode(latents / self.vae.config.scaling_factor).sample.float()
        return images

    def step(self, crf: LatentCRF, optimizer: torch.optim.Optimizer, share: float) -> dict[str, Tensor]:
        """Train the CRF and the discriminator for one step; see `Stage`."""
        earliest = round(self.EARLIEST * self.runs.steps)
        observation, _, numbers = observe_recorded(self.runs, self.batch_size, earliest)
        images = self.decode(apply_crf(crf, to_device(observation, self.device), self.precision))
        target = self.target_images[numbers].to(self.device).float()
        features = self.discriminator.extract_features(images, target)
        losses = {"pixels": F.l1_loss(images, target), "features": feature_loss(*features)}
        loss = losses["pixels"] + self.preset.final_feature_weight * losses["features"]
        weight = self.preset.final_adversarial_weight
        if (ramp := weight * adversarial_ramp(share)) > 0:
            losses["adversarial"] = self.discriminator.generator_loss(*features)
            loss = loss + ramp * losses["adversarial"]
        optimise(loss, crf, optimizer)
        if weight > 0:
            losses["pair_discriminator"] = self.discriminator.train_step(*features)
        return {name: value.detach() for name, value in losses.items()}
