"""The add-on at its borders: runs that end early, what is checked at a run's start, uploads, classes of one's own."""

import copy
import pickle
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from diffusers.utils import hub_utils

import latentcrf.scheduler
from latentcrf import Finisher, LatentCRF, LatentCRFScheduler, VAERoundTrip
from latentcrf.run_state import KeptTimesteps
from latentcrf.vae import round_trip
from tests.latentcrf.test_scheduler import ddim, inner


def take_steps(scheduler: LatentCRFScheduler, count: int, channels: int = 4) -> torch.Tensor:
    """Make the first steps of a run of ten; returns the latents after them."""
    latents = torch.randn(2, channels, 8, 8)
    for t in scheduler.timesteps[:count] if count < len(scheduler.timesteps) else scheduler.timesteps:
        latents = scheduler.step(torch.zeros_like(latents), t, latents).prev_sample
    return latents


# --- runs that end early ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [8, 10])
@pytest.mark.parametrize("kind", [DDIMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler])
def test_a_run_that_ends_inside_the_bypass_is_refused_at_its_first_step(kind: Any, last: int) -> None:
    """SDXL's base takes the first timesteps only, by `denoising_end`."""
    scheduler = LatentCRFScheduler(inner(kind), None, (4, last))
    scheduler.set_timesteps(10)
    taken, x = scheduler.timesteps[:4], torch.randn(1, 4, 8, 8)
    with pytest.raises(ValueError, match=f"ends inside its bypass: steps 4 to {last - 1} of 10 .* takes the 4 before"):
        scheduler.step(x, taken[0], x)


@pytest.mark.parametrize("count", [2, 5])
def test_a_run_that_ends_elsewhere_goes_on(count: int) -> None:
    scheduler = LatentCRFScheduler(inner(DDIMScheduler), None, (4, 8))
    scheduler.set_timesteps(10)
    take_steps(scheduler, count)
    assert (scheduler.last_bypass is not None) == (count == 5)


def test_who_only_looks_at_the_timesteps_is_not_refused() -> None:
    scheduler = LatentCRFScheduler(inner(DDIMScheduler), None, (4, 8))
    scheduler.set_timesteps(10)
    assert len(scheduler.timesteps[:4]) == 4
    take_steps(scheduler, 6)
    assert scheduler.last_bypass is not None


def test_kept_timesteps_are_an_ordinary_tensor_to_everybody_else() -> None:
    scheduler = LatentCRFScheduler(inner(DDIMScheduler), None, (4, 8))
    scheduler.set_timesteps(10)
    timesteps = scheduler.timesteps
    assert type(timesteps) is KeptTimesteps and len(timesteps) == 6
    for other in (timesteps[2:], timesteps + 0, timesteps.repeat(2), timesteps.float(), torch.cat([timesteps] * 2)):
        assert type(other) is torch.Tensor
    assert all(type(t) is torch.Tensor for t in timesteps) and timesteps.tolist() == list(map(int, timesteps))
    assert torch.equal(pickle.loads(pickle.dumps(timesteps)), timesteps.clone())
    assert torch.equal(copy.deepcopy(timesteps), timesteps)
    assert (timesteps == timesteps[1]).nonzero().tolist() == [[1]]


# --- what is checked at the start -------------------------------------------------------------------------------------


def test_latents_of_videos_are_refused_before_the_denoiser_sees_them() -> None:
    scheduler = LatentCRFScheduler(inner(DDIMScheduler), None, (4, 8))
    scheduler.set_timesteps(10)
    video = torch.randn(1, 4, 3, 8, 8)
    with pytest.raises(ValueError, match=r"must have shape \(B, C, H, W\); this pipeline's have \(1, 4, 3, 8, 8\)"):
        scheduler.scale_model_input(video, scheduler.timesteps[0])
    nothing = LatentCRFScheduler(inner(DDIMScheduler), None, None)
    nothing.set_timesteps(10)
    assert torch.equal(nothing.scale_model_input(video, nothing.timesteps[0]), video)
    assert not hasattr(LatentCRFScheduler(FlowMatchEulerDiscreteScheduler()), "scale_model_input")


def build_vae(channels: int = 4, **options: Any) -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(block_out_channels=(8,), latent_channels=channels, norm_num_groups=4, **options).eval()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crf": LatentCRF(latent_channels=8, form="static")}, "have 4 channels; the crf was trained for 8"),
        (
            {"finisher": Finisher(LatentCRF(latent_channels=16, form="static"))},
            "have 4 channels; the finisher was trained for 16. Set `finisher` to one",
        ),
        ({"finisher": VAERoundTrip(build_vae(8))}, "have 4 channels, those of the VAE round trip's autoencoder 8"),
    ],
)
def test_channels_are_checked_at_the_first_step(options: dict[str, Any], message: str) -> None:
    scheduler = LatentCRFScheduler(ddim(), **{"crf": None, "bypass": (4, 8), **options})
    scheduler.set_timesteps(10)
    x = torch.randn(1, 4, 8, 8)
    with pytest.raises(ValueError, match=message):
        scheduler.step(x, scheduler.timesteps[0], x)


def build_reader() -> LatentCRF:
    return LatentCRF(channels=8, coarse_channels=8, num_coarse_blocks=1, prompt_dim=8).eval()


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 16), r"prompt_embeds has shape \(1, 3, 16\); the crf reads \(prompts, tokens, 8\)"),
        ((1, 8), r"prompt_embeds has shape \(1, 8\)"),
        ((3, 3, 8), "holds 3 prompts for 2 latents"),
    ],
)
def test_prompts_are_checked_at_the_first_step(shape: tuple[int, ...], message: str) -> None:
    scheduler = LatentCRFScheduler(ddim(), build_reader(), (4, 8))
    scheduler.set_timesteps(10)
    scheduler.prompt_embeds = torch.randn(shape)
    with pytest.raises(ValueError, match=message):
        take_steps(scheduler, 1)


def test_prompts_of_an_earlier_run_are_not_used_again() -> None:
    scheduler = LatentCRFScheduler(ddim(), build_reader(), (4, 8))
    scheduler.prompt_embeds = embeds = torch.randn(1, 3, 8)
    scheduler.set_timesteps(10)
    scheduler.set_timesteps(10)  # no step was made with them
    with torch.no_grad():
        take_steps(scheduler, 10)
        with pytest.raises(ValueError, match="prompt_embeds are those of an earlier run"):
            scheduler.set_timesteps(10)
        for prompt in (embeds, None):
            scheduler.prompt_embeds = prompt
            scheduler.set_timesteps(10)
            take_steps(scheduler, 10)
        scheduler.prompt_embeds = embeds
        scheduler.crf = None  # nothing reads them
        for _ in range(2):
            scheduler.set_timesteps(10)
            take_steps(scheduler, 10)


# --- what the CRF sees ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (DDIMScheduler, {"thresholding": True}),
        (DDIMScheduler, {"clip_sample": True}),
        (diffusers.DDPMScheduler, {"clip_sample": True}),
        (DPMSolverMultistepScheduler, {"thresholding": True}),
        (diffusers.DPMSolverSinglestepScheduler, {"thresholding": True}),
        (UniPCMultistepScheduler, {"thresholding": True}),
        (diffusers.DEISMultistepScheduler, {"thresholding": True}),
        (diffusers.SASolverScheduler, {"thresholding": True}),
    ],
)
def test_the_crf_sees_the_clean_estimate_that_the_sampler_clips(kind: Any, options: dict[str, Any]) -> None:
    scheduler = LatentCRFScheduler(kind(**options), None, (4, 8))
    scheduler.set_timesteps(10)
    latents = 5 * torch.randn(2, 3, 8, 8)
    for t in scheduler.timesteps[:5]:
        latents = scheduler.step(torch.zeros_like(latents), t, latents).prev_sample
    assert scheduler.last_bypass.observation.denoised.abs().max() <= 1


@pytest.mark.parametrize("steps", [7, 10, 13, 34])
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_ddim_hands_back_noise_of_deviation_one_whatever_its_spacing(spacing: str, steps: int) -> None:
    """DDIM steps to t - 1000 // n, which "linspace" and "trailing" do not call at next."""
    plain = DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, timestep_spacing=spacing)
    scheduler = LatentCRFScheduler(plain, None, (steps // 2, steps - 1))
    scheduler.set_timesteps(steps)
    abar = (1 - torch.linspace(1e-4**0.5, 0.02**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)
    clean, noise = torch.randn(1, 4, 64, 64), torch.randn(1, 4, 64, 64)
    latents = torch.zeros(1, 4, 64, 64)
    for index, t in enumerate(scheduler.timesteps):
        a, s = float(abar[t]) ** 0.5, float(1 - abar[t]) ** 0.5
        if index == len(scheduler.timesteps) - 1:  # after the bypass
            assert float(((latents - a * clean) / s).std() / noise.std()) == pytest.approx(1, abs=2e-3)
        else:  # the spacing's error grows from step to step: each begins anew
            latents = a * clean + s * noise
        latents = scheduler.step((latents - a * clean) / s, t, latents).prev_sample


# --- the VAE round trip of each family --------------------------------------------------------------------------------


def test_the_round_trip_scales_as_the_pipelines_do() -> None:
    latents = torch.randn(1, 4, 8, 8)
    mean, std = [0.1, -0.2, 0.3, 0.0], [1.5, 0.5, 2.0, 1.0]
    for options, factor, shift in (
        ({"scaling_factor": 0.3}, 0.3, 0.0),
        ({"scaling_factor": 1.5, "shift_factor": 0.06}, 1.5, 0.06),
        (
            {"scaling_factor": 0.5, "latents_mean": mean, "latents_std": std},
            0.5 / torch.tensor(std).view(1, 4, 1, 1),
            torch.tensor(mean).view(1, 4, 1, 1),
        ),
    ):
        vae = build_vae(**options)
        with torch.no_grad():
            images = vae.decode(latents / factor + shift).sample.clamp(-1, 1)
            expected = (vae.encode(images).latent_dist.mean - shift) * factor
        assert torch.allclose(round_trip(vae, latents), expected, atol=1e-6)


def test_the_round_trip_of_an_autoencoder_without_a_distribution() -> None:
    vae = diffusers.AutoencoderDC(
        in_channels=3, latent_channels=8, attention_head_dim=2, encoder_block_out_channels=(8, 16),
        decoder_block_out_channels=(8, 16), encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1),
        encoder_block_types=("ResBlock", "ResBlock"), decoder_block_types=("ResBlock", "ResBlock"),
        encoder_qkv_multiscales=((), ()), decoder_qkv_multiscales=((), ()), scaling_factor=0.4,
    ).eval()  # fmt: skip
    latents = torch.randn(1, 8, 4, 4)
    with torch.no_grad():
        expected = vae.encode(vae.decode(latents / 0.4).sample.clamp(-1, 1)).latent * 0.4
    assert torch.allclose(round_trip(vae, latents), expected, atol=1e-6)
    scheduler = LatentCRFScheduler(ddim(), None, (4, 8), finisher=VAERoundTrip(vae))
    scheduler.set_timesteps(10)
    take_steps(scheduler, 10, channels=8)
    assert torch.equal(scheduler.last_finish.latents, round_trip(vae, scheduler.last_finish.before))


# --- saving -----------------------------------------------------------------------------------------------------------


def test_an_upload_holds_all_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the two functions that reach the Hub are replaced."""
    calls: dict[str, Any] = {}

    class Repo:
        repo_id = "somebody/scheduler"

    def create(name: str, **options: Any) -> Repo:
        calls["repo"] = (name, options)
        return Repo()

    def upload(folder_path: Path, **options: Any) -> None:
        files = {str(path.relative_to(folder_path)) for path in Path(folder_path).rglob("*") if path.is_file()}
        calls["upload"] = (files, options)

    monkeypatch.setattr(latentcrf.scheduler, "create_repo", create)
    monkeypatch.setattr(hub_utils, "upload_folder", upload)
    finisher = Finisher(LatentCRF(form="static"))
    scheduler = LatentCRFScheduler(ddim(), build_reader(), (4, 8), finisher=finisher)
    scheduler.save_pretrained(tmp_path / "mine", push_to_hub=True, private=True, commit_message="First")
    files, options = calls["upload"]
    networks = {
        f"{name}/{file}"
        for name in ("crf", "finisher")
        for file in ("config.json", "diffusion_pytorch_model.safetensors")
    }
    assert files == {"scheduler_config.json", "latentcrf.json"} | networks
    assert calls["repo"] == ("mine", {"exist_ok": True, "private": True, "token": None})
    assert options["repo_id"] == "somebody/scheduler" and options["commit_message"] == "First"


class OwnDDIM(DDIMScheduler):
    """A scheduler class of one's own."""


def test_a_class_of_ones_own_is_loaded_once_it_is_imported(tmp_path: Path) -> None:
    LatentCRFScheduler(OwnDDIM(clip_sample=False), None, (4, 8)).save_pretrained(tmp_path)
    assert type(LatentCRFScheduler.from_pretrained(tmp_path).scheduler) is OwnDDIM
    config = tmp_path / "scheduler_config.json"
    config.write_text(config.read_text().replace("OwnDDIM", "TheirDDIM"))
    with pytest.raises(ValueError, match="The saved scheduler is a TheirDDIM.*Import the module|import the module"):
        LatentCRFScheduler.from_pretrained(tmp_path)


# --- pipelines and tools that take the scheduler another way ----------------------------------------------------------


@pytest.mark.parametrize("kind", [diffusers.DDIMParallelScheduler, diffusers.DDPMParallelScheduler, DDIMScheduler])
def test_steps_that_a_pipeline_makes_itself_are_refused(kind: Any) -> None:
    """ParaDiGMS calls `batch_step_no_noise`, CycleDiffusion `_get_variance`, both for the step to t - 1000 // n."""
    scheduler, x = LatentCRFScheduler(kind(), None, (3, 7)), torch.randn(2, 4, 8, 8)
    name = "batch_step_no_noise" if hasattr(kind, "batch_step_no_noise") else "_get_variance"
    scheduler.set_timesteps(10)
    with pytest.raises(ValueError, match=f"makes steps of its own with the scheduler's `{name}`"):
        getattr(scheduler, name)(x, scheduler.timesteps[2:4], x)
    scheduler.bypass = None
    scheduler.set_timesteps(10)
    assert getattr(scheduler, name) == getattr(scheduler.scheduler, name)


def test_a_scheduler_whose_step_was_replaced_is_refused() -> None:
    plain = inner(DPMSolverMultistepScheduler)
    step = plain.step
    plain.step = lambda model_output, timestep, sample, return_dict=True: step(model_output, timestep, sample)
    scheduler = LatentCRFScheduler(plain, None, (3, 7))
    with pytest.raises(ValueError, match="`step` of this DPMSolverMultistepScheduler was replaced"):
        scheduler.set_timesteps(10)
    scheduler.bypass = None
    scheduler.set_timesteps(10)


class Opaque(DDIMScheduler):
    """Hides the arguments of `step`."""

    def step(self, *args: Any, **kwargs: Any) -> Any:
        return super().step(*args, **kwargs)


def test_a_step_without_named_arguments_is_refused() -> None:
    with pytest.raises(ValueError, match="Opaque cannot be wrapped: its step does not name its arguments"):
        LatentCRFScheduler(Opaque(), None, (3, 7))


def test_rising_sigmas_are_refused() -> None:
    with pytest.raises(ValueError, match="its sigmas rise .invert_sigmas."):
        LatentCRFScheduler(FlowMatchEulerDiscreteScheduler(invert_sigmas=True), None, (3, 7))


def test_latents_that_grow_are_refused_with_a_bypass() -> None:
    plain = diffusers.FlowMatchLCMScheduler()
    plain.set_scale_factors([1.0, 2.0, 2.0], "bicubic")
    scheduler = LatentCRFScheduler(plain, None, (1, 3))
    with pytest.raises(ValueError, match="lets the latents grow during the run"):
        scheduler.set_timesteps(4)


def test_a_copy_goes_on_in_the_middle_of_a_run() -> None:
    """TextToVideoZero copies the scheduler for each frame."""
    torch.manual_seed(0)
    crf = LatentCRF(channels=8, coarse_channels=8, num_coarse_blocks=1, reads_trend=True)
    torch.nn.init.normal_(crf.head.weight, std=0.5)
    scheduler = LatentCRFScheduler(ddim(), crf.requires_grad_(False), (4, 8))
    scheduler.set_timesteps(10)
    latents = take_steps(scheduler, 3)
    copies = [copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler)), scheduler]
    results = [each.step(latents, scheduler.timesteps[3], latents).prev_sample for each in copies]
    assert scheduler.last_bypass.observation.earlier is not None
    assert torch.equal(results[0], results[2]) and torch.equal(results[1], results[2])
    assert copy.deepcopy(scheduler)._run.thread is None  # another thread may take it


@pytest.mark.parametrize("kind", [diffusers.DDPMScheduler, EulerDiscreteScheduler])
def test_a_run_without_set_timesteps_is_refused(kind: Any) -> None:
    scheduler, x = LatentCRFScheduler(kind(), None, (3, 7)), torch.randn(2, 4, 8, 8)
    with pytest.raises(ValueError, match="Call set_timesteps before the first step"):
        scheduler.step(x, scheduler.timesteps[0], x)


@pytest.mark.parametrize("kind", [EulerDiscreteScheduler, UniPCMultistepScheduler, FlowMatchEulerDiscreteScheduler])
def test_a_timestep_for_each_sample(kind: Any) -> None:
    runs = []
    for expand in (False, True):
        torch.manual_seed(0)
        scheduler, latents = LatentCRFScheduler(kind(), None, (3, 7)), torch.randn(2, 4, 8, 8)
        scheduler.set_timesteps(10)
        scheduler.set_begin_index(0)
        for t in scheduler.timesteps:
            latents = scheduler.step(latents, t.expand(2) if expand else t, latents).prev_sample
        runs.append(latents)
    assert torch.equal(*runs)
    scheduler.set_timesteps(10)
    for wrong in (None, scheduler.timesteps[:2]):
        with pytest.raises(ValueError, match="A step needs one timestep, the same for all samples"):
            scheduler.step(latents, wrong, latents)


def test_noise_that_euler_adds_to_the_latents_is_refused() -> None:
    scheduler, x = LatentCRFScheduler(EulerDiscreteScheduler(), None, (3, 7)), torch.randn(2, 4, 8, 8)
    scheduler.set_timesteps(10)
    with pytest.raises(ValueError, match="accepted is s_churn=0"):
        scheduler.step(x, scheduler.timesteps[0], x, s_churn=1.0)


def test_views_that_share_a_counting_scheduler_are_refused_without_a_bypass_too() -> None:
    """MultiDiffusion puts a copy of `__dict__` back for each view; the copies share the inner scheduler."""
    scheduler, x = LatentCRFScheduler(inner(UniPCMultistepScheduler), None, None), torch.randn(1, 4, 8, 8)
    scheduler.set_timesteps(10)
    views = [copy.deepcopy(scheduler.__dict__)] * 2
    scheduler.__dict__.update(views[0])
    scheduler.step(x, scheduler.timesteps[0], x)
    scheduler.__dict__.update(views[1])
    with pytest.raises(ValueError, match="counts its steps"):
        scheduler.step(x, scheduler.timesteps[0], x)


@pytest.mark.parametrize("kind", [DPMSolverMultistepScheduler, diffusers.DDPMScheduler])
def test_image_to_image_with_timesteps_of_its_own_is_refused(kind: Any) -> None:
    """Its strength counts the timesteps that the scheduler has, which are the kept ones."""
    scheduler, x = LatentCRFScheduler(kind(), None, (4, 8)), torch.randn(1, 4, 8, 8)
    own = list(range(950, 0, -100))
    scheduler.set_timesteps(timesteps=own)
    with pytest.raises(ValueError, match="begins at step 2 of 10 with timesteps or sigmas of its own. Its strength"):
        if hasattr(scheduler, "set_begin_index") and hasattr(kind, "set_begin_index"):
            scheduler.set_begin_index(2)
        scheduler.step(x, scheduler.timesteps[2], x)
    scheduler.set_timesteps(timesteps=own)
    take_steps(scheduler, 6)
    assert scheduler.last_bypass is not None


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("scheduler", None, "A diffusers scheduler is wanted; NoneType"),
        ("scheduler", diffusers.PNDMScheduler(), "PNDMScheduler cannot be wrapped"),
        ("crf", "emoji-latentcrf", "crf is a str; accepted are a LatentCRF and None"),
        ("crf", LatentCRF(channels=8, coarse_channels=8, num_coarse_blocks=1, corrects_clean=True), "as finisher=Fin"),
        ("bypass", (49, 33), "first .49. comes after last .33."),
        ("bypass", 33, "bypass is 33"),
        ("num_iterations", 2.5, "num_iterations is 2.5; accepted are 0, 1, 2"),
        ("num_iterations", None, "num_iterations is None"),
        ("finisher", LatentCRF(form="static"), "finisher is a LatentCRF; accepted are Finisher"),
    ],
)
def test_wrong_settings_are_refused_when_they_are_made_and_when_they_are_changed(
    name: str, value: Any, message: str
) -> None:
    scheduler = LatentCRFScheduler(ddim(), None, (4, 8))
    before = getattr(scheduler, name)
    with pytest.raises(ValueError, match=message):
        setattr(scheduler, name, value)
    assert getattr(scheduler, name) is before
    with pytest.raises(ValueError, match=message):
        LatentCRFScheduler(**{"scheduler": ddim(), name: value})


def test_another_inner_scheduler_takes_over_at_once() -> None:
    scheduler = LatentCRFScheduler(ddim(), None, (4, 8))
    scheduler.set_timesteps(10)
    scheduler.scheduler = euler = EulerDiscreteScheduler()
    assert scheduler.init_noise_sigma == euler.init_noise_sigma and len(scheduler.timesteps) == 1000
    scheduler.set_timesteps(10)
    assert len(take_steps(scheduler, 6)) == 2 and scheduler.last_bypass is not None


def test_a_begin_that_strength_rounds_to_the_first_step_is_refused_too() -> None:
    """Z-Image's image-to-image: of 3 kept steps, a strength of 0.8 leaves out int(0.6)."""
    scheduler = LatentCRFScheduler(FlowMatchEulerDiscreteScheduler(), None, (2, 4))
    scheduler.set_timesteps(sigmas=[1.0, 0.8, 0.6, 0.4, 0.2])
    assert len(scheduler.timesteps[0:]) == 3
    with pytest.raises(ValueError, match="begins at step 0 of 5 with timesteps or"):
        scheduler.set_begin_index(0)
    scheduler.set_timesteps(sigmas=[1.0, 0.8, 0.6, 0.4, 0.2])
    assert len(scheduler.timesteps) == 3
    scheduler.set_begin_index(0)  # text-to-image


def test_callbacks_read_the_step_index_after_the_bypass() -> None:
    scheduler, indices = LatentCRFScheduler(inner(UniPCMultistepScheduler), None, (4, 8)), []
    scheduler.set_timesteps(10)
    latents = torch.randn(1, 4, 8, 8)
    for t in scheduler.timesteps:
        latents = scheduler.step(latents, t, latents).prev_sample
        indices.append(scheduler.step_index)
    assert indices == [1, 2, 3, 8, 9, 10]


def test_scalars_are_scaled_and_noised() -> None:
    scheduler, x = LatentCRFScheduler(EulerDiscreteScheduler(), None, (4, 8)), torch.randn(1, 4, 8, 8)
    scheduler.set_timesteps(10)
    assert scheduler.scale_model_input(torch.tensor(1.0), scheduler.timesteps[0]) < 1
    scheduler = LatentCRFScheduler(ddim(), None, (4, 8))
    scheduler.set_timesteps(10)
    t = scheduler.timesteps[2]
    assert torch.equal(scheduler.add_noise(x, x, t), scheduler.scheduler.add_noise(x, x, t))


def test_frames_that_are_added_in_a_run_have_no_earlier_estimate() -> None:
    scheduler = LatentCRFScheduler(ddim(), None, (4, 8))
    scheduler.set_timesteps(10)
    latents = torch.randn(1, 4, 8, 8)
    for index, t in enumerate(scheduler.timesteps):
        latents = torch.cat([latents] * 3) if index == 3 else latents
        latents = scheduler.step(latents, t, latents).prev_sample
    assert scheduler.last_bypass.observation.earlier is None and len(latents) == 3
