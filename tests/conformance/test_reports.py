"""Situations of public reports on schedulers and their use in pipelines, tried with a bypass.

Each test names what the report says, and its address. Levels come from `tests.conformance.levels`. Where a bypass
cannot be right, it is refused with a sentence; `accept_refusal` accepts both.
"""

import copy
import logging
import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

from latentcrf import LatentCRF, LatentCRFScheduler
from tests.conformance import families, pipelines
from tests.conformance.levels import (
    are_equal,
    check,
    check_close,
    compute_alphas,
    levels_from_alphas,
    levels_from_flow,
    levels_from_ratios,
    levels_from_sigmas,
    ratios_from_alphas,
    shift_sigmas,
    space_beta,
    space_exponential,
    space_karras,
    space_leading,
    space_linspace,
    space_solver_linspace,
    space_trailing,
)
from tests.conformance.pipelines import is_ours

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
NO_CLIP = SD | {"clip_sample": False}
ALPHAS = compute_alphas()
LOW, HIGH = float(ratios_from_alphas(ALPHAS)[0]), float(ratios_from_alphas(ALPHAS)[-1])
SOLVERS = ("DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "DEISMultistepScheduler",
           "UniPCMultistepScheduler", "SASolverScheduler")  # fmt: skip
EULER = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
STEPS, BYPASS = 10, (4, 8)
LATENTS = (2, 4, 8, 8)


def make(name: str, **config: Any) -> Any:
    """Make an unwrapped scheduler."""
    return getattr(diffusers, name)(**config)


def wrap(name: str, bypass: tuple[int, int] | None = BYPASS, steps: int | None = STEPS, **config: Any) -> Any:
    """Make a wrapped scheduler, after `set_timesteps` if there are steps."""
    scheduler = LatentCRFScheduler(make(name, **config), None, bypass)
    if steps is not None:
        scheduler.set_timesteps(steps)
    return scheduler


def run_pipeline(pipe: Any, family: Any, scheduler: Any, *rest: Any, **more: Any) -> Any:
    """Run a pipeline with `STEPS` steps, unless `more` says otherwise; see `pipelines.run`."""
    return pipelines.run(pipe, family, scheduler, *rest, **{"num_inference_steps": STEPS} | more)


@contextmanager
def accept_refusal() -> Iterator[None]:
    """Accept a refusal of ours in the block; everything else that it raises is a failure."""
    try:
        yield
    except ValueError as error:
        assert is_ours(error), f"not a refusal of ours: {error!r}"


def run_loop(scheduler: Any, timesteps: Sequence[Any] | None = None, **options: Any) -> list[Tensor]:
    """Run a sampler with a fixed denoiser that reads its latents."""
    latents = torch.randn(LATENTS, generator=torch.Generator().manual_seed(2))
    states = [latents]
    for timestep in scheduler.timesteps if timesteps is None else timesteps:
        latents = scheduler.step(torch.tanh(latents), timestep, latents, **options).prev_sample
        states.append(latents)
    return states


def measure_noise(scheduler: Any, levels: Sequence[tuple[float, float]], bypass: tuple[int, int]) -> float:
    """Measure what a bypass does to the deviation of the noise, with the exact denoiser of one image.

    Args:
        scheduler: wrapped, after `set_timesteps`.
        levels: (a, s) of the full run's timesteps.
        bypass: (first, last).

    Returns:
        The deviation of the noise at the first denoiser call after the bypass, by that at the last one before it. A
        sampler that misses its timesteps has another deviation than 1 there already.
    """
    clean, noise = torch.randn(2, 4, 64, 64).clamp(-0.9, 0.9), torch.randn(2, 4, 64, 64)
    (a, s), kept = levels[0], [*range(bypass[0]), *range(bypass[1], len(levels))]
    latents, generator, deviations = a * clean + s * noise, torch.Generator().manual_seed(123), []
    for index, timestep in zip(kept, scheduler.timesteps, strict=True):
        a, s = levels[index]
        noise = (latents - a * clean) / s
        deviations.append(float(noise.std()))
        latents = scheduler.step(noise, timestep, latents, generator=generator).prev_sample
    return deviations[bypass[0]] / deviations[bypass[0] - 1]


# Timesteps and sigmas


@pytest.mark.slow
@pytest.mark.parametrize(("begin", "bypass"), [(0, (5, 7)), (0, (12, 16)), (1, (7, 13)), (4, (5, 7)), (4, (17, 20))])
def test_duplicate_timesteps_with_a_begin_index(begin: int, bypass: tuple[int, int]) -> None:
    """Of duplicate first timesteps the search takes the second one, so that all sigmas are off by one.

    https://github.com/huggingface/diffusers/pull/5746, https://github.com/huggingface/diffusers/pull/6728
    """
    config = {"beta_schedule": "squaredcos_cap_v2", "use_karras_sigmas": True}
    bounds = ratios_from_alphas(compute_alphas(schedule="squaredcos_cap_v2"))
    sigmas = space_karras(bounds[0], bounds[-1], 20)
    scheduler = make("DPMSolverMultistepScheduler", **config)
    scheduler.set_timesteps(20)
    assert len(set(scheduler.timesteps.tolist())) < 15
    check(partial(make, "DPMSolverMultistepScheduler", **config), levels_from_ratios(sigmas), bypass, begin=begin,
          tolerance=5e-3)  # fmt: skip


@pytest.mark.parametrize("bypass", [None, (3, 7), (12, 16)])
def test_duplicate_timesteps_without_a_begin_index(bypass: tuple[int, int] | None) -> None:
    """A loop that sets no begin index runs over the end of the sigmas; so it does with the add-on.

    https://github.com/huggingface/diffusers/issues/12771, https://github.com/huggingface/diffusers/pull/13239
    """
    config = {"beta_schedule": "squaredcos_cap_v2", "use_karras_sigmas": True}
    unwrapped = make("DPMSolverMultistepScheduler", **config)
    unwrapped.set_timesteps(20)
    with pytest.raises(IndexError):
        run_loop(unwrapped)
    with pytest.raises((IndexError, ValueError)):
        run_loop(wrap("DPMSolverMultistepScheduler", bypass, 20, **config))


@pytest.mark.slow
@pytest.mark.parametrize("bypass", [(1, 9), (4, 8), (3, 10)])
@pytest.mark.parametrize("name", SOLVERS)
def test_karras_sigmas_and_the_last_one(name: str, bypass: tuple[int, int]) -> None:
    """With Karras's sigmas the last one was repeated instead of zero, and the last step did nothing.

    https://github.com/huggingface/diffusers/pull/6477
    """
    check(partial(make, name, **SD, use_karras_sigmas=True), levels_from_ratios(space_karras(LOW, HIGH, STEPS)), bypass)


@pytest.mark.slow
@pytest.mark.parametrize("final", ["zero", "sigma_min"])
@pytest.mark.parametrize("bypass", [(4, 8), (4, 9), (4, 10)])
def test_the_last_sigma_zero_or_not(final: str, bypass: tuple[int, int]) -> None:
    """With a last sigma above zero DPM-Solver++ leaves noise in the image.

    https://github.com/huggingface/diffusers/issues/5689
    """
    config = SD | {"final_sigmas_type": final}
    for name in ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler"):
        check(
            partial(make, name, **config),
            levels_from_ratios(ratios_from_alphas(ALPHAS, space_solver_linspace(STEPS))),
            bypass,
        )
    check(
        partial(make, "EulerDiscreteScheduler", **config),
        levels_from_sigmas(ratios_from_alphas(ALPHAS, space_linspace(STEPS))),
        bypass,
    )


@pytest.mark.slow
@pytest.mark.parametrize("bypass", [(1, 3), (4, 8)])
@pytest.mark.parametrize("curve", [space_exponential, space_beta])
@pytest.mark.parametrize("name", [*SOLVERS, "EulerDiscreteScheduler"])
def test_timesteps_are_cut_not_rounded(name: str, curve: Callable[..., Any], bypass: tuple[int, int]) -> None:
    """With exponential and beta sigmas timesteps are cut to whole ones, off by one from their sigmas.

    https://github.com/huggingface/diffusers/pull/13768
    """
    config = SD | {f"use_{curve.__name__.removeprefix('space_')}_sigmas": True}
    sigmas = curve(LOW, HIGH, STEPS)
    levels = levels_from_sigmas(sigmas) if name == "EulerDiscreteScheduler" else levels_from_ratios(sigmas)
    check(partial(make, name, **config), levels, bypass)


@pytest.mark.slow
@pytest.mark.parametrize("bypass", [(4, 8), (2, 10)])
def test_custom_timesteps_and_sigmas(bypass: tuple[int, int]) -> None:
    """Custom timesteps replace the spacing; sigmas replace timesteps too, and end with a zero of their own.

    https://github.com/huggingface/diffusers/pull/7817, https://huggingface.co/docs/diffusers/using-diffusers/scheduler_features
    """
    steps = {"timesteps": [999, 845, 730, 587, 443, 310, 193, 116, 53, 13]}
    levels = ratios_from_alphas(ALPHAS, steps["timesteps"])
    check(partial(make, "DPMSolverMultistepScheduler", **SD), levels_from_ratios(levels), bypass, set_timesteps=steps)
    check(partial(make, "DPMSolverSinglestepScheduler", **SD), levels_from_ratios(levels), bypass, set_timesteps=steps)
    check(partial(make, "EulerDiscreteScheduler", **SD), levels_from_sigmas(levels), bypass, set_timesteps=steps)
    check(partial(make, "DDPMScheduler", **NO_CLIP), levels_from_alphas(ALPHAS, steps["timesteps"]), bypass,
          set_timesteps=steps)  # fmt: skip
    sigmas = [14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.0]
    check(
        partial(make, "EulerDiscreteScheduler", **SD),
        levels_from_sigmas(sigmas[:-1]),
        bypass,
        set_timesteps={"sigmas": sigmas},
    )


@pytest.mark.parametrize("bypass", [(3, 4), (2, 5), (4, 6)])
def test_sigmas_that_repeat_or_rise(bypass: tuple[int, int]) -> None:
    """A restart's schedule has a second peak, so a level does not say which step it is.

    https://github.com/wcde/sd-webui-refiner/issues/9
    """
    for sigmas in ([1, 0.8, 0.6, 0.4, 0.7, 0.5, 0.3], [1, 0.8, 0.6, 0.6, 0.6, 0.5, 0.3]):
        check(partial(make, "FlowMatchEulerDiscreteScheduler"), levels_from_flow(sigmas), bypass, "flow_prediction",
              set_timesteps={"sigmas": sigmas})  # fmt: skip


@pytest.mark.parametrize("bypass", [(4, 8), (3, 10)])
def test_flow_matching_timesteps_that_are_not_shifted(bypass: tuple[int, int]) -> None:
    """With a shift, custom timesteps differ from 1000 sigma; without any, the shift is applied twice.

    https://github.com/huggingface/diffusers/issues/14013, https://github.com/huggingface/diffusers/issues/13243
    """
    shift = partial(make, "FlowMatchEulerDiscreteScheduler", shift=3.0)
    steps = np.linspace(1, 0.1, STEPS)
    check(
        shift,
        levels_from_flow(shift_sigmas(steps, 3)),
        bypass,
        "flow_prediction",
        set_timesteps={"timesteps": (steps * 1000).tolist()},
    )
    check(
        shift,
        levels_from_flow(shift_sigmas(steps, 3)),
        bypass,
        "flow_prediction",
        set_timesteps={"sigmas": steps.tolist()},
    )
    twice = shift_sigmas(np.linspace(1, shift_sigmas(0.001, 3), STEPS), 3)
    check(shift, levels_from_flow(twice), bypass, "flow_prediction")


def test_the_shift_is_set_between_runs() -> None:
    """The shift is set on the scheduler for the next run, not only when it is made.

    https://github.com/huggingface/diffusers/issues/8501, https://github.com/huggingface/diffusers/pull/10269
    """
    wrapped, sigmas = wrap("FlowMatchEulerDiscreteScheduler", steps=None), np.linspace(1, 0.1, STEPS).tolist()
    for shift in (1.0, 3.0, 7.0):
        wrapped.set_shift(shift)
        wrapped.set_timesteps(sigmas=sigmas)
        run_loop(wrapped)
        levels = levels_from_flow(shift_sigmas(sigmas, shift))
        a, s = levels[BYPASS[0]]
        check_close(wrapped.last_bypass.observation.alpha_in, a * a / (a * a + s * s), 1e-5, "level in")
        a, s = levels[BYPASS[1]]
        check_close(wrapped.last_bypass.observation.alpha_out, a * a / (a * a + s * s), 1e-5, "level out")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler"])
@pytest.mark.parametrize("config", [{"shift_terminal": 0.1}, {"use_dynamic_shifting": True}])
def test_flow_matching_to_a_last_sigma_or_by_image_size(name: str, config: dict[str, Any]) -> None:
    """A terminal shift divides by zero in a run of one step; dynamic shifting needs `mu`.

    https://github.com/huggingface/diffusers/pull/14572
    """
    sigmas, mu = np.linspace(1, 0.05, STEPS), 1.15
    expected = 1 - (1 - sigmas) * 0.9 / (1 - sigmas[-1])
    arguments: dict[str, Any] = {}
    if "use_dynamic_shifting" in config:
        expected, arguments = np.exp(mu) / (np.exp(mu) + 1 / sigmas - 1), arguments | {"mu": mu}
        with pytest.raises(ValueError, match="mu"):
            wrap(name, **(FLOW if name.startswith("UniPC") else {}), **config)
    arguments["sigmas"] = sigmas if name.startswith("UniPC") else sigmas.tolist()  # UniPC computes with them
    expected = np.where(expected > 1 - 1e-6, 1 - 1e-6, expected) if name.startswith("UniPC") else expected
    config = config | (FLOW if name.startswith("UniPC") else {})
    check(partial(make, name, **config), levels_from_flow(expected), BYPASS, "flow_prediction", set_timesteps=arguments)


def test_flow_matching_from_noise_0_to_data_1() -> None:
    """Mochi's schedule runs from 0, noise, to 1, data, and its velocity points to the data.

    https://github.com/huggingface/diffusers/pull/9769
    """
    with pytest.raises(ValueError, match="its sigmas rise .invert_sigmas.") as error:
        wrap("FlowMatchEulerDiscreteScheduler", steps=None, invert_sigmas=True)
    assert is_ours(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("bypass", [(1, 9), (4, 8), (4, 10)])
@pytest.mark.parametrize("name", SOLVERS[:1] + SOLVERS[2:])
def test_multi_step_solvers_of_flow_models(name: str, bypass: tuple[int, int]) -> None:
    """UniPC on flow sigmas ran over the end of its sigmas in the last step; its kin are likely affected.

    https://github.com/huggingface/diffusers/issues/10266
    """
    steps = np.linspace(1, 0.001, STEPS + 1)
    sigmas = shift_sigmas(steps[:-1], 3) if name.startswith("UniPC") else shift_sigmas(1 - steps, 3)[::-1][:-1]
    sigmas = np.where(sigmas > 1 - 1e-6, 1 - 1e-6, sigmas)
    config = FLOW | {"flow_shift": 3.0}
    check(partial(make, name, **config), levels_from_flow(sigmas), bypass, "flow_prediction", tolerance=5e-4)


@pytest.mark.slow
@pytest.mark.parametrize("spacing", [space_leading, space_linspace, space_trailing])
@pytest.mark.parametrize(("steps", "bypass"), [(3, (1, 2)), (7, (3, 5)), (13, (6, 12)), (30, (20, 29))])
@pytest.mark.parametrize("count", [100, 1000])
@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler"])
def test_the_step_before_ends_at_another_timestep(
    name: str, spacing: Callable[..., Any], steps: int, bypass: tuple[int, int], count: int
) -> None:
    """DDIM steps to t - 1000 // n, which is not the next timestep with "linspace" and "trailing". DDPM did so too.

    https://github.com/huggingface/diffusers/issues/12633, https://github.com/huggingface/diffusers/issues/9261
    """
    alphas = compute_alphas(count)
    config = NO_CLIP | {"timestep_spacing": spacing.__name__.removeprefix("space_"), "num_train_timesteps": count}
    levels = levels_from_alphas(alphas, spacing(steps, count=count).round())
    with accept_refusal():
        deviation = measure_noise(wrap(name, bypass, steps, **config), levels, bypass)
        assert 0.99 < deviation < 1.01


@pytest.mark.slow
@pytest.mark.parametrize("steps", [53, 999, 1000])
def test_steps_that_do_not_divide_the_training_timesteps(steps: int) -> None:
    """53 steps of 1000 gave 56 timesteps; 1000 steps with an offset give timestep 1000.

    https://github.com/huggingface/diffusers/pull/1835, https://github.com/huggingface/diffusers/issues/10003
    """
    for name in ("DDIMScheduler", "DDPMScheduler"):
        wrapped = wrap(name, (steps - 10, steps - 2), steps, **SD)
        assert wrapped.timesteps.tolist() == [
            t for i, t in enumerate(space_leading(steps)) if not steps - 10 <= i < steps - 2
        ]
        run_loop(wrapped, wrapped.timesteps[-8:])
        assert wrapped.last_bypass is not None
    with pytest.raises(ValueError, match="num_inference_steps"):
        wrap("DDIMScheduler", steps=1001, **SD)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize(
    "name", [*SOLVERS, "DDIMScheduler", "EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler"]
)
def test_runs_of_one_to_three_steps(name: str, steps: int) -> None:
    """Runs of very few steps reach what longer ones never do: NaN, or no step at all.

    https://github.com/huggingface/diffusers/pull/14572
    """
    config = {} if name.startswith("Flow") else SD
    wrapped = LatentCRFScheduler(make(name, **config))  # the default bypass, in fractions
    wrapped.set_timesteps(steps)
    assert wrapped.num_denoiser_calls == 1 + (steps == 3)
    assert all(torch.isfinite(each).all() for each in run_loop(wrapped))
    assert (wrapped.last_bypass is None) == (steps == 1)


# Solvers with history


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "bypass"), [(5, (1, 3)), (8, (2, 4)), (8, (3, 7)), (11, (1, 10)), (14, (4, 11))])
@pytest.mark.parametrize("name", SOLVERS[:4])
def test_solvers_of_order_3(name: str, steps: int, bypass: tuple[int, int]) -> None:
    """The single-step solver of order 3 gives NaN in the last step of runs of 3 n - 1 steps.

    https://github.com/huggingface/diffusers/issues/9007, https://github.com/huggingface/diffusers/pull/9104
    """
    levels = levels_from_ratios(ratios_from_alphas(ALPHAS, space_solver_linspace(steps)))
    check(partial(make, name, **SD, solver_order=3), levels, bypass)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["dpmsolver++", "sde-dpmsolver++"])
@pytest.mark.parametrize("config", [{}, {"euler_at_final": True}, {"lower_order_final": False}])
@pytest.mark.parametrize("bypass", [(4, 8), (4, 9), (1, 9)])
def test_the_order_of_the_last_steps(algorithm: str, config: dict[str, Any], bypass: tuple[int, int]) -> None:
    """DPM-Solver++ shows artifacts unless its last step is of first order, the SDE form above all.

    https://github.com/huggingface/diffusers/pull/5541, https://github.com/huggingface/diffusers/pull/6953
    """
    config = config | SD | {"algorithm_type": algorithm, "use_karras_sigmas": True}
    levels = levels_from_ratios(space_karras(LOW, HIGH, STEPS))
    check(partial(make, "DPMSolverMultistepScheduler", **config), levels, bypass)
    if "euler_at_final" not in config:
        check(partial(make, "DPMSolverSinglestepScheduler", **config), levels, bypass)


@pytest.mark.slow
@pytest.mark.parametrize("begin", [1, 2, 3])
@pytest.mark.parametrize("name", [*SOLVERS, *EULER])
def test_a_solver_that_begins_later(name: str, begin: int) -> None:
    """The single-step solver fails with certain strengths of image-to-image.

    https://github.com/huggingface/diffusers/issues/1866
    """
    is_euler = name.startswith("Euler")
    sigmas = ratios_from_alphas(ALPHAS, (space_linspace if is_euler else space_solver_linspace)(STEPS))
    check(
        partial(make, name, **SD), (levels_from_sigmas if is_euler else levels_from_ratios)(sigmas), BYPASS, begin=begin
    )


# Levels and clean estimates


@pytest.mark.slow
@pytest.mark.parametrize("bypass", [(1, 3), (4, 8), (3, 10)])
def test_zero_terminal_snr(bypass: tuple[int, int]) -> None:
    """With zero terminal SNR the first abar is 0, and black images come out unless the model predicts v.

    https://github.com/huggingface/diffusers/issues/3851, https://github.com/huggingface/diffusers/pull/6024
    """
    config = SD | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
    zero = compute_alphas(zero_snr=True)
    floor = np.maximum(zero, 2.0**-24)  # schedulers of sigmas take this for 0
    levels = levels_from_alphas(zero, space_trailing(STEPS))
    check(partial(make, "DDIMScheduler", **config, clip_sample=False), levels, bypass, "v_prediction")
    sigmas = ratios_from_alphas(floor, space_trailing(STEPS))
    for name in EULER:
        check(partial(make, name, **config), levels_from_sigmas(sigmas), bypass, "v_prediction")
    for name in ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler"):
        check(partial(make, name, **config), levels_from_ratios(sigmas), bypass, "v_prediction")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_prediction_types(kind: str) -> None:
    """DDIM took a predicted image for noise; Euler's formula for v looks like it lacks a root.

    https://github.com/huggingface/diffusers/issues/1486, https://github.com/huggingface/diffusers/issues/7046
    """
    for name in ("DDIMScheduler", "DDPMScheduler"):
        check(
            partial(make, name, **NO_CLIP, prediction_type=kind),
            levels_from_alphas(ALPHAS, space_leading(STEPS)),
            BYPASS,
            kind,
        )
    for name in EULER:
        if (name, kind) != ("EulerAncestralDiscreteScheduler", "sample"):  # which diffusers lacks
            sigmas = ratios_from_alphas(ALPHAS, space_linspace(STEPS))
            check(partial(make, name, **SD, prediction_type=kind), levels_from_sigmas(sigmas), BYPASS, kind)
    for name in SOLVERS:
        levels = levels_from_ratios(ratios_from_alphas(ALPHAS, space_solver_linspace(STEPS)))
        check(partial(make, name, **SD, prediction_type=kind), levels, BYPASS, kind)


@pytest.mark.slow
@pytest.mark.parametrize("bypass", [(1, 3), (7, 9)])
@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler", *SOLVERS])
def test_dynamic_thresholding(name: str, bypass: tuple[int, int]) -> None:
    """Dynamic thresholding bounds the clean estimate by a quantile, at least 1, and divides by it.

    The CRF has to see what the sampler uses. https://github.com/huggingface/diffusers/pull/3003
    """

    def threshold(clean: Tensor) -> Tensor:
        bound = torch.quantile(clean.abs().flatten(1), 0.9, dim=1).clamp(1, 10).reshape(-1, 1, 1, 1)
        return clean.clamp(-bound, bound) / bound

    config = {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 10.0}
    if name in SOLVERS:
        config, levels = SD | config, levels_from_ratios(ratios_from_alphas(ALPHAS, space_solver_linspace(STEPS)))
    else:
        config, levels = NO_CLIP | config, levels_from_alphas(ALPHAS, space_leading(STEPS))
    with accept_refusal():
        check(partial(make, name, **config), levels, bypass, bound=threshold, spread=4.0)


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler"])
def test_clipping(name: str) -> None:
    """Clipping the clean estimate hides that it is infinite with zero terminal SNR; it is on by default.

    https://github.com/huggingface/diffusers/issues/3851
    """
    config = SD | {"clip_sample": True, "clip_sample_range": 0.3}
    levels = levels_from_alphas(ALPHAS, space_leading(STEPS))
    check(partial(make, name, **config), levels, BYPASS, bound=lambda clean: clean.clamp(-0.3, 0.3))


@pytest.mark.parametrize("name", ["DDPMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
def test_a_learned_variance(name: str) -> None:
    """Schedulers other than the default one break on a model that predicts its variance too.

    https://github.com/huggingface/diffusers/issues/3280, https://github.com/huggingface/diffusers/pull/3314
    """
    config = SD | ({} if name.startswith("UniPC") else {"variance_type": "learned_range"})

    def run(scheduler: Any) -> list[Tensor]:
        latents, states = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2)), []
        options = {} if name.startswith("UniPC") else {"generator": torch.Generator().manual_seed(0)}
        for timestep in scheduler.timesteps:
            output = torch.cat([torch.tanh(latents), torch.zeros_like(latents)], dim=1)
            latents = scheduler.step(output, timestep, latents, **options).prev_sample
            states.append(latents)
        return states

    unwrapped = make(name, **config)
    unwrapped.set_timesteps(STEPS)
    if name.startswith("UniPC"):  # fails unwrapped too
        with pytest.raises(RuntimeError):
            run(unwrapped)
        return
    full = run(unwrapped)
    assert are_equal(full, run(wrap(name, None, **config)))
    wrapped = wrap(name, **config)
    assert are_equal(full[:3], run(wrapped)[:3])
    assert wrapped.last_bypass.y.shape == (2, 3, 8, 8)


@pytest.mark.parametrize("churn", [0.0, 2.0])
def test_churn_noise_of_euler(churn: float) -> None:
    """Euler's sampler adds noise before its step by `s_churn`, and that noise is in its clean estimate.

    https://github.com/huggingface/diffusers/pull/1019
    """
    bypass, clean = (5, 8), torch.randn(2, 4, 64, 64).clamp(-0.9, 0.9)
    sigmas = ratios_from_alphas(ALPHAS, space_linspace(STEPS))
    wrapped = wrap("EulerDiscreteScheduler", bypass, **SD)
    latents, kept = clean + sigmas[0] * torch.randn_like(clean), [0, 1, 2, 3, 4, 8, 9]
    with accept_refusal():
        for index, timestep in zip(kept, wrapped.timesteps, strict=True):
            noise = (latents - clean) / sigmas[index]
            if index == bypass[1]:
                check_close(wrapped.last_bypass.observation.denoised, clean, 1e-3, "clean estimate")
            latents = wrapped.step(noise, timestep, latents, s_churn=churn).prev_sample


@pytest.mark.slow
@pytest.mark.parametrize(
    "steps",
    [
        {"num_inference_steps": 4},
        {"num_inference_steps": 8, "original_inference_steps": 25},
        {"timesteps": [999, 779, 559, 339, 119]},
    ],
)
def test_the_original_steps_of_latent_consistency(steps: dict[str, Any]) -> None:
    """More steps than the original ones are refused by LCM; its timesteps are some of the original ones.

    https://github.com/radames/Real-Time-Latent-Consistency-Model/issues/9
    """
    count = steps.get("original_inference_steps", 50)
    original = np.arange(1, count + 1)[::-1] * (1000 // count) - 1
    chosen = np.linspace(0, count, steps.get("num_inference_steps", 1), endpoint=False).astype(int)
    timesteps = steps.get("timesteps", original[chosen].tolist())
    for bypass in ((1, 3), (2, len(timesteps))):
        levels = levels_from_alphas(ALPHAS, timesteps)
        check(partial(make, "LCMScheduler", **SD), levels, bypass, set_timesteps=steps, tolerance=1e-3)
    with pytest.raises(ValueError, match="num_inference_steps"):
        wrap("LCMScheduler", (1, 2), None, **SD).set_timesteps(30, original_inference_steps=20)


@pytest.mark.slow
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_stochasticity_of_trajectory_consistency(eta: float) -> None:
    """TCD fails with an `eta` above 1, which pipelines pass on.

    https://github.com/huggingface/diffusers/issues/8305
    """
    levels = levels_from_alphas(ALPHAS, [999, 879, 759, 639, 499, 379, 259, 139])
    check(partial(make, "TCDScheduler", **SD), levels, (3, 6), eta=eta)
    check(partial(make, "DDIMScheduler", **NO_CLIP), levels_from_alphas(ALPHAS, space_leading(STEPS)), BYPASS, eta=eta)


@pytest.mark.parametrize("bypass", [(4, 8), (3, 10)])
def test_continuous_timesteps_of_euler(bypass: tuple[int, int]) -> None:
    """Models of video train Euler on sigmas of their own, whose timesteps are a quarter of their logarithm.

    https://github.com/huggingface/diffusers/pull/7109, https://github.com/huggingface/diffusers/pull/6155
    """
    config = {"sigma_min": 0.002, "sigma_max": 80.0, "timestep_type": "continuous", "prediction_type": "v_prediction",
              "use_karras_sigmas": True}  # fmt: skip
    check(
        partial(make, "EulerDiscreteScheduler", **config),
        levels_from_sigmas(space_karras(0.002, 80, STEPS)),
        bypass,
        "v_prediction",
    )


# Noise for inpainting and image-to-image


@pytest.mark.slow
@pytest.mark.parametrize("begin", [None, 0, 2])
@pytest.mark.parametrize(
    "name", [*SOLVERS, *EULER, "DDIMScheduler", "DDPMScheduler", "FlowMatchEulerDiscreteScheduler"]
)
def test_inpainting_adds_noise_of_the_next_timestep(name: str, begin: int | None) -> None:
    """Inpainting adds noise after each step; it had the level of the begin index, or of another timestep.

    https://github.com/huggingface/diffusers/pull/7386, https://github.com/huggingface/diffusers/pull/3749
    """
    if name in ("DDIMScheduler", "DDPMScheduler"):
        levels = levels_from_alphas(ALPHAS, space_leading(STEPS))
    elif name.startswith("Flow"):
        levels = levels_from_flow(np.linspace(1, 0.001, STEPS))
    elif name.startswith("Euler"):
        levels = levels_from_sigmas(ratios_from_alphas(ALPHAS, space_linspace(STEPS)))
    else:
        levels = levels_from_ratios(ratios_from_alphas(ALPHAS, space_solver_linspace(STEPS)))
    wrapped = wrap(name, **({} if name.startswith("Flow") else SD))
    if begin is not None:
        wrapped.set_begin_index(begin)
    clean, noise, generator = torch.randn(LATENTS), torch.randn(LATENTS), torch.Generator().manual_seed(0)

    def check_noise(timestep: Tensor, index: int) -> None:
        arguments = (clean, timestep, noise) if hasattr(wrapped, "scale_noise") else (clean, noise, timestep)
        a, s = levels[index]
        found = (wrapped.scale_noise if hasattr(wrapped, "scale_noise") else wrapped.add_noise)(*arguments)
        check_close(found, a * clean + s * noise, 1e-5, f"at step {index}")

    kept, timesteps = [*range(begin or 0, BYPASS[0]), *range(BYPASS[1], STEPS)], wrapped.timesteps[begin or 0 :]
    check_noise(timesteps[:1].repeat(len(clean)), kept[0])
    latents = torch.zeros(LATENTS)
    for number, timestep in enumerate(timesteps):
        options = {} if name.startswith(("UniPC", "DEIS")) else {"generator": generator}
        latents = wrapped.step(latents, timestep, latents, **options).prev_sample
        if number < len(timesteps) - 1:
            check_noise(timesteps[number + 1 : number + 2], kept[number + 1])


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler"])
def test_noise_at_a_timestep_without_dimension(name: str) -> None:
    """Some schedulers want the timestep of `add_noise` in one dimension, others take it as it comes from the loop.

    https://github.com/invoke-ai/InvokeAI/pull/6643
    """
    wrapped, clean, noise = wrap(name, **SD), torch.randn(LATENTS), torch.randn(LATENTS)
    a, s = levels_from_alphas(ALPHAS, space_leading(STEPS))[2]
    check_close(wrapped.add_noise(clean, noise, wrapped.timesteps[2]), a * clean + s * noise, 1e-5, "noise")


@pytest.mark.slow
@pytest.mark.parametrize("name", SOLVERS[:4])
def test_image_to_image_with_karras_sigmas(name: str) -> None:
    """`add_noise` of the multi-step solvers has to take sigmas, not abar of the rounded timestep.

    https://github.com/huggingface/diffusers/pull/5158
    """
    clean, noise = torch.randn(LATENTS), torch.randn(LATENTS)
    wrapped = wrap(name, **SD, use_karras_sigmas=True)
    for begin in range(BYPASS[0]):
        wrapped.set_begin_index(begin)
        a, s = levels_from_ratios(space_karras(LOW, HIGH, STEPS))[begin]
        timesteps = wrapped.timesteps[begin : begin + 1].repeat(len(clean))
        check_close(wrapped.add_noise(clean, noise, timesteps), a * clean + s * noise, 1e-5, f"at step {begin}")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["DDIMScheduler", "DPMSolverMultistepScheduler"])
def test_strengths_of_image_to_image(kind: str) -> None:
    """Strength chooses a step by rounding down; a strength below one step leaves no step at all.

    https://github.com/huggingface/diffusers/issues/7651, https://github.com/huggingface/diffusers/issues/1867
    """
    family = families.FAMILIES["StableDiffusionImg2ImgPipeline"]
    pipe = pipelines.make_pipeline(family, pipelines.make_scheduler(family, kind))
    for strength in (0.05, 0.29, 0.58, 0.7, 0.999):
        run = partial(run_pipeline, pipe, family, items=[0], strength=strength)
        full = run(pipelines.make_scheduler(family, kind))
        plain = run(LatentCRFScheduler(pipelines.make_scheduler(family, kind), None, None))
        assert plain.timesteps == full.timesteps and torch.equal(plain.latents, full.latents)
        begin = STEPS - int(STEPS * strength)
        assert len(full.timesteps) == STEPS - begin
        wrapped = LatentCRFScheduler(pipelines.make_scheduler(family, kind), None, BYPASS)
        if begin >= BYPASS[0]:
            with pytest.raises(ValueError, match=f"begins at step {begin} of 10") as error:
                run(wrapped)
            assert is_ours(error.value) and not error.value.trace.timesteps  # type: ignore[attr-defined]
        else:
            first, last = BYPASS[0] - begin, BYPASS[1] - begin
            assert run(wrapped).timesteps == full.timesteps[:first] + full.timesteps[last:]


@pytest.mark.slow
@pytest.mark.parametrize("strength", [0.8, 1.0])
def test_inpainting_with_an_ancestral_sampler(strength: float) -> None:
    """Inpainting below full strength scaled image and noise by the first sigma.

    https://github.com/huggingface/diffusers/issues/3487
    """
    family, kind = families.FAMILIES["StableDiffusionInpaintPipeline"], "EulerAncestralDiscreteScheduler"
    pipe = pipelines.make_pipeline(family, pipelines.make_scheduler(family, kind))
    run = partial(run_pipeline, pipe, family, items=[0], strength=strength)
    full = run(pipelines.make_scheduler(family, kind))
    plain = run(LatentCRFScheduler(pipelines.make_scheduler(family, kind), None, None))
    assert plain.timesteps == full.timesteps and torch.equal(plain.latents, full.latents)
    kept = run(LatentCRFScheduler(pipelines.make_scheduler(family, kind), None, BYPASS))
    outside, skipped = 1 - family.mask, BYPASS[1] - BYPASS[0]
    before = BYPASS[0] - (STEPS - int(STEPS * strength))
    for index, seen in enumerate(kept.seen):
        assert torch.equal(seen * outside, full.seen[index + skipped * (index >= before)] * outside)


# How loops call a scheduler


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["DDIMScheduler", "DPMSolverMultistepScheduler", "LCMScheduler", EULER[0], "FlowMatchEulerDiscreteScheduler"],
)
@pytest.mark.parametrize("form", ["int", "float", "item", "one", "half", "bfloat16", "numpy"])
def test_forms_of_a_timestep(name: str, form: str) -> None:
    """999 is 1000 in bfloat16; a whole timestep is not found among floating ones.

    https://github.com/modelscope/DiffSynth-Studio/pull/1501, https://github.com/huggingface/diffusers/issues/11749
    """
    forms: dict[str, Callable[[Tensor], Any]] = {
        "int": int, "float": float, "item": Tensor.item, "one": lambda t: t[None], "half": Tensor.half,
        "bfloat16": Tensor.bfloat16, "numpy": Tensor.numpy,
    }  # fmt: skip
    config = {} if name.startswith("Flow") else SD

    def run(scheduler: Any, form: Callable[[Tensor], Any]) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        return run_loop(scheduler, [form(timestep) for timestep in scheduler.timesteps], generator=generator)

    unwrapped = make(name, **config)
    unwrapped.set_timesteps(STEPS)
    try:
        full = run(unwrapped, forms[form])
    except Exception as error:  # not applicable: this form does not work unwrapped
        with pytest.raises(type(error)):
            run(wrap(name, None, **config), forms[form])
        with pytest.raises((type(error), ValueError)):
            run(wrap(name, **config), forms[form])
        return
    assert are_equal(full, run(wrap(name, None, **config), forms[form]))
    with accept_refusal():
        assert are_equal(run(wrap(name, **config), forms[form]), run(wrap(name, **config), lambda timestep: timestep))


@pytest.mark.parametrize("name", [*SOLVERS[:4], "EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler"])
def test_a_timestep_for_each_item_of_the_batch(name: str) -> None:
    """Several timesteps at once give `Boolean value of Tensor with more than one value is ambiguous`.

    With a begin index schedulers that count do not read the timestep. https://github.com/huggingface/diffusers/issues/1784
    """
    config = {} if name.startswith("Flow") else SD

    def run(scheduler: Any, copies: int | None) -> list[Tensor]:
        scheduler.set_timesteps(STEPS)
        scheduler.set_begin_index(0)
        return run_loop(scheduler, [t if copies is None else t.repeat(copies) for t in scheduler.timesteps])

    full = run(make(name, **config), 2)
    assert are_equal(full, run(wrap(name, None, None, **config), 2))
    with accept_refusal():
        assert are_equal(run(wrap(name, steps=None, **config), 2), run(wrap(name, steps=None, **config), None))


@pytest.mark.parametrize("name", [SOLVERS[0], EULER[0], "FlowMatchEulerDiscreteScheduler", "LCMScheduler"])
def test_the_step_index_that_a_callback_sees(name: str) -> None:
    """Schedulers count their steps, and tell the next one to whoever asks between two steps.

    https://github.com/huggingface/diffusers/pull/4347
    """
    wrapped, latents, seen = wrap(name, **({} if name.startswith("Flow") else SD)), torch.zeros(LATENTS), []
    for timestep in wrapped.timesteps:
        latents = wrapped.step(latents, timestep, latents).prev_sample
        seen.append(wrapped.step_index)
    assert seen == [1, 2, 3, 8, 9, 10]


@pytest.mark.parametrize("times", [0, 2])
def test_scaling_the_input_never_or_twice(times: int) -> None:
    """A pipeline that does not call `scale_model_input` runs Euler's samplers with a warning.

    https://github.com/huggingface/diffusers/issues/9084
    """

    def run(scheduler: Any, times: int) -> list[Tensor]:
        latents, states = torch.randn(LATENTS, generator=torch.Generator().manual_seed(2)), []
        for timestep in scheduler.timesteps:
            for _ in range(times):
                scheduler.scale_model_input(latents, timestep)
            generator = torch.Generator().manual_seed(0)
            latents = scheduler.step(torch.tanh(latents), timestep, latents, generator=generator).prev_sample
            states.append(latents)
        return states

    for name in EULER:
        unwrapped = make(name, **SD)
        unwrapped.set_timesteps(STEPS)
        assert are_equal(run(unwrapped, times), run(wrap(name, None, **SD), times))
        assert are_equal(run(wrap(name, **SD), times), run(wrap(name, **SD), 1))


@pytest.mark.parametrize(
    "name", ["DDPMScheduler", "DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"]
)
def test_steps_without_set_timesteps(name: str) -> None:
    """A step before `set_timesteps` gave an error that no one could read.

    Some schedulers make it all the same; then the bypass must not be left out silently.
    https://github.com/huggingface/diffusers/pull/264
    """
    wrapped = wrap(name, steps=None, **SD)
    with pytest.raises(ValueError, match="Call set_timesteps before the first step"):
        wrapped.step(torch.zeros(LATENTS), wrapped.timesteps[0], torch.zeros(LATENTS))


@pytest.mark.parametrize("kind", ["subclass", "method", "closure", "closure with names"])
@pytest.mark.parametrize("name", ["DDIMScheduler", "DPMSolverMultistepScheduler"])
def test_a_step_that_another_tool_has_replaced(name: str, kind: str) -> None:
    """A tool wraps `step` as `step(self, *args, **kwargs)`, so that its arguments cannot be read from it.

    https://github.com/xdit-project/xDiT/pull/426, https://github.com/huggingface/diffusers/issues/4123
    """
    parent = getattr(diffusers, name)

    class Passing(parent):  # type: ignore[misc, valid-type]
        def step(self, *args: Any, **kwargs: Any) -> Any:
            return super().step(*args, **kwargs)

    def make_replaced() -> Any:
        scheduler = Passing(**SD) if kind == "subclass" else parent(**SD)
        if kind == "method":
            scheduler.step = bind_step(scheduler, parent)
        if kind.startswith("closure"):
            own = scheduler.step
            scheduler.step = lambda *args, **kwargs: own(*args, **kwargs)
        if kind == "closure with names":
            scheduler.step = wraps(own)(scheduler.step)
        return scheduler

    with accept_refusal():
        plain = LatentCRFScheduler(make_replaced(), None, None)
        plain.set_timesteps(STEPS)
        assert are_equal(run_loop(plain), run_loop(wrap(name, None, **SD)))
    with pytest.raises(ValueError, match="does not name its arguments|was replaced") as error:
        LatentCRFScheduler(make_replaced(), None, BYPASS).set_timesteps(STEPS)
    assert is_ours(error.value)


def bind_step(scheduler: Any, parent: Any) -> Any:
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        return parent.step(self, *args, **kwargs)

    return step.__get__(scheduler)


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 3, 5, 7])
@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
@pytest.mark.parametrize("name", ["DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler"])
def test_a_copy_goes_on_where_the_scheduler_is(name: str, way: str, at: int) -> None:
    """Schedulers are copied for other threads, also in the middle of a run.

    https://github.com/huggingface/diffusers/issues/1606, https://github.com/huggingface/diffusers/issues/5365
    """
    crf = LatentCRF().eval()
    for parameter in crf.parameters():
        torch.nn.init.normal_(parameter, std=0.3)

    def run(at: int | None) -> Tensor:
        scheduler: Any = LatentCRFScheduler(make(name, **SD), crf, (6, 8))
        scheduler.set_timesteps(STEPS)
        latents = torch.randn(LATENTS, generator=torch.Generator().manual_seed(2))
        for number, timestep in enumerate(scheduler.timesteps):
            if number == at:
                scheduler = copy.deepcopy(scheduler) if way == "deepcopy" else pickle.loads(pickle.dumps(scheduler))
            latents = scheduler.step(torch.tanh(latents), timestep, latents).prev_sample
        return latents

    with torch.no_grad():
        assert torch.equal(run(at), run(None))


def test_threads_with_copies_of_one_scheduler() -> None:
    """Two threads on one scheduler run over the end of its sigmas; with a copy each they are to work.

    https://github.com/huggingface/diffusers/issues/5749, https://github.com/huggingface/diffusers/issues/9362
    """
    one = wrap("DPMSolverMultistepScheduler", **SD)
    expected = run_loop(wrap("DPMSolverMultistepScheduler", **SD))
    one.step(torch.zeros(LATENTS), one.timesteps[0], torch.zeros(LATENTS))
    results: list[list[Tensor]] = []

    def work(scheduler: Any) -> None:
        scheduler.set_timesteps(STEPS)
        results.append(run_loop(scheduler))

    threads = [threading.Thread(target=work, args=[copy.deepcopy(one)]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2 and all(are_equal(result, expected) for result in results)


@pytest.mark.parametrize("name", ["DDPMScheduler", "EulerAncestralDiscreteScheduler", "LCMScheduler"])
def test_a_batch_of_generators(name: str) -> None:
    """With one generator the noise of an image depends on the size of its batch; with one each it must not.

    https://github.com/huggingface/diffusers/issues/6222
    """
    clean = torch.randn(LATENTS)

    def run(items: Sequence[int]) -> Tensor:
        scheduler = wrap(name, **SD)
        generators, latents = [torch.Generator().manual_seed(item) for item in items], clean[list(items)]
        for timestep in scheduler.timesteps:
            latents = scheduler.step(torch.tanh(latents), timestep, latents, generator=generators).prev_sample
        return latents

    check_close(run([0, 1]), torch.cat([run([0]), run([1])]), 1e-5, "a batch")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "name", [*SOLVERS[:4], "EulerDiscreteScheduler", "DDIMScheduler", "FlowMatchEulerDiscreteScheduler"]
)
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    """Schedulers compute in float32, and models in half precision then meet latents of another type.

    https://github.com/huggingface/diffusers/issues/3056, https://github.com/huggingface/diffusers/issues/1931
    """
    if name.startswith("Flow"):
        levels = levels_from_flow(np.linspace(1, 0.001, STEPS))
    elif name == "DDIMScheduler":
        levels = levels_from_alphas(ALPHAS, space_leading(STEPS))
    else:
        sigmas = ratios_from_alphas(
            ALPHAS, (space_linspace if name.startswith("Euler") else space_solver_linspace)(STEPS)
        )
        levels = (levels_from_sigmas if name.startswith("Euler") else levels_from_ratios)(sigmas)
    config = {} if name.startswith("Flow") else NO_CLIP if name == "DDIMScheduler" else SD
    kind = "flow_prediction" if name.startswith("Flow") else "epsilon"
    tolerance = 0.01 if dtype == torch.float16 else 0.06
    check(partial(make, name, **config), levels, (6, 8), kind, dtype=dtype, tolerance=tolerance)


@pytest.mark.parametrize("factors", [[1.5] * 9, [1, 1, 1.5, 1.5, 2, 2, 2, 2, 2], [1, 1, 1, 1, 1, 1, 1, 1, 2]])
def test_latents_that_grow_during_the_run(factors: list[float]) -> None:
    """A scheduler makes the latents larger from step to step.

    https://github.com/huggingface/diffusers/pull/11170
    """
    scheduler = make("FlowMatchLCMScheduler")
    scheduler.set_scale_factors(factors, "bilinear")
    with pytest.raises(ValueError, match="lets the latents grow during the run") as error:
        LatentCRFScheduler(scheduler, None, BYPASS).set_timesteps(STEPS)
    assert is_ours(error.value)
    full = make("FlowMatchLCMScheduler")
    full.set_scale_factors(factors, "bilinear")
    plain = LatentCRFScheduler(copy.deepcopy(full), None, None)
    for each in (full, plain):
        each.set_timesteps(STEPS)
    runs = [run_loop(each, generator=torch.Generator().manual_seed(0)) for each in (full, plain)]
    assert are_equal(*runs)


# Pipelines that use a scheduler in ways of their own


def build(name: str, **attributes: Any) -> Callable[[Any], Any]:
    """Build a pipeline of Stable Diffusion, with attributes to replace in it."""
    parts = {"image_encoder": None} if name == "StableDiffusionSAGPipeline" else {}

    def make_pipeline(scheduler: Any) -> Any:
        pipe = families.build_sd(name, **parts)(scheduler)
        for attribute, value in attributes.items():
            setattr(pipe, attribute, value)
        return pipe

    return make_pipeline


def run_three(
    family: families.Family, kind: str, bypass: tuple[int, int] = BYPASS
) -> tuple[pipelines.Trace, pipelines.Trace | None, LatentCRFScheduler]:
    """Run a pipeline unwrapped, with nothing bypassed (checked to be the same) and with a bypass.

    Returns:
        The unwrapped run, the one with a bypass (None: refused before its second denoiser call), its scheduler.
    """
    pipe = pipelines.make_pipeline(family, pipelines.make_scheduler(family, kind))
    full = run_pipeline(pipe, family, pipelines.make_scheduler(family, kind), [0])
    plain = LatentCRFScheduler(pipelines.make_scheduler(family, kind), None, None)
    same = run_pipeline(pipe, family, plain, [0])
    assert torch.equal(same.latents, full.latents) and same.timesteps == full.timesteps
    wrapped = LatentCRFScheduler(pipelines.make_scheduler(family, kind), None, bypass)
    try:
        return full, run_pipeline(pipe, family, wrapped, [0]), pipe.scheduler
    except ValueError as error:
        assert is_ours(error) and len(error.trace.timesteps) <= 2, repr(error)  # type: ignore[attr-defined]
        return full, None, pipe.scheduler


def make_text_arguments(items: Sequence[int], **more: Any) -> dict[str, Any]:
    """Make arguments for pipelines that take no embeddings, only prompts."""
    arguments = families.prompts(items)
    return {key: value for key, value in arguments.items() if "embeds" not in key} | {"prompt": "a"} | more


def encode(prompt: Any, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    """Stand in for `encode_prompt` of a pipeline without a text encoder."""
    arguments, count = families.prompts([0]), len(prompt) if isinstance(prompt, list) else 1
    return tuple(arguments[key].repeat(count, 1, 1) for key in ("prompt_embeds", "negative_prompt_embeds"))  # type: ignore


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["DDIMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler",
                                  "EulerDiscreteScheduler"])  # fmt: skip
def test_panorama_keeps_a_state_for_each_view(kind: str) -> None:
    """Views of a panorama need each its own history: the pipeline saves and restores the scheduler's `__dict__`.

    https://github.com/huggingface/diffusers/issues/3494, https://github.com/huggingface/diffusers/pull/3546
    """
    size = {"height": 512, "width": 576, "view_batch_size": 1, "num_inference_steps": 4}
    family = families.Family(
        build("StableDiffusionPanoramaPipeline", vae_scale_factor=8), lambda items: families.square(items) | size
    )
    with accept_refusal():
        full, kept, _ = run_three(family, kind, (1, 3))
        if kept is not None:
            assert kept.timesteps == full.timesteps[:2] + full.timesteps[6:]
            assert are_equal(kept.seen[:2], full.seen[:2])


@pytest.mark.slow
def test_cycle_diffusion_goes_two_ways_at_once() -> None:
    """CycleDiffusion takes the source's latents to t - 1000 // n by itself, beside the scheduler's step.

    https://github.com/huggingface/diffusers/pull/888
    """
    more = {"source_prompt": "b", "strength": 0.8, "eta": 0.1, "guidance_scale": 2.0, "source_guidance_scale": 1.0}
    family = families.Family(
        build("CycleDiffusionPipeline", encode_prompt=encode),
        lambda items: make_text_arguments(items, image=families.draw_images(items), **more),
        config=families.STABLE_DIFFUSION | {"set_alpha_to_one": False},
    )
    _, kept, _ = run_three(family, "DDIMScheduler")
    assert kept is None, "the source is not taken over the bypass"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["DDIMParallelScheduler", "DDPMParallelScheduler"])
def test_steps_in_parallel(kind: str) -> None:
    """ParaDiGMS makes steps of several timesteps at once, by a method of its own.

    https://github.com/huggingface/diffusers/pull/3716, https://github.com/huggingface/diffusers/pull/14692
    """
    family = families.Family(
        build("StableDiffusionParadigmsPipeline"), lambda items: families.square(items) | {"parallel": 3}
    )
    _, kept, _ = run_three(family, kind)
    assert kept is None, "no step of the scheduler is made, so nothing is bridged"


@pytest.mark.slow
@pytest.mark.parametrize("bypass", [(2, 4), (3, 5), (4, 6), (6, 8)])
def test_text_to_video_zero_copies_the_scheduler_in_a_run(bypass: tuple[int, int]) -> None:
    """Text2Video-Zero goes to t0 with one frame, copies the scheduler, and goes from t1 on with all frames.

    Both count timesteps from the end, with a bypass kept ones. https://github.com/huggingface/diffusers/issues/5365
    """
    t0, t1 = 3, 5
    more = {"video_length": 3, "height": 8, "width": 8, "t0": t0, "t1": t1}
    family = families.Family(
        build("TextToVideoZeroPipeline", encode_prompt=encode), lambda items: make_text_arguments(items, **more)
    )
    full, kept, _ = run_three(family, "DDIMScheduler", bypass)
    timesteps = (space_leading(STEPS, 1) * 1.0).tolist()
    assert kept is not None and full.timesteps == timesteps[: -t0 - 1] + timesteps[-t1 - 1 :]
    timesteps = timesteps[: bypass[0]] + timesteps[bypass[1] :]
    assert kept.timesteps == timesteps[: -t0 - 1] + timesteps[-t1 - 1 :]


def test_a_pipeline_that_replaces_its_scheduler(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LEDITS++ accepts DDIM and DPM-Solver++ by class, and says so when it puts another one in their place.

    Wrapped ones are of another class: no bypass is made. https://github.com/huggingface/diffusers/pull/6074
    """
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
    caplog.set_level(logging.WARNING, logger="diffusers")
    pipe = build("LEditsPPPipelineStableDiffusion")(wrap("DDIMScheduler", steps=None, **SD))
    assert type(pipe.scheduler) is diffusers.DPMSolverMultistepScheduler
    assert "The scheduler has been changed to DPMSolverMultistepScheduler" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["DDIMScheduler", "DPMSolverMultistepScheduler"])
def test_self_attention_guidance_reads_alphas(kind: str) -> None:
    """SAG adds noise in the middle of a step and reads abar at its timestep; Euler's samplers do not work.

    https://github.com/huggingface/diffusers/issues/4924
    """
    family = families.Family(build("StableDiffusionSAGPipeline"), families.square)
    full, kept, _ = run_three(family, kind)
    assert kept is not None and kept.timesteps == full.timesteps[:8] + full.timesteps[16:]
    assert are_equal(kept.seen[:8], full.seen[:8])


@pytest.mark.slow
def test_guess_mode() -> None:
    """In guess mode the ControlNet sees only the half of the batch with a prompt.

    https://github.com/huggingface/diffusers/pull/2998
    """
    family = families.FAMILIES["StableDiffusionControlNetPipeline"]
    guess = families.Family(family.build, lambda items: family.arguments(items) | {"guess_mode": True})
    full, kept, scheduler = run_three(guess, "UniPCMultistepScheduler")
    assert kept is not None and scheduler.last_bypass is not None
    assert kept.timesteps == full.timesteps[: BYPASS[0]] + full.timesteps[BYPASS[1] :]
    assert are_equal(kept.seen[: BYPASS[0]], full.seen[: BYPASS[0]])


@pytest.mark.slow
def test_stable_diffusion_with_a_scheduler_that_scales_nothing() -> None:
    """The flow-matching scheduler has no `scale_model_input`, which the pipeline asks for.

    https://github.com/huggingface/diffusers/pull/12015
    """
    family = families.Family(families.build_sd("StableDiffusionPipeline"), families.square, config={})
    try:
        full, kept, scheduler = run_three(family, "FlowMatchEulerDiscreteScheduler")
    except AttributeError as error:  # in versions of diffusers where the unwrapped pipeline fails too
        assert "scale_model_input" in str(error) or "init_noise_sigma" in str(error)
        return
    assert kept is not None and scheduler.last_bypass is not None
    assert kept.timesteps == full.timesteps[: BYPASS[0]] + full.timesteps[BYPASS[1] :]
