"""The finisher: a LatentCRF that corrects the final latents of a run."""

import numbers
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .model import LatentCRF
from .observation import Observation


@dataclass(frozen=True)
class FinishRecord:
    """What happened at the end of a run.

    Attributes:
        before: the final latents (B, C, H, W) that went into the finisher.
        latents: what came out of it, the result of the run (B, C, H, W).
    """

    before: Tensor
    latents: Tensor


def check_num_iterations(value: Any) -> int:
    """Return a number of solver iterations.

    Args:
        value: a whole number, 0 or more.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 0:
        raise ValueError(f"num_iterations is {value!r}; accepted are 0, 1, 2, ...")
    return int(value)


class Finisher:
    """A LatentCRF, trained on final latents, that corrects them at the end of a run. It makes no denoiser call.

    Args:
        crf: a LatentCRF made with `corrects_clean=True` (see `latentcrf.training.train_finisher`), or one of the static
            form. It follows the latents to their device.
        num_iterations: of its solver, 0 or more.

    Raises:
        ValueError: a CRF that corrects nothing in clean latents, or a negative number of iterations.
    """

    def __init__(self, crf: LatentCRF, num_iterations: int = 5) -> None:
        if not isinstance(crf, LatentCRF):
            raise ValueError(f"A Finisher needs a LatentCRF; it was given a {type(crf).__name__}.")
        if crf.form == "conditional" and not crf.corrects_clean:
            raise ValueError(
                "The finisher's CRF must be of form 'static', or made with corrects_clean=True; this one, made for a "
                "bypass, corrects nothing in clean latents."
            )
        self.crf, self.num_iterations = crf, check_num_iterations(num_iterations)

    @property
    def reads_prompt(self) -> bool:
        """Whether the CRF reads the prompt."""
        return self.crf.prompt_dim is not None

    def __call__(self, latents: Tensor, prompt_embeds: Tensor | None = None) -> Tensor:
        """Correct final latents.

        They are clean, so they are their own clean estimate, at level 1.

        Args:
            latents: (B, C, H, W).
            prompt_embeds: token states (B, tokens, D) for a CRF that reads the prompt, or None.

        Returns:
            The corrected latents (B, C, H, W).
        """
        self.crf.to(latents.device)
        prompt = prompt_embeds if self.reads_prompt else None
        return self.crf(Observation(latents, latents, 1.0, 1.0, prompt), self.num_iterations)
