"""Pipelines of diffusers with a swappable scheduler: one pair for each kind of loop and each kind of scheduler.

`python -m tests.conformance.pipelines` examines all pairs.
"""

import copy
import functools
import io
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import accelerate
import diffusers
import pytest
import torch
from torch import Tensor

from latentcrf import LatentCRF, LatentCRFScheduler
from tests.conformance.families import (
    FAMILIES,
    REASONS,
    SAFETY,
    SIZE,
    Family,
    build_sd,
    build_text_encoder,
    build_tokenizer,
    build_unet,
    build_vae,
    draw_images,
    explain_absence,
    list_pipelines,
    square,
)
from tests.conformance.pipelines import (
    BEGIN,
    BYPASS,
    END,
    STEPS,
    Trace,
    examine,
    make_finisher,
    make_pipeline,
    make_scheduler,
    run,
)
from tests.latentcrf.test_model import with_random_weights

pytestmark = pytest.mark.slow

KEPT = STEPS - (BYPASS[1] - BYPASS[0])
# The family of each kind of loop, with a scheduler; the inpainting loop, which adds noise at each step, with all.
PAIRS = {
    "StableDiffusionPipeline": "DDIMParallelScheduler",
    "StableDiffusionPipeline, IP-Adapter": "DEISMultistepScheduler",
    "StableDiffusionPipeline, LoRA": "TCDScheduler",
    "StableDiffusionImg2ImgPipeline": "EulerDiscreteScheduler",
    "StableDiffusionXLPipeline": "EulerAncestralDiscreteScheduler",
    "StableDiffusionXLImg2ImgPipeline, refiner": "UniPCMultistepScheduler",
    "StableDiffusionXLInpaintPipeline": "EulerDiscreteScheduler",
    "StableDiffusionXLAdapterPipeline": "DPMSolverSinglestepScheduler",
    "StableDiffusionControlNetPipeline": "UniPCMultistepScheduler",
    "StableDiffusionControlNetInpaintPipeline": "DDIMScheduler",
    "StableDiffusionPAGPipeline": "DPMSolverMultistepScheduler",
    "StableDiffusionInstructPix2PixPipeline": "EulerAncestralDiscreteScheduler",
    "StableDiffusionDepth2ImgPipeline": "DPMSolverMultistepScheduler",
    "StableDiffusionUpscalePipeline": "DDPMScheduler",
    "StableDiffusionLatentUpscalePipeline": "EulerDiscreteScheduler",
    "StableDiffusionAdapterPipeline": "SASolverScheduler",
    "StableDiffusionSAGPipeline": "DDIMScheduler",
    "LatentConsistencyModelPipeline": "LCMScheduler",
    "LatentConsistencyModelImg2ImgPipeline": "LCMScheduler",
    "StableDiffusion3Pipeline": "FlowMatchLCMScheduler",
    "StableDiffusion3Img2ImgPipeline": "FlowMatchEulerDiscreteScheduler",
    "StableDiffusion3InpaintPipeline": "FlowMatchEulerDiscreteScheduler",
    "PixArtSigmaPipeline": "LCMScheduler",
    "DiTPipeline": "DDIMScheduler",
    "AuraFlowPipeline": "FlowMatchEulerDiscreteScheduler",
    "SanaPipeline": "DPMSolverMultistepScheduler",
    "LuminaPipeline": "FlowMatchEulerDiscreteScheduler",
    "CogView3PlusPipeline": "DDIMScheduler",
    "HiDreamImagePipeline": "FlowMatchEulerDiscreteScheduler",
    "ErnieImagePipeline": "FlowMatchEulerDiscreteScheduler",
    "ZImagePipeline": "FlowMatchEulerDiscreteScheduler",
    "StableCascadePriorPipeline": "DDPMScheduler",
    "MarigoldDepthPipeline": "DDIMScheduler",
    "KandinskyPipeline": "DDIMScheduler",
    "KandinskyV22Pipeline, learned variance": "DDPMScheduler",
    "KandinskyV22Img2ImgPipeline": "DDPMParallelScheduler",
    "KandinskyV22InpaintPipeline": "DDIMScheduler",
    "Kandinsky3Pipeline": "DDPMScheduler",
    "IFSuperResolutionPipeline": "DPMSolverMultistepScheduler",
    "DDPMPipeline": "DDPMScheduler",
}
ALL = (
    "DDIMScheduler", "DDPMScheduler", "DEISMultistepScheduler", "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler", "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler", "LCMScheduler",
    "SASolverScheduler", "TCDScheduler", "UniPCMultistepScheduler",
)  # fmt: skip
REFUSED = {
    "FluxPipeline": ("FlowMatchEulerDiscreteScheduler", "Latents must have shape"),
    "AnimateDiffPipeline": ("DDIMScheduler", "Latents must have shape"),
    "TextToVideoSDPipeline": ("DDIMScheduler", "Latents must have shape"),  # five dimensions, to the denoiser only
    "KandinskyV22Img2ImgPipeline, begins in the bypass": ("DDIMScheduler", "one step must come before them"),
    "ZImageImg2ImgPipeline": ("FlowMatchEulerDiscreteScheduler", "Its strength would count the kept steps"),
    "StableDiffusionPipeline": ("PNDMScheduler", "it needs the history"),
}


@pytest.mark.parametrize(
    ("name", "kind"), [*PAIRS.items(), *(("StableDiffusionInpaintPipeline", kind) for kind in ALL)]
)
def test_a_pair_works(name: str, kind: str) -> None:
    verdict = examine(name, kind)
    assert verdict.state == "works", verdict


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_work_is_refused_at_the_start(name: str) -> None:
    kind, words = REFUSED[name]
    verdict = examine(name, kind)
    assert verdict.state == "refused" and words in verdict.words, verdict


def test_a_pair_that_fails_without_the_add_on_is_not_applicable() -> None:
    verdict = examine("LatentConsistencyModelPipeline", "DDIMScheduler")
    assert verdict.state == "not applicable" and "original_inference_steps" in verdict.words


def test_each_exported_pipeline_is_examined_or_has_a_reason() -> None:
    examined = {name.split(",")[0] for name in FAMILIES}
    assert examined <= set(list_pipelines())
    absent = set(list_pipelines()) - examined
    assert [name for name in absent if explain_absence(name) is None] == []
    assert set(REASONS) <= absent


def test_the_docs_have_a_row_for_each_pipeline_and_no_wrong_pair() -> None:
    page = (Path(__file__).parents[2] / "docs" / "other-models.md").read_text()
    table = page.split(BEGIN)[1].split(END)[0]
    rows = {row.split(" | ")[0].removeprefix("| ") for row in table.splitlines() if row.startswith("| ")}
    assert rows == {name.replace("Pipeline", "") for name in FAMILIES} | {"pipeline"}
    assert " wrong" not in table


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


@pytest.mark.parametrize("last", [0, BYPASS[0] - 1, BYPASS[0] + 1])
def test_an_interrupted_run_ends_there_and_the_next_is_whole(last: int) -> None:
    pipe, family, scheduler = start("StableDiffusionPipeline", finisher=make_finisher())
    whole = run(pipe, family, scheduler, num_inference_steps=8)
    states: list[Tensor] = []

    def stop(pipe: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        states.append(values["latents"])
        pipe._interrupt = index == last
        return values

    trace = run(pipe, family, scheduler, callback_on_step_end=stop, num_inference_steps=8)
    assert len(trace.timesteps) == last + 1 and torch.equal(trace.latents, states[-1])
    assert (scheduler.last_bypass is not None) == (last >= BYPASS[0] - 1) and scheduler.last_finish is None
    again = run(pipe, family, scheduler, num_inference_steps=8)
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
@pytest.mark.parametrize("channels", [8, 16, 32])
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


@pytest.mark.parametrize("kind", ALL)
def test_without_guidance_and_with_several_images_of_a_prompt(kind: str) -> None:
    pipe, family, scheduler = start("StableDiffusionPipeline", kind)
    more = {"guidance_scale": 1.0, "num_images_per_prompt": 2}
    generators = [torch.Generator().manual_seed(seed) for seed in range(4)]
    trace = run(pipe, family, scheduler, generator=generators, **more)
    assert trace.latents.shape[0] == 4 == len(trace.seen[0]) and len(trace.timesteps) == KEPT


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


def test_a_bypass_across_the_change_to_the_refiner_is_refused_by_both() -> None:
    with pytest.raises(ValueError, match="bypass"):
        run_base((0.66, 0.98))
    full, _ = run_base(None)
    with pytest.raises(ValueError, match="steps 33 to 48 are bypassed"):
        run_refiner(full.latents, (0.66, 0.98))


def test_a_run_that_begins_after_the_last_kept_step_is_refused() -> None:
    pipe, family, scheduler = start("KandinskyV22Img2ImgPipeline", bypass=(BYPASS[0], STEPS))
    with pytest.raises(ValueError, match="begins after the last kept step of 5, but steps 2 to 4 are bypassed"):
        run(pipe, family, scheduler, image=family.arguments((0, 1))["image"], strength=0.5)


def test_two_tiles_a_step() -> None:
    """The columns that only the second tile covers are those that the finisher made of it last."""
    pipe, family, scheduler = start("StableDiffusionPanoramaPipeline", finisher=make_finisher())
    with torch.no_grad():
        trace = run(pipe, family, scheduler, width=576)
    assert trace.latents.shape == (2, 4, 64, 72) and len(trace.timesteps) == 2 * KEPT
    assert torch.equal(trace.latents[..., 64:], scheduler.last_finish.latents[..., 56:])
    assert not torch.equal(scheduler.last_finish.latents, scheduler.last_finish.before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("StableDiffusionPipeline", "DDIMScheduler"),
        ("StableDiffusionPipeline", "UniPCMultistepScheduler"),
        ("StableDiffusionXLPipeline", "EulerDiscreteScheduler"),
        ("StableDiffusion3Pipeline", "FlowMatchEulerDiscreteScheduler"),
    ],
)
def test_half_precision(name: str, kind: str, dtype: torch.dtype) -> None:
    pipe, family, scheduler = start(name, kind, finisher=make_finisher())
    pipe.to(dtype)
    arguments = {key: as_dtype(value, dtype) for key, value in family.arguments((0, 1)).items()}
    full = run(pipe, family, make_scheduler(family, kind), **arguments)
    plain = run(pipe, family, LatentCRFScheduler(make_scheduler(family, kind), None, None), **arguments)
    assert full.latents.dtype == dtype and torch.equal(plain.latents, full.latents)
    with torch.no_grad():
        trace = run(pipe, family, scheduler, **arguments)
    assert trace.latents.dtype == dtype == trace.seen[-1].dtype and torch.isfinite(trace.latents).all()
    assert torch.equal(trace.latents, scheduler.last_finish.latents) and len(trace.timesteps) == KEPT


def as_dtype(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def make_crf(seed: int = 5) -> LatentCRF:
    crf = LatentCRF(latent_channels=4, channels=8, coarse_channels=16, num_coarse_blocks=1)
    return with_random_weights(crf, seed).eval()


@functools.cache
def make_parts() -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        "text_encoder": build_text_encoder(), "tokenizer": build_tokenizer(), "vae": build_vae(), "unet": build_unet()
    }  # fmt: skip


def make_text_pipeline(scheduler: Any) -> Any:
    """Make a pipeline with a text encoder, each time with the same weights: the seed alone does not give them."""
    parts = copy.deepcopy(make_parts())
    pipe = diffusers.StableDiffusionPipeline(scheduler=scheduler, **SAFETY | parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_whole_scheduler(kind: str = "DDIMScheduler") -> LatentCRFScheduler:
    """Make a scheduler with a CRF and a finisher, each time with the same weights."""
    torch.manual_seed(5)
    inner = make_scheduler(FAMILIES["StableDiffusionPipeline"], kind)
    return LatentCRFScheduler(inner, make_crf(), BYPASS, finisher=make_finisher())


def make_image(pipe: Any) -> Tensor:
    """Make an image, (1, 3, 8, 8)."""
    call = {"height": SIZE, "width": SIZE, "num_inference_steps": STEPS, "output_type": "pt", "guidance_scale": 2.0}
    with torch.no_grad():
        return pipe("a red apple", **call, generator=torch.Generator().manual_seed(1)).images


@pytest.mark.parametrize("kind", ["DDIMScheduler", "DPMSolverMultistepScheduler"])
@pytest.mark.parametrize("hooks", ["model", "sequential", "with hook"])
def test_offload_hooks(hooks: str, kind: str) -> None:
    expected = make_image(make_text_pipeline(make_whole_scheduler(kind)))
    pipe = make_text_pipeline(make_whole_scheduler(kind))
    if hooks == "with hook":
        for part in (pipe.text_encoder, pipe.unet, pipe.vae):
            accelerate.cpu_offload_with_hook(part, torch.device("cpu"))
    elif hooks == "model":
        pipe.enable_model_cpu_offload(device="cpu")
    else:
        for part in (pipe.text_encoder, pipe.unet, pipe.vae):
            accelerate.cpu_offload(part, torch.device("cpu"))
    assert torch.equal(make_image(pipe), expected)
    assert torch.equal(make_image(pipe), expected)


@pytest.mark.parametrize("kind", ["DDIMScheduler", "EulerDiscreteScheduler"])
@pytest.mark.parametrize(
    "make",
    [diffusers.AutoPipelineForImage2Image.from_pipe, diffusers.StableDiffusionImg2ImgPipeline.from_pipe],
    ids=["AutoPipeline", "class"],
)
def test_pipelines_made_of_another_share_its_scheduler(make: Any, kind: str) -> None:
    pipe = make_text_pipeline(make_whole_scheduler(kind))
    expected = make_image(pipe)
    second = make(pipe)
    assert isinstance(second, diffusers.StableDiffusionImg2ImgPipeline) and second.scheduler is pipe.scheduler
    parts = pipe.components | {"scheduler": make_whole_scheduler(kind)}
    alone = diffusers.StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)
    alone.set_progress_bar_config(disable=True)
    wanted = change_image(alone)
    for _ in range(2):
        assert torch.equal(change_image(second), wanted)
        assert torch.equal(make_image(pipe), expected)
    back = diffusers.AutoPipelineForText2Image.from_pipe(second)
    assert back.scheduler is pipe.scheduler and torch.equal(make_image(back), expected)


def change_image(pipe: Any) -> Tensor:
    """Make an image of another one, (1, 3, 8, 8)."""
    call = {"image": draw_images((0,)), "strength": 0.8, "num_inference_steps": STEPS, "output_type": "pt"}
    with torch.no_grad():
        return pipe("a red apple", **call, generator=torch.Generator().manual_seed(1)).images


@pytest.mark.parametrize("kind", ["DDIMScheduler", "UniPCMultistepScheduler", "FlowMatchEulerDiscreteScheduler"])
@pytest.mark.parametrize("is_used", [False, True])
def test_a_pickled_scheduler_makes_the_same_run(kind: str, is_used: bool) -> None:
    name = "StableDiffusion3Pipeline" if kind.startswith("Flow") else "StableDiffusionPipeline"
    pipe, family, _ = start(name, kind)
    scheduler = LatentCRFScheduler(make_scheduler(family, kind), make_crf(), BYPASS, finisher=make_finisher())
    with torch.no_grad():
        expected = run(pipe, family, copy.deepcopy(scheduler))
        if is_used:
            run(pipe, family, scheduler)
        loaded = pickle.loads(pickle.dumps(scheduler))
        assert loaded is not scheduler and loaded.bypass == BYPASS
        assert torch.equal(run(pipe, family, loaded).latents, expected.latents)


FRESH = """
import sys, diffusers, torch, latentcrf
from tests.conformance.test_pipelines import make_image
for folder in sys.argv[1:]:
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, requires_safety_checker=False, use_safetensors=True)
    assert type(pipe.scheduler) is latentcrf.LatentCRFScheduler, type(pipe.scheduler)
    pipe.set_progress_bar_config(disable=True)
    torch.save(make_image(pipe), folder + ".pt")
"""


def test_saved_pipelines_make_the_same_images_in_a_fresh_process(tmp_path: Path) -> None:
    expected = {}
    for kind in ("DDIMScheduler", "EulerDiscreteScheduler"):
        pipe = make_text_pipeline(make_whole_scheduler(kind))
        expected[str(tmp_path / kind)] = make_image(pipe)
        pipe.save_pretrained(tmp_path / kind)
    root = Path(__file__).parents[2]
    made = subprocess.run([sys.executable, "-c", FRESH, *expected], cwd=root, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    images = [torch.load(f"{folder}.pt", weights_only=True) for folder in expected]
    assert all(map(torch.equal, images, expected.values())) and not torch.equal(*images)


def test_the_progress_bar_stops_at_the_kept_steps() -> None:
    pipe, family, scheduler = start("StableDiffusionPipeline")
    bar = io.StringIO()
    pipe.set_progress_bar_config(disable=False, file=bar)
    run(pipe, family, scheduler)
    assert f" {KEPT}/{STEPS} " in bar.getvalue() and f" {KEPT + 1}/{STEPS} " not in bar.getvalue()
