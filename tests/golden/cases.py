"""The golden cases: what the project computes from fixed inputs, one function a case.

Every import of project code stands in the block below and nowhere else in this folder, so that a module that moves is
changed in one place. Keys of stored values are the paper's symbols or plain words. Where a stored value holds a name of
the project (a method, a column, a loss), it is compared after `RENAMES`.

Inputs and the weights of the tiny networks come from numpy's frozen `RandomState`: they are the same numbers on every
machine and in every version.
"""

import atexit
import contextlib
import csv
import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate.utils import load as load_random_states
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn
from transformers import BertConfig, BertModel, BertTokenizer

# --- project code -----------------------------------------------------------------------------------------------------
from analysis.benchmark import __main__ as benchmark_command
from analysis.benchmark import run as benchmark
from analysis.metrics.perceptual import load_features, load_lpips
from analysis.sampling import load_pipeline
from app.comparison import compare
from app.loaded_models import LoadedModels
from app.models import read_catalog
from app.previews import load_preview
from app.results import Comparison
from latentcrf import Finisher, LatentCRF, LatentCRFScheduler, Observation, hand_over
from latentcrf.training import loop, train, train_finisher
from latentcrf.training.chunks import read_manifest
from latentcrf.training.final_latents import FinalLatentsSettings, load_final_latents, record_final_latents
from latentcrf.training.ldm import LDM
from latentcrf.training.recording import RecordingSettings, load_recorded_runs, record_runs
from latentcrf.utils.content_hash import content_hash
from latentcrf.utils.weights import MODELS
from recipes.emoji import train_unet, train_vae
from recipes.emoji.captions import list_prompts
from recipes.emoji.dataset import write_tables

# ----------------------------------------------------------------------------------------------------------------------

STORED = Path(__file__).parent / "stored"
ROOT = Path(__file__).parents[2]

# Name when the values were stored -> name now. Values keep the names that they were stored with.
RENAMES: dict[str, str] = {
    # losses and held-out measures of the trainers
    "latents_judged": "latent_discriminator",
    "images_judged": "pair_discriminator",
    "fooled": "adversarial",
    "mse_no_parameters": "mse_zero_parameter",
    "few_no_parameters": "few_zero_parameter",
    # columns and methods of the benchmark
    "refiner": "crf_form",
    "unet_calls": "denoiser_calls",
    "DDIM-50 bypass (33, 49)": "DDIM-50 zero-parameter bypass (33, 49)",
    "DDIM-50 plain (33, 49)": "DDIM-50 plain network (33, 49)",
}
# The column crf_form when the values were stored -> now.
CRF_FORMS = {"": "", "bypass": "zero-parameter", "LatentCRF": "conditional", "plain": "plain"}
# Methods that the benchmark no longer has: their rows are left out.
REMOVED = ("UniPC-8 + scaling", "UniPC-8 + static finisher")
# The best baseline in R@5 when the values were stored. UniPC-8 equals it: the first of the list is taken, whose order
# is another now.
TIED = ("DPM-Solver++-8", "r_at_5, difference")

FLOAT32 = ("--precision", "float32")

SHIPPED = (
    "emoji-latentcrf",
    "emoji-latentcrf-static",
    "emoji-latentcrf-finisher",
    "emoji-plain",
    "emoji-plain-finisher",
)
ITERATIONS = 5

# On one machine the cases give the same bits in every run. On others sums are taken in another order: the values below
# allow for that, and each is several times what was measured between AVX-512, AVX2 and plain kernels. Deviations are
# those of `deviation`: the largest difference as a share of the stored values' root mean square.
TOLERANCE = {
    "model": 1e-4,  # one call of a shipped model; measured 3e-5
    "run": 1e-4,  # a run of a tiny pipeline; measured 1e-5
    "round trips": 1e-3,  # two round trips through the tiny VAE, whose random weights enlarge errors; measured 2e-4
    "training": 5e-4,  # losses of three steps, and the weights' changes; measured 5e-5
    "table": 1e-3,  # a column of the benchmark; measured 3e-4, in differences of KID
    "pixels": 0.02,  # mean absolute difference in levels of 255; measured 0.0001
    "distance": 1e-2,  # LPIPS of two such images
}

Values = dict[str, Any]  # str -> Tensor, array, number, string, list or dict of these


# --- one machine, one result ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """One CPU thread and no GPU: a case gives the same bits in every run on one machine."""
    threads, has_gpu = torch.get_num_threads(), torch.cuda.is_available
    torch.set_num_threads(1)
    torch.cuda.is_available = lambda: False
    torch.manual_seed(0)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.cuda.is_available = has_gpu


def normal(seed: int, *shape: int) -> Tensor:
    """Standard normal numbers, float32."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape)).float()


def fill(module: nn.Module, seed: int) -> nn.Module:
    """Set all parameters: norms near 1, vectors near 0, the others uniform with the variance of 1 / fan-in."""
    random = np.random.RandomState(seed)
    for name, parameter in module.named_parameters():
        bound = math.sqrt(3 / parameter[0].numel()) if parameter.ndim > 1 else 0.1
        values = random.uniform(-bound, bound, tuple(parameter.shape))
        values += parameter.ndim == 1 and name.endswith("weight")
        parameter.data.copy_(torch.from_numpy(values))
    return module.eval()


def shuffle(module: nn.Module, seed: int) -> nn.Module:
    """Permute each parameter's numbers in place: same statistics, nothing learned."""
    random = np.random.RandomState(seed)
    for parameter in module.parameters():
        order = torch.from_numpy(random.permutation(parameter.numel()))
        parameter.data.copy_(parameter.data.flatten()[order].view_as(parameter))
    return module


# --- tiny data and networks -------------------------------------------------------------------------------------------

COLOURS = {
    "red": (220, 30, 40), "orange": (250, 140, 20), "gold": (240, 200, 60), "green": (30, 150, 70),
    "teal": (20, 130, 140), "blue": (40, 80, 210), "purple": (130, 50, 170), "brown": (120, 70, 40),
}  # fmt: skip
STYLES = ("3d", "flat", "noto")


def rows() -> list[dict[str, Any]]:
    """Table rows: eight subjects in three styles."""
    return [
        {
            "text": f"{colour} shape",
            "tags": [colour, f"{style} form", "plain"],
            "group": "activities",
            "subgroup": "game",
            "code_point": str(index),
            "core": True,
            "style": style,
            "package": "none",
            "licence": "none",
            "pixels_sha256": f"{index}-{style}",
            "file_name": f"images/{index}_{style}.png",
            "split": "test" if index % 4 == 0 and style == "noto" else "train",
        }
        for index, colour in enumerate(COLOURS)
        for style in STYLES
    ]


def tiny_pipeline() -> StableDiffusionPipeline:
    """A text-to-image pipeline of tiny networks: latents (4, 16, 16), images of 128 px."""
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *COLOURS,
        *STYLES,
        "shape",
        "form",
        "plain",
        "heart",
        "apple",
    ]
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=8,
    )  # fmt: skip
    pipeline = StableDiffusionPipeline(
        vae=fill(
            AutoencoderKL(
                block_out_channels=(4, 4, 8, 8), down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=1, norm_num_groups=2, sample_size=128,
                scaling_factor=1.0,
            ), 1,
        ),
        text_encoder=fill(BertModel(config), 2),
        tokenizer=BertTokenizer(vocab={word: i for i, word in enumerate(words)}, model_max_length=8),
        unet=fill(
            UNet2DConditionModel(
                sample_size=16, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=16,
                norm_num_groups=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            ), 3,
        ),
        scheduler=DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction",
            timestep_spacing="trailing", clip_sample=False, rescale_betas_zero_snr=True,
        ),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_crf(form: str = "conditional", seed: int = 4) -> LatentCRF:
    crf = LatentCRF(
        form=form, num_experts=3, pairwise_rank=3, channels=8, coarse_channels=8, num_coarse_blocks=1
    )  # fmt: skip
    return fill(crf, seed)


def shipped(name: str) -> LatentCRF:
    return LatentCRF.from_pretrained(MODELS / name, torch_dtype=torch.float32, use_safetensors=True).eval()


# --- 1. prompts and content hashes ------------------------------------------------------------------------------------


def prompts() -> Values:
    """The training prompts of a table, in their order, and the content hash of fixed settings and weights."""
    network = nn.Sequential(nn.Linear(3, 2), nn.Conv2d(1, 2, 3))
    settings = {"steps": 50, "guidances": [3.0, 1.0], "name": "golden", "nothing": None}
    return {
        "prompts": list_prompts(rows()),
        "hash of prompts": content_hash({"prompts": list_prompts(rows())}),
        "hash of settings": content_hash(settings),
        "hash of nothing": content_hash(None),
        "hash of weights": content_hash(fill(network, 5)),
        "hash of half weights": content_hash(fill(network, 5).half()),
        "hash of all": content_hash(settings, fill(network.float(), 5), None),
    }


# --- 5. the shipped models --------------------------------------------------------------------------------------------


def observation(seed: int = 0) -> Observation:
    """A hand-over with every field set, two samples at different levels; (12, 10) sites, so that axes cannot swap."""
    clean, noise, error, before = normal(seed, 4, 2, 4, 12, 10)
    alpha_in, alpha_out = torch.tensor([0.35, 0.8]), torch.tensor([0.97, 1.0])
    share = alpha_in.view(-1, 1, 1, 1)
    return Observation(
        latents=share.sqrt() * clean + (1 - share).sqrt() * noise,
        denoised=clean + 0.3 * error,
        alpha_in=alpha_in,
        alpha_out=alpha_out,
        prompt_embeds=normal(seed + 100, 2, 5, 16),
        alpha_denoised=torch.tensor([0.33, 0.6]),
        earlier=clean + 0.3 * error + 0.2 * before,
        alpha_earlier=torch.tensor([0.2, 0.45]),
    )


def tensors_in(value: Any) -> int:
    """How many tensors a tree of dataclasses holds."""
    if is_dataclass(value):
        return sum(tensors_in(getattr(value, field.name)) for field in fields(value))
    return int(isinstance(value, Tensor))


@torch.inference_mode()
def solution(crf: LatentCRF, seed: int = 0, iterations: int = ITERATIONS) -> Values:
    """Every tensor of the potentials by its symbol, two iterates, the result y, the latents behind, the energies."""
    seen = observation(seed)
    p = crf.potentials(seen)
    found: Values = {"u": p.u, "lambda": p.weight}
    if p.pairwise is not None:
        found |= {"phi": p.pairwise.features, "W": p.pairwise.mixing}
    if p.experts is not None:
        found |= {"f": p.experts.filters, "alpha": p.experts.reliability, "b": p.experts.response}
    assert tensors_in(p) == len(found), "the potentials hold a tensor that is not compared"
    y = crf(seen, iterations)
    energies = crf.energy(y, p)
    assert len(energies) == 4
    *_, y_1, y_2 = crf.solve(p, 2)  # the solver's path: after five iterations every solver arrives at y
    found |= {"y_1": y_1, "y_2": y_2}
    found |= {"y": y, "x_out": hand_over(seen.latents, y, seen.alpha_in, seen.alpha_out)}
    found |= {"E": torch.stack([energies[name] for name in ("unary", "pairwise", "higher_order", "total")])}
    return {key: value.detach().clone() for key, value in found.items()}  # some are the parameters themselves


# --- 4. a saved pipeline ----------------------------------------------------------------------------------------------

LOAD_AND_RUN = """
import sys
import numpy, torch
from latentcrf import LatentCRFScheduler
from diffusers import StableDiffusionPipeline
torch.set_num_threads(1)
pipeline = StableDiffusionPipeline.from_pretrained(sys.argv[1])
pipeline.set_progress_bar_config(disable=True)
how = {"num_inference_steps": 6, "guidance_scale": 2.0, "generator": torch.Generator().manual_seed(3)}
numpy.save(sys.argv[2], pipeline("red heart", output_type="np", **how).images)
"""


def our_scheduler(inner: Any) -> LatentCRFScheduler:
    """Three of six steps left out, with a bypass CRF and a finisher."""
    return LatentCRFScheduler(
        inner, tiny_crf(), bypass=(2, 5), num_iterations=3, finisher=Finisher(tiny_crf("static", 6), 3)
    )


def run_tiny(pipeline: StableDiffusionPipeline, output_type: str) -> np.ndarray:
    how = {"num_inference_steps": 6, "guidance_scale": 2.0, "generator": torch.Generator().manual_seed(3)}
    made = pipeline("red heart", output_type=output_type, **how).images
    return made.numpy() if isinstance(made, Tensor) else made


def saved_pipeline() -> tuple[Values, np.ndarray, np.ndarray]:
    """What is written of a pipeline with LatentCRF's scheduler, and its image before and, in a new process, after."""
    pipeline = tiny_pipeline()
    pipeline.scheduler = our_scheduler(pipeline.scheduler)
    latents, before = run_tiny(pipeline, "latent"), run_tiny(pipeline, "np")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "pipeline")
        pipeline.save_pretrained(folder)
        command = [sys.executable, "-W", "ignore", "-c", LOAD_AND_RUN, str(folder), str(Path(name, "image.npy"))]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        after = np.load(Path(name, "image.npy"))
        scheduler = folder / "scheduler"
        values = {
            "scheduler in model_index.json": json.loads((folder / "model_index.json").read_text())["scheduler"],
            "files": sorted(str(path.relative_to(scheduler)) for path in scheduler.rglob("*") if path.is_file()),
            "settings": json.loads((scheduler / "latentcrf.json").read_text()),
            "latents": latents,
            "image": before.mean((0, 1, 2)).tolist(),
            "image deviation": before.std((0, 1, 2)).tolist(),
        }
    return values, before, after


OLD_SCHEDULER = STORED / "scheduler"  # saved when the values were stored: what users have saved must go on loading


def old_scheduler(crf: bool = True, finisher: bool = True, bypass: bool = True) -> Values:
    """The latents of a tiny pipeline with the stored scheduler folder, or with a part of it left out."""
    pipeline = tiny_pipeline()
    pipeline.scheduler = scheduler = LatentCRFScheduler.from_pretrained(OLD_SCHEDULER)
    scheduler.crf, scheduler.finisher = scheduler.crf if crf else None, scheduler.finisher if finisher else None
    scheduler.bypass = scheduler.bypass if bypass else None
    return {"latents": run_tiny(pipeline, "latent")}


# --- 7. the page ------------------------------------------------------------------------------------------------------

EMOJI = read_catalog().models["emoji"]
FINISHED = replace(EMOJI.defaults, prompt="red heart", seed=3, steps=8, finisher=True)
BYPASS_MODE = replace(FINISHED, iterations=3, bypass_start=4, bypass_end=7)
FEW_STEPS_MODE = replace(FINISHED, few_steps=4)
MODES = {"bypass": BYPASS_MODE, "few-steps": FEW_STEPS_MODE}


@cache
def page_models() -> LoadedModels:
    """The shipped models as the page holds them, in float32."""
    crf, finisher = shipped("emoji-latentcrf"), shipped("emoji-latentcrf-finisher")
    pipeline, networks = load_pipeline(), (load_lpips(), load_features())
    preview = load_preview(MODELS / "emoji-ldm", pipeline.vae)
    return LoadedModels(EMOJI, pipeline, crf, finisher, *networks, torch.float32, preview)


def page_result(mode: str, seed: int = 3, crf: bool = True) -> Comparison:
    """One comparison of the page; `crf=False`: without the bypass CRF."""
    models = page_models() if crf else replace(page_models(), crf=None)
    reports: list[Any] = []
    compare(models, replace(MODES[mode], seed=seed), False, None, reports.append)
    return reports[-1]


def page(result: Comparison) -> Values:
    """The four images of a result side by side (128, 512, 3), and its numbers."""
    images = (result.full.image, result.latentcrf.image, result.before, result.after)
    return {
        "images": np.concatenate([np.asarray(image) for image in images], axis=1),
        "calls": [result.full.denoiser_calls, result.latentcrf.denoiser_calls],
        "distance": result.lpips,
    }


# --- a folder of data and models for command lines --------------------------------------------------------------------


def picture(colour: tuple[int, int, int], style: str, index: int) -> np.ndarray:
    """An uint8 image (128, 128, 3): a shaded disc, square or diamond on white."""
    y, x = (np.mgrid[:128, :128] - 63.5) / (40 + 2 * index)
    radius = {"3d": np.hypot(x, y), "flat": np.maximum(abs(x), abs(y)), "noto": abs(x) + abs(y)}[style]
    shade = np.clip(1 - 0.3 * (x + y), 0.4, 1.0)[..., None] * np.array(colour)
    return np.where(radius[..., None] < 1, shade, 255).round().clip(0, 255).astype(np.uint8)


@cache
def work_folder() -> Path:
    """A temporary folder with a small data set (`data`), the tiny pipeline (`ldm`) and a tiny static CRF (`static`)."""
    folder = Path(tempfile.mkdtemp(prefix="golden-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "data" / "images").mkdir(parents=True)
    for row in rows():
        index = int(row["code_point"])
        colour = list(COLOURS.values())[index]
        Image.fromarray(picture(colour, row["style"], index)).save(folder / "data" / row["file_name"])
    write_tables(folder / "data", rows())
    tiny_pipeline().save_pretrained(folder / "ldm")
    tiny_crf("static", 6).save_pretrained(folder / "static")
    return folder


# --- 1. recordings ----------------------------------------------------------------------------------------------------


def recorded_names(folder: Path) -> list[str]:
    """Names of the tensors in the first file and of the manifest's entries: earlier recordings must go on loading."""
    with safe_open(folder / "00000.safetensors", "pt") as file:
        return sorted(file.keys()) + sorted(read_manifest(folder))


def recording() -> Values:
    """Two recorded runs of the tiny pipeline, as training reads them."""
    pipeline = tiny_pipeline()
    how = RecordingSettings(steps=6, coarse=(5, 4), guidances=(3.0, 1.0), chunk=1)
    with tempfile.TemporaryDirectory() as name:
        record_runs(LDM(pipeline), list_prompts(rows()), Path(name), 2, how)
        runs, names = load_recorded_runs(Path(name), pipeline.scheduler), recorded_names(Path(name))
    assert runs.coarse is not None
    steps = torch.arange(runs.steps - 1)
    return {
        "names": names,
        "x": runs.latents[:],
        "abar": runs.alphas,
        "x0_hat": runs.denoised(torch.ones_like(steps), steps),
        "prompt": runs.prompt_embeds[:],
        "coarse x": runs.coarse.latents[:],
        "coarse x0_hat": runs.coarse.denoised[:],
        "coarse abar": runs.coarse.alphas,
        "coarse abar of x0_hat": runs.coarse.alphas_denoised,
        "coarse runs": runs.coarse.runs.tolist(),
    }


def final_recording() -> Values:
    """The final latents of three runs of the tiny pipeline, and what a finisher learns to make of them."""
    how = FinalLatentsSettings(chunk=1)
    with tempfile.TemporaryDirectory() as name:
        record_final_latents(LDM(tiny_pipeline()), tiny_crf("static", 6), list_prompts(rows()), Path(name), 3, how)
        (last, finished), names = load_final_latents(Path(name), 3), recorded_names(Path(name))
    return {"names": names, "x": last[:], "y": finished[:]}


# --- 2. trainers ------------------------------------------------------------------------------------------------------

SECONDS = 2.0  # of the simulated clock, a step: longer than `--checkpoint-seconds 1`, so that every step is kept


class Stopped(BaseException):
    """Ends a training in the middle of a step, as a kill would."""


@dataclass
class Watch:
    """What a training has done: the losses of each step, and the weights of its networks and averages."""

    losses: list[dict[str, float]] = field(default_factory=list)
    weights: list[list[Tensor]] = field(default_factory=list)
    start: list[list[Tensor]] = field(default_factory=list)

    def changes(self) -> list[float]:
        """How far each network's weights have moved: Euclidean distance."""
        pairs = (zip(weights, start, strict=True) for weights, start in zip(self.weights, self.start, strict=True))
        return [math.sqrt(sum((now - before).square().sum().item() for now, before in pair)) for pair in pairs]


@contextlib.contextmanager
def watched(stop_in: int | None = None) -> Iterator[Watch]:
    """Watch the training within the block, on a clock that advances by `SECONDS` a step; stop it in step `stop_in`."""
    watch, now, pending = Watch(), 0.0, {}
    own_init, own_count, own_time = loop.Run.__init__, loop.Run.count, loop.time

    def init(
        run: Any, accelerator: Any, options: Any, model: Any, parts: dict[str, Any], *more: Any, **named: Any
    ) -> None:
        own_init(run, accelerator, options, model, parts, *more, **named)
        networks = [list(part.parameters()) for part in (model, *parts.values()) if isinstance(part, nn.Module)]
        watch.weights = [*networks, run.ema.shadow_params]
        watch.start = [[weight.detach().clone() for weight in weights] for weights in watch.weights]

    def count(run: Any, images: int, **losses: Any) -> None:
        nonlocal now
        own_count(run, images, **losses)
        pending.update({name: float(value) for name, value in losses.items()})
        if images:  # the last report of a step
            if stop_in is not None and run.step == stop_in:
                raise Stopped
            watch.losses.append(dict(pending))
            pending.clear()
            now += SECONDS

    loop.Run.__init__, loop.Run.count, loop.time = init, count, SimpleNamespace(monotonic=lambda: now)
    try:
        yield watch
    finally:
        loop.Run.__init__, loop.Run.count, loop.time = own_init, own_count, own_time


def run_trainer(
    main: Callable[[list[str]], int],
    steps: int,
    *arguments: object,
    out: Path,
    stop_in: int | None = None,
    seed: int = 1,
) -> Values:
    """Train for `steps` steps: their losses, how far the networks have moved, and the held-out measures."""
    minutes = SECONDS * (steps - 0.5) / 60
    with watched(stop_in) as watch:
        words = [*arguments, "--out", out, "--minutes", minutes, "--checkpoint-seconds", 1, "--seed", seed, *FLOAT32]
        try:
            assert main([str(word) for word in words]) == 0
        except Stopped:
            return {}
    with open(out / "log.csv", newline="") as file:
        *_, row = csv.DictReader(file)
    losses = {f"step {index}": each for index, each in enumerate(watch.losses)}
    measures = {name: float(value) for name, value in row.items() if name not in ("step", "minutes", "images")}
    return {"losses": losses, "changes": watch.changes(), "measures": measures}


CRF_ARGUMENTS = ("--runs", 16, "--batch-size", 4, "--discriminator", "alexnet")


def common_arguments() -> list[object]:
    folder = work_folder()
    return ["--base", folder / "ldm", "--data", folder / "data", "--recordings", folder / "recordings"]


def stage_1(out: Path) -> Values:
    return run_trainer(train.main, 3, *common_arguments(), *CRF_ARGUMENTS, "--stage1-until", 1, out=out)


def stage_2(out: Path) -> Values:
    return run_trainer(train.main, 3, *common_arguments(), *CRF_ARGUMENTS, "--stage1-until", 0, out=out)


def stage_3(out: Path) -> Values:
    stages = ("--stage1-until", 0, "--stage3-from", 0)
    return run_trainer(train.main, 3, *common_arguments(), *CRF_ARGUMENTS, *stages, out=out)


def finisher(out: Path) -> Values:
    folder = work_folder()
    arguments = ["--base", folder / "ldm", "--data", folder / "data", "--static", folder / "static"]
    return run_trainer(train_finisher.main, 3, *arguments, "--runs", 32, "--batch-size", 4, out=out)


def autoencoder(out: Path) -> Values:
    """Its three parts, a step each: crops, whole pictures, the decoder against a discriminator."""
    arguments = ("--data", work_folder() / "data", "--batch-size", 2, "--discriminator", "patches")
    return run_trainer(train_vae.main, 3, *arguments, out=out)


def unet(out: Path) -> Values:
    folder, own = work_folder(), train_unet.SAMPLE_PROMPTS
    arguments = ("--data", folder / "data", "--vae", folder / "ldm" / "vae", "--init-from", folder / "ldm")
    train_unet.SAMPLE_PROMPTS = own[:2]  # pictures for the reader: most of the time, and not held
    try:
        return run_trainer(train_unet.main, 3, *arguments, "--batch-size", 4, "--detail-share", 0.5, out=out)
    finally:
        train_unet.SAMPLE_PROMPTS = own


TRAINERS = {
    "stage-1": stage_1,
    "stage-2": stage_2,
    "stage-3": stage_3,
    "finisher": finisher,
    "autoencoder": autoencoder,
}
TRAINERS |= {"unet": unet}

# --- 3. a resumed run -------------------------------------------------------------------------------------------------


def all_stages(out: Path, stop_in: int | None = None, resume: bool = False) -> Values:
    """Three steps of stage 1, two of stage 2 and two of stage 3."""
    stages = ("--stage1-until", 0.4, "--stage3-from", 0.7, *(["--resume"] if resume else []))
    return run_trainer(train.main, 7, *common_arguments(), *CRF_ARGUMENTS, *stages, out=out, stop_in=stop_in)


def checkpoint(folder: Path) -> dict[str, Any]:
    latest = loop.find_checkpoints(folder)[-1]
    random_states = load_random_states(latest / "random_states_0.pkl")
    return torch.load(latest / loop.COMPONENTS, weights_only=True) | {"random": random_states["torch_manual_seed"]}


def unequal(a: Any, b: Any, path: str = "") -> list[str]:
    """Where two trees of tensors and numbers are not the same, to the last bit."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [found for key in a for found in unequal(a[key], b[key], f"{path}/{key}")]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [found for index in range(len(a)) for found in unequal(a[index], b[index], f"{path}/{index}")]
    same = torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else type(a) is type(b) and a == b
    return [] if same else [path]


# --- 6. the benchmark -------------------------------------------------------------------------------------------------

METHODS = (
    "DDIM-4", "DPM-Solver++-8", "UniPC-8", "UniPC-8 + finisher", "DDIM-50 bypass (33, 49)",
    "DDIM-50 LatentCRF (33, 49)", "DDIM-50 plain (33, 49)",
    "DDIM-50 LatentCRF (33, 49) + finisher",
)  # fmt: skip
UNSTORED = ("precision", "network_evaluations", "time_ratio", "time_ratio_low", "time_ratio_high", "time_ratio_against")


def count_instead_of_timing(methods: Any, task: Any, pipeline: Any, schedulers: Any, rounds: int) -> Any:
    """Stands in for the benchmark's clock: the share of denoiser calls, so that tables do not depend on the machine."""
    ratios = []
    for method, scheduler in zip(methods, schedulers, strict=True):
        scheduler.set_timesteps(method.steps)
        ratios.append(np.full(3, len(scheduler.timesteps) / 50))
    return ratios


def columns(table: pd.DataFrame) -> Values:
    """Each column as a list, without times; numbers as floats."""
    kept = table.drop(columns=[name for name in UNSTORED if name in table])
    return {
        name: [float(each) for each in kept[name]] if kept[name].dtype.kind == "f" else kept[name].fillna("").tolist()
        for name in kept
    }


def benchmark_tables(out: Path) -> Values:
    """Both tables of a small benchmark of the tiny pipeline with the shipped CRFs."""
    folder, own = work_folder(), (benchmark.measure_time_ratios, benchmark.write_figure)
    benchmark.measure_time_ratios, benchmark.write_figure = count_instead_of_timing, lambda *_, **__: None
    words = ["--data", folder / "data", "--model", folder / "ldm", "--out", out, "--prompts", 3, "--seeds", 2]
    for option, name in (
        ("crf", "emoji-latentcrf"),
        ("plain", "emoji-plain"),
        ("finisher", "emoji-latentcrf-finisher"),
    ):
        words += [f"--{option}", MODELS / name]
    try:
        assert benchmark_command.main([*map(str, words), "--only", *map(rename, METHODS), *FLOAT32]) == 0
    finally:
        benchmark.measure_time_ratios, benchmark.write_figure = own
    tables = {name: pd.read_csv(out / f"{name}.csv") for name in ("benchmark", "comparisons")}
    values = {"methods": columns(tables["benchmark"])}
    for measure, rows_of_it in tables["comparisons"].groupby("measure"):
        values[f"against others: {measure}"] = columns(rows_of_it)
    return {name: pick(values[name], stored) for name, stored in stored_tables().items()}


def pick(found: Values, stored: Values) -> Values:
    """Those columns and rows of a table that are stored; it has more by now. A KeyError for one that it lacks."""
    keys = [name for name in ("method", "against") if name in stored]
    rows = {tuple(each): index for index, each in enumerate(zip(*(found[key] for key in keys), strict=True))}
    order = [rows[tuple(each)] for each in zip(*(stored[key] for key in keys), strict=True)]
    return {name: [found[name][index] for index in order] for name in stored}


def stored_tables() -> Values:
    """The stored tables as the benchmark would write them now: without removed methods, by the present names."""
    tables = load("benchmark")
    for table in tables.values():
        rows_of_it = [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]
        present = [row for row in rows_of_it if not {row["method"], row.get("against")} & set(REMOVED)]
        present = [row for row in present if (row.get("against"), row.get("measure")) != TIED]
        for row in present:
            if "crf_form" in row:
                row["crf_form"] = CRF_FORMS[row["crf_form"]]
        table.update({name: [row[name] for row in present] for name in table})
    return tables


# --- storing and comparing --------------------------------------------------------------------------------------------


def save(name: str, values: Values) -> None:
    """Write `stored/NAME.json`, and beside it a `.safetensors` of float tensors and a lossless `.webp` of images."""
    STORED.mkdir(exist_ok=True)
    arrays = {key: np.asarray(value) for key, value in values.items() if isinstance(value, Tensor | np.ndarray)}
    floats = {key: np.ascontiguousarray(array, np.float32) for key, array in arrays.items() if array.dtype != np.uint8}
    if floats:
        save_file(floats, STORED / f"{name}.safetensors")
    if "images" in arrays:
        Image.fromarray(arrays["images"]).save(STORED / f"{name}.webp", lossless=True, quality=100, method=6)
    plain = {key: value for key, value in values.items() if key not in arrays}
    (STORED / f"{name}.json").write_text(json.dumps(plain, indent=1, ensure_ascii=False) + "\n")


def load(name: str) -> Values:
    """What `save` wrote, after `RENAMES`."""
    values = json.loads((STORED / f"{name}.json").read_text())
    if (STORED / f"{name}.safetensors").exists():
        values |= load_file(STORED / f"{name}.safetensors")
    if (STORED / f"{name}.webp").exists():
        values["images"] = np.asarray(Image.open(STORED / f"{name}.webp").convert("RGB"))
    return rename(values)


def rename(value: Any) -> Any:
    """Old names -> present ones, in keys and in strings, whole words only."""
    if isinstance(value, dict):
        return {rename(key): rename(each) for key, each in value.items()}
    if isinstance(value, list):
        return [rename(each) for each in value]
    if isinstance(value, str) and RENAMES:
        words = "|".join(re.escape(name) for name in sorted(RENAMES, key=len, reverse=True))
        return re.sub(rf"(?<!\w)({words})(?!\w)", lambda match: RENAMES[match[0]], value)
    return value


def deviation(found: Any, stored: Any) -> float:
    """How far numbers are apart: the largest difference, as a share of the stored ones' root mean square."""
    a, b = (np.asarray(value, dtype=np.float64) for value in (found, stored))
    if a.shape != b.shape or np.isnan(a).tolist() != np.isnan(b).tolist():
        return math.inf
    a, b = np.nan_to_num(a), np.nan_to_num(b)
    scale = math.sqrt(np.square(b).mean()) if b.size else 1.0
    return float(np.abs(a - b).max(initial=0.0) / (scale or 1.0))


def pixel_difference(found: Any, stored: Any) -> float:
    """Mean absolute difference of 8-bit images, in levels of 255."""
    return float(np.abs(np.asarray(found, dtype=float) - np.asarray(stored, dtype=float)).mean())


def is_number(value: Any) -> bool:
    if isinstance(value, Tensor | np.ndarray | float):
        return True
    return isinstance(value, list) and bool(value) and all(isinstance(each, float) for each in value)


def deviations(found: Values, stored: Values) -> dict[str, float]:
    """The deviation of each value. Of what is no float: 0 if it is equal, else infinity; so too a missing key."""
    result = {}
    for key in found.keys() | stored.keys():
        if key not in found or key not in stored:
            result[key] = math.inf
        elif isinstance(found[key], dict) and isinstance(stored[key], dict):
            result |= {f"{key}.{name}": value for name, value in deviations(found[key], stored[key]).items()}
        elif is_number(found[key]) and is_number(stored[key]):
            result[key] = deviation(found[key], stored[key])
        else:
            result[key] = 0.0 if found[key] == stored[key] else math.inf
    return result


def in_folder(case: Callable[[Path], Values]) -> Callable[[], Values]:
    """The case in a temporary folder of its own."""

    def run() -> Values:
        with tempfile.TemporaryDirectory() as name:
            return case(Path(name, "out"))

    return run


def store_old_scheduler() -> Values:
    our_scheduler(tiny_pipeline().scheduler).save_pretrained(OLD_SCHEDULER)
    return old_scheduler()


def all_cases() -> dict[str, Callable[[], Values]]:
    """What is stored, by the name of its files."""
    return {
        "prompts": prompts,
        "recording": recording,
        "final-recording": final_recording,
        **{f"trainer-{name}": in_folder(trainer) for name, trainer in TRAINERS.items()},
        "resumed": in_folder(all_stages),
        "pipeline": lambda: saved_pipeline()[0],
        "old-scheduler": store_old_scheduler,
        **{f"model-{name}": lambda name=name: solution(shipped(name)) for name in SHIPPED},  # type: ignore[misc]
        "benchmark": in_folder(benchmark_tables),
        **{f"page-{mode}": lambda mode=mode: page(page_result(mode)) for mode in MODES},  # type: ignore[misc]
    }
