"""Latents of the autoencoder: brought to unit variance, and with the errors of an LDM."""

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from latentcrf.noise_levels import denoise
from latentcrf.observation import hand_over
from latentcrf.training.ldm import LDM, Conditioning


@torch.no_grad()
def compute_moments(vae: AutoencoderKL, images: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the moments of images' latents.

    Args:
        vae: the autoencoder.
        images: (N, 3, H, W) in [-1, 1].

    Returns:
        Mean and standard deviation of each channel (C,).
    """
    latents = torch.cat([vae.encode(batch).latent_dist.mean for batch in images.split(32)])
    return latents.mean((0, 2, 3)), latents.std((0, 2, 3))


@torch.no_grad()
def normalise_latents(vae: AutoencoderKL, mean: Tensor, std: Tensor) -> None:
    """Fold the latents' shift and scale into the two 1x1 convolutions next to them, in place.

    Afterwards the latents have mean 0 and variance 1 in each channel; `scaling_factor` is 1 and reconstructions stay:
    quant_conv' = (quant_conv - mean) / std, post_quant_conv'(z) = post_quant_conv(std * z + mean).

    Args:
        vae: the autoencoder.
        mean: of each channel (C,).
        std: standard deviation of each channel (C,).
    """
    quant, post = vae.quant_conv, vae.post_quant_conv
    channels = len(mean)
    quant.weight[:channels] /= std[:, None, None, None]
    quant.bias[:channels] = (quant.bias[:channels] - mean) / std
    quant.bias[channels:] -= 2 * std.log()  # the other half predicts the log-variance
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight *= std[None, :, None, None]


@torch.no_grad()
def sdedit(
    ldm: LDM, clean: Tensor, captions: Conditioning, latest: int = 250,
    precision: torch.dtype = torch.float32,
) -> Tensor:  # fmt: skip
    """Give known pictures' latents the errors of an LDM (SDEdit, arXiv 2108.01073).

    They are noised to random timesteps, and the LDM takes them back in one to four DDIM steps, without guidance: at so
    little noise it changes next to nothing.

    Args:
        ldm: the LDM.
        clean: latents (B, C, H, W).
        captions: of the pictures, encoded.
        latest: upper end of the timesteps.
        precision: in which the U-Net computes.

    Returns:
        Clean latents (B, C, H, W).
    """
    abars = ldm.scheduler.alphas_cumprod.to(clean.device)
    start, calls = torch.rand(len(clean), device=clean.device) * latest, int(torch.randint(1, 5, ()))
    timesteps = [(start * (1 - call / calls)).long() for call in range(calls)]
    levels = [abars[timestep] for timestep in timesteps] + [torch.ones_like(start)]
    latents = ldm.scheduler.add_noise(clean, torch.randn_like(clean), timesteps[0])
    for timestep, here, after in zip(timesteps, levels, levels[1:], strict=False):
        predicted = ldm.predict(latents, timestep, captions, precision=precision)
        signal_scale, noise_scale = (variance.sqrt().view(-1, 1, 1, 1) for variance in (here, 1 - here))
        denoised = denoise(ldm.scheduler.config.prediction_type, predicted, latents, signal_scale, noise_scale)
        latents = hand_over(latents, denoised, here, after)
    return latents
