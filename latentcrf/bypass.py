"""The bypass: the skipped block of steps of a run, and the record of what the CRF did there."""

import numbers
from dataclasses import dataclass

from torch import Tensor

from .observation import Observation

Bypass = tuple[int | float, int | float]


@dataclass(frozen=True)
class BypassRecord:
    """What happened at the bypass of a run.

    `observation` and `y` are variance preserving. Decoded, `observation.denoised` is the image just before the CRF and
    `y` the image just after it.

    Attributes:
        observation: what the LDM handed over to the CRF.
        y: the CRF's clean latents (B, C, H, W).
        latents: what went back to the sampler (B, C, H, W), scaled as the inner scheduler scales them. Where the bypass
            runs to the end of the run: the final latents, before a finisher.
    """

    observation: Observation
    y: Tensor
    latents: Tensor


def check_bypass(bypass: Bypass) -> Bypass:
    """Check a bypass, as far as that is possible without the number of steps.

    Args:
        bypass: (first, last), see `LatentCRFScheduler`.

    Returns:
        The bypass in plain numbers: an int counts steps, a float is a fraction of the run.

    Raises:
        ValueError: it is no bypass; the message says what is wrong and what is accepted.
    """
    rule = "Accepted are two whole numbers, 1 <= first < last <= number of steps, or fractions between 0.0 and 1.0."
    if not isinstance(bypass, (tuple, list)) or len(bypass) != 2:
        raise ValueError(f"bypass is {bypass!r}. {rule}")
    for name, value in zip(("first", "last"), bypass, strict=True):
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise ValueError(f"bypass: {name} is {value!r}, not a number. {rule}")
        if value < 0 or (not isinstance(value, numbers.Integral) and not value <= 1):
            raise ValueError(f"bypass: {name} is {value}. {rule}")
    counted = [isinstance(value, numbers.Integral) for value in bypass]
    if counted[0] == counted[1] and bypass[0] > bypass[1]:
        raise ValueError(f"bypass: first ({bypass[0]}) comes after last ({bypass[1]}). {rule}")
    first, last = (int(value) if whole else float(value) for value, whole in zip(bypass, counted, strict=True))
    return first, last


def resolve_bypass(bypass: Bypass, num_steps: int) -> tuple[int, int]:
    """Convert a bypass to whole steps.

    Args:
        bypass: (first, last), see `LatentCRFScheduler`.
        num_steps: of the full run.

    Returns:
        (first, last) in steps.

    Raises:
        ValueError: it does not fit a run of `num_steps`.
    """
    bypass = check_bypass(bypass)
    first, last = (value if isinstance(value, int) else round(value * num_steps) for value in bypass)
    if first == last <= num_steps:
        return first, last
    if first > last:
        raise ValueError(f"bypass {bypass} is ({first}, {last}) of {num_steps} steps: first comes after last.")
    if last > num_steps:
        raise ValueError(
            f"bypass ends at step {last}, but the run has {num_steps} steps; last may be at most {num_steps}."
        )
    if first < 1:
        raise ValueError(
            f"bypass begins at step {first} of {num_steps}; first must be at least 1: "
            "the CRF works on what the denoiser has begun."
        )
    return first, last
