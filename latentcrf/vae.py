"""The VAE round trip: final latents decoded to images and encoded again."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class VAERoundTrip:
    """A finisher without parameters of its own, for an LDM that has no trained `Finisher`.

    Latents of a real picture return almost unchanged. Latents that no picture has return nearer to such latents: an
    autoencoder applied again moves towards its training data (Alain & Bengio, JMLR 2014).

    Args:
        vae: the pipeline's autoencoder.

    Raises:
        ValueError: it has no `encode`, `decode` or scaling factor.
    """

    reads_prompt = False

    def __init__(self, vae: Any) -> None:
        check_autoencoder(vae)
        self.vae = vae

    def __call__(self, latents: Tensor, prompt_embeds: Tensor | None = None) -> Tensor:
        """Make the round trip; see `round_trip`.

        Args:
            latents: the final latents of a run (B, C, H, W).
            prompt_embeds: not used.

        Returns:
            Latents (B, C, H, W).
        """
        return round_trip(self.vae, latents)


def check_autoencoder(vae: Any) -> None:
    """Check that latents can make a round trip through `vae`.

    Args:
        vae: a diffusers autoencoder.

    Raises:
        ValueError: it has no `encode`, `decode` or scaling factor.
    """
    if not all(hasattr(vae, name) for name in ("encode", "decode", "config")) or "scaling_factor" not in vae.config:
        raise ValueError(
            "vae must be the pipeline's autoencoder, with `encode`, `decode` and `config.scaling_factor`; it is a "
            f"{type(vae).__name__}."
        )


@torch.no_grad()
def round_trip(vae: Any, latents: Tensor) -> Tensor:
    """Decode latents to images and encode these again.

    Args:
        vae: the pipeline's autoencoder.
        latents: (B, C, H, W), scaled as the U-Net sees them.

    Returns:
        The mean of the encoder's posterior (B, C, H, W), scaled alike, in the type of `latents`.

    Raises:
        ValueError: an autoencoder without scaling factor, or one that encodes to no distribution (AutoencoderTiny).
    """
    check_autoencoder(vae)
    scale, shift = vae.config.scaling_factor, vae.config.get("shift_factor") or 0.0
    with upcast_if_needed(vae):
        images = vae.decode((latents / scale + shift).to(vae.dtype)).sample
        encoded = vae.encode(images.clamp(-1, 1).to(vae.dtype))
    if not hasattr(encoded, "latent_dist"):
        raise ValueError(f"{type(vae).__name__} encodes to no distribution: it cannot make the round trip.")
    return ((encoded.latent_dist.mean - shift) * scale).to(latents.dtype)


@contextmanager
def upcast_if_needed(vae: Any) -> Iterator[None]:
    """Within the context, a float16 autoencoder that overflows (`force_upcast`: SDXL's) computes in float32.

    Args:
        vae: a diffusers autoencoder.
    """
    before = vae.dtype
    overflows = before == torch.float16 and vae.config.get("force_upcast", False)
    try:
        if overflows:
            vae.to(torch.float32)
        yield
    finally:
        if overflows:
            vae.to(before)
