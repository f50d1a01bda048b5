"""Noise levels of samplers by the textbook, and a run with a bypass against them.

Nothing here comes from `latentcrf.noise_levels`. The denoiser is the exact one for Gaussian data. Its clean estimate
changes from step to step, so a solver of higher order does something else than one of first order.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from latentcrf import LatentCRFScheduler

SHAPE = (2, 4, 8, 8)
Levels = Sequence[tuple[float, float]]


def compute_alphas(
    count: int = 1000,
    start: float = 0.00085,
    end: float = 0.012,
    schedule: str = "scaled_linear",
    zero_snr: bool = False,
) -> np.ndarray:
    """Compute abar of each training timestep (count,).

    Args:
        count: training timesteps.
        start: first beta; default: Stable Diffusion's.
        end: last beta, alike.
        schedule: "scaled_linear", "linear" or "squaredcos_cap_v2".
        zero_snr: rescaled to a last abar of 0 (Lin et al. 2023, algorithm 1).
    """
    if schedule == "squaredcos_cap_v2":
        bars = np.cos((np.arange(count + 1) / count + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = np.minimum(1 - bars[1:] / bars[:-1], 0.999)
    elif schedule == "scaled_linear":
        betas = np.linspace(start**0.5, end**0.5, count) ** 2
    else:
        betas = np.linspace(start, end, count)
    alphas = np.cumprod(1 - betas)
    if zero_snr:
        roots = alphas**0.5
        alphas = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2
    return alphas


def levels_from_alphas(alphas: np.ndarray, timesteps: Sequence[float]) -> list[tuple[float, float]]:
    """Compute (a, s) at whole timesteps, a^2 + s^2 = 1."""
    return [(float(alphas[int(t)] ** 0.5), float((1 - alphas[int(t)]) ** 0.5)) for t in timesteps]


def ratios_from_alphas(alphas: np.ndarray, timesteps: Sequence[float] | None = None) -> np.ndarray:
    """Compute sigma = s / a, between whole timesteps linearly; of all timesteps by default."""
    sigmas = ((1 - alphas) / alphas) ** 0.5
    return sigmas if timesteps is None else np.interp(timesteps, np.arange(len(alphas)), sigmas)


def levels_from_ratios(sigmas: Sequence[float]) -> list[tuple[float, float]]:
    """Compute (a, s) of variance preserving latents from sigma = s / a."""
    return [(1 / (1 + sigma**2) ** 0.5, sigma / (1 + sigma**2) ** 0.5) for sigma in map(float, sigmas)]


def levels_from_sigmas(sigmas: Sequence[float]) -> list[tuple[float, float]]:
    """Compute (a, s) of latents x0 + sigma eps."""
    return [(1.0, float(sigma)) for sigma in sigmas]


def levels_from_flow(sigmas: Sequence[float]) -> list[tuple[float, float]]:
    """Compute (a, s) of latents (1 - sigma) x0 + sigma eps."""
    return [(1 - float(sigma), float(sigma)) for sigma in sigmas]


def space_karras(low: float, high: float, count: int) -> np.ndarray:
    """Compute sigmas by Karras et al. 2022, equation 5, with rho = 7."""
    return np.linspace(high ** (1 / 7), low ** (1 / 7), count) ** 7


def space_exponential(low: float, high: float, count: int) -> np.ndarray:
    """Compute sigmas at equal distances of their logarithms."""
    return np.geomspace(high, low, count)


def space_beta(low: float, high: float, count: int) -> np.ndarray:
    """Compute sigmas at quantiles of the beta distribution (Lee et al. 2024)."""
    quantile = pytest.importorskip("scipy.stats").beta.ppf
    return low + (high - low) * quantile(1 - np.linspace(0, 1, count), 0.6, 0.6)


def shift_sigmas(sigmas: Any, shift: float) -> np.ndarray:
    """Shift flow sigmas by Esser et al. 2024, equation 23."""
    sigmas = np.asarray(sigmas, dtype=np.float64)
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def space_leading(steps: int, offset: int = 0, count: int = 1000) -> np.ndarray:
    """Compute timesteps by Lin et al. 2023, table 2, of DDIM, DDPM and Euler."""
    return (np.arange(steps) * (count // steps))[::-1] + offset


def space_linspace(steps: int, count: int = 1000) -> np.ndarray:
    """Compute timesteps alike, of DDIM, DDPM and Euler (which does not round)."""
    return np.linspace(0, count - 1, steps)[::-1]


def space_solver_linspace(steps: int, count: int = 1000) -> np.ndarray:
    """Compute timesteps alike, of DPM-Solver and its kin, which leave out timestep 0."""
    return np.linspace(0, count - 1, steps + 1).round()[::-1][:-1]


def space_trailing(steps: int, count: int = 1000) -> np.ndarray:
    """Compute timesteps alike, of all samplers."""
    return np.arange(count, 0, -count / steps).round() - 1


class Denoiser:
    """The exact denoiser of Gaussian data, by the step's number.

    Args:
        kind: prediction type.
        levels: (a, s) of the latents of each step of the full run.
        spread: deviation of the data.
    """

    def __init__(self, kind: str, levels: Levels, spread: float = 0.5) -> None:
        self.kind, self.levels, self.spread = kind, levels, spread

    def estimate_clean(self, latents: Tensor, index: int) -> Tensor:
        """Compute the clean estimate from the sampler's latents (B, C, H, W) before step `index`."""
        a, s = self.levels[index]
        return a * self.spread**2 / (a * a * self.spread**2 + s * s) * latents

    def __call__(self, latents: Tensor, index: int) -> Tensor:
        (a, s), clean = self.levels[index], self.estimate_clean(latents, index)
        noise = (latents - a * clean) / s
        if self.kind == "v_prediction":
            return (a * noise - s * clean) / (a * a + s * s) ** 0.5
        return {"epsilon": noise, "sample": clean, "flow_prediction": noise - clean}[self.kind]


def walk(
    scheduler: Any,
    denoiser: Denoiser,
    latents: Tensor,
    indices: Sequence[int],
    timesteps: Sequence[Any],
    generator: Any = None,
    **options: Any,
) -> tuple[list[Tensor], list[Tensor]]:
    """Make steps of a sampler.

    Args:
        scheduler: after `set_timesteps`.
        denoiser: of the full run.
        latents: before the first step.
        indices: the steps' numbers in the full run.
        timesteps: of these steps.
        generator: for a sampler that takes one.
        options: for `step`.

    Returns:
        The latents before each step and after the last, and what the denoiser is given at each step.
    """
    states, seen = [latents], []
    if "generator" in inspect.signature(scheduler.step).parameters:
        options["generator"] = generator
    for index, timestep in zip(indices, timesteps, strict=True):
        given = scheduler.scale_model_input(latents, timestep) if hasattr(scheduler, "scale_model_input") else latents
        latents = scheduler.step(denoiser(latents, index), timestep, latents, **options).prev_sample
        seen.append(given)
        states.append(latents)
    return states, seen


def cross_bypass(
    latents: Tensor, clean: Tensor, level_in: tuple[float, float], level_out: tuple[float, float]
) -> Tensor:
    """Take latents to another level with the noise that is in them: x_out = a_out x0 + s_out eps."""
    (a, s), (a_out, s_out) = level_in, level_out
    return a_out * clean + s_out * (latents - a * clean) / s


def check(
    make: Callable[[], Any],
    levels: Levels,
    bypass: tuple[int, int],
    kind: str = "epsilon",
    begin: int = 0,
    set_timesteps: dict[str, Any] | None = None,
    bound: Callable[[Tensor], Tensor] | None = None,
    spread: float = 0.5,
    tolerance: float = 2e-4,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> None:
    """Check a run with a bypass against unwrapped runs and the textbook.

    Without a bypass it is the unwrapped run, bit for bit. With one: before it the unwrapped run; at it the latents that
    the textbook's levels ask for; after it the run of an unwrapped scheduler that begins there, without history.

    Args:
        make: makes the unwrapped scheduler.
        levels: by the textbook, (a, s) of the latents before each step.
        bypass: (first, last).
        kind: prediction type.
        begin: the first step, as of image-to-image.
        set_timesteps: its arguments; None: the number of levels.
        bound: what the sampler does with clean estimates; None: nothing.
        spread: deviation of the data.
        tolerance: of levels and latents, relative to the largest of them where that is above 1.
        dtype: of the latents.
        options: for `step`.
    """
    steps, (first, last) = len(levels), bypass
    arguments = {"num_inference_steps": steps} if set_timesteps is None else set_timesteps
    denoiser, generator = Denoiser(kind, levels, spread), torch.Generator()
    a, s = levels[begin]
    latents = (a * spread * torch.randn(SHAPE) + s * torch.randn(SHAPE)).to(dtype)
    kept = [*range(begin, first), *range(last, steps)]

    def prepare(scheduler: Any, begin: int = begin) -> Any:
        scheduler.set_timesteps(**arguments)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(begin)
        generator.manual_seed(1)
        return scheduler

    def go(scheduler: Any, indices: Sequence[int], latents: Tensor = latents, at: slice | None = None) -> Any:
        timesteps = scheduler.timesteps[slice(begin, None) if at is None else at]
        return walk(scheduler, denoiser, latents, indices, timesteps, generator, **options)

    full, full_seen = go(prepare(make()), range(begin, steps))
    assert all(torch.isfinite(each).all() for each in full), "not applicable: the unwrapped run is not finite"
    plain, plain_seen = go(prepare(LatentCRFScheduler(make(), None, None)), range(begin, steps))
    assert are_equal(full, plain) and are_equal(full_seen, plain_seen), "with nothing bypassed it is another run"

    wrapped = prepare(LatentCRFScheduler(make(), None, bypass))
    states, seen = go(wrapped, kept)
    before, record = first - begin, wrapped.last_bypass
    assert are_equal(full[:before], states[:before]), "it is another run before the bypass"
    assert record is not None and torch.isfinite(states[-1]).all()
    level_in, level_out = levels[first], levels[last] if last < steps else (1.0, 0.0)
    clean = denoiser.estimate_clean(full[before - 1], first - 1)
    clean = clean if bound is None else bound(clean)
    power = sum(value**2 for value in level_in)
    check_close(record.observation.alpha_in, level_in[0] ** 2 / power, tolerance, "level in")
    check_close(record.observation.alpha_out, 1 / (1 + (level_out[1] / level_out[0]) ** 2), tolerance, "level out")
    check_close(record.observation.denoised, clean, tolerance, "clean estimate")
    check_close(record.observation.latents * power**0.5, full[before], tolerance, "latents handed over")
    check_close(
        states[before], cross_bypass(full[before], clean, level_in, level_out), tolerance, "latents handed back"
    )
    assert states[before].dtype == full[before].dtype == dtype

    if last < steps:
        go(prepare(make()), range(begin, first), at=slice(begin, first))  # draws what the generator gave until there
        drawn = generator.get_state()
        fresh = prepare(make(), last)
        generator.set_state(drawn)
        rest, rest_seen = go(fresh, range(last, steps), states[before], slice(last, None))
        assert are_equal(rest, states[before:]) and are_equal(rest_seen, seen[before:]), "it is another run after it"


def are_equal(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return len(some) == len(others) and all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


def check_close(found: Any, expected: Any, tolerance: float, what: str) -> None:
    """Check that numbers or tensors agree, relative to the largest expected one where that is above 1."""
    found, expected = torch.as_tensor(found).double(), torch.as_tensor(expected).double()
    size = max(1.0, float(expected.abs().max()))
    error = float((found - expected).abs().max()) / size
    assert error < tolerance, f"{what}: differs by {error:.2g} of {size:.2g}"
