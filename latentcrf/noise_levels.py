"""What the steps of a diffusers scheduler mean: noise levels and clean estimates, for every parametrisation.

A scheduler's latents are x = a x0 + s eps, with signal scale a and noise scale s:

    kind                  constraint       schedulers
    variance preserving   a^2 + s^2 = 1    DDIM, DDPM, DPM-Solver++, UniPC, DEIS, LCM
    variance exploding    a = 1            Euler, Heun
    flow matching         a + s = 1        FlowMatchEuler

Divided by sqrt(a^2 + s^2), each is variance preserving at level abar = a^2 / (a^2 + s^2). LatentCRF works on that.
"""

from typing import Any

import torch
from diffusers import DDIMParallelScheduler, DDIMScheduler
from torch import Tensor

from .inner_schedulers import InnerScheduler

LOG_SNR_LIMIT = 12.0
TREND_GAP = 0.4  # in log-SNR: closer estimates differ by hardly more than a network's rounding
PURE_NOISE = 1e-6  # abar below which latents say nothing about the image


def coefficients(scheduler: InnerScheduler, index: int) -> tuple[float, float]:
    """Read the signal scale and the noise scale of a step.

    Levels are those of the timesteps that the denoiser is given.

    Args:
        scheduler: after its `set_timesteps`.
        index: the step, 0 to the number of steps.

    Returns:
        (a, s) of the latents before the step; (1, 0), clean, at the run's end.
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
    is_flow = not hasattr(scheduler, "alphas_cumprod")  # `check_scheduler` refuses every other kind
    return (1 - float(sigma) if is_flow else 1.0), float(sigma)


def returned_coefficients(scheduler: InnerScheduler, index: int) -> tuple[float, float]:
    """Read the scales of the latents that the step before `index` returns.

    They are those of `coefficients`, but for DDIM. It steps to t - 1000 // n, which misses the next timestep by one
    where n does not divide 1000, and with `timestep_spacing="linspace"` by up to 11 at n = 10.

    Args:
        scheduler: after its `set_timesteps`.
        index: the step, 1 to the number of steps.

    Returns:
        (a, s).
    """
    if not isinstance(scheduler, (DDIMScheduler, DDIMParallelScheduler)):
        return coefficients(scheduler, index)
    step = scheduler.config["num_train_timesteps"] // scheduler.num_inference_steps
    timestep = int(scheduler.timesteps[index - 1]) - step
    abar = float(scheduler.alphas_cumprod[timestep] if timestep >= 0 else scheduler.final_alpha_cumprod)
    return abar**0.5, (1 - abar) ** 0.5


def to_variance_preserving(a: Any, s: Any) -> tuple[Any, Any]:
    """Convert the scales of latents x = a x0 + s eps.

    Args:
        a: signal scale, a number or a tensor.
        s: noise scale, alike.

    Returns:
        (abar, scale): x / scale is variance preserving at level abar.
    """
    power = a * a + s * s
    return a * a / power, power**0.5


def clean_estimate(scheduler: InnerScheduler, index: int, model_output: Tensor, sample: Tensor) -> Tensor:
    """Compute x0_hat from the denoiser's output, by the scheduler's `prediction_type`.

    Args:
        scheduler: after its `set_timesteps`.
        index: the step of the denoiser call.
        model_output: the denoiser's output (B, C, H, W), guidance included.
        sample: the latents before the step (B, C, H, W).

    Returns:
        x0_hat (B, C, H, W), float32.

    Raises:
        ValueError: an unknown prediction type, see `denoise`.
    """
    kind = scheduler.config.get("prediction_type", "flow_prediction")
    return denoise(kind, model_output.float(), sample.float(), *coefficients(scheduler, index))


def denoise(prediction_type: str, model_output: Tensor, sample: Tensor, a: Any, s: Any) -> Tensor:
    """Compute x0_hat from the denoiser's output.

    Args:
        prediction_type: "epsilon", "v_prediction", "sample" or "flow_prediction".
        model_output: the denoiser's output (B, C, H, W).
        sample: the latents a x0 + s eps (B, C, H, W).
        a: signal scale, a number or (B, 1, 1, 1).
        s: noise scale, alike.

    Returns:
        x0_hat (B, C, H, W).

    Raises:
        ValueError: another prediction type.
    """
    if prediction_type == "sample":
        return model_output
    if prediction_type == "epsilon":
        return (sample - s * model_output) / a
    if prediction_type == "v_prediction":
        _, scale = to_variance_preserving(a, s)
        return (a / scale) * (sample / scale) - (s / scale) * model_output
    if prediction_type == "flow_prediction":
        return sample - s * model_output
    raise ValueError(
        f"The scheduler's prediction_type is {prediction_type!r}; accepted are 'epsilon', 'v_prediction', 'sample' and "
        "'flow_prediction'."
    )


def clean_estimate_between(
    latents: Tensor, following: Tensor, scales: tuple[Any, Any], following_scales: tuple[Any, Any]
) -> Tensor:
    """Compute x0_hat of the step that leads from `latents` to `following`.

    Both are a x0_hat + s eps_hat with their own scales: two equations for two unknowns. This is exact for deterministic
    first-order steps such as DDIM's. Across a bypass it gives nearly y.

    Args:
        latents: before the step (B, C, H, W).
        following: after the step (B, C, H, W).
        scales: (a, s) of `latents`, numbers or tensors that broadcast.
        following_scales: (a, s) of `following`, alike.

    Returns:
        x0_hat (B, C, H, W).
    """
    (a, s), (a_next, s_next) = scales, following_scales
    return (s * following - s_next * latents) / (s * a_next - s_next * a)


def log_snr(alpha: Tensor) -> Tensor:
    """Compute log(abar / (1 - abar)), clamped to [-12, 12]: zero terminal SNR and abar = 1 are ordinary levels.

    Args:
        alpha: levels abar, of any shape.
    """
    return (alpha.log() - (1 - alpha).log()).clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT)


def find_earlier_calls(alphas: Tensor, calls: Tensor, strides: Tensor) -> Tensor:
    """Choose the earlier denoiser calls whose clean estimates show where those of `calls` are going.

    Of the steps call - stride, call - 2 stride, ... it is the latest whose log-SNR lies at least `TREND_GAP` lower. A
    run of few steps takes the step before, one of 50 steps about the third before. Estimates from pure noise do not
    count.

    Args:
        alphas: the level of each step of the run, rising (steps,).
        calls: the steps of the denoiser calls (B,).
        strides: (B,): 1 in a run of these steps, more in a run that makes only some of them.

    Returns:
        The steps of the earlier calls (B,); the call itself where there is none.
    """
    candidates = calls[:, None] - strides[:, None] * torch.arange(1, len(alphas) + 1)
    levels = alphas[candidates.clamp(min=0)]
    far = log_snr(alphas[calls])[:, None] - log_snr(levels) >= TREND_GAP
    far &= (candidates >= 0) & (levels > PURE_NOISE)
    latest = candidates.gather(1, far.int().argmax(1, keepdim=True))[:, 0]
    return torch.where(far.any(1), latest, calls)
