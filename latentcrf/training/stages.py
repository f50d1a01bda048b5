"""The training's three stages. A step of each draws a batch, updates the CRF and, where there is one, the critic."""

from dataclasses import fields, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from torch import Tensor

from latentcrf.discriminator import LatentDiscriminator
from latentcrf.model import LatentCRF, Observation
from latentcrf.precision import autocast
from latentcrf.training.judges import PairJudge
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
from latentcrf.training.trajectories import Trajectories


def random_iterations() -> int:
    """1 to 10, mostly few: the fixed point is learned, not the iterate after a certain number of steps."""
    return int(torch.randint(1, 11, (2,)).min())


def to_device(observation: Observation, device: torch.device) -> Observation:
    """The observation, its levels tensors, on `device`."""
    parts = {
        field.name: None if value is None else torch.as_tensor(value).to(device)
        for field in fields(observation)
        for value in (getattr(observation, field.name),)
    }
    return Observation(**parts)  # type: ignore[arg-type]


def mended(crf: LatentCRF, observation: Observation, precision: torch.dtype = torch.float32) -> Tensor:
    """The CRF's clean latents y (B, C, H, W) after a random number of iterations, its network in `precision`."""
    with autocast(observation.latents.device, precision):
        return crf(perhaps_less(observation), random_iterations())


def perhaps_less(observation: Observation) -> Observation:
    """Without its prompt one time in ten, and without its earlier estimate: a pipeline need not tell the one
    (`LatentCRFScheduler.prompt_embeds`), and has none of the other where it has just begun (image-to-image)."""
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
        """One step of the CRF, `share` of the training's time after the stage's begin; returns its losses."""
        ...


class Denoising:
    """Stage 1: real images' latents are noised, the LDM estimates the clean ones in one call, the CRF mends the estimate
    towards the real latents; a discriminator judges its latents."""

    def __init__(
        self, preset: Preset, ldm: StableDiffusionPipeline, real: RealLatents, alphas: Tensor,
        precision: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        self.preset, self.ldm, self.real, self.alphas, self.precision = preset, ldm, real, alphas, precision
        self.learning_rate, self.batch_size = preset.learning_rate, preset.batch_size
        self.discriminator = LatentDiscriminator(ldm.unet.config.in_channels).to(ldm.device)
        self.critic = torch.optim.AdamW(self.discriminator.parameters(), lr=3e-4, betas=(0.5, 0.9))
        self.parts: dict[str, Stateful] = {"discriminator": self.discriminator, "critic": self.critic}

    def step(self, crf: LatentCRF, optimizer: torch.optim.Optimizer, share: float) -> dict[str, Tensor]:
        weight = self.preset.adversarial_weight
        observation, clean = observe_drawn(
            self.ldm, self.real, self.alphas, self.batch_size, self.preset.guidance, self.precision
        )
        y = mended(crf, observation, self.precision)
        loss = denoising_loss(y, clean, torch.as_tensor(observation.alpha_denoised))
        losses = {"denoising": loss.detach()}
        if (ramp := weight * adversarial_ramp(share)) > 0:
            loss = loss + ramp * generator_loss(self.discriminator, y)
        optimise(loss, crf, optimizer)
        if weight > 0:
            losses["latents_judged"] = judged = discriminator_loss(self.discriminator, clean, y)
            optimise(judged, self.discriminator, self.critic)
        return {name: value.detach() for name, value in losses.items()}


class Distillation:
    """Stage 2: from hand-overs of recorded runs, back to latents with which the LDM goes on as if nothing had been bypassed."""

    def __init__(
        self, preset: Preset, runs: Trajectories, device: torch.device, precision: torch.dtype = torch.float32
    ) -> None:
        self.runs, self.device, self.precision = runs, device, precision
        self.learning_rate, self.batch_size = preset.learning_rate, preset.batch_size
        self.parts: dict[str, Stateful] = {}

    def step(self, crf: LatentCRF, optimizer: torch.optim.Optimizer, share: float) -> dict[str, Tensor]:
        observation, target, _ = observe_recorded(self.runs, self.batch_size)
        observation, target = to_device(observation, self.device), target.to(self.device)
        loss = distillation_loss(mended(crf, observation, self.precision), observation, target)
        optimise(loss, crf, optimizer)
        return {"distillation": loss.detach()}


class Refinement:
    """Stage 3: the images that the CRF's latents decode to. What minimizes a squared error of latents is a mean of many
    pictures, which does not decode to a good one.

    Hand-overs of recorded runs are decoded and compared with the images at which the LDM itself arrives in the same
    runs: pixels and a trained network's features have to be near, and a discriminator on those features must not tell
    one from the other, pair by pair, wherever the LDM takes over again. It is the LDM's own images that they are compared
    with, not real ones: what a discriminator beside real images asks for is not what nearness to the LDM does.

    Args:
        judge: compares the images.
        precision: in which the CRF and the decoder compute.
    """

    EARLIEST = 0.3  # share of a run's steps: on more noise than there, no image near to the LDM's can be had

    def __init__(
        self, preset: Preset, ldm: StableDiffusionPipeline, runs: Trajectories, judge: PairJudge,
        precision: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        self.preset, self.runs, self.precision = preset, runs, precision
        self.learning_rate, self.batch_size = preset.final_learning_rate, preset.final_batch_size
        self.vae, self.device, self.judge = ldm.vae.requires_grad_(False), ldm.device, judge.to(ldm.device)
        self.parts: dict[str, Stateful] = {"judge": judge, "judge_critic": judge.optimizer}
        with torch.no_grad():  # decoded once: a batch of them costs more than the CRF
            finals = [self.decode(part.to(self.device)).half().cpu() for part in runs.latents[:, -1].split(32)]
        self.finals = torch.cat(finals)  # as the decoder makes them: clamped ones would tell themselves apart

    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W), about -1 to 1."""
        with autocast(self.device, self.precision):
            return self.vae.decode(latents / self.vae.config.scaling_factor).sample.float()

    def step(self, crf: LatentCRF, optimizer: torch.optim.Optimizer, share: float) -> dict[str, Tensor]:
        earliest = round(self.EARLIEST * self.runs.steps)
        observation, _, numbers = observe_recorded(self.runs, self.batch_size, earliest)
        made = self.decode(mended(crf, to_device(observation, self.device), self.precision))
        wanted = self.finals[numbers].to(self.device).float()
        seen = self.judge.look(made, wanted)
        losses = {"pixels": F.l1_loss(made, wanted), "features": feature_loss(*seen)}
        loss = losses["pixels"] + self.preset.final_feature_weight * losses["features"]
        weight = self.preset.final_adversarial_weight
        if (ramp := weight * adversarial_ramp(share)) > 0:
            losses["fooled"] = self.judge.fooled_by(*seen)
            loss = loss + ramp * losses["fooled"]
        optimise(loss, crf, optimizer)
        if weight > 0:
            losses["images_judged"] = self.judge.learn(*seen)
        return {name: value.detach() for name, value in losses.items()}
