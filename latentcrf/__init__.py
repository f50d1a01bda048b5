"""LatentCRF: a continuous conditional random field that bypasses U-Net iterations of a latent diffusion model."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .model import LatentCRF as LatentCRF
    from .model import Observation as Observation
    from .model import hand_over as hand_over
    from .scheduler import LatentCRFScheduler as LatentCRFScheduler

_HOMES = {"LatentCRF": "model", "Observation": "model", "hand_over": "model", "LatentCRFScheduler": "scheduler"}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    # Imported when first asked for: the command line that builds the data set needs no diffusers.
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
