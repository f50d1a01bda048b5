"""The training's three stages. A step draws a batch and trains the CRF and, if there is one, the discriminator."""

from dataclasses import fields, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from latentcrf.model import LatentCRF
from latentcrf.observation import Observation
from latentcrf.precision import autocast
from latentcrf.training.discriminators import LatentDiscriminator, PairDiscriminator, build_optimizer
from latentcrf.training.latents import CACHED_BYTES, RealLatents
from latentcrf.training.ldm import LDM
from latentcrf.training.loop import Stateful, optimise
from latentcrf.training.losses import (
    adversarial_ramp,
    denoising_loss,
    discriminator_loss,
    distillation_loss,
    feature_loss,
    generator_loss,
)
from latentcrf.training.observations import observe_drawn, observe_recorded
from latentcrf.training.presets import Preset
from latentcrf.training.recording import RecordedRuns
from latentcrf.vae import upcast_if_needed


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


def finish(crf: LatentCRF, latents: Tensor, num_iterations: int = 5, precision: torch.dtype = torch.float32) -> Tensor:
    """Correct final latents.

    Args:
        crf: the finisher's CRF.
        latents: (B, C, H, W).
        num_iterations: of its solver.
        precision: in which its network computes.

    Returns:
        The corrected latents (B, C, H, W).
    """
    with autocast(latents.device, precision):
        return crf(Observation(latents, latents, 1.0, 1.0), num_iterations)


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
        components: what belongs in a checkpoint, by name.
    """

    learning_rate: float
    batch_size: int
    components: dict[str, Stateful]

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
        accelerator: of `build_accelerator`.
        preset: recipe.
        ldm: the LDM.
        real: latents and captions of the training images.
        alphas: level abar of each step of a run, then 1 (S + 1,).
        precision: in which the CRF and the U-Net compute.
    """

    def __init__(
        self, accelerator: Accelerator, preset: Preset, ldm: LDM, real: RealLatents, alphas: Tensor,
        precision: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        self.accelerator = accelerator
        self.preset, self.ldm, self.real, self.alphas, self.precision = preset, ldm, real, alphas, precision
        self.learning_rate, self.batch_size = preset.learning_rate, preset.batch_size
        self.discriminator = LatentDiscriminator(ldm.latent_shape[0]).to(ldm.device)
        self.discriminator_optimizer = build_optimizer(self.discriminator, learning_rate=3e-4)
        self.components: dict[str, Stateful] = {
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
        optimise(self.accelerator, loss, crf, optimizer)
        if weight > 0:
            losses["latent_discriminator"] = own_loss = discriminator_loss(self.discriminator, clean, y)
            optimise(self.accelerator, own_loss, self.discriminator, self.discriminator_optimizer)
        return {name: value.detach() for name, value in losses.items()}


class Distillation:
    """Stage 2: from hand-overs of recorded runs, the CRF returns latents with which the LDM goes on as in the full run.

    Args:
        accelerator: of `build_accelerator`.
        preset: recipe.
        runs: the recording.
        precision: in which the CRF computes.
    """

    def __init__(
        self, accelerator: Accelerator, preset: Preset, runs: RecordedRuns, precision: torch.dtype = torch.float32
    ) -> None:
        self.accelerator, self.runs, self.precision = accelerator, runs, precision
        self.learning_rate, self.batch_size = preset.learning_rate, preset.batch_size
        self.components: dict[str, Stateful] = {}

    def step(self, crf: LatentCRF, optimizer: torch.optim.Optimizer, share: float) -> dict[str, Tensor]:
        """Train the CRF for one step; see `Stage`."""
        observation, target, _ = observe_recorded(self.runs, self.batch_size)
        device = self.accelerator.device
        observation, target = to_device(observation, device), target.to(device)
        loss = distillation_loss(apply_crf(crf, observation, self.precision), observation, target)
        optimise(self.accelerator, loss, crf, optimizer)
        return {"distillation": loss.detach()}


class Refinement:
    """Stage 3: the images that the CRF's latents decode to are compared with those of the full runs.

    What minimizes a squared error of latents is a mean of many pictures, which does not decode to a good one. So
    hand-overs of recorded runs are decoded; pixels and a trained network's features shall be near the full run's, and a
    discriminator on these features compares the two images pair by pair. It compares with the LDM's images and not with
    real ones, because real ones contradict nearness to the LDM.

    Args:
        accelerator: of `build_accelerator`.
        preset: recipe.
        ldm: the LDM.
        runs: the recording.
        discriminator: of image pairs.
        precision: in which the CRF and the decoder compute.

    Attributes:
        target_images: of all runs, float16, where they take no more than `CACHED_BYTES`: to decode a batch costs more
            than the CRF. Else None, and each step decodes its own.
    """

    EARLIEST = 0.3  # share of a run's steps: with more noise no image near the LDM's is within reach

    def __init__(
        self, accelerator: Accelerator, preset: Preset, ldm: LDM, runs: RecordedRuns, discriminator: PairDiscriminator,
        precision: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        self.accelerator = accelerator
        self.preset, self.runs, self.precision = preset, runs, precision
        self.learning_rate, self.batch_size = preset.final_learning_rate, preset.final_batch_size
        self.vae, self.device = ldm.vae.requires_grad_(False), ldm.device
        self.discriminator = discriminator.to(ldm.device)
        self.components: dict[str, Stateful] = {
            "pair_discriminator": discriminator,
            "pair_discriminator_optimizer": discriminator.optimizer,
        }
        height, width = ldm.image_size
        self.target_images: Tensor | None = None
        if 2 * 3 * height * width * len(runs) <= CACHED_BYTES:
            parts = torch.arange(len(runs)).split(32)
            self.target_images = torch.cat([self.decode_targets(part).cpu() for part in parts])

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents (B, C, h, w) to images (B, 3, H, W), about -1 to 1."""
        with autocast(self.device, self.precision), upcast_if_needed(self.vae, self.device):
            images: Tensor = self.vae.decode(latents / self.vae.config.scaling_factor).sample.float()
        return images

    @torch.no_grad()
    def decode_targets(self, runs: Tensor) -> Tensor:
        """Decode the final latents of runs (B,) to images (B, 3, H, W), float16.

        They are not clamped: the discriminator would tell clamped ones apart.
        """
        return self.decode(self.runs.latents[runs, -1].to(self.device)).half()

    def step(self, crf: LatentCRF, optimizer: torch.optim.Optimizer, share: float) -> dict[str, Tensor]:
        """Train the CRF and the discriminator for one step; see `Stage`."""
        earliest = round(self.EARLIEST * self.runs.steps)
        observation, _, numbers = observe_recorded(self.runs, self.batch_size, earliest)
        images = self.decode(apply_crf(crf, to_device(observation, self.device), self.precision))
        if self.target_images is None:
            target = self.decode_targets(numbers).float()
        else:
            target = self.target_images[numbers].to(self.device).float()
        features = self.discriminator.extract_features(images, target)
        losses = {"pixels": F.l1_loss(images, target), "features": feature_loss(*features)}
        loss = losses["pixels"] + self.preset.final_feature_weight * losses["features"]
        weight = self.preset.final_adversarial_weight
        if (ramp := weight * adversarial_ramp(share)) > 0:
            losses["adversarial"] = self.discriminator.generator_loss(*features)
            loss = loss + ramp * losses["adversarial"]
        optimise(self.accelerator, loss, crf, optimizer)
        if weight > 0:
            losses["pair_discriminator"] = self.discriminator.train_step(self.accelerator, *features)
        return {name: value.detach() for name, value in losses.items()}
