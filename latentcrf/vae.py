"""The VAE round trip: final latents decoded to images and encoded again."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
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

    def check_channels(self, channels: int) -> None:
        """Check that latents fit the autoencoder.

        Args:
            channels: C, of the latents.

        Raises:
            ValueError: the autoencoder's have another number.
        """
        own = self.vae.config.get("latent_channels", channels)
        if own != channels:
            raise ValueError(
                f"The latents of this pipeline have {channels} channels, those of the VAE round trip's autoencoder "
                f"{own}. Use VAERoundTrip(pipe.vae) with the vae of the same pipeline."
            )

    def __call__(self, latents: Tensor, prompt_embeds: Tensor | None = None) -> Tensor:
        """Make the VAE round trip; see `round_trip`.

        Args:
            latents: the final latents of a run (B, C, H, W).
            prompt_embeds: not used.

        Returns:
            Latents (B, C, H, W).
        """
        return round_trip(self.vae, latents)


def check_autoencoder(vae: Any) -> None:
    """Check that latents can make a VAE round trip through `vae`.

    Args:
        vae: a diffusers autoencoder.

    Raises:
        ValueError: it has no `encode`, `decode` or scaling factor, or it quantizes its latents (Kandinsky's).
    """
    if not all(hasattr(vae, name) for name in ("encode", "decode", "config")) or "scaling_factor" not in vae.config:
        raise ValueError(
            "vae must be the pipeline's autoencoder, with `encode`, `decode` and `config.scaling_factor`; it is a "
            f"{type(vae).__name__}."
        )
    if hasattr(vae, "quantize"):
        raise ValueError(
            f"{type(vae).__name__} quantizes latents: Kandinsky's cannot make the round trip. Use a trained Finisher, "
            "or none."
        )


@torch.no_grad()
def round_trip(vae: Any, latents: Tensor) -> Tensor:
    """Decode latents to images and encode these again.

    Args:
        vae: the pipeline's autoencoder.
        latents: (B, C, H, W), scaled as the denoiser sees them.

    Returns:
        What the encoder gives (B, C, H, W), the mean where that is a distribution, scaled alike, in the type of
        `latents`.

    Raises:
        ValueError: see `check_autoencoder`.
    """
    check_autoencoder(vae)
    factor, shift = _read_scaling(vae, latents)
    with upcast_if_needed(vae, latents.device):
        images = vae.decode((latents / factor + shift).to(vae.dtype)).sample
        encoded = vae.encode(images.clamp(-1, 1).to(vae.dtype))
    if hasattr(encoded, "latent_dist"):
        values = encoded.latent_dist.mean
    else:  # AutoencoderDC (Sana) and AutoencoderTiny
        values = encoded.latent if hasattr(encoded, "latent") else encoded.latents
    return ((values - shift) * factor).to(latents.dtype)


def _read_scaling(vae: Any, like: Tensor) -> tuple[Any, Any]:
    """Read how pipelines scale: latents = (what the encoder gives - shift) * factor. Returns (factor, shift)."""
    factor, shift = vae.config.scaling_factor, vae.config.get("shift_factor") or 0.0
    mean, std = vae.config.get("latents_mean"), vae.config.get("latents_std")
    if mean is not None and std is not None:  # a number a channel: Playground v2.5
        mean, std = (torch.tensor(value).view(1, -1, 1, 1).to(like) for value in (mean, std))
        return factor / std, mean
    return factor, shift


@contextmanager
def upcast_if_needed(vae: Any, device: torch.device) -> Iterator[None]:
    """Within the context, an autoencoder that overflows in float16 (`force_upcast`: SDXL's) computes in float32.

    That is where its weights are float16, and where autocast would compute in float16. bfloat16 does not overflow.

    Args:
        vae: a diffusers autoencoder.
        device: on which it computes; where the pipeline offloads its networks, the weights lie elsewhere.
    """
    before, kind = vae.dtype, device.type
    overflows = vae.config.get("force_upcast", False)
    has_half_weights = overflows and before == torch.float16
    has_half_autocast = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16
    try:
        if has_half_weights:
            vae.to(torch.float32)
        with torch.autocast(kind, enabled=False) if overflows and has_half_autocast else nullcontext():
            yield
    finally:
        if has_half_weights:
            vae.to(before)
