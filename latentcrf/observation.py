"""What the LDM hands over at the bypass, and how clean latents go back to it.

Symbols, code name -> paper: latents -> x, denoised -> x0_hat, alpha_in and alpha_out -> abar_in and abar_out (the
cumulative product of 1 - beta: 1 is clean, 0 is noise). Latents are as the U-Net sees them (scaled, about zero mean
and unit variance a channel) and variance preserving: x = sqrt(abar) y + sqrt(1 - abar) eps.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .noise_levels import TREND_GAP, log_snr


@dataclass(frozen=True)
class Observation:
    """What the LDM hands over to a CRF.

    Attributes:
        latents: x (B, C, H, W), the noisy latents at level `alpha_in`.
        denoised: x0_hat (B, C, H, W), the LDM's clean estimate of its last denoiser call, guidance included.
        alpha_in: the level of the hand-over, 0 to 1, a number or (B,).
        alpha_out: the level of the return, alike; 1 where the LDM does not take over again.
        prompt_embeds: the prompt's token states (B, tokens, D), or None.
        alpha_denoised: the level of the last denoiser call, alike; None: alpha_in. It lies one step below alpha_in,
            which tells a run of few steps from one of many.
        earlier: the clean estimate of an earlier denoiser call (B, C, H, W), or None. The change since then shows where
            the estimate is going (see `noise_levels.find_earlier_calls`).
        alpha_earlier: the level of that call, alike; given if and only if `earlier` is.

    Raises:
        ValueError: shapes do not fit each other, or one of earlier and alpha_earlier comes without the other.
    """

    latents: Tensor
    denoised: Tensor
    alpha_in: Tensor | float
    alpha_out: Tensor | float
    prompt_embeds: Tensor | None = None
    alpha_denoised: Tensor | float | None = None
    earlier: Tensor | None = None
    alpha_earlier: Tensor | float | None = None

    def __post_init__(self) -> None:
        if self.latents.ndim != 4 or self.latents.shape != self.denoised.shape:
            raise ValueError(
                "latents and denoised must have one shape (B, C, H, W); "
                f"they have {tuple(self.latents.shape)} and {tuple(self.denoised.shape)}."
            )
        batch = self.latents.shape[0]
        if (self.earlier is None) != (self.alpha_earlier is None):
            raise ValueError("earlier and alpha_earlier, an estimate and its level, come together or not at all.")
        if self.earlier is not None and self.earlier.shape != self.latents.shape:
            raise ValueError(
                f"earlier must have the latents' shape {tuple(self.latents.shape)}; it has {tuple(self.earlier.shape)}."
            )
        for name in ("alpha_in", "alpha_out", "alpha_denoised", "alpha_earlier"):
            level = getattr(self, name)
            shape = () if level is None else tuple(torch.as_tensor(level).shape)
            if shape not in ((), (1,), (batch,)):
                raise ValueError(
                    f"{name} must be a number or have shape ({batch},), one level a sample; it has {shape}."
                )
        if self.prompt_embeds is not None and (self.prompt_embeds.ndim != 3 or self.prompt_embeds.shape[0] != batch):
            raise ValueError(
                f"prompt_embeds must have shape ({batch}, tokens, D); it has {tuple(self.prompt_embeds.shape)}."
            )


def as_level(alpha: Tensor | float, like: Tensor) -> Tensor:
    """Shape a noise level so that it multiplies latents.

    Args:
        alpha: a number or (B,).
        like: latents (B, C, H, W), whose batch size and device count.

    Returns:
        The level, float32 (B, 1, 1, 1).
    """
    level = torch.as_tensor(alpha, dtype=torch.float32, device=like.device)
    return level.reshape(-1, 1, 1, 1).expand(like.shape[0], 1, 1, 1)


def hand_over(latents: Tensor, y: Tensor, alpha_in: Tensor | float, alpha_out: Tensor | float) -> Tensor:
    """Noise clean latents to the level at which the LDM takes over again, with the noise that it handed over.

        eps_hat  = (x - sqrt(abar_in) y) / sqrt(1 - abar_in)
        x_out    = sqrt(abar_out) y + sqrt(1 - abar_out) eps_hat

    With y = x0_hat this is a deterministic DDIM step of any length: the zero-parameter bypass. The noise is only ever
    scaled down, so alpha_in near 1 is safe, and alpha_out = 1 gives y itself.

    Args:
        latents: x (B, C, H, W), the noisy latents at level alpha_in.
        y: clean latents (B, C, H, W).
        alpha_in: the level of the hand-over, a number or (B,).
        alpha_out: the level of the return, at least alpha_in, a number or (B,).

    Returns:
        x_out (B, C, H, W), in the type of `latents`.
    """
    x, mean, a_in, a_out = latents.float(), y.float(), as_level(alpha_in, latents), as_level(alpha_out, latents)
    noise_factor = ((1 - a_out) / (1 - a_in).clamp(min=1e-12)).sqrt()
    return (a_out.sqrt() * mean + noise_factor * (x - a_in.sqrt() * mean)).to(latents.dtype)


def trend(observation: Observation, alpha_denoised: Tensor | float) -> tuple[Tensor, Tensor]:
    """Measure how the clean estimate changes over a unit of log-SNR.

    Estimates nearer to each other than `TREND_GAP` count as that far apart.

    Args:
        observation: what the LDM handed over.
        alpha_denoised: the level of `observation.denoised`, a number or (B,).

    Returns:
        The change from `observation.earlier` to `observation.denoised` (B, C, H, W), and the level of the former
        (B, 1, 1, 1). Without an earlier estimate: zero, and alpha_denoised.
    """
    x0 = observation.denoised.float()
    a_denoised = as_level(alpha_denoised, x0)
    if observation.earlier is None or observation.alpha_earlier is None:
        return torch.zeros_like(x0), a_denoised
    a_earlier = as_level(observation.alpha_earlier, x0)
    gap = log_snr(a_denoised) - log_snr(a_earlier)
    return (x0 - observation.earlier.float()) / gap.clamp(min=TREND_GAP), a_earlier
