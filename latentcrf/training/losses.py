"""Losses of LatentCRF's training stages."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentcrf.observation import Observation


def return_gain(alpha_in: Tensor, alpha_out: Tensor) -> Tensor:
    """How much a change of y changes the latents that are handed back: d x_out / d y, (B,).

    From hand_over: x_out = (sqrt(abar_out) - sqrt(abar_in (1 - abar_out) / (1 - abar_in))) y + (...) x.
    """
    return alpha_out.sqrt() - (alpha_in * (1 - alpha_out) / (1 - alpha_in)).sqrt()


def ideal_latents(latents: Tensor, returned: Tensor, alpha_in: Tensor, alpha_out: Tensor) -> Tensor:
    """The y whose hand-over takes `latents` (level alpha_in) exactly to `returned` (level alpha_out), (B, C, H, W)."""
    kept = ((1 - alpha_out) / (1 - alpha_in)).sqrt().view(-1, 1, 1, 1)
    return (returned - kept * latents) / return_gain(alpha_in, alpha_out).view(-1, 1, 1, 1)


def level_weight(alpha_denoised: Tensor) -> Tensor:
    """Weight of a squared error on y, (B,): the error to be expected grows with the noise that the U-Net last saw."""
    return 1 / (1 - alpha_denoised + 0.02)


def denoising_loss(y: Tensor, clean: Tensor, alpha_denoised: Tensor) -> Tensor:
    """Stage 1: weighted squared distance of y to the real image's latents, mean over the batch."""
    return (level_weight(alpha_denoised) * (y - clean).square().mean((1, 2, 3))).mean()


def distillation_loss(y: Tensor, observation: Observation, returned: Tensor) -> Tensor:
    """Stage 2: weighted squared distance of y to the ideal one, with which the LDM would go on exactly as without a bypass.

    Short bypasses hardly depend on y (the gain is near 0): they weigh less. Levels are tensors (B,).
    """
    o = observation
    a_in, a_out = torch.as_tensor(o.alpha_in), torch.as_tensor(o.alpha_out)
    gain = return_gain(a_in, a_out)
    error = (y - ideal_latents(o.latents, returned, a_in, a_out)).square().mean((1, 2, 3))
    before = a_in if o.alpha_denoised is None else torch.as_tensor(o.alpha_denoised)
    return (level_weight(before) * gain.square() / (gain.square() + 0.01) * error).mean()


def feature_loss(made: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Stage 3: squared distance of two batches' feature maps (B, C, h, w) of unit length at each position, as LPIPS has it
    (arXiv 1801.03924, equation 1) but without learned weights; mean over positions and maps."""
    distances = [(a - b).square().sum(1).mean() for a, b in zip(made, wanted, strict=True)]
    return torch.stack(distances).mean()


def generator_loss(discriminator: nn.Module, made: Tensor) -> Tensor:
    """Hinge loss of whoever made these latents or images: they should look real."""
    return -discriminator(made).float().mean()


def discriminator_loss(discriminator: nn.Module, real: Tensor, made: Tensor) -> Tensor:
    """Hinge loss of the discriminator on real latents or images and made ones."""
    return F.relu(1 - discriminator(real).float()).mean() + F.relu(1 + discriminator(made.detach()).float()).mean()


def relativistic_loss(above: Tensor, below: Tensor) -> Tensor:
    """Loss of whoever wants the scores `above` higher than `below`, those of the other image of each pair (RpGAN, arXiv
    1807.00734): the discriminator wanted ones above made ones, their maker the other way round."""
    return F.softplus(below.float() - above.float()).mean()


def adversarial_ramp(share: float) -> float:
    """Factor on the adversarial loss, 0 to 1, after a `share` of the training's time since the discriminator began.

    The discriminator learns alone for 2 % of the time, over the next 3 % the CRF joins.
    """
    return min(1.0, max(0.0, (share - 0.02) / 0.03))
