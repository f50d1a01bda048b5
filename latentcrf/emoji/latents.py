"""Latents of known pictures: as the encoder gives them, brought to unit variance, and with the errors of an LDM."""

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from torch import Tensor

from latentcrf.levels import denoise
from latentcrf.model import hand_over
from latentcrf.precision import autocast


@torch.no_grad()
def encode_images(vae: AutoencoderKL, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """uint8 images (N, 3, H, W) -> mean and standard deviation of the latents' posteriors, (N, 4, h, w) each, as the LDM scales
    latents."""
    means, stds, scale = [], [], vae.config.scaling_factor
    for batch in pixels.split(32):
        posterior = vae.encode(batch.to(vae.device).float() / 127.5 - 1).latent_dist
        means.append(scale * posterior.mean.cpu())
        stds.append(scale * posterior.std.cpu())
    return torch.cat(means), torch.cat(stds)


@torch.no_grad()
def latent_moments(vae: AutoencoderKL, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the latents of `images` (N, 3, H, W) in [-1, 1], per channel (C,)."""
    latents = torch.cat([vae.encode(batch).latent_dist.mean for batch in images.split(32)])
    return latents.mean((0, 2, 3)), latents.std((0, 2, 3))


@torch.no_grad()
def fold(vae: AutoencoderKL, mean: Tensor, std: Tensor) -> None:
    """Fold the latents' shift and scale into the two 1x1 convolutions next to them, in place.

    Afterwards the latents have mean zero and variance one per channel and `scaling_factor` is 1; reconstructions
    stay the same: quant_conv' = (quant_conv - mean) / std, post_quant_conv'(z) = post_quant_conv(std * z + mean).
    """
    quant, post = vae.quant_conv, vae.post_quant_conv
    channels = len(mean)
    quant.weight[:channels] /= std[:, None, None, None]
    quant.bias[:channels] = (quant.bias[:channels] - mean) / std
    quant.bias[channels:] -= 2 * std.log()  # the other half predicts the log-variance
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight *= std[None, :, None, None]


@torch.no_grad()
def redrawn(
    ldm: StableDiffusionPipeline, clean: Tensor, states: Tensor, latest: int = 250,
    precision: torch.dtype = torch.float32,
) -> Tensor:  # fmt: skip
    """Clean latents (B, C, H, W) noised to random timesteps up to `latest` and taken back by the LDM in one to four DDIM steps
    (SDEdit, arXiv 2108.01073): the LDM's errors on a known picture.

    `states`: token states (B, tokens, D) of the captions. The U-Net is called without guidance: on so little noise it
    changes next to nothing.
    """
    abars = ldm.scheduler.alphas_cumprod.to(clean.device)
    start, calls = torch.rand(len(clean), device=clean.device) * latest, int(torch.randint(1, 5, ()))
    timesteps = [(start * (1 - call / calls)).long() for call in range(calls)]
    levels = [abars[timestep] for timestep in timesteps] + [torch.ones_like(start)]
    latents = ldm.scheduler.add_noise(clean, torch.randn_like(clean), timesteps[0])
    for timestep, here, after in zip(timesteps, levels, levels[1:], strict=False):
        with autocast(clean.device, precision):
            predicted = ldm.unet(latents, timestep, states).sample.float()
        keep, spoil = (part.sqrt().view(-1, 1, 1, 1) for part in (here, 1 - here))
        denoised = denoise(ldm.scheduler.config.prediction_type, predicted, latents, keep, spoil)
        latents = hand_over(latents, denoised, here, after)
    return latents
