"""The add-on on real pipelines with tiny random parts: exactness, counts, levels, histories, messages."""

import copy
import inspect
import pickle
import threading
from dataclasses import replace
from functools import wraps

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)

from latentcrf import Finisher, LatentCRF, LatentCRFScheduler, Observation, VAERoundTrip, hand_over
from latentcrf.noise_levels import (
    TREND_GAP,
    clean_estimate,
    coefficients,
    find_earlier_calls,
    log_snr,
    to_variance_preserving,
)
from latentcrf.vae import round_trip
from tests.latentcrf.test_model import SMALL, with_random_weights

SCHEDULERS = [
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    UniPCMultistepScheduler,
    EulerDiscreteScheduler,
    EulerAncestralDiscreteScheduler,
    LCMScheduler,
]
EMBEDS = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def pipe() -> StableDiffusionPipeline:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(block_out_channels=(8,), latent_channels=4, norm_num_groups=4)
    parts = {"text_encoder": None, "tokenizer": None, "safety_checker": None, "feature_extractor": None}
    pipe = StableDiffusionPipeline(
        vae=vae.eval(), unet=unet.eval(), scheduler=ddim(), **parts, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def crf() -> LatentCRF:
    torch.manual_seed(1)
    crf = LatentCRF(channels=8, coarse_channels=8, num_coarse_blocks=1)
    torch.nn.init.normal_(crf.head.weight, std=0.05)
    return crf.eval()


@pytest.fixture(scope="module")
def finisher() -> LatentCRF:
    torch.manual_seed(2)
    finisher = LatentCRF(form="static")
    torch.nn.init.constant_(finisher.raw_reliability, 1.0)  # a fresh one hardly changes anything
    return finisher.eval()


def clean(latents: torch.Tensor) -> Observation:
    """Last latents, which are their own estimate."""
    return Observation(latents, latents, 1.0, 1.0)


def ddim() -> DDIMScheduler:
    return DDIMScheduler(
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,
    )


def inner(kind: type, **changes: object) -> object:
    # zero terminal SNR is DDIM's own business: the sigmas of the others would begin at infinity
    return kind.from_config(ddim().config, rescale_betas_zero_snr=kind is DDIMScheduler, **changes)


def run(pipe: StableDiffusionPipeline, scheduler: object, steps: int = 10, **arguments: object) -> torch.Tensor:
    """Latents of two samples; the U-Net's calls are counted in `run.calls`."""
    pipe.scheduler = scheduler
    calls: list[int] = []
    hook = pipe.unet.register_forward_pre_hook(lambda module, inputs: calls.append(int(inputs[1])))
    try:
        arguments = {"prompt_embeds": EMBEDS, "negative_prompt_embeds": EMBEDS.flip(0)} | arguments
        generator = torch.Generator().manual_seed(3)
        return pipe(
            num_inference_steps=steps, guidance_scale=2.0, output_type="latent", generator=generator, **arguments
        )[0]
    finally:
        hook.remove()
        run.calls = calls


@pytest.mark.parametrize("kind", SCHEDULERS)
@pytest.mark.parametrize("bypass", [(4, 4), (0.5, 0.5), None])
def test_nothing_bypassed_is_the_plain_pipeline_bit_for_bit(pipe, crf, kind, bypass) -> None:
    expected = run(pipe, inner(kind))
    scheduler = LatentCRFScheduler(inner(kind), crf, bypass)
    assert torch.equal(run(pipe, scheduler), expected)
    assert len(run.calls) == 10 == scheduler.num_denoiser_calls
    assert scheduler.last_bypass is None


def test_bypass_33_49_of_50_makes_34_calls(pipe, crf) -> None:
    plain = inner(DDIMScheduler)
    plain.set_timesteps(50)
    scheduler = LatentCRFScheduler(inner(DDIMScheduler), crf, bypass=(33, 49))
    assert torch.isfinite(run(pipe, scheduler, steps=50)).all()
    timesteps = plain.timesteps.tolist()
    assert run.calls == timesteps[:33] + timesteps[49:]
    assert scheduler.num_denoiser_calls == 34
    fractions = LatentCRFScheduler(inner(DDIMScheduler), crf)  # the default
    fractions.set_timesteps(50)
    assert torch.equal(fractions.timesteps, scheduler.timesteps)


@pytest.mark.parametrize("kind", SCHEDULERS)
@pytest.mark.parametrize(("bypass", "calls"), [((6, 9), 7), ((1, 9), 2), ((9, 10), 9), ((0.3, 1.0), 3)])
def test_every_scheduler_runs_with_the_crf(pipe, crf, kind, bypass, calls) -> None:
    scheduler = LatentCRFScheduler(inner(kind), crf, bypass)
    latents = run(pipe, scheduler)
    assert len(run.calls) == calls
    assert torch.isfinite(latents).all() and latents.std() < 10
    seen = scheduler.last_bypass
    assert seen.observation.latents.shape == seen.y.shape == seen.latents.shape == (2, 4, 8, 8)
    if bypass[1] in (10, 1.0):
        assert torch.equal(latents, seen.y) and seen.observation.alpha_out == 1
    first = round(bypass[0] * 10) if isinstance(bypass[0], float) else bypass[0]
    assert seen.observation.alpha_denoised == to_variance_preserving(*coefficients(scheduler.scheduler, first - 1))[0]
    assert seen.observation.alpha_denoised < seen.observation.alpha_in < seen.observation.alpha_out
    # the next run starts afresh
    assert torch.equal(run(pipe, scheduler), latents)


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_the_first_part_is_the_inner_schedulers_own(pipe, kind) -> None:
    trace: list[torch.Tensor] = []

    def note(pipe, index, timestep, values):
        trace.append(values["latents"])
        return values

    run(pipe, inner(kind), callback_on_step_end=note)
    plain, trace = trace, []
    scheduler = LatentCRFScheduler(inner(kind), None, (6, 9))
    run(pipe, scheduler, callback_on_step_end=note)
    for index in range(5):
        assert torch.equal(trace[index], plain[index])
    a, s = coefficients(scheduler.scheduler, 6)
    torch.testing.assert_close(scheduler.last_bypass.observation.latents, plain[5] / to_variance_preserving(a, s)[1])
    assert torch.equal(scheduler.last_bypass.latents, trace[5])


def test_the_bypass_without_parameters_is_one_long_ddim_step(pipe) -> None:
    """With y = x0_hat the latents stay on DDIM's line through x0_hat and eps_hat, at every level."""
    scheduler = LatentCRFScheduler(inner(DDIMScheduler), None, (4, 8))
    run(pipe, scheduler)
    seen, full = scheduler.last_bypass, scheduler.scheduler
    a_in, a_out = (full.alphas_cumprod[full.timesteps[i]] for i in (4, 8))
    noise = (seen.observation.latents - a_in.sqrt() * seen.observation.denoised) / (1 - a_in).sqrt()
    expected = a_out.sqrt() * seen.observation.denoised + (1 - a_out).sqrt() * noise
    torch.testing.assert_close(seen.latents, expected, rtol=1e-4, atol=1e-5)
    assert seen.y is seen.observation.denoised


def test_euler_and_ddim_take_the_same_bypass(pipe, crf) -> None:
    """Euler on sigmas is DDIM in other coordinates, so that the CRF must see the same on both."""
    settings = {"timestep_spacing": "trailing", "rescale_betas_zero_snr": False}
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    seen = {}
    for kind in (DDIMScheduler, EulerDiscreteScheduler):
        scheduler = LatentCRFScheduler(kind.from_config(ddim().config, **settings), crf, (4, 8))
        run(pipe, scheduler, latents=noise)
        seen[kind] = scheduler.last_bypass
    a, b = seen.values()
    assert a.observation.alpha_in == pytest.approx(b.observation.alpha_in, rel=1e-4)
    assert a.observation.alpha_out == pytest.approx(b.observation.alpha_out, rel=1e-4)
    # the two begin with slightly different noise: Euler's initial latents are sigma_max times the noise
    for name in ("latents", "denoised"):
        torch.testing.assert_close(getattr(a.observation, name), getattr(b.observation, name), rtol=0.1, atol=0.1)
    torch.testing.assert_close(a.latents, b.latents * b.observation.alpha_out**0.5, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("kind", [DPMSolverMultistepScheduler, UniPCMultistepScheduler])
def test_multi_step_solvers_re_enter_at_first_order(pipe, crf, kind) -> None:
    trace: list[torch.Tensor] = []
    outputs: list[torch.Tensor] = []

    def note(pipe, index, timestep, values):
        trace.append(values["latents"])
        return values

    scheduler = LatentCRFScheduler(inner(kind, final_sigmas_type="sigma_min"), crf, (12, 16))
    step = kind.step

    @wraps(step)
    def listen(self, model_output, *args, **kwargs):
        outputs.append(model_output)
        return step(self, model_output, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "step", listen)
        run(pipe, scheduler, steps=20, callback_on_step_end=note)
    # first order in data prediction is DDIM: along the line through x0_hat and eps_hat, from level 16 to level 17
    x, x0 = trace[11], clean_estimate(scheduler.scheduler, 16, outputs[12], trace[11])
    (abar, _), (abar_next, _) = (to_variance_preserving(*coefficients(scheduler.scheduler, i)) for i in (16, 17))
    torch.testing.assert_close(trace[12], hand_over(x, x0, abar, abar_next), rtol=1e-4, atol=1e-5)
    # and the step after it is of second order again
    x, x0 = trace[12], clean_estimate(scheduler.scheduler, 17, outputs[13], trace[12])
    (abar, _), (abar_next, _) = (to_variance_preserving(*coefficients(scheduler.scheduler, i)) for i in (17, 18))
    assert (trace[13] - hand_over(x, x0, abar, abar_next)).abs().max() > 1e-4


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("kind", SCHEDULERS[2:5])
def test_clean_estimates_and_levels(kind, prediction) -> None:
    """From a perfect prediction, x0 comes back, whatever the parametrisation."""
    scheduler = kind(prediction_type=prediction, num_train_timesteps=1000)
    scheduler.set_timesteps(10)
    y, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    for index in (0, 4, 9):
        x = scheduler.add_noise(y, noise, scheduler.timesteps[index : index + 1].expand(2))
        a, s = coefficients(scheduler, index)
        torch.testing.assert_close(x, a * y + s * noise, rtol=1e-3, atol=1e-3)
        abar, _ = to_variance_preserving(a, s)
        assert abar == pytest.approx(float(scheduler.alphas_cumprod[int(scheduler.timesteps[index])]), rel=1e-3)
        perfect = {"epsilon": noise, "sample": y, "v_prediction": abar**0.5 * noise - (1 - abar) ** 0.5 * y}
        torch.testing.assert_close(
            clean_estimate(scheduler, index, perfect[prediction], x), y, rtol=1e-2, atol=2e-2 * max(1, s / a)
        )
    assert coefficients(scheduler, 10) == (1, 0)


def test_which_earlier_estimate_shows_the_trend() -> None:
    """The latest whose log-SNR is far enough below, never one from pure noise, which knows nothing of the image."""
    alphas = torch.tensor([to_variance_preserving(*coefficients(set_to(50), index))[0] for index in range(50)])
    assert alphas[0] < 1e-6 < alphas[1]
    calls = torch.arange(50)
    for stride in (1, 4, 12):
        found = find_earlier_calls(alphas, calls, torch.full((50,), stride))
        snr = log_snr(alphas)
        for call, earlier in zip(calls.tolist(), found.tolist(), strict=True):
            far = [step for step in range(call - stride, 0, -stride) if snr[call] - snr[step] >= TREND_GAP]
            assert earlier == (far[0] if far else call), (stride, call)
    assert found[:13].tolist() == list(range(13)) and found[13] == 1  # steps of twelve
    few = torch.tensor([to_variance_preserving(*coefficients(set_to(6), index))[0] for index in range(6)])
    assert find_earlier_calls(few, torch.arange(6), torch.ones(6, dtype=torch.long)).tolist() == [0, 1, 1, 2, 3, 4]


def set_to(steps: int) -> DDIMScheduler:
    scheduler = ddim()
    scheduler.set_timesteps(steps)
    return scheduler


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_the_crf_sees_an_earlier_estimate_of_the_inner_scheduler(pipe, crf, kind) -> None:
    outputs: list[torch.Tensor] = []
    trace: list[torch.Tensor] = []
    hook = pipe.unet.register_forward_hook(lambda module, inputs, output: outputs.append(output[0]))
    try:
        scheduler = LatentCRFScheduler(inner(kind), crf, (20, 39))
        run(pipe, scheduler, steps=40, callback_on_step_end=lambda p, i, t, v: trace.append(v["latents"]) or v)
    finally:
        hook.remove()
    seen, at = scheduler.last_bypass.observation, scheduler._run.earlier_call
    assert 15 < at < 19  # of the 20 calls before the gap: not the one before the last, that is too near
    assert seen.alpha_earlier == to_variance_preserving(*coefficients(scheduler.scheduler, at))[0] < seen.alpha_denoised
    assert log_snr(torch.tensor(seen.alpha_denoised)) - log_snr(torch.tensor(seen.alpha_earlier)) >= TREND_GAP
    without, prompted = outputs[at].chunk(2)
    guided = without + 2.0 * (prompted - without)
    expected = clean_estimate(scheduler.scheduler, at, guided, trace[at - 1])
    torch.testing.assert_close(seen.earlier, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(scheduler.crf(seen), scheduler.crf(replace(seen, earlier=None, alpha_earlier=None)))


def test_flow_matching(crf) -> None:
    y, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    scheduler = LatentCRFScheduler(FlowMatchEulerDiscreteScheduler(), None, (3, 8))
    scheduler.set_timesteps(10)
    x = noise
    for t in scheduler.timesteps:
        x = scheduler.step(noise - y, t, x, return_dict=False)[0]
    torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scheduler.last_bypass.y, y, rtol=1e-4, atol=1e-4)


def test_image_to_image(pipe, crf) -> None:
    image = torch.rand(1, 3, 8, 8)
    second = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    second.set_progress_bar_config(disable=True)
    for kind in (DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler):
        arguments = {"image": image, "strength": 0.8}
        expected = run(second, inner(kind), **arguments)
        assert torch.equal(run(second, LatentCRFScheduler(inner(kind), crf, (5, 5)), **arguments), expected)
        assert len(run.calls) == 8
        scheduler = LatentCRFScheduler(inner(kind), crf, (5, 9))
        assert torch.isfinite(run(second, scheduler, **arguments)).all()
        assert len(run.calls) == 4 and scheduler.last_bypass is not None  # steps 2, 3, 4 and 9
        assert scheduler.last_bypass.observation.earlier is not None  # of step 3
        with pytest.raises(ValueError, match="begins at step 6 of 10, but steps 5 to 8 are bypassed"):
            run(second, scheduler, image=image, strength=0.4)
        scheduler = LatentCRFScheduler(inner(kind), crf, (3, 9))
        assert torch.isfinite(run(second, scheduler, **arguments)).all()
        assert scheduler.last_bypass.observation.earlier is None  # step 2 is the first


def test_custom_timesteps_and_generator_reach_the_inner_scheduler(pipe, crf) -> None:
    scheduler = LatentCRFScheduler(inner(DPMSolverMultistepScheduler), crf, (3, 5))
    run(pipe, scheduler, timesteps=[900, 700, 500, 300, 200, 100])
    assert run.calls == [900, 700, 500, 100]
    for kind in SCHEDULERS:
        wrapped, plain = LatentCRFScheduler(inner(kind), crf), inner(kind)
        for method in ("step", "set_timesteps"):
            assert inspect.signature(getattr(wrapped, method)) == inspect.signature(getattr(plain, method))
    with pytest.raises(ValueError, match="does not support custom"):
        run(pipe, LatentCRFScheduler(inner(DDIMScheduler), crf, (3, 5)), timesteps=[900, 700, 500, 300, 200, 100])
    # DDIM's own randomness at eta = 1 comes from the generator
    noisy = LatentCRFScheduler(DDIMScheduler.from_config(ddim().config, rescale_betas_zero_snr=False), crf, (5, 9))
    assert torch.equal(run(pipe, noisy, eta=1.0), run(pipe, noisy, eta=1.0))
    assert not torch.equal(run(pipe, noisy, eta=1.0), run(pipe, noisy, eta=0.0))


def test_step_returns_what_the_inner_scheduler_returns(crf) -> None:
    x = torch.randn(1, 4, 8, 8)
    for kind in SCHEDULERS:
        plain, scheduler = inner(kind), LatentCRFScheduler(inner(kind), crf, (1, 3))
        for s in (plain, scheduler):
            s.set_timesteps(4)
        t = plain.timesteps[0]
        expected, output = (s.step(x, t, s.scale_model_input(x, t)) for s in (plain, scheduler))
        assert type(output) is type(expected) and output.keys() == expected.keys()
        assert torch.equal(output.prev_sample, output["prev_sample"])
        assert torch.equal(output.prev_sample, scheduler.last_bypass.latents)
        scheduler.set_timesteps(4)
        as_tuple = scheduler.step(x, t, scheduler.scale_model_input(x, t), return_dict=False)
        assert len(as_tuple) == len(expected.to_tuple())


def test_the_inner_scheduler_shows_through(crf) -> None:
    plain = inner(EulerDiscreteScheduler)
    scheduler = LatentCRFScheduler(plain, crf)
    assert scheduler.config is plain.config and len(scheduler) == len(plain) and scheduler.order == 1
    scheduler.set_timesteps(10)
    assert scheduler.init_noise_sigma == plain.init_noise_sigma
    assert set(scheduler.compatibles) == set(plain.compatibles)
    assert DDIMScheduler.from_config(scheduler.config).config.prediction_type == "v_prediction"
    copied = copy.deepcopy(scheduler)
    assert copied.scheduler is not plain and torch.equal(copied.timesteps, scheduler.timesteps)
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = scheduler.no_such_thing


def test_prompt_reaches_a_crf_that_reads_it(pipe) -> None:
    torch.manual_seed(2)
    crf = LatentCRF(channels=8, coarse_channels=8, num_coarse_blocks=1, prompt_dim=8).eval()
    for parameter in crf.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    scheduler = LatentCRFScheduler(inner(DDIMScheduler), crf, (5, 9))
    without = run(pipe, scheduler)
    scheduler.prompt_embeds = EMBEDS
    assert not torch.allclose(run(pipe, scheduler), without)
    scheduler.prompt_embeds = EMBEDS[:1]  # one prompt for all samples
    assert torch.isfinite(run(pipe, scheduler)).all()


@pytest.mark.parametrize("kind", SCHEDULERS)
@pytest.mark.parametrize("bypass", [None, (4, 9), (7, 10)])
def test_the_finisher_corrects_the_final_latents_alone(pipe, crf, finisher, kind, bypass) -> None:
    without = run(pipe, LatentCRFScheduler(inner(kind), crf, bypass))
    calls = run.calls
    for num_iterations in (0, 5):
        corrected = finisher(Observation(without, without, 1.0, 1.0), num_iterations)
        scheduler = LatentCRFScheduler(inner(kind), crf, bypass, finisher=Finisher(finisher, num_iterations))
        assert torch.allclose(run(pipe, scheduler), corrected, atol=1e-5)
        assert run.calls == calls
    assert (corrected - without).abs().mean() > 0.01 * without.abs().mean()


def test_the_finisher_ends_image_to_image(pipe, crf, finisher) -> None:
    to_image = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    to_image.set_progress_bar_config(disable=True)
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def edited(last: LatentCRF | None) -> torch.Tensor:
        to_image.scheduler = LatentCRFScheduler(inner(DDIMScheduler), crf, (6, 9), finisher=last and Finisher(last))
        return to_image(
            image=image, strength=0.6, prompt_embeds=EMBEDS[:1], negative_prompt_embeds=EMBEDS[1:],
            num_inference_steps=10, generator=torch.Generator().manual_seed(3), output_type="latent",
        )[0]  # fmt: skip

    without = edited(None)
    with torch.no_grad():  # as the pipeline does: the very same computation
        corrected = finisher(Observation(without, without, 1.0, 1.0))
    assert torch.equal(edited(finisher), corrected)


@pytest.mark.parametrize("kind", SCHEDULERS)
@pytest.mark.parametrize("bypass", [None, (4, 9), (7, 10)])
def test_the_vae_round_trip_ends_a_run(pipe, crf, kind, bypass) -> None:
    without = run(pipe, LatentCRFScheduler(inner(kind), crf, bypass))
    calls = run.calls
    scheduler = LatentCRFScheduler(inner(kind), crf, bypass, finisher=VAERoundTrip(pipe.vae))
    found = run(pipe, scheduler)
    assert run.calls == calls
    assert torch.allclose(found, round_trip(pipe.vae, without), atol=1e-5)
    assert (found - without).abs().mean() > 0.01 * without.abs().mean()


def test_a_round_trip_by_hand(pipe) -> None:
    vae = AutoencoderKL(
        block_out_channels=(8,), latent_channels=4, norm_num_groups=4, scaling_factor=0.5, shift_factor=0.1
    )
    latents = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        vae.decoder.conv_out.weight *= 10  # so that images leave their range
        images = vae.decode(latents / 0.5 + 0.1).sample
        expected = (vae.encode(images.clamp(-1, 1)).latent_dist.mean - 0.1) * 0.5
    assert (images.abs() > 1).any()
    assert torch.allclose(round_trip(vae, latents), expected)
    assert not round_trip(vae, latents.requires_grad_()).requires_grad
    half = copy.deepcopy(vae).half()
    assert round_trip(half, latents.half()).dtype == torch.float16 and half.dtype == torch.float16
    assert torch.allclose(round_trip(half, latents.half()).float(), expected, atol=0.02)


def test_the_round_trip_does_not_overflow_under_float16_autocast() -> None:
    """SDXL's autoencoder does in float16; its configuration says so."""
    sizes = {"block_out_channels": (8,), "latent_channels": 4, "norm_num_groups": 4}
    vae, kept = (AutoencoderKL(**sizes, force_upcast=upcast) for upcast in (True, False))
    with torch.no_grad():
        vae.decoder.conv_in.weight *= 1e6
    kept.load_state_dict(vae.state_dict())
    latents = torch.randn(1, 4, 8, 8)
    expected = round_trip(vae, latents)
    with torch.autocast("cpu", torch.float16):
        assert torch.equal(round_trip(vae, latents), expected)
        assert not round_trip(kept, latents).isfinite().all()
        assert torch.is_autocast_enabled("cpu")
    with torch.autocast("cpu", torch.bfloat16):  # it has float32's range, and is kept
        found = round_trip(vae, latents)
    assert found.isfinite().all() and not torch.equal(found, expected)


def test_an_autoencoder_that_makes_no_round_trip(pipe, crf) -> None:
    with pytest.raises(ValueError, match="vae must be the pipeline's autoencoder, .* it is a LatentCRF"):
        VAERoundTrip(crf)
    channels, blocks = (8, 8), (1, 1)
    tiny = diffusers.AutoencoderTiny(
        latent_channels=4,
        encoder_block_out_channels=channels,
        decoder_block_out_channels=channels,
        num_encoder_blocks=blocks,
        num_decoder_blocks=blocks,
    )
    latents = torch.randn(1, 4, 8, 8)
    with torch.no_grad():  # without a distribution
        assert torch.equal(round_trip(tiny, latents), tiny.encode(tiny.decode(latents).sample.clamp(-1, 1)).latents)
    with pytest.raises(ValueError, match="VQModel quantizes latents"):
        VAERoundTrip(diffusers.VQModel(latent_channels=4, num_vq_embeddings=4, norm_num_groups=8))


def test_a_saved_vae_round_trip_asks_for_the_pipelines_autoencoder(pipe, tmp_path) -> None:
    wanted = LatentCRFScheduler(inner(DDIMScheduler), None, (4, 9), finisher=VAERoundTrip(pipe.vae))
    wanted.save_pretrained(tmp_path)
    again = LatentCRFScheduler.from_pretrained(tmp_path)
    again.save_pretrained(tmp_path)  # saving once more keeps the note
    again = LatentCRFScheduler.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"saved with a VAE round trip; .* `pipe.scheduler.finisher = VAERoundTrip"):
        run(pipe, again)
    again.finisher = VAERoundTrip(pipe.vae)
    assert torch.equal(run(pipe, again), run(pipe, wanted))


def test_the_finisher_is_saved_and_loaded(finisher, tmp_path) -> None:
    LatentCRFScheduler(inner(DDIMScheduler), None, None, finisher=Finisher(finisher, 3)).save_pretrained(tmp_path)
    again = LatentCRFScheduler.from_pretrained(tmp_path)
    assert again.crf is again.bypass is None and isinstance(again.finisher, Finisher)
    assert again.finisher.num_iterations == 3
    for name, weight in finisher.state_dict().items():
        assert torch.equal(again.finisher.crf.state_dict()[name], weight)


def test_a_trained_finisher_ends_the_run(pipe, crf) -> None:
    finisher = with_random_weights(LatentCRF(corrects_clean=True, reads_trend=False, **SMALL))
    without = run(pipe, LatentCRFScheduler(inner(DDIMScheduler), crf, (6, 9)))
    with torch.no_grad():  # as the pipeline does: the very same computation
        corrected = finisher(Observation(without, without, 1.0, 1.0))
    scheduler = LatentCRFScheduler(inner(DDIMScheduler), crf, (6, 9), finisher=Finisher(finisher))
    assert torch.equal(run(pipe, scheduler), corrected) and not torch.allclose(corrected, without)
    assert scheduler.last_finish is not None and torch.equal(scheduler.last_finish.before, without)
    assert torch.equal(scheduler.last_finish.latents, corrected)
    scheduler.set_timesteps(10)
    assert scheduler.last_finish is None


def test_what_is_no_finisher_is_refused(crf, finisher) -> None:
    with pytest.raises(ValueError, match="made with corrects_clean=True; this one, made for a bypass"):
        Finisher(crf)
    with pytest.raises(ValueError, match="needs a LatentCRF; it was given a DDIMScheduler"):
        Finisher(DDIMScheduler())
    with pytest.raises(ValueError, match="num_iterations is -1; accepted are 0, 1, 2"):
        Finisher(finisher, -1)
    with pytest.raises(ValueError, match=r"finisher is a LatentCRF; accepted are Finisher\(crf\), VAERoundTrip"):
        LatentCRFScheduler(inner(DDIMScheduler), crf, (1, 2), finisher=finisher)


def test_saving_and_loading_a_pipeline(pipe, crf, tmp_path) -> None:
    bypass = (np.float64(0.5), np.int64(9))  # numbers as a table gives them
    scheduler = LatentCRFScheduler(inner(DPMSolverMultistepScheduler), crf, bypass, num_iterations=3)
    expected = run(pipe, scheduler)
    pipe.save_pretrained(tmp_path)
    again = StableDiffusionPipeline.from_pretrained(
        tmp_path, text_encoder=None, tokenizer=None, safety_checker=None, feature_extractor=None
    )
    again.set_progress_bar_config(disable=True)
    assert isinstance(again.scheduler, LatentCRFScheduler)
    assert again.scheduler.bypass == (0.5, 9) and again.scheduler.num_iterations == 3
    assert torch.equal(run(again, again.scheduler), expected)
    plain = DPMSolverMultistepScheduler.from_pretrained(tmp_path / "scheduler")
    assert plain.config.prediction_type == "v_prediction"
    LatentCRFScheduler(inner(DDIMScheduler), None, (1, 2)).save_pretrained(tmp_path / "none")
    assert LatentCRFScheduler.from_pretrained(tmp_path, subfolder="none").crf is None
    with pytest.raises(FileNotFoundError, match="holds no LatentCRFScheduler"):
        LatentCRFScheduler.from_pretrained(tmp_path / "vae")


@pytest.mark.parametrize(
    ("bypass", "message"),
    [
        ((5,), "Accepted are two whole numbers"),
        (5, "bypass is 5"),
        (("a", 5), "first is 'a', not a number"),
        ((True, 5), "first is True, not a number"),
        ((-1, 5), "first is -1"),
        ((0.2, 1.5), "last is 1.5"),
        ((0.2, float("nan")), "last is nan"),
        ((6, 5), r"first \(6\) comes after last \(5\)"),
        ((0.6, 0.5), r"first \(0.6\) comes after last \(0.5\)"),
    ],
)
def test_a_bypass_that_is_wrong_for_any_run(crf, bypass, message) -> None:
    with pytest.raises(ValueError, match=message):
        LatentCRFScheduler(ddim(), crf, bypass)


@pytest.mark.parametrize(
    ("bypass", "message"),
    [
        ((5, 11), "ends at step 11, but the run has 10 steps; last may be at most 10"),
        ((12, 12), "ends at step 12"),
        ((0, 5), "begins at step 0 of 10; first must be at least 1"),
        ((0.01, 5), "begins at step 0 of 10; first must be at least 1"),
        ((8, 0.5), r"is \(8, 5\) of 10 steps: first comes after last"),
    ],
)
def test_a_bypass_that_does_not_fit_the_run(crf, bypass, message) -> None:
    with pytest.raises(ValueError, match=message):
        LatentCRFScheduler(ddim(), crf, bypass).set_timesteps(10)


def test_schedulers_that_cannot_be_wrapped(crf) -> None:
    for kind, message in [
        (HeunDiscreteScheduler, "HeunDiscreteScheduler cannot be wrapped: it makes 2 denoiser calls a step"),
        (PNDMScheduler, "it needs the history of the bypassed steps"),
        (LMSDiscreteScheduler, "it needs the history of the bypassed steps"),
        (diffusers.EDMEulerScheduler, "its latents are scaled"),
        (diffusers.DDIMInverseScheduler, "it goes from images to noise"),
        (diffusers.CMStochasticIterativeScheduler, "its noise levels are of no kind that is known"),
    ]:
        with pytest.raises(ValueError, match=message):
            LatentCRFScheduler(kind(), crf)
    with pytest.raises(ValueError, match="wrapped already"):
        LatentCRFScheduler(LatentCRFScheduler(ddim()), crf)
    with pytest.raises(ValueError, match="LatentCRF has no `step`"):
        LatentCRFScheduler(crf)
    with pytest.raises(ValueError, match="num_iterations is -2"):
        LatentCRFScheduler(ddim(), crf, num_iterations=-2)


def test_packed_latents_are_refused_at_the_first_step(crf) -> None:
    scheduler = LatentCRFScheduler(FlowMatchEulerDiscreteScheduler(), crf, (3, 8))
    scheduler.set_timesteps(10)
    packed = torch.randn(1, 16, 64)
    with pytest.raises(ValueError, match=r"must have shape \(B, C, H, W\); this pipeline's have \(1, 16, 64\)"):
        scheduler.step(packed, scheduler.timesteps[0], packed)


def test_prompts_of_another_batch_are_named(crf) -> None:
    scheduler = LatentCRFScheduler(ddim(), crf, (1, 4))
    scheduler.set_timesteps(4)
    scheduler.prompt_embeds = torch.randn(4, 3, 8)
    latents = torch.randn(2, 4, 8, 8)
    with pytest.raises(ValueError, match="prompt_embeds holds 4 prompts for 2 latents"):
        scheduler.step(latents, scheduler.timesteps[0], latents)


def test_numbers_of_numpy_are_numbers(crf) -> None:
    scheduler = LatentCRFScheduler(ddim(), crf, (np.int64(6), np.float32(0.9)))
    scheduler.set_timesteps(10)
    assert scheduler.num_denoiser_calls == 7
    scheduler = LatentCRFScheduler(ddim(), crf, tuple(np.array([6, 9])))
    scheduler.set_timesteps(10)
    assert scheduler.num_denoiser_calls == 7


def test_a_timestep_of_another_run(crf) -> None:
    scheduler = LatentCRFScheduler(ddim(), crf, (1, 3))
    scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match="Timestep 998 is not one of this run's"):
        scheduler.step(torch.zeros(1, 4, 2, 2), 998, torch.zeros(1, 4, 2, 2))


def test_unknown_prediction_type() -> None:
    scheduler = ddim()
    scheduler.register_to_config(prediction_type="score")
    scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match="prediction_type is 'score'"):
        clean_estimate(scheduler, 0, torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2))


# --- state between runs and samples -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [DDIMScheduler, DDPMScheduler])
def test_one_set_timesteps_serves_several_images_and_tiles(crf, kind) -> None:
    """Whatever the order, each sample gets what it gets alone: its own bypass, its own earlier estimate."""
    torch.manual_seed(0)
    noise = torch.randn(3, 1, 4, 8, 8)

    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x + 0.001 * t)

    def step(scheduler: LatentCRFScheduler, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        options = {"generator": torch.Generator().manual_seed(int(t))}
        return scheduler.step(denoise(x, t), t, x, **options).prev_sample

    def build() -> LatentCRFScheduler:
        scheduler = LatentCRFScheduler(inner(kind), crf, (20, 38))
        scheduler.set_timesteps(40)
        return scheduler

    alone, earlier = [], []
    for x in noise:
        scheduler = build()
        for t in scheduler.timesteps:
            x = step(scheduler, x, t)
        alone.append(x)
        earlier.append(scheduler.last_bypass.observation.earlier)
    assert all(each is not None for each in earlier) and not torch.equal(earlier[0], earlier[1])
    scheduler = build()
    for x, expected in zip(noise, alone, strict=True):  # one image after the other
        for t in scheduler.timesteps:
            x = step(scheduler, x, t)
        assert torch.equal(x, expected)
    scheduler, tiles = build(), list(noise)
    for t in scheduler.timesteps:  # several tiles a step
        tiles = [step(scheduler, x, t) for x in tiles]
    assert all(torch.equal(x, expected) for x, expected in zip(tiles, alone, strict=True))
    assert torch.equal(scheduler.last_bypass.observation.earlier, earlier[2])


def test_a_scheduler_that_counts_its_steps_makes_each_once(crf) -> None:
    scheduler = LatentCRFScheduler(inner(DPMSolverMultistepScheduler), crf, (3, 8))
    scheduler.set_timesteps(10)
    x, t = torch.randn(1, 4, 8, 8), scheduler.timesteps[0]
    scheduler.step(x, t, x)
    with pytest.raises(ValueError, match="counts its steps, so it makes each for one batch; timestep 999 came twice"):
        scheduler.step(x, t, x)


def test_steps_of_two_threads_are_refused(crf) -> None:
    scheduler, errors = LatentCRFScheduler(ddim(), crf, (3, 8)), []
    scheduler.set_timesteps(10)
    x = torch.randn(1, 4, 8, 8)
    scheduler.step(x, scheduler.timesteps[0], x)

    def other() -> None:
        try:
            scheduler.step(x, scheduler.timesteps[1], x)
        except ValueError as error:
            errors.append(str(error))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert len(errors) == 1 and "come from two threads" in errors[0]
    scheduler.set_timesteps(10)  # the next run may be another thread's
    scheduler.step(x, scheduler.timesteps[0], x)


def test_the_clean_estimate_of_the_last_step_is_the_result(pipe, crf, finisher) -> None:
    """Latent-consistency pipelines decode `denoised`, not `prev_sample`."""
    x = torch.randn(1, 4, 8, 8)
    for kind, name in ((LCMScheduler, "denoised"), (DDIMScheduler, "pred_original_sample")):
        for bypass, ending in (((1, 4), None), (None, Finisher(finisher)), ((1, 3), Finisher(finisher))):
            scheduler = LatentCRFScheduler(inner(kind), crf, bypass, finisher=ending)
            scheduler.set_timesteps(4)
            sample, generator = x, torch.Generator().manual_seed(0)
            for t in scheduler.timesteps:
                output = scheduler.step(torch.tanh(sample), t, sample, generator=generator)
                sample = output.prev_sample
            assert torch.equal(getattr(output, name), sample), (kind, bypass)
            assert ending is None or torch.equal(sample, scheduler.last_finish.latents)
        plain = LatentCRFScheduler(inner(kind), crf, (1, 3))  # the inner scheduler makes the last step
        plain.set_timesteps(4)
        expected = inner(kind)
        expected.set_timesteps(4)
        t, generators = expected.timesteps[-1], [torch.Generator().manual_seed(0) for _ in range(2)]
        plain.step(x, plain.timesteps[0], x, generator=torch.Generator())
        last = plain.step(x, t, x, generator=generators[0])
        if kind is DDIMScheduler:
            assert torch.equal(last[name], expected.step(x, t, x, generator=generators[1])[name])


# --- the class as users handle it -------------------------------------------------------------------------------------


def test_what_is_written_reaches_the_inner_scheduler_after_a_run_too(pipe, crf) -> None:
    plain = FlowMatchEulerDiscreteScheduler()
    scheduler = LatentCRFScheduler(plain, crf, (3, 8))
    scheduler.set_timesteps(10)
    x = torch.randn(1, 4, 8, 8)
    for t in scheduler.timesteps:
        x = scheduler.step(torch.zeros_like(x), t, x).prev_sample
    scheduler.set_shift(3.0)
    assert plain.shift == 3.0
    scheduler.register_to_config(shift=2.0)
    assert plain.config.shift == scheduler.config.shift == 2.0
    scheduler.own_mark = "written"
    assert plain.own_mark == scheduler.own_mark == "written" and "own_mark" not in scheduler.__dict__
    scheduler.num_iterations, scheduler.bypass = 3, (2, 9)
    assert not hasattr(plain, "num_iterations") and scheduler.num_iterations == 3
    scheduler.set_timesteps(10)
    assert scheduler.num_denoiser_calls == 3
    with pytest.raises(AttributeError, match="timesteps of a LatentCRFScheduler cannot be written: call"):
        scheduler.timesteps = torch.arange(3)


def test_from_config_keeps_the_crf_on_an_instance_and_is_refused_on_the_class(crf, finisher) -> None:
    scheduler = LatentCRFScheduler(ddim(), crf, (5, 9), 7, Finisher(finisher))
    other = scheduler.from_config(scheduler.config, timestep_spacing="leading")
    assert isinstance(other, LatentCRFScheduler) and isinstance(other.scheduler, DDIMScheduler)
    assert other.config.timestep_spacing == "leading" and scheduler.config.timestep_spacing == "trailing"
    assert (other.crf, other.bypass, other.num_iterations, other.finisher) == (crf, (5, 9), 7, scheduler.finisher)
    with pytest.raises(ValueError, match="knows no CRF and no bypass. Wrap the inner scheduler"):
        LatentCRFScheduler.from_config(scheduler.config)


def test_a_scheduler_is_copied_and_pickled_after_a_run_with_gradients(crf) -> None:
    scheduler = LatentCRFScheduler(ddim(), crf, (3, 8))
    scheduler.set_timesteps(10)
    scheduler.prompt_embeds = 2 * torch.randn(1, 3, 8, requires_grad=True)
    x = torch.randn(1, 4, 8, 8, requires_grad=True)
    following = scheduler.step(2 * x, scheduler.timesteps[0], 2 * x).prev_sample
    for t in scheduler.timesteps[1:3]:
        following = scheduler.step(following, t, following).prev_sample
    assert scheduler.last_bypass.y.requires_grad
    copied = copy.deepcopy(scheduler)
    assert copied.last_bypass is None and scheduler.last_bypass is not None
    assert copied.crf is not crf and torch.equal(copied.timesteps, scheduler.timesteps)
    assert torch.equal(copied.prompt_embeds, scheduler.prompt_embeds)
    loaded = pickle.loads(pickle.dumps(copied))
    assert loaded.bypass == (3, 8) and torch.equal(loaded.timesteps, scheduler.timesteps)


@pytest.mark.parametrize("kind", [EulerDiscreteScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler])
def test_sigmas_are_those_of_the_kept_timesteps(kind) -> None:
    """Pipelines such as the latent upscaler read sigmas[i] at timesteps[i]."""
    plain, scheduler = inner(kind), LatentCRFScheduler(inner(kind), None, (4, 8))
    assert torch.equal(scheduler.sigmas, plain.sigmas)
    for each in (plain, scheduler):
        each.set_timesteps(10)
    assert torch.equal(scheduler.sigmas, torch.cat([plain.sigmas[:4], plain.sigmas[8:]]))
    assert torch.equal(scheduler.scheduler.sigmas, plain.sigmas)


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_a_run_that_begins_in_the_bypass_is_refused_without_a_begin_index(kind) -> None:
    """Kandinsky's image-to-image sets none: it takes the last of the kept timesteps."""
    x = torch.randn(1, 4, 8, 8)
    for begin in (4, 5):
        scheduler = LatentCRFScheduler(inner(kind), None, (4, 8))
        scheduler.set_timesteps(10)
        t = scheduler.timesteps[begin]
        with pytest.raises(ValueError, match=f"begins at step {begin + 4} of 10, but steps 4 to 7 are bypassed"):
            scheduler.step(x, t, scheduler.scale_model_input(x, t))
    with pytest.raises(ValueError, match="begins after the last kept step of 10, but steps 4 to 7 are bypassed"):
        scheduler.add_noise(x, x, scheduler.timesteps[6:7])
    noisy = scheduler.add_noise(x, x, scheduler.timesteps[1:2])
    assert torch.equal(noisy, scheduler.scheduler.add_noise(x, x, scheduler.timesteps[1:2]))
    assert not hasattr(LatentCRFScheduler(FlowMatchEulerDiscreteScheduler()), "add_noise")


def test_a_learned_variance_is_no_part_of_the_clean_estimate() -> None:
    """DeepFloyd IF gives the scheduler six channels for images of three."""
    plain = inner(DPMSolverMultistepScheduler, variance_type="learned_range", prediction_type="epsilon")
    scheduler = LatentCRFScheduler(plain, None, (1, 3))
    scheduler.set_timesteps(4)
    x, output = torch.randn(1, 3, 8, 8), torch.randn(1, 6, 8, 8)
    scheduler.step(output, scheduler.timesteps[0], x)
    expected = clean_estimate(scheduler.scheduler, 0, output[:, :3], x)
    assert torch.equal(scheduler.last_bypass.observation.denoised, expected)
