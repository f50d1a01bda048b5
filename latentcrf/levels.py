"""What a diffusers scheduler's steps mean: noise levels and clean estimates, whatever its parametrisation.

Every scheduler here writes its latents as x = a x0 + s eps. Variance preserving (DDIM, DPM-Solver++, UniPC, LCM):
a^2 + s^2 = 1. Variance exploding (Euler): a = 1. Flow matching: a + s = 1. Divided by sqrt(a^2 + s^2) all of them are
variance preserving at level abar = a^2 / (a^2 + s^2), which is what LatentCRF works on.
"""

from typing import Any

import torch
from torch import Tensor

LOG_SNR_LIMIT = 12.0
TREND_GAP = 0.4  # in log-SNR: closer estimates hardly differ by more than a network's rounding
PURE_NOISE = 1e-6  # abar below which latents tell nothing of the image


def coefficients(scheduler: Any, index: int) -> tuple[float, float]:
    """(a, s) of the latents at step `index` of the run that `scheduler` is set to; (1, 0), clean, at its end.

    Levels are those of the timesteps that the U-Net is told. DDIM steps to t - 1000 // n, which can miss the next of
    them by one where n does not divide 1000, and with `timestep_spacing="linspace"` by up to 11 at n = 10; its own error.
    """
    if index == len(scheduler.timesteps):
        return 1.0, 0.0
    if not hasattr(scheduler, "sigmas"):
        abar = float(scheduler.alphas_cumprod[int(scheduler.timesteps[index])])
        return abar**0.5, (1 - abar) ** 0.5
    sigma = scheduler.sigmas[index]
    if hasattr(scheduler, "_sigma_to_alpha_sigma_t"):  # the DPM-Solver family, whose sigmas are s / a or flow sigmas
        a, s = scheduler._sigma_to_alpha_sigma_t(sigma)
        return float(a), float(s)
    is_flow = not hasattr(scheduler, "alphas_cumprod")  # `check_scheduler` lets no other kind through
    return (1 - float(sigma) if is_flow else 1.0), float(sigma)


def level(a: Any, s: Any) -> tuple[Any, Any]:
    """(abar, scale) of latents x = a x0 + s eps: x / scale is variance preserving at level abar."""
    power = a * a + s * s
    return a * a / power, power**0.5


def clean_estimate(scheduler: Any, index: int, model_output: Tensor, sample: Tensor) -> Tensor:
    """x0_hat (B, C, H, W) from the model's output at step `index`, by the scheduler's `prediction_type`.

    Raises:
        ValueError: as of `denoise`.
    """
    kind = scheduler.config.get("prediction_type", "flow_prediction")
    return denoise(kind, model_output.float(), sample.float(), *coefficients(scheduler, index))


def denoise(prediction_type: str, model_output: Tensor, sample: Tensor, a: Any, s: Any) -> Tensor:
    """x0_hat (B, C, H, W) from the model's output for latents `sample` = a x0 + s eps; a and s numbers or (B, 1, 1, 1).

    Raises:
        ValueError: a prediction type other than epsilon, v_prediction, sample and flow_prediction.
    """
    if prediction_type == "sample":
        return model_output
    if prediction_type == "epsilon":
        return (sample - s * model_output) / a
    if prediction_type == "v_prediction":
        _, scale = level(a, s)
        return (a / scale) * (sample / scale) - (s / scale) * model_output
    if prediction_type == "flow_prediction":
        return sample - s * model_output
    raise ValueError(
        f"The scheduler's prediction_type is {prediction_type!r}; accepted are 'epsilon', 'v_prediction', 'sample' and "
        "'flow_prediction'."
    )


def clean_between(latents: Tensor, following: Tensor, here: tuple[Any, Any], after: tuple[Any, Any]) -> Tensor:
    """x0_hat (B, C, H, W) of the step from `latents` to `following`, whose coefficients (a, s) are `here` and `after`.

    Both are a x0_hat + s eps_hat with their own (a, s), numbers or tensors that broadcast: two equations for two
    unknowns. Exact for deterministic first-order steps such as DDIM's; nearly y across the CRF's jump, which bends the line.
    """
    (a, s), (a_after, s_after) = here, after
    return (s * following - s_after * latents) / (s * a_after - s_after * a)


def log_snr(alpha: Tensor) -> Tensor:
    """log(abar / (1 - abar)) of levels of any shape, clamped to [-12, 12]: zero terminal SNR and abar = 1 are ordinary levels."""
    return (alpha.log() - (1 - alpha).log()).clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT)


def earlier_calls(alphas: Tensor, calls: Tensor, strides: Tensor) -> Tensor:
    """The steps (B,) with whose clean estimates those of the steps `calls` (B,) are compared, to see where they are going.

    Of the steps call - stride, call - 2 stride, ... it is the latest whose log-SNR lies at least `TREND_GAP` lower; the
    call itself where there is none. A run of few steps takes the step before, one of 50 about the third before.

    Args:
        alphas: the level of each step of the run, rising. Estimates from pure noise do not count.
        strides: (B,), 1 in a run of these steps, more in one that makes only some of them.
    """
    candidates = calls[:, None] - strides[:, None] * torch.arange(1, len(alphas) + 1)
    levels = alphas[candidates.clamp(min=0)]
    far = log_snr(alphas[calls])[:, None] - log_snr(levels) >= TREND_GAP
    far &= (candidates >= 0) & (levels > PURE_NOISE)
    latest = candidates.gather(1, far.int().argmax(1, keepdim=True))[:, 0]
    return torch.where(far.any(1), latest, calls)


def check_scheduler(scheduler: Any) -> None:
    """Raise a ValueError that says why, where `scheduler` cannot be split by a bypass."""
    name = type(scheduler).__name__
    if hasattr(scheduler, "num_unet_calls"):
        raise ValueError("This scheduler is wrapped already; pass its `.scheduler` to wrap the inner one again.")
    if not hasattr(scheduler, "step") or not hasattr(scheduler, "set_timesteps"):
        raise ValueError(f"A diffusers scheduler is wanted; {name} has no `step` and `set_timesteps`.")
    reason = None
    if getattr(scheduler, "order", 1) != 1:
        reason = f"it makes {scheduler.order} U-Net calls a step"
    elif "PNDM" in name or "LMS" in name:
        reason = "it needs the history of the bypassed steps"
    elif "EDM" in name:
        reason = "its latents are scaled by the data's own deviation"
    elif "Inverse" in name:
        reason = "it goes from images to noise"
    elif not hasattr(scheduler, "alphas_cumprod") and "FlowMatch" not in name:
        reason = "its noise levels are of no kind that is known here"
    if reason:
        raise ValueError(
            f"{name} cannot be wrapped: {reason}. Use for example DDIMScheduler, DPMSolverMultistepScheduler, "
            f"UniPCMultistepScheduler or EulerDiscreteScheduler, each with .from_config(pipe.scheduler.config)."
        )
