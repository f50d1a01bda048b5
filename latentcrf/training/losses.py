"""Losses of LatentCRF's training stages, in the latent space."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def return_gain(alpha_in: Tensor, alpha_out: Tensor) -> Tensor:
    """How much a change of y changes the latents that are handed back: d x_out / d y, (B,).

    From hand_over: x_out = (sqrt(abar_out) - sqrt(abar_in (1 - abar_out) / (1 - abar_in))) y + (...) x.
    """
    return alpha_out.sqrt() - (alpha_in * (1 - alpha_out) / (1 - alpha_in)).sqrt()


def ideal_latents(latents: Tensor, returned: Tensor, alpha_in: Tensor, alpha_out: Tensor) -> Tensor:
    """The y whose hand-over takes `latents` (level alpha_in) exactly to `returned` (level alpha_out), (B, C, H, W)."""
    kept = ((1 - alpha_out) / (1 - alpha_in)).sqrt().view(-1, 1, 1, 1)
    return (returned - kept * latents) / return_gain(alpha_in, alpha_out).view(-1, 1, 1, 1)


def level_weight(alpha_in: Tensor) -> Tensor:
    """Weight of a squared error on y, (B,): the error to be expected grows with the variance of the noise left."""
    return 1 / (1 - alpha_in + 0.02)


def denoising_loss(y: Tensor, clean: Tensor, alpha_in: Tensor) -> Tensor:
    """Stage 1: weighted squared distance of y to the real image's latents, mean over the batch."""
    return (level_weight(alpha_in) * (y - clean).square().mean((1, 2, 3))).mean()


def distillation_loss(y: Tensor, latents: Tensor, returned: Tensor, alpha_in: Tensor, alpha_out: Tensor) -> Tensor:
    """Stage 2: weighted squared distance of y to the ideal one, with which the LDM would go on exactly as without a bypass.

    Short bypasses hardly depend on y (the gain is near 0): they weigh less.
    """
    gain = return_gain(alpha_in, alpha_out)
    error = (y - ideal_latents(latents, returned, alpha_in, alpha_out)).square().mean((1, 2, 3))
    return (level_weight(alpha_in) * gain.square() / (gain.square() + 0.01) * error).mean()


def generator_loss(discriminator: nn.Module, y: Tensor) -> Tensor:
    """Hinge loss of the CRF: its latents should look real."""
    return -discriminator(y).float().mean()


def discriminator_loss(discriminator: nn.Module, real: Tensor, y: Tensor) -> Tensor:
    """Hinge loss of the discriminator on real latents and the CRF's."""
    return F.relu(1 - discriminator(real).float()).mean() + F.relu(1 + discriminator(y.detach()).float()).mean()


def adversarial_active(step: int, warm_up: int = 300) -> float:
    """Factor on the adversarial loss: the discriminator learns alone for `warm_up` steps, then the CRF joins gradually."""
    return float(torch.tensor((step - warm_up) / warm_up).clamp(0, 1))
