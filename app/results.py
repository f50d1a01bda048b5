"""What a comparison reports while it runs and at its end. Without torch, so that the page starts quickly."""

from dataclasses import dataclass

from PIL import Image

from app.settings import Settings

METHODS = {"full": "Full run", "latentcrf": "LatentCRF"}


@dataclass(frozen=True)
class Progress:
    """How far a method's run is.

    Attributes:
        method: "full" or "latentcrf".
        done: denoiser calls so far.
        total: denoiser calls of the run.
        preview: the clean estimate as a small picture; None where there is none.
        seed: of the run.
    """

    method: str
    done: int
    total: int
    preview: Image.Image | None = None
    seed: int = 0


@dataclass(frozen=True)
class Generated:
    """A method's image and what it cost.

    Attributes:
        method: "full" or "latentcrf".
        image: the result.
        denoiser_calls: calls of the denoiser.
        network_evaluations: denoiser calls, a guided one counted twice.
        seconds: of the sampler, without the prompt's encoding, decoding, previews and the page's own work. A call that
            was not made again counts as long as it once took.
        is_blocked: whether the model's safety checker blocked it: `image` says so then.
    """

    method: str
    image: Image.Image
    denoiser_calls: int
    network_evaluations: int
    seconds: float
    is_blocked: bool = False


@dataclass(frozen=True)
class Comparison:
    """Both methods' results for a seed.

    Attributes:
        settings: of the comparison, its seed the one of these images.
        full: the full run.
        latentcrf: LatentCRF's run.
        before: the clean image that goes into the CRF.
        after: the clean image that comes out of it.
        lpips: LPIPS of the two results, as 8-bit images; None where one of them is blocked.
        origin: what made the images: weights, device, precision.
        unread: the end of a prompt that is too long for the text encoder; empty otherwise.
    """

    settings: Settings
    full: Generated
    latentcrf: Generated
    before: Image.Image
    after: Image.Image
    lpips: float | None
    origin: dict[str, str]
    unread: str = ""

    @property
    def speed_up(self) -> float:
        """Seconds of the full run over those of LatentCRF."""
        return self.full.seconds / self.latentcrf.seconds
