"""What a comparison reports while it runs and at its end. Imports neither torch nor diffusers: the page starts quickly."""

from dataclasses import dataclass

from PIL import Image

from app.settings import Settings

METHODS = {"full": "Full LDM", "latentcrf": "LatentCRF"}


@dataclass(frozen=True)
class Progress:
    """`done` of `total` U-Net calls of `method` ("full", "latentcrf") are made; `preview` is x0_hat, decoded, or None."""

    method: str
    done: int
    total: int
    preview: Image.Image | None = None


@dataclass(frozen=True)
class Generated:
    """A method's image, the U-Net calls that it took and the sampler's seconds: the prompt's encoding, the decoding of
    image and previews, and the page's own work are not in them."""

    method: str
    image: Image.Image
    denoiser_calls: int
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """Both methods' results; `before` and `after` are the clean images that go into the CRF and come out of it;
    `lpips` is the distance between the two results, as 8-bit images; `unread` the end of a prompt too long."""

    settings: Settings
    full: Generated
    latentcrf: Generated
    before: Image.Image
    after: Image.Image
    lpips: float
    origin: dict[str, str]
    unread: str = ""

    @property
    def speed_up(self) -> float:
        """Seconds of the full LDM over those of LatentCRF."""
        return self.full.seconds / self.latentcrf.seconds
