"""Pipelines of diffusers with a swappable scheduler, each with each kind of scheduler, on tiny random models.

    python -m tests.conformance.pipelines            # the whole table, in Markdown
    python -m tests.conformance.pipelines Flux Sana  # the families whose names contain one of these

The models are diffusers' own classes, made from configurations on the spot. Nothing is downloaded.
"""

import inspect
import logging
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor

import latentcrf
from latentcrf import Finisher, LatentCRF, LatentCRFScheduler
from tests.conformance.schedulers import Verdict, first_line, largest

STEPS, BYPASS = 10, (4, 8)
BATCH = 1e-4  # largest difference of an item of a batch from its single run, for latents of deviation 1
SIZE, WIDTH, TOKENS = 8, 16, 5  # latents are SIZE x SIZE, prompts TOKENS x WIDTH

EPSILON = (
    "DDIMScheduler", "DDPMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "LCMScheduler",
)  # fmt: skip
ADDS_NOISE = ("DDPMScheduler", "EulerAncestralDiscreteScheduler", "LCMScheduler")
FLOW = ("FlowMatchEulerDiscreteScheduler",)
STABLE_DIFFUSION = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1, "clip_sample": False,
}  # fmt: skip
KANDINSKY = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "linear", "clip_sample": False}
FLOW_SOLVER = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}


@dataclass(frozen=True)
class Family:
    """A pipeline class, and how to make and call it.

    Attributes:
        build: makes the pipeline from its scheduler.
        arguments: makes the call's arguments for the items of a batch, beside steps, output type and generators.
        schedulers: names of the scheduler classes to combine it with.
        denoiser: the pipeline's attribute that is called once a step.
        config: of the schedulers.
        mask: (1, 1, H, W), where the pipeline returns the sampler's latents; elsewhere it puts in others. None:
            everywhere.
    """

    build: Callable[[Any], Any]
    arguments: Callable[[Sequence[int]], dict[str, Any]]
    schedulers: tuple[str, ...] = EPSILON
    denoiser: str = "unet"
    config: dict[str, Any] = field(default_factory=lambda: STABLE_DIFFUSION)
    mask: Tensor | None = None


def draw(items: Sequence[int], *shape: int, seed: int = 0) -> Tensor:
    """Draw a standard normal tensor for each item, (items, *shape), the same in every batch."""
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(100 * seed + i)) for i in items])


def draw_images(items: Sequence[int], seed: int = 1) -> Tensor:
    return torch.sigmoid(draw(items, 3, SIZE, SIZE, seed=seed))


def prompts(items: Sequence[int], **more: Any) -> dict[str, Any]:
    return {
        "prompt_embeds": draw(items, TOKENS, WIDTH, seed=2),
        "negative_prompt_embeds": draw(items, TOKENS, WIDTH, seed=3),
        "guidance_scale": 2.0,
    } | more


def square(items: Sequence[int], **more: Any) -> dict[str, Any]:
    return prompts(items, height=SIZE, width=SIZE) | more


def pooled(items: Sequence[int], width: int = 8) -> dict[str, Any]:
    return {
        "pooled_prompt_embeds": draw(items, width, seed=4),
        "negative_pooled_prompt_embeds": draw(items, width, seed=5),
    }


def masked(items: Sequence[int], **more: Any) -> dict[str, Any]:
    mask = torch.ones(len(items), TOKENS, dtype=torch.long)
    return square(items, prompt_attention_mask=mask, negative_prompt_attention_mask=mask) | more


def half_mask(begin: int = SIZE // 2, size: int = SIZE) -> Tensor:
    mask = torch.zeros(1, 1, size, size)
    mask[..., begin:] = 1
    return mask


def build_vae(channels: int = 4, **options: Any) -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(8,), latent_channels=channels, norm_num_groups=4, **options
    ).eval()  # fmt: skip


def build_unet(**options: Any) -> Any:
    return diffusers.UNet2DConditionModel(**{
        "sample_size": SIZE, "block_out_channels": (8, 16), "layers_per_block": 1, "cross_attention_dim": WIDTH,
        "norm_num_groups": 4, "attention_head_dim": 4, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    } | options).eval()  # fmt: skip


TEXT = {"text_encoder": None, "tokenizer": None}
SAFETY = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
ATTENTION_FIRST = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}  # fmt: skip
XL_UNET = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 32,
}


def build_sd(name: str, unet: dict[str, Any] | None = None, **parts: Any) -> Callable[[Any], Any]:
    def build(scheduler: Any) -> Any:
        made = {key: part() if callable(part) else part for key, part in parts.items()}
        kind = getattr(diffusers, name)
        safety = SAFETY if "requires_safety_checker" in inspect.signature(kind.__init__).parameters else {}
        return kind(unet=build_unet(**unet or {}), vae=build_vae(), scheduler=scheduler, **TEXT | safety | made)

    return build


def build_xl(name: str) -> Callable[[Any], Any]:
    def build(scheduler: Any) -> Any:
        two = {"text_encoder_2": None, "tokenizer_2": None}
        unet = build_unet(**XL_UNET)
        return getattr(diffusers, name)(unet=unet, vae=build_vae(), scheduler=scheduler, **TEXT | two)

    return build


def build_transformer(name: str, transformer: Callable[[], Any], **parts: Any) -> Callable[[Any], Any]:
    def build(scheduler: Any) -> Any:
        made = {key: part() if callable(part) else part for key, part in parts.items()}
        return getattr(diffusers, name)(transformer=transformer().eval(), scheduler=scheduler, **TEXT | made)

    return build


def build_controlnet() -> Any:
    net = diffusers.ControlNetModel(
        block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=WIDTH, norm_num_groups=4,
        attention_head_dim=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        conditioning_embedding_out_channels=(4,),
    ).eval()  # fmt: skip
    for each in (*net.controlnet_down_blocks, net.controlnet_mid_block):
        torch.nn.init.normal_(each.weight, std=0.3)  # a fresh one changes nothing
    return net


def build_adapter() -> Any:
    return diffusers.T2IAdapter(in_channels=3, channels=[8, 16], num_res_blocks=1, downscale_factor=1).eval()


def build_pixart() -> Any:
    return diffusers.PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=1,
        cross_attention_dim=16, sample_size=SIZE, caption_channels=WIDTH, use_additional_conditions=False,
    )  # fmt: skip


def build_sd3(channels: int = 4) -> Any:
    return diffusers.SD3Transformer2DModel(
        sample_size=SIZE, patch_size=1, in_channels=channels, out_channels=channels, num_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=WIDTH, caption_projection_dim=16, pooled_projection_dim=8,
        pos_embed_max_size=16,
    )  # fmt: skip


def build_aura() -> Any:
    return diffusers.AuraFlowTransformer2DModel(
        sample_size=SIZE, patch_size=2, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1,
        attention_head_dim=8, num_attention_heads=2, joint_attention_dim=WIDTH, caption_projection_dim=16,
        out_channels=4, pos_embed_max_size=64,
    )  # fmt: skip


def build_sana() -> Any:
    return diffusers.SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=1,
        num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=WIDTH,
        sample_size=SIZE, patch_size=1,
    )  # fmt: skip


def build_lumina() -> Any:
    return diffusers.LuminaNextDiT2DModel(
        sample_size=SIZE, patch_size=2, in_channels=4, hidden_size=24, num_layers=1, num_attention_heads=3,
        num_kv_heads=1, multiple_of=16, cross_attention_dim=WIDTH, learn_sigma=True,
    )  # fmt: skip


def build_flux() -> Any:
    return diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, pooled_projection_dim=8, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip


def build_kandinsky(scheduler: Any, name: str = "KandinskyV22Pipeline", channels: int = 4) -> Any:
    unet = build_unet(
        in_channels=channels, out_channels=8, addition_embed_type="image", encoder_hid_dim=WIDTH,
        encoder_hid_dim_type="image_proj", cross_attention_dim=WIDTH, resnet_time_scale_shift="scale_shift",
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
    )  # fmt: skip
    movq = diffusers.VQModel(
        block_out_channels=(32, 64), latent_channels=4, norm_num_groups=4, norm_type="spatial", num_vq_embeddings=8,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("AttnUpDecoderBlock2D",) * 2, vq_embed_dim=4,
    )  # fmt: skip
    return getattr(diffusers, name)(unet=unet, scheduler=scheduler, movq=movq.eval())


def build_animatediff(scheduler: Any) -> Any:
    unet = build_unet(**ATTENTION_FIRST)
    adapter = diffusers.MotionAdapter(
        block_out_channels=(8, 16), motion_layers_per_block=1, motion_norm_num_groups=4, motion_num_attention_heads=2
    )
    return diffusers.AnimateDiffPipeline(
        vae=build_vae(), unet=unet, motion_adapter=adapter, scheduler=scheduler, **TEXT
    )


def build_if(scheduler: Any) -> Any:
    return diffusers.IFPipeline(
        unet=build_unet(in_channels=3, out_channels=6), scheduler=scheduler, watermarker=None, **TEXT | SAFETY
    )


def image_arguments(items: Sequence[int], **more: Any) -> dict[str, Any]:
    return prompts(items, image=draw_images(items)) | more


def inpaint_arguments(items: Sequence[int], **more: Any) -> dict[str, Any]:
    mask = half_mask().expand(len(items), -1, -1, -1)
    return square(items, image=draw_images(items), mask_image=mask, strength=1.0) | more


def xl_arguments(make: Callable[..., dict[str, Any]], **more: Any) -> Callable[[Sequence[int]], dict[str, Any]]:
    return lambda items: make(items, **more) | pooled(items)


def control_arguments(items: Sequence[int]) -> dict[str, Any]:
    return square(items, image=draw_images(items))


def depth_arguments(items: Sequence[int]) -> dict[str, Any]:
    return image_arguments(items, depth_map=draw(items, SIZE, SIZE, seed=6), strength=0.8)


def without_negative(arguments: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in arguments.items() if not key.startswith("negative")}


def sana_arguments(items: Sequence[int]) -> dict[str, Any]:
    return masked(items, negative_prompt=None, use_resolution_binning=False, height=32 * SIZE, width=32 * SIZE)


def lumina_arguments(items: Sequence[int]) -> dict[str, Any]:
    return masked(items, height=8 * SIZE, width=8 * SIZE)


def flux_arguments(items: Sequence[int]) -> dict[str, Any]:
    return without_negative(square(items, height=2 * SIZE, width=2 * SIZE) | pooled(items))


def kandinsky_arguments(items: Sequence[int]) -> dict[str, Any]:
    return {
        "image_embeds": draw(items, WIDTH, seed=4), "negative_image_embeds": draw(items, WIDTH, seed=5),
        "height": 2 * SIZE, "width": 2 * SIZE, "guidance_scale": 2.0,
    }  # fmt: skip


def kandinsky_image_arguments(items: Sequence[int], strength: float) -> dict[str, Any]:
    images = torch.sigmoid(draw(items, 1, 3, 2 * SIZE, 2 * SIZE, seed=1))
    return kandinsky_arguments(items) | {"image": list(images), "strength": strength}


def kandinsky_inpaint_arguments(items: Sequence[int]) -> dict[str, Any]:
    image = torch.sigmoid(draw([0], 3, 2 * SIZE, 2 * SIZE, seed=1))  # the pipeline puts the first one into all items
    mask = half_mask(SIZE, 2 * SIZE)  # which it widens by one latent
    return kandinsky_arguments(items) | {
        "image": image.expand(len(items), -1, -1, -1),
        "mask_image": mask.expand(len(items), -1, -1, -1),
    }


FAMILIES: dict[str, Family] = {
    "StableDiffusionPipeline": Family(build_sd("StableDiffusionPipeline"), square),
    "StableDiffusionImg2ImgPipeline": Family(
        build_sd("StableDiffusionImg2ImgPipeline"), lambda items: image_arguments(items, strength=0.8)
    ),
    "StableDiffusionInpaintPipeline": Family(
        build_sd("StableDiffusionInpaintPipeline"), inpaint_arguments, mask=half_mask()
    ),
    "StableDiffusionXLPipeline": Family(build_xl("StableDiffusionXLPipeline"), xl_arguments(square)),
    "StableDiffusionXLImg2ImgPipeline": Family(
        build_xl("StableDiffusionXLImg2ImgPipeline"), xl_arguments(image_arguments, strength=0.8)
    ),
    "StableDiffusionXLInpaintPipeline": Family(
        build_xl("StableDiffusionXLInpaintPipeline"), xl_arguments(inpaint_arguments), mask=half_mask()
    ),
    "StableDiffusionControlNetPipeline": Family(
        build_sd("StableDiffusionControlNetPipeline", controlnet=build_controlnet), control_arguments
    ),
    "StableDiffusionPAGPipeline": Family(build_sd("StableDiffusionPAGPipeline"), square),
    "StableDiffusionInstructPix2PixPipeline": Family(
        build_sd("StableDiffusionInstructPix2PixPipeline", {"in_channels": 8}),
        lambda items: image_arguments(items, image_guidance_scale=1.5),
    ),
    "StableDiffusionDepth2ImgPipeline": Family(
        build_sd("StableDiffusionDepth2ImgPipeline", {"in_channels": 5}, depth_estimator=None, feature_extractor=None),
        depth_arguments,
    ),
    "StableDiffusionUpscalePipeline": Family(
        build_sd(
            "StableDiffusionUpscalePipeline", {"in_channels": 7, "num_class_embeds": 1000},
            low_res_scheduler=diffusers.DDPMScheduler, watermarker=None,
        ),
        lambda items: image_arguments(items, noise_level=20),
    ),
    "StableDiffusionLatentUpscalePipeline": Family(
        build_sd("StableDiffusionLatentUpscalePipeline", {
            "in_channels": 8, "out_channels": 5, "time_cond_proj_dim": 136, "time_embedding_type": "fourier",
        }),
        lambda items: prompts(items, image=draw(items, 4, SIZE // 2, SIZE // 2, seed=1)) | pooled(items),
    ),
    "StableDiffusionAdapterPipeline": Family(
        build_sd("StableDiffusionAdapterPipeline", ATTENTION_FIRST, adapter=build_adapter), control_arguments
    ),
    "LatentConsistencyModelPipeline": Family(
        build_sd("LatentConsistencyModelPipeline", {"time_cond_proj_dim": 8}),
        lambda items: without_negative(square(items)),
    ),
    "LatentConsistencyModelImg2ImgPipeline": Family(
        build_sd("LatentConsistencyModelImg2ImgPipeline", {"time_cond_proj_dim": 8}),
        lambda items: without_negative(image_arguments(items, strength=0.8)), ("LCMScheduler",),
    ),
    "StableDiffusionControlNetInpaintPipeline": Family(
        build_sd("StableDiffusionControlNetInpaintPipeline", controlnet=build_controlnet),
        lambda items: inpaint_arguments(items, control_image=draw_images(items, seed=7)), mask=half_mask(),
    ),
    "StableDiffusion3Pipeline": Family(
        build_transformer(
            "StableDiffusion3Pipeline", build_sd3, vae=build_vae, text_encoder_2=None, tokenizer_2=None,
            text_encoder_3=None, tokenizer_3=None,
        ),
        xl_arguments(square), FLOW, "transformer", {"shift": 3.0},
    ),
    "StableDiffusion3Img2ImgPipeline": Family(
        build_transformer(
            "StableDiffusion3Img2ImgPipeline", build_sd3, vae=partial(build_vae, shift_factor=0.06),
            text_encoder_2=None, tokenizer_2=None, text_encoder_3=None, tokenizer_3=None,
        ),
        xl_arguments(image_arguments, height=SIZE, width=SIZE, strength=0.8), FLOW, "transformer", {"shift": 3.0},
    ),
    "StableDiffusion3InpaintPipeline": Family(
        build_transformer(
            "StableDiffusion3InpaintPipeline", partial(build_sd3, 16), vae=partial(build_vae, 16, shift_factor=0.06),
            text_encoder_2=None, tokenizer_2=None, text_encoder_3=None, tokenizer_3=None,
        ),
        xl_arguments(inpaint_arguments), FLOW, "transformer", {"shift": 3.0}, half_mask(),
    ),
    "PixArtAlphaPipeline": Family(
        build_transformer("PixArtAlphaPipeline", build_pixart, vae=build_vae),
        lambda items: masked(items, negative_prompt=None, use_resolution_binning=False), denoiser="transformer",
    ),
    "PixArtSigmaPipeline": Family(
        build_transformer("PixArtSigmaPipeline", build_pixart, vae=build_vae),
        lambda items: masked(items, negative_prompt=None, use_resolution_binning=False), denoiser="transformer",
    ),
    "AuraFlowPipeline": Family(
        build_transformer("AuraFlowPipeline", build_aura, vae=build_vae), masked, FLOW, "transformer", {"shift": 1.73}
    ),
    "SanaPipeline": Family(
        build_transformer("SanaPipeline", build_sana, vae=None), sana_arguments,
        (*FLOW, "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"), "transformer", FLOW_SOLVER,
    ),
    "LuminaPipeline": Family(
        build_transformer("LuminaPipeline", build_lumina, vae=build_vae), lumina_arguments, FLOW, "transformer", {}
    ),
    "FluxPipeline": Family(
        build_transformer(
            "FluxPipeline", build_flux, vae=build_vae, text_encoder_2=None, tokenizer_2=None
        ),
        flux_arguments, FLOW, "transformer", {},
    ),
    "KandinskyV22Pipeline": Family(
        build_kandinsky, kandinsky_arguments, config=KANDINSKY,
    ),
    "KandinskyV22Pipeline, learned variance": Family(
        build_kandinsky, kandinsky_arguments, ("DDPMScheduler",), config=KANDINSKY | {"variance_type": "learned_range"}
    ),
    "KandinskyV22Img2ImgPipeline": Family(
        partial(build_kandinsky, name="KandinskyV22Img2ImgPipeline"),
        partial(kandinsky_image_arguments, strength=0.8), ("DDIMScheduler", "DDPMScheduler"), config=KANDINSKY,
    ),
    "KandinskyV22Img2ImgPipeline, begins in the bypass": Family(
        partial(build_kandinsky, name="KandinskyV22Img2ImgPipeline"),
        partial(kandinsky_image_arguments, strength=0.5),
        ("DDIMScheduler", "DDPMScheduler", "EulerDiscreteScheduler"), config=KANDINSKY,
    ),
    "KandinskyV22InpaintPipeline": Family(
        partial(build_kandinsky, name="KandinskyV22InpaintPipeline", channels=9),
        kandinsky_inpaint_arguments, ("DDIMScheduler", "DDPMScheduler"), config=KANDINSKY,
        mask=half_mask(SIZE // 2 - 1),
    ),
    "IFPipeline": Family(build_if, lambda items: square(items, output_type="pt"), config=STABLE_DIFFUSION),
    "IFPipeline, learned variance": Family(
        build_if, lambda items: square(items, output_type="pt"), ("DDPMScheduler", "DPMSolverMultistepScheduler"),
        config={"beta_schedule": "squaredcos_cap_v2", "variance_type": "learned_range", "clip_sample": False},
    ),
    "AnimateDiffPipeline": Family(
        build_animatediff, lambda items: square(items, num_frames=2),
        config={"beta_schedule": "linear", "clip_sample": False, "steps_offset": 1},
    ),
}  # fmt: skip


@dataclass
class Trace:
    """What a run of a pipeline did.

    Attributes:
        latents: what the pipeline returned.
        timesteps: that the denoiser was given, one a call.
        seen: the latents that the denoiser was given, one a call.
    """

    latents: Tensor | None = None
    timesteps: list[float] = field(default_factory=list)
    seen: list[Tensor] = field(default_factory=list)


def make_pipeline(family: Family, scheduler: Any) -> Any:
    """Make a family's pipeline, with the same random weights each time."""
    torch.manual_seed(0)
    pipe = family.build(scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_scheduler(family: Family, name: str) -> Any:
    return getattr(diffusers, name).from_config(family.config)


def run(pipe: Any, family: Family, scheduler: Any, items: Sequence[int] = (0, 1), **more: Any) -> Trace:
    """Run a pipeline with a scheduler, each item with its own generator.

    Args:
        pipe: of the family.
        family: how to call it.
        scheduler: takes the place of the pipeline's.
        items: of the batch, by number.
        more: arguments of the call.

    Returns:
        What it did. If it raises, the exception holds what it did up to there as `trace`.
    """
    pipe.scheduler, trace = scheduler, Trace()
    torch.manual_seed(0)  # not every pipeline passes its generators to the scheduler

    def note(module: Any, arguments: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        timestep = arguments[1] if len(arguments) > 1 else named["timestep"]
        seen = arguments[0] if arguments else named.get("sample", named.get("hidden_states"))
        trace.timesteps.append(float(torch.as_tensor(timestep).flatten()[0]))
        trace.seen.append(seen.clone())

    handle = getattr(pipe, family.denoiser).register_forward_hook(note, with_kwargs=True)
    generators = [torch.Generator().manual_seed(10 + item) for item in items]
    call = {"num_inference_steps": STEPS, "output_type": "latent", "generator": generators}
    try:
        trace.latents = pipe(**call | family.arguments(items) | more)[0]
    except Exception as error:
        error.trace = trace  # type: ignore[attr-defined]
        raise
    finally:
        handle.remove()
    return trace


def is_ours(error: BaseException) -> bool:
    """Whether an exception is a refusal of ours: a ValueError with a sentence, raised in latentcrf."""
    where = traceback.extract_tb(error.__traceback__)[-1].filename
    is_inside = Path(latentcrf.__file__).parent in Path(where).parents
    return type(error) is ValueError and is_inside and str(error).endswith((".", "!"))


def make_finisher(channels: int = 4) -> Finisher:
    crf = LatentCRF(latent_channels=channels, form="static")
    torch.nn.init.constant_(crf.raw_reliability, 1.0)  # a fresh one hardly changes anything
    return Finisher(crf)


def examine(name: str, kind: str) -> Verdict:
    """Examine a pipeline with a kind of scheduler.

    Args:
        name: of the family.
        kind: name of the scheduler class.
    """
    family = FAMILIES[name]
    pipe = make_pipeline(family, make_scheduler(family, kind))
    try:
        full = run(pipe, family, make_scheduler(family, kind))
    except Exception as error:
        return Verdict("not applicable", f"unwrapped: {type(error).__name__}: {first_line(error)}")
    try:
        problems, numbers = compare(pipe, family, kind, full)
    except Exception as error:
        if is_ours(error):
            calls = len(error.trace.timesteps)  # type: ignore[attr-defined]
            state = "refused" if calls <= 1 else "wrong"
            return Verdict(state, f"{error} (after {calls} denoiser calls)", {"calls": calls})
        return Verdict("wrong", f"{type(error).__name__}: {first_line(error)}")
    return Verdict("wrong" if problems else "works", "; ".join(problems), numbers)


def compare(pipe: Any, family: Family, kind: str, full: Trace) -> tuple[list[str], dict[str, float]]:
    """Compare wrapped runs with the unwrapped one.

    Args:
        pipe: of the family.
        family: how to call it.
        kind: name of the scheduler class.
        full: the unwrapped run.

    Returns:
        What is wrong, and what was measured.
    """
    problems: list[str] = []

    def wrap(bypass: Any, finisher: Finisher | None = None) -> LatentCRFScheduler:
        return LatentCRFScheduler(make_scheduler(family, kind), None, bypass, finisher=finisher)

    plain = run(pipe, family, wrap(None))
    if not torch.equal(plain.latents, full.latents) or plain.timesteps != full.timesteps:
        problems.append("with nothing bypassed it is not the unwrapped run")

    scheduler = wrap(BYPASS)
    kept = run(pipe, family, scheduler)
    problems += check_calls(kept, full) + check_re_entry(kept, full, scheduler, family)
    record = scheduler.last_bypass
    if record is None or not torch.isfinite(record.latents).all() or not torch.isfinite(kept.latents).all():
        problems.append("no finite record of the bypass")
    again = run(pipe, family, scheduler)
    if not torch.equal(again.latents, kept.latents) or again.timesteps != kept.timesteps:
        problems.append("a second run differs from the first")

    # relative to latents of deviation 1: random weights may let the latents grow
    scale = max(1.0, float(kept.latents.std()))
    singles = [run(pipe, family, wrap(BYPASS), [item]).latents for item in (0, 1)]
    numbers = {"calls": len(kept.timesteps), "of": len(full.timesteps)}
    numbers["batch"] = largest(torch.cat(singles), kept.latents) / scale
    if torch.equal(*singles):
        problems.append("the items of the batch do not differ")
    if numbers["batch"] > BATCH and kind not in ADDS_NOISE:
        problems.append(f"a batch differs from its single items by {numbers['batch']:.2g}")

    for bypass in (None, BYPASS, (BYPASS[0], STEPS)):
        finished = wrap(bypass, make_finisher(kept.latents.shape[1]))
        with torch.no_grad():
            last = run(pipe, family, finished).latents
        finish = finished.last_finish
        inside = torch.ones(1, 1, 1, 1) if family.mask is None else family.mask
        if finish is None or not torch.equal(last * inside, finish.latents * inside):
            problems.append(f"bypass {bypass}: the finisher's latents are not the pipeline's")
        elif torch.equal(finish.latents, finish.before):
            problems.append(f"bypass {bypass}: the finisher changed nothing")
    return problems, numbers


def check_calls(kept: Trace, full: Trace) -> list[str]:
    """Check that the denoiser was called at the unwrapped run's timesteps without the skipped ones.

    Args:
        kept: the run with a bypass.
        full: the unwrapped run, which begins at a later step in image-to-image.
    """
    begin = STEPS - len(full.timesteps)
    first, last = BYPASS[0] - begin, BYPASS[1] - begin
    expected = full.timesteps[:first] + full.timesteps[last:]
    if len(kept.timesteps) != len(expected):
        return [f"{len(kept.timesteps)} denoiser calls instead of {len(expected)}"]
    problems = []
    if kept.timesteps != expected:
        shown = [[round(value, 3) for value in values] for values in (kept.timesteps, expected)]
        problems.append(f"the denoiser was called at {shown[0]} instead of {shown[1]}")
    if any(not torch.equal(kept.seen[index], full.seen[index]) for index in range(first)):
        problems.append("before the bypass the denoiser does not see the unwrapped run's latents")
    return problems


def check_re_entry(kept: Trace, full: Trace, scheduler: LatentCRFScheduler, family: Family) -> list[str]:
    """Check that the denoiser's first call after the bypass sees the bypass's latents, scaled for its timestep.

    Args:
        kept: the run with a bypass.
        full: the unwrapped run.
        scheduler: of `kept`.
        family: of the pipeline.
    """
    record, inner = scheduler.last_bypass, scheduler.scheduler
    index = BYPASS[0] - (STEPS - len(full.timesteps))
    if record is None or len(kept.seen) <= index:
        return ["the denoiser is not called after the bypass"]
    count, channels = record.latents.shape[:2]
    seen = kept.seen[index][:count, :channels]
    fresh = type(inner).from_config(inner.config)
    fresh.set_timesteps(STEPS)
    expected = [record.latents]  # some pipelines do not scale
    if hasattr(fresh, "scale_model_input"):
        if hasattr(fresh, "set_begin_index"):
            fresh.set_begin_index(BYPASS[1])
        expected.append(fresh.scale_model_input(record.latents, inner.timesteps[BYPASS[1]]))
    inside = torch.ones(1, 1, 1, 1) if family.mask is None else family.mask
    problems = []
    if not any(torch.allclose(seen * inside, each * inside, rtol=1e-5, atol=1e-5) for each in expected):
        problems.append("after the bypass the denoiser does not see the bypass's latents")
    skipped = BYPASS[1] - BYPASS[0]
    outside = [
        torch.equal(kept.seen[i] * (1 - inside), full.seen[i + skipped] * (1 - inside))
        for i in range(index, len(kept.seen))
    ]
    if family.mask is not None and not all(outside):
        problems.append("outside the mask the latents after the bypass have another noise level")
    return problems


def print_table(wanted: Sequence[str]) -> None:
    """Print the verdicts of all pairs in Markdown.

    Args:
        wanted: parts of the families' names; empty: all.
    """
    torch.set_num_threads(1)
    states: Counter[str] = Counter()
    print("| pipeline | scheduler | verdict | evidence |\n|---|---|---|---|")
    for name, family in FAMILIES.items():
        if wanted and not any(part in name for part in wanted):
            continue
        for kind in family.schedulers:
            begun = time.perf_counter()
            verdict = examine(name, kind)
            states[verdict.state] += 1
            numbers = verdict.numbers
            evidence = verdict.words
            if verdict.state == "works":
                noise = "; adds noise" if kind in ADDS_NOISE else ""
                evidence = f"{numbers['calls']} calls of {numbers['of']}; batch {numbers['batch']:.1g}{noise}"
            print(f"| {name} | {kind} | {verdict.state} | {evidence} |", flush=True)
            print(f"{time.perf_counter() - begun:.1f} s", file=sys.stderr)
    print("\n" + ", ".join(f"{count} {state}" for state, count in sorted(states.items())))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    print_table(sys.argv[1:])
