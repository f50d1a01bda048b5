"""Tiny Stable Diffusion and SDXL pipelines of random weights, of diffusers' and transformers' own classes."""

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

SIDE, FACTOR, TOKENS = 8, 8, 12  # latents are SIDE x SIDE, images FACTOR times as large
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer of single letters."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = "abcdefghijklmnopqrstuvwxyz,"
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=TOKENS)


def build_text_config(width: int, tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    size = len(tokenizer)
    return CLIPTextConfig(
        vocab_size=size, hidden_size=width, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=TOKENS, projection_dim=8, bos_token_id=size - 2, eos_token_id=size - 1,
        pad_token_id=size - 1,
    )  # fmt: skip


def build_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8,) * 4, layers_per_block=1, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, norm_num_groups=4, scaling_factor=0.5, force_upcast=True,
    )  # fmt: skip


def build_unet(width: int, **options: object) -> UNet2DConditionModel:
    return UNet2DConditionModel(**{
        "sample_size": SIDE, "block_out_channels": (8, 16), "layers_per_block": 1, "cross_attention_dim": width,
        "norm_num_groups": 4, "attention_head_dim": 4, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    } | options)  # fmt: skip


def build_safety_checker() -> StableDiffusionSafetyChecker:
    """A checker that blocks nothing: no image comes nearer to a concept than 1.1."""
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 16, "patch_size": 8}  # fmt: skip
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=8))
    checker.concept_embeds_weights.data.fill_(1.1)
    checker.special_care_embeds_weights.data.fill_(1.1)
    return checker


def save_stable_diffusion(folder: Path) -> Path:
    """A `StableDiffusionPipeline` as Stable Diffusion 1.5's: with PNDM and a safety checker."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(folder / "tokenizer")
    StableDiffusionPipeline(
        vae=build_vae(), text_encoder=CLIPTextModel(build_text_config(16, tokenizer)), tokenizer=tokenizer,
        unet=build_unet(16), scheduler=PNDMScheduler(skip_prk_steps=True, **SCHEDULE),
        safety_checker=build_safety_checker(),
        feature_extractor=CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def save_stable_diffusion_xl(folder: Path) -> Path:
    """A `StableDiffusionXLPipeline` as SDXL's base: two text encoders, Euler."""
    torch.manual_seed(0)
    first, second = (build_tokenizer(folder / name) for name in ("tokenizer", "tokenizer_2"))
    unet = build_unet(
        16, addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=32
    )
    StableDiffusionXLPipeline(
        vae=build_vae(), text_encoder=CLIPTextModel(build_text_config(8, first)), tokenizer=first,
        text_encoder_2=CLIPTextModelWithProjection(build_text_config(8, second)), tokenizer_2=second,
        unet=unet, scheduler=EulerDiscreteScheduler(**SCHEDULE),
    ).save_pretrained(folder)  # fmt: skip
    return folder
