"""LatentCRF: a continuous conditional random field that replaces a block of a latent diffusion model's iterations."""

from .bypass import BypassRecord
from .finisher import Finisher, FinishRecord
from .model import LatentCRF
from .observation import Observation, hand_over
from .scheduler import LatentCRFScheduler
from .vae import VAERoundTrip

__version__ = "0.2.0"
__all__ = [
    "BypassRecord",
    "FinishRecord",
    "Finisher",
    "LatentCRF",
    "LatentCRFScheduler",
    "Observation",
    "VAERoundTrip",
    "hand_over",
]
