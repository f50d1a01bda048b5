"""Latents of images, as an LDM scales them."""

import torch
from diffusers import AutoencoderKL
from torch import Tensor


@torch.no_grad()
def encode_images(vae: AutoencoderKL, images: Tensor, batch_size: int = 32) -> tuple[Tensor, Tensor]:
    """Encode images to the posteriors of their latents.

    Args:
        vae: the LDM's autoencoder.
        images: uint8 (N, 3, H, W).
        batch_size: images that are encoded at once.

    Returns:
        Mean and standard deviation (N, C, h, w), scaled as the U-Net sees latents, on the CPU.
    """
    means, stds, scale = [], [], vae.config.scaling_factor
    for batch in images.split(batch_size):
        posterior = vae.encode(batch.to(vae.device).float() / 127.5 - 1).latent_dist
        means.append(scale * posterior.mean.cpu())
        stds.append(scale * posterior.std.cpu())
    return torch.cat(means), torch.cat(stds)
