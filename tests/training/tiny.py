"""Tiny pipelines of the real classes, made from configurations on the spot: latents (4, 8, 8), images of 16 px."""

import string
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers import UNet2DConditionModel as UNet
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

WIDTH = 16  # of each text encoder's token states
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def build_tokenizer() -> CLIPTokenizer:
    letters = list(string.ascii_lowercase)
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=[], model_max_length=8)


def build_text_encoder(kind: Any = CLIPTextModel) -> Any:
    config = CLIPTextConfig(
        vocab_size=54, hidden_size=WIDTH, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=8, projection_dim=12, bos_token_id=52, eos_token_id=53, pad_token_id=53,
    )  # fmt: skip
    return kind(config).eval()


def build_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 2, scaling_factor=0.5,
    ).eval()  # fmt: skip


def build_unet(width: int, **more: Any) -> UNet:
    return UNet(**{
        "sample_size": 8, "block_out_channels": (8, 16), "layers_per_block": 1, "cross_attention_dim": width,
        "norm_num_groups": 4, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), **more,
    }).eval()  # fmt: skip


def build_scheduler(prediction_type: str) -> Any:
    """The scheduler that Stable Diffusion comes with, which training replaces."""
    if prediction_type == "sample":  # which PNDM does not know
        return diffusers.DDIMScheduler(prediction_type="sample", clip_sample=False, **SCHEDULE)
    return PNDMScheduler(prediction_type=prediction_type, skip_prk_steps=True, **SCHEDULE)


def build_sd(prediction_type: str = "epsilon", **unet: Any) -> StableDiffusionPipeline:
    torch.manual_seed(0)
    return StableDiffusionPipeline(
        vae=build_vae(), text_encoder=build_text_encoder(), tokenizer=build_tokenizer(), unet=build_unet(WIDTH, **unet),
        scheduler=build_scheduler(prediction_type), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip


def build_sdxl(prediction_type: str = "epsilon", **unet: Any) -> StableDiffusionXLPipeline:
    torch.manual_seed(0)
    more = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4}
    more["projection_class_embeddings_input_dim"] = 6 * 4 + 12
    return StableDiffusionXLPipeline(
        vae=build_vae(), text_encoder=build_text_encoder(), text_encoder_2=build_text_encoder(
            CLIPTextModelWithProjection
        ), tokenizer=build_tokenizer(), tokenizer_2=build_tokenizer(), unet=build_unet(2 * WIDTH, **more | unet),
        scheduler=build_scheduler(prediction_type), add_watermarker=False,
    )  # fmt: skip


PIPELINES = {"StableDiffusionPipeline": build_sd, "StableDiffusionXLPipeline": build_sdxl}
