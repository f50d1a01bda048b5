"""A wider autoencoder: the same latents and pictures at first, and all of it learns."""

import pytest
import torch

from recipes.emoji.train_vae import build_vae
from recipes.emoji.widening import widen_vae


def test_a_wider_decoder_begins_with_the_same_pictures_and_all_of_it_learns() -> None:
    torch.manual_seed(0)
    vae = build_vae().eval()
    wide = widen_vae(vae, 2).eval()
    assert wide.config.block_out_channels == [32, 64, 128, 256] and wide.config.scaling_factor == 1.0
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        ours, theirs = wide.encode(images).latent_dist, vae.encode(images).latent_dist
        torch.testing.assert_close(ours.mean, theirs.mean, atol=1e-5, rtol=0)
        torch.testing.assert_close(ours.logvar, theirs.logvar, atol=1e-4, rtol=0)
        latents = theirs.mean
        torch.testing.assert_close(wide.decode(latents).sample, vae.decode(latents).sample, atol=1e-4, rtol=0)
    optimizer = torch.optim.SGD(wide.decoder.parameters(), lr=1e-2)
    before = {name: weight.detach().clone() for name, weight in wide.decoder.named_parameters()}
    for _ in range(2):  # in the first step no old channel reads the new ones
        optimizer.zero_grad()
        (wide.decode(latents).sample - images).square().mean().backward()
        optimizer.step()
    unmoved = {name for name, weight in wide.decoder.named_parameters() if (weight == before[name]).all()}
    assert all("to_k.bias" in name for name in unmoved)  # softmax ignores what all keys have in common
    with pytest.raises(ValueError, match="factor is 0; accepted are 1, 2, 3"):
        widen_vae(vae, 0)


def test_an_encoder_that_learns_begins_with_the_same_latents() -> None:
    vae = build_vae().eval()
    wide = widen_vae(vae, 2, encoder_learns=True).eval()
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(
            wide.encode(images).latent_dist.mean, vae.encode(images).latent_dist.mean, atol=1e-5, rtol=0
        )
    frozen = widen_vae(vae, 2).encoder.conv_in.weight[16:]
    assert (wide.encoder.conv_in.weight[16:] != 0).all() and (frozen == 0).all()  # to the new channels
