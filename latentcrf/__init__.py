"""LatentCRF: a continuous conditional random field that replaces a block of a latent diffusion model's iterations."""

from .bypass import BypassRecord
from .finisher import Finisher, FinishRecord
from .model import LatentCRF
from .observation import Observation, hand_over
from .scheduler import LatentCRFScheduler
from .vae import VAERoundTrip
from .version import __version__

__all__ = [
    "BypassRecord",
    "FinishRecord",
    "Finisher",
    "LatentCRF",
    "LatentCRFScheduler",
    "Observation",
    "VAERoundTrip",
    "__version__",
    "hand_over",
]
