"""The round trip: latents decoded to images and encoded again."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def check_autoencoder(vae: Any) -> None:
    """Raise a ValueError that says why, where latents cannot make a round trip through `vae`."""
    if not all(hasattr(vae, name) for name in ("encode", "decode", "config")) or "scaling_factor" not in vae.config:
        raise ValueError(
            "vae must be the pipeline's autoencoder, with `encode`, `decode` and `config.scaling_factor`; it is a "
            f"{type(vae).__name__}."
        )


@torch.no_grad()
def round_trip(vae: Any, latents: Tensor) -> Tensor:
    """Latents (B, C, H, W), scaled as the U-Net sees them, decoded by `vae` to images and encoded again: the posterior's mean.

    Latents that a picture has come back nearly as they went, those that no picture has come back nearer to such: an
    autoencoder run again moves towards what it was trained on (Alain & Bengio, JMLR 2014). No parameter is learned for it.

    Raises:
        ValueError: an autoencoder without scaling factor, or one whose `encode` gives no distribution (AutoencoderTiny).
    """
    check_autoencoder(vae)
    scale, shift = vae.config.scaling_factor, vae.config.get("shift_factor") or 0.0
    with precise_enough(vae):
        images = vae.decode((latents / scale + shift).to(vae.dtype)).sample
        encoded = vae.encode(images.clamp(-1, 1).to(vae.dtype))
    if not hasattr(encoded, "latent_dist"):
        raise ValueError(f"{type(vae).__name__} encodes to no distribution: it cannot make the round trip.")
    return ((encoded.latent_dist.mean - shift) * scale).to(latents.dtype)


@contextmanager
def precise_enough(vae: Any) -> Iterator[None]:
    """Within it a float16 autoencoder that overflows (`force_upcast`: SDXL's) computes in float32."""
    before = vae.dtype
    overflows = before == torch.float16 and vae.config.get("force_upcast", False)
    try:
        if overflows:
            vae.to(torch.float32)
        yield
    finally:
        if overflows:
            vae.to(before)
