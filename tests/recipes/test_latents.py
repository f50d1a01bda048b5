"""Latents with the errors of an LDM, and latents of unit variance."""

import torch

from latentcrf.training.ldm import load_ldm
from latentcrf.utils.weights import MODELS
from recipes.emoji.latents import compute_moments, normalise_latents, sdedit
from recipes.emoji.train_vae import build_vae


def test_sdedit_stays_the_nearer_the_less_noise_it_adds() -> None:
    ldm = load_ldm(MODELS / "emoji-ldm")
    captions = ["red apple", "pizza", "cat", "umbrella"]
    images = [ldm.pipeline(caption, num_inference_steps=6, output_type="latent").images for caption in captions]
    clean, encoded = torch.cat(images), ldm.encode_prompts(captions)
    errors = [(sdedit(ldm, clean, encoded, latest) - clean).square().mean().item() for latest in (1, 100, 500)]
    assert errors[0] < 0.005 < errors[1] < errors[2] < 0.5 * clean.var().item()
    white = 1 - ldm.scheduler.alphas_cumprod[250].item()  # the noise itself, at the mean of the last one's levels
    assert errors[2] < 0.7 * white


def test_normalised_latents_have_unit_variance_and_the_same_reconstructions() -> None:
    vae = build_vae().eval()
    images = torch.rand(4, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        before = vae.decode(vae.encode(images).latent_dist.mean).sample
        spread = vae.encode(images).latent_dist.std / compute_moments(vae, images)[1].view(1, -1, 1, 1)
        normalise_latents(vae, *compute_moments(vae, images))
        mean, std = compute_moments(vae, images)
        torch.testing.assert_close(mean, torch.zeros(4), atol=1e-4, rtol=0)
        torch.testing.assert_close(std, torch.ones(4), atol=1e-4, rtol=0)
        after = vae.decode(vae.encode(images).latent_dist.mean).sample
        torch.testing.assert_close(after, before, atol=1e-4, rtol=0)
        torch.testing.assert_close(vae.encode(images).latent_dist.std, spread, atol=0, rtol=1e-3)
