"""The models that ship: whole, of the promised size, and usable as their cards say. tests/golden hold their results."""

import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, UniPCMultistepScheduler

from analysis.metrics.pixels import to_pixels
from analysis.sampling import count_calls, decode, load_pipeline, sample
from latentcrf import Finisher, LatentCRF, LatentCRFScheduler, Observation
from latentcrf.guidance import cutoff
from latentcrf.training.final_latents import FinalLatentsSettings, FinisherTeacher
from latentcrf.training.train_finisher import remaining_error
from latentcrf.utils.weights import MODELS

ROOT = Path(__file__).parents[1]
CRFS = ("emoji-latentcrf", "emoji-latentcrf-static", "emoji-latentcrf-finisher")
PROMPT, SEED, BYPASS = "red heart", 0, (33, 49)


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    return load_pipeline()


def load(name: str) -> LatentCRF:
    """A LatentCRF of assets/models, in float32."""
    return LatentCRF.from_pretrained(MODELS / name, torch_dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def crf() -> LatentCRF:
    return load("emoji-latentcrf")


def draw(
    pipeline: StableDiffusionPipeline, crf: LatentCRF, prompts: list[str], seeds: list[int], steps: int = 50,
    bypass: tuple[int, int] = BYPASS,
) -> np.ndarray:  # fmt: skip
    """LatentCRF's images, uint8 (B, H, W, 3), in float32: the type that differs least between machines."""
    scheduler = LatentCRFScheduler(pipeline.scheduler, crf, bypass=bypass)
    latents = sample(pipeline, prompts, seeds, steps=steps, scheduler=scheduler)
    return to_pixels(decode(pipeline, latents))


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference, in levels of 255."""
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


def test_the_batch_size_does_not_change_the_images(pipeline: StableDiffusionPipeline, crf: LatentCRF) -> None:
    prompts, seeds = ["red heart", "full moon", "rocket"], [3, 4, 5]
    short: dict[str, Any] = {"steps": 12, "bypass": (8, 11)}
    together = draw(pipeline, crf, prompts, seeds, **short)
    alone = [draw(pipeline, crf, [prompt], [seed], **short)[0] for prompt, seed in zip(prompts, seeds, strict=True)]
    assert all(difference(a, b) < 0.5 for a, b in zip(alone, together, strict=True))
    assert np.array_equal(draw(pipeline, crf, prompts[:1], seeds[:1], **short)[0], alone[0])  # the very same run


def test_the_static_form_changes_images_as_measured(pipeline: StableDiffusionPipeline) -> None:
    """509 numbers, an energy that never rises, and images that stay what they were, with less contrast."""
    static = load("emoji-latentcrf-static")
    assert sum(p.numel() for p in static.parameters()) == 509
    finishers = (None, Finisher(static))
    schedulers = [LatentCRFScheduler(pipeline.scheduler, None, None, finisher=each) for each in finishers]
    prompts, seeds = ["red heart", "rocket"], [0, 1]
    plain, finished = (sample(pipeline, prompts, seeds, steps=8, scheduler=each) for each in schedulers)
    with torch.inference_mode():
        potentials = static.potentials(Observation(plain, plain, 1.0, 1.0))
        energies = torch.stack([static.energy(y, potentials)["total"] for y in static.solve(potentials, 20)])
    assert (energies.diff(dim=0) <= 1e-5 * energies[0]).all()
    assert torch.allclose(finished, static(Observation(plain, plain, 1.0, 1.0)), atol=1e-4)
    assert finished.std() < 0.97 * plain.std()  # less contrast than guidance gave
    before, after = (to_pixels(decode(pipeline, each)) for each in (plain, finished))
    assert 0.5 < difference(before, after) < 15


def test_the_finisher_does_at_once_what_it_learned(pipeline: StableDiffusionPipeline) -> None:
    """Most of what its teacher does to final latents that it has not seen, by a converged solver."""
    finisher, static = load("emoji-latentcrf-finisher"), load("emoji-latentcrf-static")
    size = {model: sum(p.numel() for p in model.parameters()) for model in (finisher, pipeline.unet)}
    assert size[finisher] <= size[pipeline.unet] / 10
    prompts, seeds = ["red heart", "rocket", "dog face", "full moon"], [0, 1, 2, 3]
    inner = UniPCMultistepScheduler.from_config(pipeline.scheduler.config)
    final = sample(pipeline, prompts, seeds, steps=8, scheduler=inner)
    with torch.inference_mode():
        wanted = FinisherTeacher(static, pipeline.vae, FinalLatentsSettings())(final)
        assert remaining_error(finisher, final, wanted) < 0.4
        potentials = finisher.potentials(Observation(final, final, 1.0, 1.0))
        iterates = list(finisher.solve(potentials, 20))
        energies = torch.stack([finisher.energy(y, potentials)["total"] for y in iterates])
    assert (energies.diff(dim=0) <= 1e-5 * energies.abs().amax(0)).all()
    steps = torch.stack([(b - a).flatten(1).norm(dim=1) / a.flatten(1).norm(dim=1) for a, b in pairwise(iterates)])
    assert (steps[4] <= steps[0] / 10).all() or (steps[:5] < 1e-6).all()


CARDS = [pytest.param(f"assets/models/{name}/README.md", marks=pytest.mark.slow) for name in CRFS]


@pytest.mark.parametrize("text", ["README.md", *CARDS])
def test_the_example_that_the_text_shows_runs(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = re.findall(r"```python\n(.*?)```", (ROOT / text).read_text(), flags=re.DOTALL)
    assert examples
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    monkeypatch.chdir(tmp_path)
    for example in examples:
        names: dict[str, Any] = {}
        exec(example, names)
        assert names["image"].size == (128, 128) and np.asarray(names["image"]).std() > 10


def test_guidance_is_cut_off_in_the_shipped_pipeline(pipeline: StableDiffusionPipeline) -> None:
    """Two prompts, two images each, a wrapped scheduler: the last calls are half the work, all images are there."""
    own = pipeline.scheduler
    pipeline.scheduler = LatentCRFScheduler(own, None, bypass=(6, 8))
    try:
        with count_calls(pipeline.unet) as calls:
            images = pipeline(
                ["red apple", "pizza"], num_images_per_prompt=2, num_inference_steps=11, guidance_scale=3.0,
                callback_on_step_end=cutoff(1 / 3), output_type="np", generator=torch.Generator().manual_seed(0),
            ).images  # fmt: skip
    finally:
        pipeline.scheduler = own
    assert images.shape == (4, 128, 128, 3) and calls == [8] * 6 + [4] * 3


def test_34_calls_of_50_and_a_tenth_of_the_parameters(pipeline: StableDiffusionPipeline, crf: LatentCRF) -> None:
    with count_calls(pipeline.unet) as calls:
        draw(pipeline, crf, [PROMPT], [SEED])
    assert len(calls) == 34
    size = {model: sum(p.numel() for p in model.parameters()) for model in (crf, pipeline.unet)}
    assert size[crf] <= size[pipeline.unet] / 10
    assert size[pipeline.unet] <= 30e6


def test_the_trained_energy_never_rises_and_the_solver_converges(
    pipeline: StableDiffusionPipeline, crf: LatentCRF
) -> None:
    scheduler = LatentCRFScheduler(pipeline.scheduler, crf, bypass=(13, 19))
    sample(pipeline, ["red heart", "rocket", "dog face"], [0, 1, 2], steps=20, scheduler=scheduler)
    with torch.inference_mode():
        potentials = crf.potentials(scheduler.last_bypass.observation)
        iterates = list(crf.solve(potentials, 50))
        energies = torch.stack([crf.energy(y, potentials)["total"] for y in iterates])
    scale = energies.abs().amax(0).clamp(min=1.0)
    assert ((energies.diff(dim=0) / scale) < 1e-5).all()
    steps = torch.stack([(b - a).flatten(1).norm(dim=1) / a.flatten(1).norm(dim=1) for a, b in pairwise(iterates)])
    assert (steps[4] <= steps[0] / 10).all() or (steps[:5] < 1e-6).all()


def test_the_natural_call_works(tmp_path: Path) -> None:
    """Without torch_dtype, on a CPU; wrapped, saved and loaded in a fresh process once latentcrf is imported."""
    pipe = DiffusionPipeline.from_pretrained(MODELS / "emoji-ldm")
    assert pipe("red apple", num_inference_steps=2).images[0].size == (128, 128)
    pipe.scheduler = LatentCRFScheduler(pipe.scheduler, load("emoji-latentcrf"), bypass=(2, 3))
    image = pipe("red apple", num_inference_steps=4, generator=torch.Generator().manual_seed(0)).images[0]
    pipe.save_pretrained(tmp_path / "saved")
    image.save(tmp_path / "image.png")
    script = """
import latentcrf, numpy, torch
from diffusers import DiffusionPipeline
from PIL import Image
pipe = DiffusionPipeline.from_pretrained("saved")
assert isinstance(pipe.scheduler, latentcrf.LatentCRFScheduler)
image = pipe("red apple", num_inference_steps=4, generator=torch.Generator().manual_seed(0)).images[0]
assert numpy.array_equal(image, Image.open("image.png"))
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_ldm_is_an_ordinary_pipeline_folder() -> None:
    loaded = StableDiffusionPipeline.from_pretrained(MODELS / "emoji-ldm", use_safetensors=True, local_files_only=True)
    assert loaded.safety_checker is None
    assert loaded.vae.config.scaling_factor == 1.0 and loaded.tokenizer.model_max_length == 16
    assert loaded.scheduler.config.rescale_betas_zero_snr and loaded.scheduler.config.timestep_spacing == "trailing"
    files = [path for path in (MODELS / "emoji-ldm").rglob("*") if path.is_file()]
    assert all(path.suffix not in (".bin", ".pt", ".pth", ".ckpt") for path in files)
    assert max(path.stat().st_size for path in files) <= 60e6
