"""Pipelines of diffusers with a swappable scheduler: one pair for each kind of loop and each kind of scheduler.

`python -m tests.conformance.pipelines` examines all pairs.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from latentcrf import LatentCRFScheduler
from latentcrf.noise_levels import coefficients, to_variance_preserving
from tests.conformance.pipelines import (
    BYPASS,
    EPSILON,
    FAMILIES,
    STEPS,
    Family,
    Trace,
    build_sd,
    examine,
    make_finisher,
    make_pipeline,
    make_scheduler,
    run,
    square,
)

pytestmark = pytest.mark.slow

KEPT = STEPS - (BYPASS[1] - BYPASS[0])
# The family of each kind of loop, with a scheduler; the inpainting loop, which adds noise at each step, with all.
PAIRS = {
    "StableDiffusionPipeline": "DDIMScheduler",
    "StableDiffusionImg2ImgPipeline": "EulerDiscreteScheduler",
    "StableDiffusionXLPipeline": "EulerAncestralDiscreteScheduler",
    "StableDiffusionXLImg2ImgPipeline": "UniPCMultistepScheduler",
    "StableDiffusionXLInpaintPipeline": "EulerDiscreteScheduler",
    "StableDiffusionControlNetPipeline": "UniPCMultistepScheduler",
    "StableDiffusionControlNetInpaintPipeline": "DDIMScheduler",
    "StableDiffusionPAGPipeline": "DPMSolverMultistepScheduler",
    "StableDiffusionInstructPix2PixPipeline": "EulerAncestralDiscreteScheduler",
    "StableDiffusionDepth2ImgPipeline": "DPMSolverMultistepScheduler",
    "StableDiffusionUpscalePipeline": "DDPMScheduler",
    "StableDiffusionLatentUpscalePipeline": "EulerDiscreteScheduler",
    "StableDiffusionAdapterPipeline": "DDIMScheduler",
    "LatentConsistencyModelPipeline": "LCMScheduler",
    "LatentConsistencyModelImg2ImgPipeline": "LCMScheduler",
    "StableDiffusion3Pipeline": "FlowMatchEulerDiscreteScheduler",
    "StableDiffusion3Img2ImgPipeline": "FlowMatchEulerDiscreteScheduler",
    "StableDiffusion3InpaintPipeline": "FlowMatchEulerDiscreteScheduler",
    "PixArtAlphaPipeline": "DPMSolverMultistepScheduler",
    "PixArtSigmaPipeline": "LCMScheduler",
    "AuraFlowPipeline": "FlowMatchEulerDiscreteScheduler",
    "SanaPipeline": "DPMSolverMultistepScheduler",
    "LuminaPipeline": "FlowMatchEulerDiscreteScheduler",
    "KandinskyV22Pipeline": "DDIMScheduler",
    "KandinskyV22Pipeline, learned variance": "DDPMScheduler",
    "KandinskyV22Img2ImgPipeline": "DDPMScheduler",
    "KandinskyV22InpaintPipeline": "DDIMScheduler",
    "IFPipeline, learned variance": "DPMSolverMultistepScheduler",
}
REFUSED = {
    "FluxPipeline": ("FlowMatchEulerDiscreteScheduler", "Latents must have shape"),
    "AnimateDiffPipeline": ("DDIMScheduler", "Latents must have shape"),
    "KandinskyV22Img2ImgPipeline, begins in the bypass": ("DDIMScheduler", "one step must come before them"),
}


@pytest.mark.parametrize(
    ("name", "kind"), [*PAIRS.items(), *(("StableDiffusionInpaintPipeline", kind) for kind in EPSILON)]
)
def test_a_pair_works(name: str, kind: str) -> None:
    verdict = examine(name, kind)
    assert verdict.state == "works", verdict


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_work_is_refused_at_the_start(name: str) -> None:
    kind, words = REFUSED[name]
    verdict = examine(name, kind)
    assert verdict.state == "refused" and words in verdict.words, verdict


def test_every_family_is_tested() -> None:
    assert set(FAMILIES) - {"StableDiffusionInpaintPipeline", "IFPipeline"} == set(PAIRS) | set(REFUSED)


def start(name: str, kind: str = "DDIMScheduler", bypass: Any = BYPASS, **more: Any) -> tuple[Any, Family, Any]:
    """Make a family's pipeline and a wrapped scheduler for it."""
    family = FAMILIES[name]
    return make_pipeline(family, None), family, LatentCRFScheduler(make_scheduler(family, kind), None, bypass, **more)


def test_callbacks_see_the_kept_timesteps_and_the_latents_after_the_bypass() -> None:
    pipe, family, scheduler = start("StableDiffusionPipeline")
    seen: list[tuple[int, int, Tensor]] = []

    def note(pipe: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        seen.append((index, int(timestep), values["latents"]))
        return values

    trace = run(pipe, family, scheduler, callback_on_step_end=note)
    full = scheduler.scheduler.timesteps.tolist()
    first, last = BYPASS
    assert [timestep for _, timestep, _ in seen] == full[:first] + full[last:] == [int(t) for t in trace.timesteps]
    assert [index for index, _, _ in seen] == list(range(KEPT))
    assert torch.equal(seen[first - 1][2], scheduler.last_bypass.latents)
    assert pipe.num_timesteps == KEPT


@pytest.mark.parametrize("last", [0, BYPASS[0] - 1, BYPASS[0]])
def test_an_interrupted_run_ends_there_and_the_next_is_whole(last: int) -> None:
    pipe, family, scheduler = start("StableDiffusionPipeline", finisher=make_finisher())
    whole = run(pipe, family, scheduler)
    states: list[Tensor] = []

    def stop(pipe: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        states.append(values["latents"])
        pipe._interrupt = index == last
        return values

    trace = run(pipe, family, scheduler, callback_on_step_end=stop)
    assert len(trace.timesteps) == last + 1 and torch.equal(trace.latents, states[-1])
    assert (scheduler.last_bypass is not None) == (last >= BYPASS[0] - 1) and scheduler.last_finish is None
    again = run(pipe, family, scheduler)
    assert torch.equal(again.latents, whole.latents) and again.timesteps == whole.timesteps


@pytest.mark.parametrize("kind", ["DDIMScheduler", "EulerDiscreteScheduler", "UniPCMultistepScheduler"])
@pytest.mark.parametrize(("height", "width"), [(9, 5), (7, 16)])
def test_odd_latent_sizes(kind: str, height: int, width: int) -> None:
    pipe, family, scheduler = start("StableDiffusionPipeline", kind, finisher=make_finisher())
    pipe.vae_scale_factor = 8
    with torch.no_grad():
        trace = run(pipe, family, scheduler, height=8 * height, width=8 * width)
    assert trace.latents.shape == (2, 4, height, width) and len(trace.timesteps) == KEPT
    assert torch.equal(trace.latents, scheduler.last_finish.latents)


@pytest.mark.parametrize("kind", ["DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
@pytest.mark.parametrize("channels", [8, 16])
def test_latents_of_more_channels(kind: str, channels: int) -> None:
    unet = {"in_channels": channels, "out_channels": channels}
    family = Family(build_sd("StableDiffusionPipeline", unet), square)
    pipe, inner = make_pipeline(family, None), make_scheduler(family, kind)
    full = run(pipe, family, inner)
    assert torch.equal(run(pipe, family, LatentCRFScheduler(inner, None, None)).latents, full.latents)
    scheduler = LatentCRFScheduler(make_scheduler(family, kind), None, BYPASS)
    trace = run(pipe, family, scheduler)
    assert trace.latents.shape == (2, channels, 8, 8) and torch.isfinite(trace.latents).all()
    assert trace.timesteps == full.timesteps[: BYPASS[0]] + full.timesteps[BYPASS[1] :]
    fitting = LatentCRFScheduler(make_scheduler(family, kind), None, BYPASS, finisher=make_finisher(channels))
    with torch.no_grad():
        assert torch.equal(run(pipe, family, fitting).latents, fitting.last_finish.latents)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("StableDiffusionPipeline", "EulerDiscreteScheduler"), ("LatentConsistencyModelPipeline", "LCMScheduler")],
)
def test_the_finished_latents_are_decoded(name: str, kind: str) -> None:
    pipe, family, scheduler = start(name, kind, finisher=make_finisher())
    decoded: list[Tensor] = []
    handle = pipe.vae.decoder.register_forward_pre_hook(lambda module, inputs: decoded.append(inputs[0]))
    trace = run(pipe, family, scheduler, output_type="pt")
    handle.remove()
    assert trace.latents.shape == (2, 3, 8, 8)
    expected = pipe.vae.post_quant_conv(scheduler.last_finish.latents / pipe.vae.config.scaling_factor)
    assert torch.equal(decoded[0], expected)


@pytest.mark.parametrize("kind", EPSILON)
def test_without_guidance_and_with_several_images_of_a_prompt(kind: str) -> None:
    pipe, family, scheduler = start("StableDiffusionPipeline", kind)
    more = {"guidance_scale": 1.0, "num_images_per_prompt": 2}
    generators = [torch.Generator().manual_seed(seed) for seed in range(4)]
    trace = run(pipe, family, scheduler, generator=generators, **more)
    assert trace.latents.shape[0] == 4 == len(trace.seen[0]) and len(trace.timesteps) == KEPT


def test_with_custom_timesteps_the_strength_is_a_part_of_the_kept_steps() -> None:
    """The pipeline takes the number of steps from the scheduler then, and that is the number of kept ones."""
    timesteps = [950, 850, 750, 650, 550, 450, 350, 250, 150, 50]
    begins = {}
    for bypass in (None, (5, 8)):
        pipe, family, scheduler = start("StableDiffusionImg2ImgPipeline", "DPMSolverMultistepScheduler", bypass)
        more: dict[str, Any] = {"timesteps": timesteps, "num_inference_steps": None}
        for strength in (0.8, 0.6, 0.5):
            try:
                begins[bypass, strength] = run(pipe, family, scheduler, strength=strength, **more).timesteps
            except ValueError as error:
                begins[bypass, strength] = str(error)
    assert begins[None, 0.8] == timesteps[2:] and begins[(5, 8), 0.8] == timesteps[2:5] + timesteps[8:]
    assert begins[None, 0.6] == timesteps[4:] and begins[(5, 8), 0.6] == timesteps[3:5] + timesteps[8:]  # not 4:5
    assert begins[None, 0.5] == timesteps[5:] and begins[(5, 8), 0.5] == timesteps[4:5] + timesteps[8:]  # not refused


def test_the_end_of_control_guidance_is_a_part_of_the_kept_steps() -> None:
    """The pipeline counts the timesteps that it is given. Six of ten are kept: half of them are three, not four."""
    scales = {}
    for bypass in (None, (4, 8)):
        pipe, family, scheduler = start("StableDiffusionControlNetPipeline", bypass=bypass)
        seen = scales[bypass] = []

        def note(module: Any, arguments: Any, named: dict[str, Any], seen: list[float] = seen) -> None:
            seen.append(named["conditioning_scale"])

        handle = pipe.controlnet.register_forward_pre_hook(note, with_kwargs=True)
        run(pipe, family, scheduler, control_guidance_end=0.5, num_inference_steps=10)
        handle.remove()
    assert scales[None] == [1.0] * 5 + [0.0] * 5
    assert scales[4, 8] == [1.0] * 3 + [0.0] * 3


def run_base(bypass: Any) -> tuple[Trace, LatentCRFScheduler]:
    pipe, family, scheduler = start("StableDiffusionXLPipeline", "EulerDiscreteScheduler", bypass)
    return run(pipe, family, scheduler, num_inference_steps=50, denoising_end=0.8), scheduler


def run_refiner(latents: Tensor, bypass: Any) -> Trace:
    pipe, family, scheduler = start("StableDiffusionXLImg2ImgPipeline", "EulerDiscreteScheduler", bypass)
    return run(pipe, family, scheduler, num_inference_steps=50, denoising_start=0.8, image=latents)


def test_base_and_refiner_each_with_a_bypass_in_its_own_part() -> None:
    full, _ = run_base(None)
    base, scheduler = run_base((20, 30))
    assert len(full.timesteps) == 40 and base.timesteps == full.timesteps[:20] + full.timesteps[30:]
    refined = run_refiner(full.latents, None)
    assert len(refined.timesteps) == 10 and torch.isfinite(refined.latents).all()
    assert run_refiner(base.latents, (44, 49)).timesteps == refined.timesteps[:4] + refined.timesteps[9:]


def test_a_bypass_across_the_change_to_the_refiner() -> None:
    """The base ends after its step 33 with the latents of step 49; the refiner takes them for those of step 40.

    The scheduler does not know `denoising_end`. A refiner with the same bypass refuses to begin; one without runs on.
    """
    base, scheduler = run_base((0.66, 0.98))
    assert len(base.timesteps) == 33
    assert torch.equal(base.latents, scheduler.last_bypass.latents)
    alpha, _ = to_variance_preserving(*coefficients(scheduler.scheduler, 49))
    assert scheduler.last_bypass.observation.alpha_out == alpha
    with pytest.raises(ValueError, match="begins at step 33 of 50, but steps 33 to 48 are bypassed"):
        run_refiner(base.latents, (0.66, 0.98))
    assert len(run_refiner(base.latents, None).timesteps) == 10


def test_a_run_that_begins_after_the_last_kept_step_is_refused() -> None:
    pipe, family, scheduler = start("KandinskyV22Img2ImgPipeline", bypass=(BYPASS[0], STEPS))
    with pytest.raises(ValueError, match="begins after the last kept step of 5, but steps 2 to 4 are bypassed"):
        run(pipe, family, scheduler, image=family.arguments((0, 1))["image"], strength=0.5)
