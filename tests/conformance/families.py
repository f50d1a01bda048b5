"""Tiny random models of diffusers' pipelines, made from configurations on the spot, and how to call them.

Nothing is downloaded.
"""

import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import diffusers
import torch
import transformers
from diffusers.models.attention_processor import IPAdapterAttnProcessor
from diffusers.models.embeddings import ImageProjection
from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import Tensor

PROMPTS = ("a red apple", "a blue apple")
SIZE, WIDTH, TOKENS = 8, 16, 5  # latents are SIZE x SIZE, prompts TOKENS x WIDTH

STABLE_DIFFUSION = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1, "clip_sample": False,
}  # fmt: skip
DEEPFLOYD = {"beta_schedule": "squaredcos_cap_v2", "variance_type": "learned_range", "clip_sample": False}
KANDINSKY = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "linear", "clip_sample": False}
FLOW_SOLVER = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}


@dataclass(frozen=True)
class Family:
    """A pipeline class, and how to make and call it.

    Attributes:
        build: makes the pipeline from its scheduler.
        arguments: makes the call's arguments for the items of a batch, beside steps, output type and generators.
        denoiser: the pipeline's attribute that is called once a step.
        config: of the schedulers.
        mask: (1, 1, H, W), where the pipeline returns the sampler's latents; elsewhere it puts in others. None:
            everywhere.
        calls: of the denoiser in a step.
        decoder: the part that is given the final latents first, where the pipeline returns images only.
        shown: what the pipeline makes of the final latents.
        given: the latents in what the denoiser is given, before other channels and the unconditional half.
    """

    build: Callable[[Any], Any]
    arguments: Callable[[Sequence[int]], dict[str, Any]]
    denoiser: str = "unet"
    config: dict[str, Any] = field(default_factory=lambda: STABLE_DIFFUSION)
    mask: Tensor | None = None
    calls: int = 1
    decoder: str | None = None
    shown: Callable[[Tensor], Tensor] = lambda latents: latents
    given: Callable[[Tensor], Tensor] = lambda seen: seen


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
    return diffusers.AutoencoderKL(**{
        "block_out_channels": (8,), "latent_channels": channels, "norm_num_groups": 4
    } | options).eval()  # fmt: skip


def build_scaling_vae() -> Any:
    return build_vae(
        block_out_channels=(8,) * 4, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip


def build_unet(**options: Any) -> Any:
    return diffusers.UNet2DConditionModel(**{
        "sample_size": SIZE, "block_out_channels": (8, 16), "layers_per_block": 1, "cross_attention_dim": WIDTH,
        "norm_num_groups": 4, "attention_head_dim": 4, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    } | options).eval()  # fmt: skip


absent = object()
TEXT = {"text_encoder": None, "tokenizer": None}
SAFETY = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
ATTENTION_FIRST = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}  # fmt: skip
NO_ATTENTION = {
    "down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2, "mid_block_type": "UNetMidBlock2D",
}  # fmt: skip
XL_UNET = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 32,
}


def build_sd(name: str, unet: dict[str, Any] | None = None, **parts: Any) -> Callable[[Any], Any]:
    def build(scheduler: Any) -> Any:
        made = {key: part() if callable(part) else part for key, part in ({"vae": build_vae} | parts).items()}
        kind = getattr(diffusers, name)
        safety = SAFETY if "requires_safety_checker" in inspect.signature(kind.__init__).parameters else {}
        return kind(unet=build_unet(**unet or {}), scheduler=scheduler, **TEXT | safety | made)

    return build


def build_xl(name: str, unet_options: dict[str, Any] | None = None, **parts: Any) -> Callable[[Any], Any]:
    def build(scheduler: Any) -> Any:
        made = {key: part() if callable(part) else part for key, part in parts.items()}
        two = {"text_encoder_2": None, "tokenizer_2": None}
        unet = build_unet(**XL_UNET | (unet_options or {}))
        return getattr(diffusers, name)(unet=unet, vae=build_vae(), scheduler=scheduler, **TEXT | two | made)

    return build


def build_transformer(name: str, transformer: Callable[[], Any], **parts: Any) -> Callable[[Any], Any]:
    def build(scheduler: Any) -> Any:
        made = {key: part() if callable(part) else part for key, part in parts.items()}
        given = {key: part for key, part in (TEXT | made).items() if part is not absent}
        return getattr(diffusers, name)(transformer=transformer().eval(), scheduler=scheduler, **given)

    return build


def build_controlnet(**options: Any) -> Any:
    net = diffusers.ControlNetModel(
        block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=WIDTH, norm_num_groups=4,
        attention_head_dim=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        conditioning_embedding_out_channels=(4,), **options,
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


def build_sana(kind: Any = diffusers.SanaTransformer2DModel) -> Any:
    return kind(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=1,
        num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=WIDTH,
        sample_size=SIZE, patch_size=1,
    )  # fmt: skip


def build_lumina() -> Any:
    return diffusers.LuminaNextDiT2DModel(
        sample_size=SIZE, patch_size=2, in_channels=4, hidden_size=24, num_layers=1, num_attention_heads=3,
        num_kv_heads=1, multiple_of=16, cross_attention_dim=WIDTH, learn_sigma=True,
    )  # fmt: skip


def build_lumina2() -> Any:
    return diffusers.Lumina2Transformer2DModel(
        sample_size=SIZE, patch_size=2, in_channels=4, hidden_size=24, num_layers=1, num_refiner_layers=1,
        num_attention_heads=3, num_kv_heads=1, multiple_of=16, axes_dim_rope=(4, 2, 2), axes_lens=(32, 32, 32),
        cap_feat_dim=WIDTH,
    )  # fmt: skip


def build_cogview(channels: int = 4) -> Any:
    return diffusers.CogView4Transformer2DModel(
        patch_size=2, in_channels=channels, out_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2,
        text_embed_dim=WIDTH, time_embed_dim=8, condition_dim=4, pos_embed_max_size=16, sample_size=SIZE,
        rope_axes_dim=(16, 16),
    )  # fmt: skip


def build_z_image() -> Any:
    return diffusers.ZImageTransformer2DModel(
        in_channels=4, dim=16, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=WIDTH,
        axes_dims=[4, 2, 2], axes_lens=[64, 32, 32],
    )  # fmt: skip


def build_hunyuan(layers: int = 2) -> Any:
    return diffusers.HunyuanDiT2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, patch_size=2, sample_size=SIZE, hidden_size=16,
        num_layers=layers, cross_attention_dim=WIDTH, cross_attention_dim_t5=WIDTH, pooled_projection_dim=8,
        text_len=TOKENS, text_len_t5=TOKENS,
    )  # fmt: skip


def build_wan() -> Any:
    return diffusers.WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16, text_dim=WIDTH, freq_dim=8,
        ffn_dim=16, num_layers=1, rope_max_seq_len=32,
    )  # fmt: skip


def build_flux() -> Any:
    return diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, pooled_projection_dim=8, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip


def build_kandinsky(scheduler: Any, name: str = "KandinskyV22Pipeline", channels: int = 4, kind: str = "image") -> Any:
    unet = build_unet(
        in_channels=channels, out_channels=8, addition_embed_type=kind, encoder_hid_dim=WIDTH,
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


def build_if(scheduler: Any, name: str = "IFPipeline") -> Any:
    is_super = "SuperResolution" in name
    unet = build_unet(
        in_channels=6 if is_super else 3, out_channels=6, **{"num_class_embeds": 1000} if is_super else {}
    )
    parts = {"image_noising_scheduler": diffusers.DDPMScheduler()} if is_super else {}
    return getattr(diffusers, name)(unet=unet, scheduler=scheduler, watermarker=None, **TEXT | SAFETY | parts)


def build_tokenizer() -> Any:
    words = {word: index for index, word in enumerate(["<pad>", "<unk>", "<end>", "a", "red", "apple", "blue"])}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 2)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="<end>", model_max_length=TOKENS
    )


def build_text_encoder() -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=7, hidden_size=WIDTH, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=TOKENS, pad_token_id=0, eos_token_id=2, bos_token_id=1,
    )  # fmt: skip
    return transformers.CLIPTextModel(config).eval()


TEXT_MODEL = {"text_encoder": build_text_encoder, "tokenizer": build_tokenizer}


def build_image_encoder() -> Any:
    config = transformers.CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=16, projection_dim=WIDTH, num_hidden_layers=1, num_attention_heads=2,
        image_size=SIZE, patch_size=4,
    )  # fmt: skip
    return transformers.CLIPVisionModelWithProjection(config).eval()


def load_ip_adapter(pipe: Any) -> None:
    """Load an IP-Adapter of random weights."""
    weights: dict[str, Tensor] = {}
    unet, number = pipe.unet, 1
    widths = {"mid": unet.config.block_out_channels[-1]}
    for index, width in enumerate(unet.config.block_out_channels):
        widths |= {f"down{index}": width, f"up{len(unet.config.block_out_channels) - 1 - index}": width}
    for name in unet.attn_processors:
        if name.endswith("attn2.processor"):  # attn1 looks at the image itself
            place = name.split("_")[0]
            index = name.split(".")[1] if place != "mid" else ""
            made = IPAdapterAttnProcessor(widths[place + index], WIDTH).state_dict()
            weights |= {f"{number}.{key.replace('.0.weight', '.weight')}": value for key, value in made.items()}
            number += 2
    projection = ImageProjection(image_embed_dim=WIDTH, cross_attention_dim=WIDTH, num_image_text_embeds=4).state_dict()
    image = {key.replace("image_embeds.", "proj."): value for key, value in projection.items()}
    pipe.load_ip_adapter(
        {"image_proj": image, "ip_adapter": weights}, subfolder="", weight_name="", image_encoder_folder=None
    )


class LowRank(torch.nn.Module):
    """A weight with a LoRA added: w + b a, of rank 2."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(torch.randn(2, weight.shape[1]) / weight.shape[1] ** 0.5)
        self.b = torch.nn.Parameter(torch.randn(weight.shape[0], 2))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.b @ self.a


def load_lora(pipe: Any) -> None:
    """Add a LoRA of random weights to the attention. diffusers' own way needs peft, which is no dependency here."""
    for name, module in pipe.unet.named_modules():
        if name.endswith(("to_q", "to_k", "to_v")):
            torch.nn.utils.parametrize.register_parametrization(module, "weight", LowRank(module.weight))


def build_then(build: Callable[[Any], Any], change: Callable[[Any], None]) -> Callable[[Any], Any]:
    def changed(scheduler: Any) -> Any:
        pipe = build(scheduler)
        change(pipe)
        return pipe

    return changed


def build_union() -> Any:
    net = diffusers.ControlNetUnionModel(
        block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=WIDTH, norm_num_groups=4,
        attention_head_dim=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), num_trans_channel=8,
        num_trans_head=2, num_proj_channel=8, conditioning_embedding_out_channels=(4,), **XL_UNET,
    ).eval()  # fmt: skip
    for each in (*net.controlnet_down_blocks, net.controlnet_mid_block):
        torch.nn.init.normal_(each.weight, std=0.3)
    return net


def build_sd3_controlnet(extra: int = 0) -> Any:
    net = diffusers.SD3ControlNetModel(
        sample_size=SIZE, patch_size=1, in_channels=16, out_channels=16, num_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=WIDTH, caption_projection_dim=16, pooled_projection_dim=8,
        pos_embed_max_size=16, extra_conditioning_channels=extra,
    ).eval()  # fmt: skip
    for each in net.controlnet_blocks:
        torch.nn.init.normal_(each.weight, std=0.3)
    return net


def build_cogview3() -> Any:
    return diffusers.CogView3PlusTransformer2DModel(
        patch_size=2, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2,
        text_embed_dim=WIDTH, time_embed_dim=8, condition_dim=2, pos_embed_max_size=16, sample_size=SIZE,
    )  # fmt: skip


def build_hidream() -> Any:
    return diffusers.HiDreamImageTransformer2DModel(
        patch_size=2, in_channels=4, out_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=8,
        num_attention_heads=2, caption_channels=[WIDTH, WIDTH], text_emb_dim=8, num_routed_experts=2,
        num_activated_experts=1, axes_dims_rope=(4, 2, 2), max_resolution=(SIZE, SIZE), llama_layers=[0, 0],
        force_inference_output=True,
    )  # fmt: skip


def build_prx(channels: int = 4) -> Any:
    return diffusers.PRXTransformer2DModel(
        in_channels=channels, patch_size=1, context_in_dim=WIDTH, hidden_size=8, mlp_ratio=2.0, num_heads=2, depth=1,
        axes_dim=[2, 2],
    )  # fmt: skip


def build_ernie() -> Any:
    return diffusers.ErnieImageTransformer2DModel(
        hidden_size=16, num_attention_heads=1, num_layers=1, ffn_hidden_size=16, in_channels=4, out_channels=4,
        text_in_dim=WIDTH, rope_axes_dim=(4, 6, 6),
    )  # fmt: skip


def build_dit() -> Any:
    return diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=1, sample_size=SIZE,
        patch_size=2, num_embeds_ada_norm=1000,
    )  # fmt: skip


def build_hunyuan_image() -> Any:
    return diffusers.HunyuanImageTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=1, num_single_layers=1,
        num_refiner_layers=1, patch_size=(1, 1), text_embed_dim=WIDTH, text_embed_2_dim=WIDTH, rope_axes_dim=(4, 4),
    )  # fmt: skip


def build_glm() -> Any:
    return diffusers.GlmImageTransformer2DModel(
        patch_size=2, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
        text_embed_dim=WIDTH, time_embed_dim=8, condition_dim=4, prior_vq_quantizer_codebook_size=16,
    )  # fmt: skip


def build_bria() -> Any:
    return diffusers.BriaFibo2Transformer2DModel(
        in_channels=4, patch_size=2, dim=16, n_layers=1, n_refiner_layers=1, n_heads=2, cap_feat_dim=WIDTH,
        injection_layer_ids=(0,), perceiver_num_layers=1, min_num_gist_tokens=2, max_num_gist_tokens=4, gist_step=2,
        gist_min_text_len=2, gist_max_text_len=16, axes_dims=(4, 2, 2), axes_lens=(64, 32, 32),
    )  # fmt: skip


def build_hunyuan_controlnet() -> Any:
    return diffusers.HunyuanDiT2DControlNetModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, patch_size=2, sample_size=SIZE, hidden_size=16,
        transformer_num_layers=4, cross_attention_dim=WIDTH, cross_attention_dim_t5=WIDTH, pooled_projection_dim=8,
        text_len=TOKENS, text_len_t5=TOKENS,
    ).eval()  # fmt: skip


def build_z_controlnet(channels: int = 4) -> Any:
    return diffusers.ZImageControlNetModel(
        control_layers_places=[0], control_refiner_layers_places=[0], control_in_dim=channels, dim=16,
        n_refiner_layers=1, n_heads=2, n_kv_heads=2,
    ).eval()  # fmt: skip


def build_movq() -> Any:
    return diffusers.VQModel(
        block_out_channels=(32, 64), latent_channels=4, norm_num_groups=4, norm_type="spatial", num_vq_embeddings=8,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("AttnUpDecoderBlock2D",) * 2, vq_embed_dim=4,
    ).eval()  # fmt: skip


def build_kandinsky3(scheduler: Any, name: str = "Kandinsky3Pipeline") -> Any:
    unet = diffusers.Kandinsky3UNet(
        in_channels=4, time_embedding_dim=16, groups=2, attention_head_dim=4, layers_per_block=2,
        block_out_channels=(16, 16), cross_attention_dim=WIDTH, encoder_hid_dim=WIDTH,
    ).eval()  # fmt: skip
    return getattr(diffusers, name)(unet=unet, movq=build_movq(), scheduler=scheduler, **TEXT)


def show_pixels(latents: Tensor) -> Tensor:
    return (latents / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)


def build_unconditional(name: str) -> Callable[[Any], Any]:
    def build(scheduler: Any) -> Any:
        unet = diffusers.UNet2DModel(
            sample_size=SIZE, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=4,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        ).eval()  # fmt: skip
        return getattr(diffusers, name)(unet=unet, scheduler=scheduler)

    return build


def image_arguments(items: Sequence[int], **more: Any) -> dict[str, Any]:
    return prompts(items, image=draw_images(items)) | more


def inpaint_arguments(items: Sequence[int], **more: Any) -> dict[str, Any]:
    mask = half_mask().expand(len(items), -1, -1, -1)
    return square(items, image=draw_images(items), mask_image=mask, strength=1.0) | more


def xl_arguments(make: Callable[..., dict[str, Any]], **more: Any) -> Callable[[Sequence[int]], dict[str, Any]]:
    return lambda items: make(items, **more) | pooled(items)


def control_arguments(items: Sequence[int]) -> dict[str, Any]:
    return square(items, image=draw_images(items))


def super_arguments(items: Sequence[int], **more: Any) -> dict[str, Any]:
    return (
        prompts(
            items, image=draw_images(items), original_image=draw_images(items, seed=7), noise_level=20, output_type="pt"
        )
        | more
    )


def depth_arguments(items: Sequence[int]) -> dict[str, Any]:
    return image_arguments(items, depth_map=draw(items, SIZE, SIZE, seed=6), strength=0.8)


def without_negative(arguments: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in arguments.items() if not key.startswith("negative")}


def sana_arguments(items: Sequence[int]) -> dict[str, Any]:
    return masked(items, negative_prompt=None, use_resolution_binning=False, height=32 * SIZE, width=32 * SIZE)


def lumina_arguments(items: Sequence[int]) -> dict[str, Any]:
    return masked(items, height=8 * SIZE, width=8 * SIZE)


def z_image_arguments(items: Sequence[int]) -> dict[str, Any]:
    embeds = list(draw(items, TOKENS, WIDTH, seed=2))
    return {"prompt_embeds": embeds, "height": 8 * SIZE, "width": 8 * SIZE, "guidance_scale": 0.0}


def hunyuan_arguments(items: Sequence[int]) -> dict[str, Any]:
    arguments = masked(items, height=8 * SIZE, width=8 * SIZE)
    second = {f"{key}_2": value for key, value in arguments.items() if "prompt" in key}
    return arguments | second | {"use_resolution_binning": False}


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


def control_image_arguments(make: Callable[..., dict[str, Any]], **more: Any) -> Callable[..., dict[str, Any]]:
    return lambda items, **others: make(items, control_image=draw_images(items, seed=7), **more, **others)


def ip_arguments(items: Sequence[int]) -> dict[str, Any]:
    embeds = torch.cat([draw([0], 1, WIDTH, seed=9), draw([0], 1, WIDTH, seed=8)])  # without, and with the image
    return square(items, ip_adapter_image_embeds=[embeds])


def union_arguments(make: Callable[..., dict[str, Any]], **more: Any) -> Callable[[Sequence[int]], dict[str, Any]]:
    def arguments(items: Sequence[int]) -> dict[str, Any]:
        control = [draw_images(items, seed=7)]
        return make(items, control_image=control, control_mode=[0], **more) | pooled(items)

    return arguments


def text_arguments(items: Sequence[int]) -> dict[str, Any]:
    return {"prompt": [PROMPTS[item] for item in items], "guidance_scale": 2.0}


def kandinsky_hint_arguments(items: Sequence[int], **more: Any) -> dict[str, Any]:
    return kandinsky_arguments(items) | {"hint": draw(items, 3, 8 * SIZE, 8 * SIZE, seed=6)} | more


def kandinsky3_arguments(items: Sequence[int], **more: Any) -> dict[str, Any]:
    mask = torch.ones(len(items), TOKENS)
    return prompts(items, attention_mask=mask, negative_attention_mask=mask) | more


def hidream_arguments(items: Sequence[int]) -> dict[str, Any]:
    long, layers = draw(items, TOKENS, WIDTH, seed=2), draw(items, 2, TOKENS, WIDTH, seed=3).transpose(0, 1)
    return pooled(items) | {
        "prompt_embeds_t5": long, "negative_prompt_embeds_t5": -long, "prompt_embeds_llama3": layers,
        "negative_prompt_embeds_llama3": -layers, "height": 8 * SIZE, "width": 8 * SIZE, "guidance_scale": 2.0,
    }  # fmt: skip


def bool_masked(items: Sequence[int], **more: Any) -> dict[str, Any]:
    arguments = masked(items, **more)
    return {key: value.bool() if key.endswith("mask") else value for key, value in arguments.items()}


def prx_arguments(items: Sequence[int]) -> dict[str, Any]:  # with guidance it runs single items only
    return bool_masked(items, guidance_scale=1.0, use_resolution_binning=False, height=8 * SIZE, width=8 * SIZE)


def listed(items: Sequence[int], **more: Any) -> dict[str, Any]:
    return {
        "prompt_embeds": list(draw(items, TOKENS, WIDTH, seed=2)),
        "negative_prompt_embeds": list(draw(items, TOKENS, WIDTH, seed=3)),
        "height": 8 * SIZE, "width": 8 * SIZE, "guidance_scale": 2.0,
    } | more  # fmt: skip


def hunyuan_image_arguments(items: Sequence[int]) -> dict[str, Any]:
    mask, embeds = torch.ones(len(items), TOKENS), draw(items, TOKENS, WIDTH, seed=2)
    return {
        "prompt_embeds": embeds, "prompt_embeds_mask": mask, "prompt_embeds_2": -embeds, "prompt_embeds_mask_2": mask,
        "negative_prompt_embeds": -embeds, "negative_prompt_embeds_mask": mask, "negative_prompt_embeds_2": embeds,
        "negative_prompt_embeds_mask_2": mask, "height": 32 * SIZE, "width": 32 * SIZE,
    }  # fmt: skip


def glm_arguments(items: Sequence[int]) -> dict[str, Any]:
    tokens = torch.arange(16).repeat(len(items), 1)
    return square(items, height=8 * SIZE, width=8 * SIZE, prior_token_ids=tokens)


def refiner_arguments(items: Sequence[int]) -> dict[str, Any]:
    latents = draw(items, 4, SIZE, SIZE, seed=1)
    return prompts(items, image=latents, denoising_start=0.2) | pooled(items)


def build_xl_adapter() -> Any:
    return diffusers.T2IAdapter(
        in_channels=3, channels=[8, 16], num_res_blocks=1, downscale_factor=1, adapter_type="full_adapter"
    ).eval()


build_xl_controlnet = partial(build_controlnet, **XL_UNET)
build_sana_controlnet = partial(build_sana, diffusers.SanaControlNetModel)


def build_ldm_super(scheduler: Any) -> Any:
    unet = diffusers.UNet2DModel(
        sample_size=SIZE, in_channels=6, out_channels=3, block_out_channels=(8, 16), layers_per_block=1,
        norm_num_groups=4, attention_head_dim=4, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ).eval()  # fmt: skip
    vqvae = diffusers.VQModel(
        block_out_channels=(8,), latent_channels=3, norm_num_groups=4, num_vq_embeddings=8, vq_embed_dim=3
    ).eval()
    return diffusers.LDMSuperResolutionPipeline(unet=unet, vqvae=vqvae, scheduler=scheduler)


def build_ldm(scheduler: Any) -> Any:
    config = LDMBertConfig(
        vocab_size=7, max_position_embeddings=80, encoder_layers=1, encoder_ffn_dim=16, encoder_attention_heads=2,
        head_dim=8, d_model=WIDTH,
    )  # fmt: skip
    return diffusers.LDMTextToImagePipeline(
        vqvae=build_movq_plain(), bert=LDMBertModel(config).eval(), tokenizer=build_tokenizer(), unet=build_unet(),
        scheduler=scheduler,
    )  # fmt: skip


def build_movq_plain() -> Any:
    return diffusers.VQModel(
        block_out_channels=(8, 8), latent_channels=4, norm_num_groups=4, num_vq_embeddings=8, vq_embed_dim=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, scaling_factor=1.0,
    ).eval()  # fmt: skip


def build_omnigen() -> Any:
    return diffusers.OmniGenTransformer2DModel(
        in_channels=4, patch_size=2, hidden_size=16, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=16, num_layers=1, pad_token_id=0, vocab_size=100, max_position_embeddings=1000,
        original_max_position_embeddings=1000, pos_embed_max_size=16, time_step_dim=8,
        rope_scaling={"long_factor": [1.0] * 4, "short_factor": [1.0] * 4, "type": "su"},
    )  # fmt: skip


def build_cascade(**options: Any) -> Any:
    return diffusers.StableCascadeUNet(**{
        "in_channels": 4, "out_channels": 4, "block_out_channels": (16,), "num_attention_heads": (2,),
        "timestep_ratio_embedding_dim": 8, "down_num_layers_per_block": (1,), "up_num_layers_per_block": (1,),
        "down_blocks_repeat_mappers": (1,), "up_blocks_repeat_mappers": (1,), "clip_text_pooled_in_channels": WIDTH,
        "block_types_per_layer": (("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"),),
        "dropout": (0.0,), "self_attn": False, "switch_level": (False,),
    } | options).eval()  # fmt: skip


def cascade_arguments(items: Sequence[int]) -> dict[str, Any]:
    return prompts(items) | {
        "prompt_embeds_pooled": draw(items, 1, WIDTH, seed=4),
        "negative_prompt_embeds_pooled": draw(items, 1, WIDTH, seed=5),
    }


def build_text_to_video(scheduler: Any) -> Any:
    unet = diffusers.UNet3DConditionModel(
        sample_size=SIZE, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=WIDTH, norm_num_groups=4,
        attention_head_dim=4, down_block_types=("DownBlock3D", "CrossAttnDownBlock3D"),
        up_block_types=("CrossAttnUpBlock3D", "UpBlock3D"),
    ).eval()  # fmt: skip
    return diffusers.TextToVideoSDPipeline(unet=unet, vae=build_vae(), scheduler=scheduler, **TEXT)


def show_frames(latents: Tensor) -> Tensor:
    return latents.unflatten(0, (-1, 2)).movedim(1, 2)  # the sampler's latents are those of all frames


def build_qwen() -> Any:
    return diffusers.QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip


def qwen_arguments(items: Sequence[int]) -> dict[str, Any]:
    mask = torch.ones(len(items), TOKENS, dtype=torch.long)
    return {
        "prompt_embeds": draw(items, TOKENS, WIDTH, seed=2), "prompt_embeds_mask": mask, "true_cfg_scale": 1.0,
        "height": 8 * SIZE, "width": 8 * SIZE,
    }  # fmt: skip


def set_scale(pipe: Any, scale: int) -> None:
    pipe.vae_scale_factor = scale


def build_xs(scheduler: Any, name: str = "StableDiffusionControlNetXSPipeline") -> Any:
    is_xl = "XL" in name
    unet = build_unet(layers_per_block=2, **XL_UNET if is_xl else {})
    net = diffusers.ControlNetXSAdapter.from_unet(unet, size_ratio=1.0, conditioning_embedding_out_channels=(4,))
    more = {"text_encoder_2": None, "tokenizer_2": None} if is_xl else SAFETY
    return getattr(diffusers, name)(unet=unet, controlnet=net, vae=build_vae(), scheduler=scheduler, **TEXT | more)


def build_dit_pipeline(scheduler: Any) -> Any:
    return diffusers.DiTPipeline(transformer=build_dit().eval(), vae=build_vae(scaling_factor=1.0), scheduler=scheduler)


def build_dc() -> Any:
    return diffusers.AutoencoderDC(
        latent_channels=4, attention_head_dim=2, encoder_block_types=("ResBlock", "ResBlock"),
        decoder_block_types=("ResBlock", "ResBlock"), encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8), encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), ()), decoder_qkv_multiscales=((), ()),
    ).eval()  # fmt: skip


def build_kandinsky1(scheduler: Any, name: str = "KandinskyPipeline", channels: int = 4) -> Any:
    unet = build_unet(
        in_channels=channels, out_channels=8, addition_embed_type="text_image", encoder_hid_dim=WIDTH,
        encoder_hid_dim_type="text_image_proj", cross_attention_dim=WIDTH, resnet_time_scale_shift="scale_shift",
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
    )  # fmt: skip
    config = MCLIPConfig(
        transformerDimSize=WIDTH, imageDimSize=WIDTH, hidden_size=WIDTH, intermediate_size=16, num_attention_heads=2,
        num_hidden_layers=1, vocab_size=7, pad_token_id=0, max_position_embeddings=100,
    )  # fmt: skip
    return getattr(diffusers, name)(
        unet=unet, scheduler=scheduler, movq=build_movq(), text_encoder=MultilingualCLIP(config).eval(),
        tokenizer=build_tokenizer(),
    )  # fmt: skip


def kandinsky1_arguments(items: Sequence[int]) -> dict[str, Any]:
    return kandinsky_arguments(items) | text_arguments(items) | {"output_type": "pt"}


def marigold(name: str, kind: str, images: int = 1) -> Family:
    def build(scheduler: Any) -> Any:
        return getattr(diffusers, name)(
            unet=build_unet(in_channels=4 + 4 * images, out_channels=4 * images), scheduler=scheduler,
            vae=build_vae(scaling_factor=1.0), text_encoder=build_text_encoder(), tokenizer=build_tokenizer(),
            prediction_type=kind, default_denoising_steps=10, default_processing_resolution=0,
        )  # fmt: skip

    return Family(
        build, lambda items: {"image": draw_images(items), "output_type": "pt", "batch_size": 4},
        decoder="vae.post_quant_conv", given=lambda seen: seen[:, 4:],
        shown=lambda latents: latents.unflatten(1, (images, 4)).flatten(0, 1),
    )  # fmt: skip


SD3_PARTS = {"text_encoder_2": None, "tokenizer_2": None, "text_encoder_3": None, "tokenizer_3": None}
TWO_TEXTS = {"text_encoder_2": None, "tokenizer_2": None}
SD3 = FLOW_SOLVER | {"shift": 3.0}
HUNYUAN = {
    "prediction_type": "v_prediction", "beta_schedule": "scaled_linear", "beta_end": 0.03, "beta_start": 0.00085,
    "clip_sample": False, "steps_offset": 1,
}  # fmt: skip
IMAGES = partial(image_arguments, strength=0.8)
NO_BINNING = {"negative_prompt": None, "use_resolution_binning": False}


def flow(build: Any, arguments: Any, config: dict[str, Any] | None = None, mask: Tensor | None = None) -> Family:
    return Family(build, arguments, "transformer", FLOW_SOLVER | (config or {}), mask)


def sd(name: str, arguments: Any, mask: Tensor | None = None, unet: Any = None, **parts: Any) -> Family:
    return Family(build_sd(name, unet, **parts), arguments, mask=mask)


def xl(name: str, arguments: Any, mask: Tensor | None = None, unet: Any = None, **parts: Any) -> Family:
    return Family(build_xl(name, unet, **parts), arguments, mask=mask)


STABLE: dict[str, Family] = {
    "StableDiffusionPipeline": sd("StableDiffusionPipeline", square),
    "StableDiffusionPipeline, IP-Adapter": Family(
        build_then(build_sd("StableDiffusionPipeline"), load_ip_adapter), ip_arguments
    ),
    "StableDiffusionPipeline, LoRA": Family(build_then(build_sd("StableDiffusionPipeline"), load_lora), square),
    "StableDiffusionImg2ImgPipeline": sd("StableDiffusionImg2ImgPipeline", IMAGES),
    "StableDiffusionInpaintPipeline": sd("StableDiffusionInpaintPipeline", inpaint_arguments, half_mask()),
    "StableDiffusionInpaintPipeline, 9 channels": sd(
        "StableDiffusionInpaintPipeline", inpaint_arguments, unet={"in_channels": 9}
    ),
    "StableDiffusionImageVariationPipeline": Family(
        lambda scheduler: diffusers.StableDiffusionImageVariationPipeline(
            unet=build_unet(), vae=build_vae(), image_encoder=build_image_encoder(), scheduler=scheduler, **SAFETY
        ),
        lambda items: {"image": draw_images(items), "height": SIZE, "width": SIZE, "guidance_scale": 2.0},
    ),
    "StableDiffusionInstructPix2PixPipeline": sd(
        "StableDiffusionInstructPix2PixPipeline", lambda items: image_arguments(items, image_guidance_scale=1.5),
        unet={"in_channels": 8},
    ),
    "StableDiffusionDepth2ImgPipeline": sd(
        "StableDiffusionDepth2ImgPipeline", depth_arguments, unet={"in_channels": 5}, depth_estimator=None,
        feature_extractor=None,
    ),
    "StableDiffusionUpscalePipeline": sd(
        "StableDiffusionUpscalePipeline", lambda items: image_arguments(items, noise_level=20),
        unet={"in_channels": 7, "num_class_embeds": 1000}, low_res_scheduler=diffusers.DDPMScheduler, watermarker=None,
    ),
    "StableDiffusionLatentUpscalePipeline": sd(
        "StableDiffusionLatentUpscalePipeline",
        lambda items: prompts(items, image=draw(items, 4, SIZE // 2, SIZE // 2, seed=1)) | pooled(items),
        unet={"in_channels": 8, "out_channels": 5, "time_cond_proj_dim": 136, "time_embedding_type": "fourier"},
    ),
    "StableDiffusionControlNetPipeline": sd(
        "StableDiffusionControlNetPipeline", control_arguments, controlnet=build_controlnet
    ),
    "StableDiffusionControlNetImg2ImgPipeline": sd(
        "StableDiffusionControlNetImg2ImgPipeline", control_image_arguments(IMAGES), controlnet=build_controlnet
    ),
    "StableDiffusionControlNetInpaintPipeline": sd(
        "StableDiffusionControlNetInpaintPipeline", control_image_arguments(inpaint_arguments), half_mask(),
        controlnet=build_controlnet,
    ),
    "StableDiffusionAdapterPipeline": sd(
        "StableDiffusionAdapterPipeline", control_arguments, unet=ATTENTION_FIRST, adapter=build_adapter
    ),
    "StableDiffusionPAGPipeline": sd("StableDiffusionPAGPipeline", square),
    "StableDiffusionPAGImg2ImgPipeline": sd("StableDiffusionPAGImg2ImgPipeline", IMAGES),
    "StableDiffusionPAGInpaintPipeline": sd("StableDiffusionPAGInpaintPipeline", inpaint_arguments, half_mask()),
    "StableDiffusionControlNetPAGPipeline": sd(
        "StableDiffusionControlNetPAGPipeline", control_arguments, controlnet=build_controlnet
    ),
    "StableDiffusionControlNetPAGInpaintPipeline": sd(
        "StableDiffusionControlNetPAGInpaintPipeline", control_image_arguments(inpaint_arguments), half_mask(),
        controlnet=build_controlnet,
    ),
    "StableUnCLIPImg2ImgPipeline": sd(
        "StableUnCLIPImg2ImgPipeline",
        lambda items: square(items, image_embeds=draw(items, WIDTH, seed=4), noise_level=10),
        unet={"class_embed_type": "projection", "projection_class_embeddings_input_dim": 2 * WIDTH},
        feature_extractor=None, image_encoder=build_image_encoder, image_noising_scheduler=diffusers.DDPMScheduler,
        image_normalizer=partial(StableUnCLIPImageNormalizer, embedding_dim=WIDTH),
    ),
    "LatentConsistencyModelPipeline": sd(
        "LatentConsistencyModelPipeline", lambda items: without_negative(square(items)),
        unet={"time_cond_proj_dim": 8},
    ),
    "LatentConsistencyModelImg2ImgPipeline": sd(
        "LatentConsistencyModelImg2ImgPipeline", lambda items: without_negative(IMAGES(items)),
        unet={"time_cond_proj_dim": 8},
    ),
    "MarigoldDepthPipeline": marigold("MarigoldDepthPipeline", "depth"),
    "MarigoldNormalsPipeline": marigold("MarigoldNormalsPipeline", "normals"),
    "StableDiffusionPanoramaPipeline": Family(
        build_then(build_sd("StableDiffusionPanoramaPipeline", NO_ATTENTION), partial(set_scale, scale=8)),
        lambda items: square(items, height=512, width=512, guidance_scale=1.0),
    ),
    "StableDiffusionSAGPipeline": Family(build_sd("StableDiffusionSAGPipeline"), square, calls=2),
    "StableDiffusionLDM3DPipeline": Family(
        build_sd(
            "StableDiffusionLDM3DPipeline", image_encoder=None,
            vae=partial(build_vae, in_channels=6, out_channels=6, scaling_factor=1.0),
        ),
        lambda items: square(items, output_type="np"), decoder="vae.post_quant_conv",
    ),
    "StableDiffusionControlNetXSPipeline": Family(build_xs, control_arguments),
    "StableDiffusionGLIGENPipeline": sd(
        "StableDiffusionGLIGENPipeline",
        lambda items: square(items, gligen_phrases=["apple"], gligen_boxes=[[0.0, 0.0, 0.5, 0.5]]),
        unet={"attention_type": "gated"}, **TEXT_MODEL,
    ),
}  # fmt: skip

XL: dict[str, Family] = {
    "StableDiffusionXLPipeline": xl("StableDiffusionXLPipeline", xl_arguments(square)),
    "StableDiffusionXLPipeline, IP-Adapter": Family(
        build_then(build_xl("StableDiffusionXLPipeline"), load_ip_adapter), xl_arguments(ip_arguments)
    ),
    "StableDiffusionXLPipeline, LoRA": Family(
        build_then(build_xl("StableDiffusionXLPipeline"), load_lora), xl_arguments(square)
    ),
    "StableDiffusionXLImg2ImgPipeline": xl("StableDiffusionXLImg2ImgPipeline", xl_arguments(IMAGES)),
    "StableDiffusionXLImg2ImgPipeline, refiner": xl(
        "StableDiffusionXLImg2ImgPipeline", refiner_arguments,
        unet={"projection_class_embeddings_input_dim": 28}, requires_aesthetics_score=True,
    ),
    "StableDiffusionXLInpaintPipeline": xl(
        "StableDiffusionXLInpaintPipeline", xl_arguments(inpaint_arguments), half_mask()
    ),
    "StableDiffusionXLInstructPix2PixPipeline": xl(
        "StableDiffusionXLInstructPix2PixPipeline",
        xl_arguments(image_arguments, image_guidance_scale=1.5, height=SIZE, width=SIZE), unet={"in_channels": 8},
    ),
    "StableDiffusionXLControlNetPipeline": xl(
        "StableDiffusionXLControlNetPipeline", xl_arguments(control_arguments), controlnet=build_xl_controlnet
    ),
    "StableDiffusionXLControlNetImg2ImgPipeline": xl(
        "StableDiffusionXLControlNetImg2ImgPipeline", xl_arguments(control_image_arguments(IMAGES)),
        controlnet=build_xl_controlnet,
    ),
    "StableDiffusionXLControlNetInpaintPipeline": xl(
        "StableDiffusionXLControlNetInpaintPipeline", xl_arguments(control_image_arguments(inpaint_arguments)),
        half_mask(), controlnet=build_xl_controlnet,
    ),
    "StableDiffusionXLControlNetUnionPipeline": xl(
        "StableDiffusionXLControlNetUnionPipeline", union_arguments(square), controlnet=build_union
    ),
    "StableDiffusionXLControlNetUnionImg2ImgPipeline": xl(
        "StableDiffusionXLControlNetUnionImg2ImgPipeline", union_arguments(IMAGES), controlnet=build_union
    ),
    "StableDiffusionXLControlNetUnionInpaintPipeline": xl(
        "StableDiffusionXLControlNetUnionInpaintPipeline", union_arguments(inpaint_arguments), half_mask(),
        controlnet=build_union,
    ),
    "StableDiffusionXLAdapterPipeline": xl(
        "StableDiffusionXLAdapterPipeline", xl_arguments(control_arguments), unet=ATTENTION_FIRST,
        adapter=build_xl_adapter,
    ),
    "StableDiffusionXLPAGPipeline": xl("StableDiffusionXLPAGPipeline", xl_arguments(square)),
    "StableDiffusionXLPAGImg2ImgPipeline": xl("StableDiffusionXLPAGImg2ImgPipeline", xl_arguments(IMAGES)),
    "StableDiffusionXLPAGInpaintPipeline": xl(
        "StableDiffusionXLPAGInpaintPipeline", xl_arguments(inpaint_arguments), half_mask()
    ),
    "StableDiffusionXLControlNetPAGPipeline": xl(
        "StableDiffusionXLControlNetPAGPipeline", xl_arguments(control_arguments), controlnet=build_xl_controlnet
    ),
    "StableDiffusionXLControlNetPAGImg2ImgPipeline": xl(
        "StableDiffusionXLControlNetPAGImg2ImgPipeline", xl_arguments(control_image_arguments(IMAGES)),
        controlnet=build_xl_controlnet,
    ),
}  # fmt: skip

SD3_FAMILIES: dict[str, Family] = {
    "StableDiffusion3Pipeline": flow(
        build_transformer("StableDiffusion3Pipeline", build_sd3, vae=build_vae, **SD3_PARTS), xl_arguments(square), SD3
    ),
    "StableDiffusion3Img2ImgPipeline": flow(
        build_transformer(
            "StableDiffusion3Img2ImgPipeline", build_sd3, vae=partial(build_vae, shift_factor=0.06), **SD3_PARTS
        ),
        xl_arguments(IMAGES, height=SIZE, width=SIZE), SD3,
    ),
    "StableDiffusion3InpaintPipeline": flow(
        build_transformer(
            "StableDiffusion3InpaintPipeline", partial(build_sd3, 16), vae=partial(build_vae, 16, shift_factor=0.06),
            **SD3_PARTS,
        ),
        xl_arguments(inpaint_arguments), SD3, half_mask(),
    ),
    "StableDiffusion3PAGPipeline": flow(
        build_transformer(
            "StableDiffusion3PAGPipeline", build_sd3, vae=build_vae, pag_applied_layers=lambda: "blocks.0", **SD3_PARTS
        ),
        xl_arguments(square), SD3,
    ),
    "StableDiffusion3PAGImg2ImgPipeline": flow(
        build_transformer(
            "StableDiffusion3PAGImg2ImgPipeline", build_sd3, vae=partial(build_vae, shift_factor=0.06),
            pag_applied_layers=lambda: "blocks.0", **SD3_PARTS,
        ),
        xl_arguments(IMAGES, height=SIZE, width=SIZE), SD3,
    ),
    "StableDiffusion3ControlNetPipeline": flow(
        build_transformer(
            "StableDiffusion3ControlNetPipeline", partial(build_sd3, 16), vae=partial(build_vae, 16, shift_factor=0.06),
            controlnet=build_sd3_controlnet, **SD3_PARTS,
        ),
        xl_arguments(control_image_arguments(square)), SD3,
    ),
    "StableDiffusion3ControlNetInpaintingPipeline": flow(
        build_transformer(
            "StableDiffusion3ControlNetInpaintingPipeline", partial(build_sd3, 16),
            vae=partial(build_vae, 16, shift_factor=0.06), controlnet=partial(build_sd3_controlnet, 1), **SD3_PARTS,
        ),
        lambda items: square(
            items, control_image=draw_images(items), control_mask=half_mask().expand(len(items), -1, -1, -1)
        ) | pooled(items),
        SD3,
    ),
}  # fmt: skip

TRANSFORMERS: dict[str, Family] = {
    "PixArtAlphaPipeline": Family(
        build_transformer("PixArtAlphaPipeline", build_pixart, vae=build_vae), partial(masked, **NO_BINNING),
        denoiser="transformer",
    ),
    "PixArtSigmaPipeline": Family(
        build_transformer("PixArtSigmaPipeline", build_pixart, vae=build_vae), partial(masked, **NO_BINNING),
        denoiser="transformer",
    ),
    "PixArtSigmaPAGPipeline": Family(
        build_transformer(
            "PixArtSigmaPAGPipeline", build_pixart, vae=build_vae, pag_applied_layers=lambda: "blocks.0"
        ),
        partial(masked, **NO_BINNING), denoiser="transformer",
    ),
    "DiTPipeline": Family(
        build_dit_pipeline, lambda items: {"class_labels": [item + 1 for item in items], "guidance_scale": 1.0},
        denoiser="transformer", decoder="vae.post_quant_conv",
    ),
    "HunyuanDiTPipeline": Family(
        build_transformer("HunyuanDiTPipeline", build_hunyuan, vae=None, **TWO_TEXTS, **SAFETY), hunyuan_arguments,
        denoiser="transformer", config=HUNYUAN,
    ),
    "HunyuanDiTPAGPipeline": Family(
        build_transformer(
            "HunyuanDiTPAGPipeline", build_hunyuan, vae=None, pag_applied_layers=lambda: "blocks.1", **TWO_TEXTS,
            **SAFETY,
        ),
        hunyuan_arguments, denoiser="transformer", config=HUNYUAN,
    ),
    "HunyuanDiTControlNetPipeline": Family(
        build_transformer(
            "HunyuanDiTControlNetPipeline", partial(build_hunyuan, 4), vae=build_scaling_vae,
            controlnet=build_hunyuan_controlnet, **TWO_TEXTS, **SAFETY,
        ),
        lambda items: hunyuan_arguments(items) | {
            "control_image": torch.sigmoid(draw(items, 3, 64, 64, seed=1))
        },
        denoiser="transformer",
        config=HUNYUAN,
    ),
    "CogView3PlusPipeline": Family(
        build_transformer("CogView3PlusPipeline", build_cogview3, vae=build_vae), square, denoiser="transformer",
        config=HUNYUAN,
    ),
    "AuraFlowPipeline": flow(
        build_transformer("AuraFlowPipeline", build_aura, vae=build_vae), masked, {"shift": 1.73}
    ),
    "SanaPipeline": flow(build_transformer("SanaPipeline", build_sana, vae=None), sana_arguments),
    "SanaPAGPipeline": flow(
        build_transformer("SanaPAGPipeline", build_sana, vae=None, pag_applied_layers=lambda: "blocks.0"),
        lambda items: sana_arguments(items) | {"height": 8 * SIZE, "width": 8 * SIZE},
    ),
    "SanaControlNetPipeline": flow(
        build_transformer("SanaControlNetPipeline", build_sana, vae=build_dc, controlnet=build_sana_controlnet),
        lambda items: sana_arguments(items) | {"control_image": draw_images(items), "height": 32, "width": 32},
    ),
    "SanaSprintPipeline": flow(
        build_transformer("SanaSprintPipeline", build_sana, vae=None),
        lambda items: without_negative(sana_arguments(items)) | {"intermediate_timesteps": None},
    ),
    "LuminaPipeline": flow(build_transformer("LuminaPipeline", build_lumina, vae=build_vae), lumina_arguments),
    "Lumina2Pipeline": flow(
        build_transformer("Lumina2Pipeline", build_lumina2, vae=build_vae),
        lambda items: masked(items, height=8 * SIZE, width=8 * SIZE, guidance_scale=1.0),
    ),
    "CogView4Pipeline": flow(
        build_transformer("CogView4Pipeline", build_cogview, vae=build_vae),
        lambda items: square(items, guidance_scale=1.0, height=16, width=16), {"use_dynamic_shifting": True},
    ),
    "CogView4ControlPipeline": flow(
        build_transformer("CogView4ControlPipeline", partial(build_cogview, 8), vae=build_vae),
        lambda items: square(items, control_image=draw_images(items), guidance_scale=1.0, height=16, width=16),
        {"use_dynamic_shifting": True},
    ),
    "HiDreamImagePipeline": flow(
        build_then(
            build_transformer(
                "HiDreamImagePipeline", build_hidream, vae=None, text_encoder_4=None, tokenizer_4=None, **SD3_PARTS
            ),
            lambda pipe: setattr(pipe, "default_sample_size", SIZE),  # each size is scaled to this area
        ),
        hidream_arguments,
    ),
    "HunyuanImagePipeline": flow(
        build_transformer("HunyuanImagePipeline", build_hunyuan_image, vae=None, **TWO_TEXTS), hunyuan_image_arguments
    ),
    "ZImagePipeline": flow(
        build_transformer("ZImagePipeline", build_z_image, vae=None), z_image_arguments, {"shift": 3.0}
    ),
    "ZImageImg2ImgPipeline": flow(
        build_transformer("ZImageImg2ImgPipeline", build_z_image, vae=partial(build_vae, shift_factor=0.06)),
        lambda items: z_image_arguments(items) | {
            "image": draw_images(items), "strength": 0.5, "height": SIZE, "width": SIZE
        }, {"shift": 3.0},
    ),
    "ZImageInpaintPipeline": flow(
        build_transformer("ZImageInpaintPipeline", build_z_image, vae=partial(build_vae, shift_factor=0.06)),
        lambda items: z_image_arguments(items) | {
            "image": draw_images(items), "mask_image": half_mask().expand(len(items), -1, -1, -1), "strength": 1.0,
            "height": SIZE, "width": SIZE,
        },
        {"shift": 3.0}, half_mask(),
    ),
    "PRXPipeline": flow(build_transformer("PRXPipeline", build_prx, vae=None), prx_arguments),
    "ErnieImagePipeline": flow(build_transformer("ErnieImagePipeline", build_ernie, vae=None), listed),
    "GlmImagePipeline": flow(
        build_transformer("GlmImagePipeline", build_glm, vae=None, processor=None, vision_language_encoder=None),
        lambda items: glm_arguments(items) | {"guidance_scale": 1.0},
    ),
    "FluxPipeline": flow(
        build_transformer("FluxPipeline", build_flux, vae=build_vae, **TWO_TEXTS), flux_arguments
    ),
    "WanPipeline": flow(
        build_transformer("WanPipeline", build_wan, vae=None),
        lambda items: prompts(items, height=8 * SIZE, width=8 * SIZE, num_frames=1, guidance_scale=1.0),
    ),
}  # fmt: skip

OTHERS: dict[str, Family] = {
    "KandinskyV22Pipeline": Family(build_kandinsky, kandinsky_arguments, config=KANDINSKY),
    "KandinskyV22Pipeline, learned variance": Family(
        build_kandinsky, kandinsky_arguments, config=KANDINSKY | {"variance_type": "learned_range"}
    ),
    "KandinskyV22Img2ImgPipeline": Family(
        partial(build_kandinsky, name="KandinskyV22Img2ImgPipeline"),
        partial(kandinsky_image_arguments, strength=0.8), config=KANDINSKY,
    ),
    "KandinskyV22Img2ImgPipeline, begins in the bypass": Family(
        partial(build_kandinsky, name="KandinskyV22Img2ImgPipeline"),
        partial(kandinsky_image_arguments, strength=0.5), config=KANDINSKY,
    ),
    "KandinskyV22InpaintPipeline": Family(
        partial(build_kandinsky, name="KandinskyV22InpaintPipeline", channels=9),
        kandinsky_inpaint_arguments, config=KANDINSKY, mask=half_mask(SIZE // 2 - 1),
    ),
    "KandinskyPipeline": Family(
        build_kandinsky1, kandinsky1_arguments, config=KANDINSKY, decoder="movq.post_quant_conv"
    ),
    "KandinskyImg2ImgPipeline": Family(
        partial(build_kandinsky1, name="KandinskyImg2ImgPipeline"),
        lambda items: kandinsky1_arguments(items) | kandinsky_image_arguments(items, 0.8), config=KANDINSKY,
        decoder="movq.post_quant_conv",
    ),
    "KandinskyInpaintPipeline": Family(
        partial(build_kandinsky1, name="KandinskyInpaintPipeline", channels=9),
        lambda items: kandinsky1_arguments(items) | kandinsky_inpaint_arguments(items), config=KANDINSKY,
        decoder="movq.post_quant_conv",
    ),
    "KandinskyV22ControlnetPipeline": Family(
        partial(build_kandinsky, name="KandinskyV22ControlnetPipeline", channels=8, kind="image_hint"),
        lambda items: kandinsky_hint_arguments(items, output_type="pt"), config=KANDINSKY,
        decoder="movq.post_quant_conv",
    ),
    "KandinskyV22ControlnetImg2ImgPipeline": Family(
        partial(build_kandinsky, name="KandinskyV22ControlnetImg2ImgPipeline", channels=8, kind="image_hint"),
        lambda items: kandinsky_image_arguments(items, 0.8) | kandinsky_hint_arguments(items, output_type="pt"),
        config=KANDINSKY, decoder="movq.post_quant_conv",
    ),
    "Kandinsky3Pipeline": Family(
        build_kandinsky3, partial(kandinsky3_arguments, height=2 * SIZE, width=2 * SIZE), config=KANDINSKY),
    "Kandinsky3Img2ImgPipeline": Family(
        partial(build_kandinsky3, name="Kandinsky3Img2ImgPipeline"),
        lambda items: kandinsky3_arguments(
            items, image=torch.sigmoid(draw(items, 3, 2 * SIZE, 2 * SIZE, seed=1)), strength=0.8
        ),
        config=KANDINSKY,
    ),
    "IFPipeline": Family(build_if, lambda items: square(items, output_type="pt"), config=STABLE_DIFFUSION),
    "IFPipeline, learned variance": Family(build_if, lambda items: square(items, output_type="pt"), config=DEEPFLOYD),
    "IFImg2ImgPipeline": Family(
        partial(build_if, name="IFImg2ImgPipeline"), partial(IMAGES, output_type="pt"), config=DEEPFLOYD
    ),
    "IFInpaintingPipeline": Family(
        partial(build_if, name="IFInpaintingPipeline"),
        lambda items: prompts(
            items, image=draw_images(items), mask_image=half_mask().expand(len(items), -1, -1, -1), output_type="pt"
        ),
        config=DEEPFLOYD, mask=half_mask(),
    ),
    "IFSuperResolutionPipeline": Family(
        partial(build_if, name="IFSuperResolutionPipeline"),
        lambda items: square(items, image=draw_images(items), noise_level=20, output_type="pt"), config=DEEPFLOYD,
    ),
    "IFImg2ImgSuperResolutionPipeline": Family(
        partial(build_if, name="IFImg2ImgSuperResolutionPipeline"),
        partial(super_arguments, strength=0.8), config=DEEPFLOYD,
    ),
    "IFInpaintingSuperResolutionPipeline": Family(
        partial(build_if, name="IFInpaintingSuperResolutionPipeline"),
        lambda items: super_arguments(
            items, strength=1.0, mask_image=half_mask().expand(len(items), -1, -1, -1)
        ),
        config=DEEPFLOYD, mask=half_mask(),
    ),
    "DDPMPipeline": Family(
        build_unconditional("DDPMPipeline"), lambda items: {"batch_size": len(items), "output_type": "np"},
        shown=show_pixels,
    ),
    "DDIMPipeline": Family(
        build_unconditional("DDIMPipeline"), lambda items: {"batch_size": len(items), "output_type": "np"},
        shown=show_pixels,
    ),
    "AnimateDiffPipeline": Family(
        build_animatediff, lambda items: square(items, num_frames=2),
        config={"beta_schedule": "linear", "clip_sample": False, "steps_offset": 1},
    ),
}  # fmt: skip

MORE: dict[str, Family] = {
    "BriaFibo2Pipeline": flow(
        build_transformer("BriaFibo2Pipeline", build_bria, vae=None, tokenizer=absent, processor=None),
        lambda items: {
            "prompt_embeds": draw(items, 2, TOKENS, WIDTH, seed=2), "height": 8 * SIZE, "width": 8 * SIZE,
            "guidance_scale": 1.0,
        },
        {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15},
    ),
    "ConsistencyModelPipeline": Family(
        build_unconditional("ConsistencyModelPipeline"),
        lambda items: {"batch_size": len(items), "output_type": "np"}, shown=show_pixels,
    ),
    "LDMSuperResolutionPipeline": Family(
        build_ldm_super, lambda items: {"image": draw_images(items), "output_type": "pt"},
        decoder="vqvae.quantize",
    ),
    "LDMTextToImagePipeline": Family(
        build_ldm, lambda items: text_arguments(items) | {"height": 8 * SIZE, "width": 8 * SIZE, "output_type": "np"},
        decoder="vqvae.quantize",
    ),
    "OmniGenPipeline": flow(
        lambda scheduler: diffusers.OmniGenPipeline(
            transformer=build_omnigen().eval(), vae=build_scaling_vae(), tokenizer=build_tokenizer(),
            scheduler=scheduler,
        ),
        lambda items: text_arguments(items) | {"height": 8 * SIZE, "width": 8 * SIZE},
    ),
    "PRXPixelPipeline": flow(
        build_transformer("PRXPixelPipeline", partial(build_prx, 3)),
        lambda items: prx_arguments(items) | {"height": SIZE, "width": SIZE, "output_type": "pt"},
    ),
    "StableCascadePriorPipeline": Family(
        lambda scheduler: diffusers.StableCascadePriorPipeline(
            prior=build_cascade(
                conditioning_dim=WIDTH, clip_text_in_channels=WIDTH, clip_image_in_channels=WIDTH, clip_seq=1
            ),
            scheduler=scheduler, resolution_multiple=8, text_encoder=build_text_encoder(), tokenizer=None,
        ),
        lambda items: cascade_arguments(items) | {"height": 8 * SIZE, "width": 8 * SIZE}, denoiser="prior",
    ),
    "StableCascadeDecoderPipeline": Family(
        lambda scheduler: diffusers.StableCascadeDecoderPipeline(
            decoder=build_cascade(conditioning_dim=WIDTH, effnet_in_channels=4, clip_seq=1), vqgan=None,
            scheduler=scheduler, **TEXT,
        ),
        lambda items: cascade_arguments(items) | {"image_embeddings": draw(items, 4, 2, 2, seed=6)},
        denoiser="decoder",
    ),
    "ZImageControlNetPipeline": flow(
        build_transformer(
            "ZImageControlNetPipeline", build_z_image, vae=partial(build_vae, shift_factor=0.06),
            controlnet=build_z_controlnet,
        ),
        lambda items: z_image_arguments(items) | {"control_image": draw_images(items), "height": SIZE, "width": SIZE},
        {"shift": 3.0},
    ),
    "SanaSprintImg2ImgPipeline": flow(
        build_transformer("SanaSprintImg2ImgPipeline", build_sana, vae=build_dc),
        lambda items: without_negative(sana_arguments(items)) | {
            "intermediate_timesteps": None, "image": draw_images(items), "height": 32, "width": 32
        },
    ),
    "ZImageControlNetInpaintPipeline": flow(
        build_transformer(
            "ZImageControlNetInpaintPipeline", build_z_image, vae=partial(build_vae, shift_factor=0.06),
            controlnet=partial(build_z_controlnet, 9),
        ),
        lambda items: z_image_arguments(items) | {
            "control_image": draw_images(items, seed=7), "image": draw_images(items),
            "mask_image": half_mask().expand(len(items), -1, -1, -1), "height": SIZE, "width": SIZE,
        },
        {"shift": 3.0},
    ),
    "MarigoldIntrinsicsPipeline": marigold("MarigoldIntrinsicsPipeline", "intrinsics", 2),
    "StableDiffusionXLControlNetXSPipeline": Family(
        partial(build_xs, name="StableDiffusionXLControlNetXSPipeline"), xl_arguments(control_arguments)
    ),
    "StableDiffusionPipelineSafe": Family(
        build_sd(
            "StableDiffusionPipelineSafe", image_encoder=None, vae=partial(build_vae, scaling_factor=1.0), **TEXT_MODEL
        ),
        lambda items: text_arguments(items) | {"height": SIZE, "width": SIZE, "output_type": "np"},
        decoder="vae.post_quant_conv",
    ),
    "TextToVideoSDPipeline": Family(
        build_text_to_video, lambda items: square(items, num_frames=2), shown=show_frames,
        given=lambda seen: seen.movedim(2, 1).flatten(0, 1),
    ),
    "QwenImagePipeline": flow(
        build_transformer("QwenImagePipeline", build_qwen, vae=None), qwen_arguments
    ),
}  # fmt: skip

FAMILIES: dict[str, Family] = STABLE | XL | SD3_FAMILIES | TRANSFORMERS | OTHERS | MORE


def list_pipelines() -> dict[str, type]:
    """List the pipeline classes that diffusers exports, by name; modular ones, blocks and outputs too."""
    classes = {name: getattr(diffusers, name) for name in dir(diffusers) if "Pipeline" in name}
    return {name: each for name, each in classes.items() if inspect.isclass(each)}


def list_arguments(kind: type, method: str) -> list[str]:
    return list(inspect.signature(getattr(kind, method)).parameters)


def read_source(kind: type) -> str:
    return inspect.getsource(sys.modules[kind.__module__])


# Why a class is not examined, the first that applies: what can be read of the class, and the reason.
RULES: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (lambda kind: hasattr(kind, "_backends"), "need packages that are no dependencies here"),
    (lambda kind: issubclass(kind, diffusers.ModularPipeline), "modular pipelines, whose loops are in blocks"),
    (lambda kind: not issubclass(kind, diffusers.DiffusionPipeline), "no pipelines: blocks, outputs, factories"),
    (lambda kind: "scheduler" not in list_arguments(kind, "__init__"), "no scheduler to swap"),
    (lambda kind: ".deprecated." in kind.__module__, "deprecated in diffusers"),
    (
        lambda kind: "decoder_pipe" in read_source(kind),
        "two pipelines in one; the decoder's is examined, set `pipe.decoder_pipe.scheduler`",
    ),
    (lambda kind: "audio" in kind.__module__, "sound"),
    (
        lambda kind: "num_frames" in list_arguments(kind, "__call__") or "video" in kind.__module__,
        "latents of videos, refused like AnimateDiff's and Wan's",
    ),
    (lambda kind: "_pack_latents" in read_source(kind), "packed latents, refused like Flux's and QwenImage's"),
)
VIDEO = "latents of videos, refused like AnimateDiff's and Wan's"
PACKED = "packed latents, refused like Flux's and QwenImage's"
EMBEDDINGS = "embeddings or text instead of latents; their schedulers are refused"
NO_EMBEDS = "take no prompt embeddings, and their text encoder cannot be made small from a configuration"
REASONS = {
    "AceStepPipeline": "sound",
    "BlipDiffusionControlNetPipeline": NO_EMBEDS,
    "Cosmos2TextToImagePipeline": VIDEO,
    "DiffusionGemmaPipeline": EMBEDDINGS,
    "DreamLiteMobilePipeline": NO_EMBEDS,
    "DreamLitePipeline": NO_EMBEDS,
    "HunyuanImageRefinerPipeline": VIDEO,
    "Ideogram4Pipeline": PACKED,
    "JoyImageEditPipeline": VIDEO,
    "JoyImageEditPlusPipeline": VIDEO,
    "Kandinsky5I2IPipeline": VIDEO,
    "Kandinsky5T2IPipeline": VIDEO,
    "Kandinsky6SRPipeline": VIDEO,
    "KandinskyPriorPipeline": EMBEDDINGS,
    "KandinskyV22PriorEmb2EmbPipeline": EMBEDDINGS,
    "KandinskyV22PriorPipeline": EMBEDDINGS,
    "LEditsPPPipelineStableDiffusion": "make steps of their own, refused with a bypass",
    "LEditsPPPipelineStableDiffusionXL": "make steps of their own, refused with a bypass",
    "LLaDA2Pipeline": EMBEDDINGS,
    "LTX2VideoDiffusionDecodePipeline": VIDEO,
    "LattePipeline": VIDEO,
    **dict.fromkeys(
        (
            "SkyReelsV2DiffusionForcingPipeline", "SkyReelsV2DiffusionForcingImageToVideoPipeline",
            "SkyReelsV2DiffusionForcingVideoToVideoPipeline",
        ),
        "step each frame of a video with a copy of the scheduler",
    ),
    "ShapEImg2ImgPipeline": EMBEDDINGS,
    "ShapEPipeline": EMBEDDINGS,
    "StableUnCLIPPipeline": "StableUnCLIPImg2Img's loop after a prior",
    "VisualClozePipeline": PACKED,
    "WanAnimatePipeline": VIDEO,
    "ZImageOmniPipeline": NO_EMBEDS,
}  # fmt: skip


def explain_absence(name: str) -> str | None:
    """Say why an exported pipeline class is not examined.

    Args:
        name: of the class.

    Returns:
        The reason; None: it is examined, or there is none.
    """
    if name in {family.split(",")[0] for family in FAMILIES}:
        return None
    kind = list_pipelines()[name]
    found = next((reason for applies, reason in RULES if applies(kind)), None)
    return REASONS.get(name, found)
