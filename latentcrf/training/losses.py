"""Losses of LatentCRF's training stages.

Symbols, code name -> paper: alpha_in, alpha_out, alpha_denoised -> abar_in, abar_out, abar of the last denoiser call.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentcrf.observation import Observation


def return_gain(alpha_in: Tensor, alpha_out: Tensor) -> Tensor:
    """Compute how much a change of y changes the latents at the return, d x_out / d y.

    From `hand_over`: x_out = (sqrt(abar_out) - sqrt(abar_in (1 - abar_out) / (1 - abar_in))) y + (...) x.

    Args:
        alpha_in: level of the hand-over (B,).
        alpha_out: level of the return (B,).

    Returns:
        The gain (B,).
    """
    return alpha_out.sqrt() - (alpha_in * (1 - alpha_out) / (1 - alpha_in)).sqrt()


def ideal_latents(latents: Tensor, returned: Tensor, alpha_in: Tensor, alpha_out: Tensor) -> Tensor:
    """Compute the y whose hand-over takes `latents` exactly to `returned`.

    Args:
        latents: x (B, C, H, W) at level alpha_in.
        returned: x_out (B, C, H, W) at level alpha_out.
        alpha_in: level of the hand-over (B,).
        alpha_out: level of the return (B,).

    Returns:
        y (B, C, H, W).
    """
    noise_factor = ((1 - alpha_out) / (1 - alpha_in)).sqrt().view(-1, 1, 1, 1)
    return (returned - noise_factor * latents) / return_gain(alpha_in, alpha_out).view(-1, 1, 1, 1)


def level_weight(alpha_denoised: Tensor) -> Tensor:
    """Compute the weight of a squared error on y.

    The expected error grows with the noise that the denoiser last saw, so its weight falls.

    Args:
        alpha_denoised: level of the last denoiser call (B,).

    Returns:
        The weight (B,).
    """
    return 1 / (1 - alpha_denoised + 0.02)


def denoising_loss(y: Tensor, clean: Tensor, alpha_denoised: Tensor) -> Tensor:
    """Compute the loss of stage 1: the weighted squared distance to a real image's latents.

    Args:
        y: the CRF's latents (B, C, H, W).
        clean: the real image's latents (B, C, H, W).
        alpha_denoised: level of the last denoiser call (B,).

    Returns:
        The mean over the batch, a scalar.
    """
    return (level_weight(alpha_denoised) * (y - clean).square().mean((1, 2, 3))).mean()


def distillation_loss(y: Tensor, observation: Observation, returned: Tensor) -> Tensor:
    """Compute the loss of stage 2: the weighted squared distance to the ideal latents.

    With the ideal latents the LDM goes on exactly as in the full run. A short bypass hardly depends on y (its gain is
    near 0), so it weighs less.

    Args:
        y: the CRF's latents (B, C, H, W).
        observation: what the LDM handed over; its levels are tensors (B,).
        returned: latents of the full run at the return (B, C, H, W).

    Returns:
        The mean over the batch, a scalar.
    """
    o = observation
    a_in, a_out = torch.as_tensor(o.alpha_in), torch.as_tensor(o.alpha_out)
    gain = return_gain(a_in, a_out)
    error = (y - ideal_latents(o.latents, returned, a_in, a_out)).square().mean((1, 2, 3))
    a_denoised = a_in if o.alpha_denoised is None else torch.as_tensor(o.alpha_denoised)
    return (level_weight(a_denoised) * gain.square() / (gain.square() + 0.01) * error).mean()


def feature_loss(features: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """Compute the feature loss of stage 3, that of LPIPS (arXiv 1801.03924, equation 1) without learned weights.

    Args:
        features: maps (B, C, h, w) of unit length at each position.
        target: maps of the other images, alike.

    Returns:
        The mean squared distance over positions and maps, a scalar.
    """
    distances = [(a - b).square().sum(1).mean() for a, b in zip(features, target, strict=True)]
    return torch.stack(distances).mean()


def generator_loss(discriminator: nn.Module, generated: Tensor) -> Tensor:
    """Compute the hinge loss of the network that generated these latents or images.

    Args:
        discriminator: latents or images -> logits, high for real ones.
        generated: its input.

    Returns:
        A scalar.
    """
    return -discriminator(generated).float().mean()


def discriminator_loss(discriminator: nn.Module, real: Tensor, generated: Tensor) -> Tensor:
    """Compute the hinge loss of a discriminator.

    Args:
        discriminator: latents or images -> logits, high for real ones.
        real: its input.
        generated: its input; no gradient reaches it.

    Returns:
        A scalar.
    """
    return F.relu(1 - discriminator(real).float()).mean() + F.relu(1 + discriminator(generated.detach()).float()).mean()


def relativistic_loss(above: Tensor, below: Tensor) -> Tensor:
    """Compute the loss that raises some logits above others (RpGAN, arXiv 1807.00734).

    The discriminator wants a target's logits above those of the generated image of the pair, the generator the reverse.

    Args:
        above: logits that should be higher.
        below: logits of the other image of each pair.

    Returns:
        A scalar.
    """
    return F.softplus(below.float() - above.float()).mean()


def adversarial_ramp(share: float) -> float:
    """Compute the factor on the adversarial loss.

    The discriminator learns alone for 2 % of the time; over the next 3 % the factor rises to 1.

    Args:
        share: of the training's time since the discriminator began.

    Returns:
        The factor, 0 to 1.
    """
    return min(1.0, max(0.0, (share - 0.02) / 0.03))
