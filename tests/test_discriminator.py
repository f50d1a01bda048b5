"""The latent discriminator: it learns, at any size."""

import torch

from latentcrf.discriminator import LatentDiscriminator, PatchDiscriminator
from latentcrf.training.losses import discriminator_loss


def test_it_learns_to_tell_noise_from_waves() -> None:
    torch.manual_seed(0)
    critic = LatentDiscriminator(channels=8)
    wave = torch.linspace(0, 6, 16).sin().expand(8, 4, 16, 16)
    optimizer = torch.optim.Adam(critic.parameters(), lr=5e-3)
    for _ in range(40):
        optimizer.zero_grad()
        noisy = wave + 0.1 * torch.randn(8, 4, 16, 16)
        discriminator_loss(critic, noisy, torch.randn(8, 4, 16, 16)).backward()
        optimizer.step()
    assert critic(wave).mean() > critic(torch.randn(8, 4, 16, 16)).mean() + 0.5


def test_patches_and_parameters() -> None:
    critic = LatentDiscriminator().eval()
    assert sum(p.numel() for p in critic.parameters()) < 1.5e6
    assert critic(torch.randn(2, 4, 16, 16)).shape == (2, 1, 4, 4)
    assert critic(torch.randn(1, 4, 33, 64)).shape == (1, 1, 8, 16)


def test_a_score_depends_on_24_sites_each_way() -> None:
    critic = LatentDiscriminator(channels=8).eval()
    x = torch.randn(1, 4, 64, 64, requires_grad=True)
    critic(x)[0, 0, 8, 8].backward()
    seen = x.grad.abs().sum(dim=(0, 1)).nonzero()
    assert (seen.amax(dim=0) - seen.amin(dim=0) + 1).tolist() == [24, 24]


def test_an_images_score_depends_on_38_pixels_each_way() -> None:
    layers = PatchDiscriminator(width=8)
    # without the only layers that see all of the image
    critic = torch.nn.Sequential(*(layer for layer in layers if not isinstance(layer, torch.nn.GroupNorm)))
    images = torch.zeros(2, 3, 128, 96, requires_grad=True)
    scores = critic(images)
    assert scores.shape == (2, 1, 16, 12)
    scores[0, 0, 8, 6].backward()
    (rows,) = images.grad[0].abs().sum((0, 2)).nonzero(as_tuple=True)
    assert rows.max() - rows.min() + 1 == 38 and not images.grad[1].any()
