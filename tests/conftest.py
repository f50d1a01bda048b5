"""What all tests share: seeded random numbers, a small data set in the format of the emoji data set, a tiny pipeline."""

import hashlib
import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image, ImageDraw
from transformers import BertConfig, BertModel, BertTokenizer

from latentcrf import precision
from latentcrf.training import loop
from recipes.emoji.dataset import write_tables

COLOURS = ("red", "orange", "gold", "green", "teal", "blue", "purple", "brown")
SHAPES = ("ellipse", "rectangle", "rounded_rectangle")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Each test draws the same random numbers in every run and in any order."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _float32() -> Iterator[None]:
    """Precision "auto" is float32 on every CPU, so that tests compute the same everywhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "_cpu_has_bfloat16", lambda: False)
        yield


@pytest.fixture
def one_second_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each training step takes one second of the budget, on every processor."""
    clock = SimpleNamespace(monotonic=partial(next, itertools.count()))
    monkeypatch.setattr(loop, "time", clock)


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight subjects in three styles, drawn here."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "images").mkdir()
    rows = []
    for index, colour in enumerate(COLOURS):
        for style, shape in zip(("3d", "flat", "noto"), SHAPES, strict=True):
            image = Image.new("RGB", (128, 128), "white")
            getattr(ImageDraw.Draw(image), shape)((16 + index, 20, 100, 108 - index), fill=colour)
            file = f"images/{index}_{style}.png"
            image.save(folder / file)
            rows.append(
                {
                    "text": f"{colour} shape",
                    "tags": [colour, shape, "plain"],
                    "group": "activities",
                    "subgroup": "game",
                    "code_point": str(index),
                    "core": True,
                    "style": style,
                    "package": "none",
                    "licence": "none",
                    "pixels_sha256": hashlib.sha256(np.asarray(image).tobytes()).hexdigest(),
                    "file_name": file,
                    "split": "test" if index % 4 == 0 and style == "noto" else "train",
                }
            )
    write_tables(folder, rows)
    return folder


@pytest.fixture(scope="session")
def tiny_pipeline() -> StableDiffusionPipeline:
    """A text-to-image pipeline of tiny random networks: latents (4, 8, 8), images of 16 px."""
    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "apple", "pizza"]
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=8,
    )  # fmt: skip
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL(block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
                          up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, scaling_factor=0.5),
        text_encoder=BertModel(config).eval(),
        tokenizer=BertTokenizer(vocab={word: i for i, word in enumerate(words)}, model_max_length=8),
        unet=UNet2DConditionModel(
            sample_size=8, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=16, norm_num_groups=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        ),
        scheduler=DDIMScheduler(prediction_type="v_prediction", timestep_spacing="trailing", clip_sample=False,
                                steps_offset=1, rescale_betas_zero_snr=True),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
