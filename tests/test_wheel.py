"""The library alone: its wheel holds nothing else, asks for little, and runs where only that is installed."""

import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow
# The README's ten lines, on a tiny pipeline of random weights in place of a folder.
EXAMPLE = """
import sys
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import BertConfig, BertModel, BertTokenizer

for name in ("gradio", "plotly", "pandas", "lpips", "torchvision"):
    try:
        __import__(name)
    except ImportError:
        continue
    sys.exit(f"{name} can be imported: this environment is not empty")

torch.manual_seed(0)
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "apple"]
pipe = StableDiffusionPipeline(
    vae=AutoencoderKL(block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
                      up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4),
    text_encoder=BertModel(BertConfig(vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                                      intermediate_size=16, max_position_embeddings=8)).eval(),
    tokenizer=BertTokenizer(vocab={word: i for i, word in enumerate(words)}, model_max_length=8),
    unet=UNet2DConditionModel(sample_size=8, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=16,
                              norm_num_groups=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                              up_block_types=("CrossAttnUpBlock2D", "UpBlock2D")),
    scheduler=DDIMScheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
)

from latentcrf import Finisher, LatentCRF, LatentCRFScheduler

crf = LatentCRF(channels=8, coarse_channels=8)
finisher = Finisher(LatentCRF(channels=8, coarse_channels=8, reads_trend=False, corrects_clean=True))
pipe.scheduler = LatentCRFScheduler(pipe.scheduler, crf, bypass=(6, 9), finisher=finisher)
image = pipe("red apple", num_inference_steps=10).images[0]
assert image.size == (16, 16) and pipe.scheduler.num_denoiser_calls == 7
pipe.save_pretrained("saved")
"""
AGAIN = """
import latentcrf
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("saved")
assert type(pipe.scheduler) is latentcrf.LatentCRFScheduler, type(pipe.scheduler)
assert pipe("red apple", num_inference_steps=10).images[0].size == (16, 16)
assert latentcrf.__version__ == "VERSION"
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library's wheel, built from a copy of its sources."""
    folder, copy = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("sources")
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "latentcrf", copy / "latentcrf", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*command, str(copy)], check=True)
    (built,) = folder.glob("*.whl")
    return built


def closure(requirements: list[str]) -> dict[str, Distribution]:
    """The installed distributions that `requirements` ask for, directly or through others, by name."""
    found: dict[str, Distribution] = {}
    open_ones = [Requirement(line) for line in requirements]
    while open_ones:
        requirement = open_ones.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}) or name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:  # of another platform
            continue
        open_ones += [Requirement(line) for line in found[name].requires or []]
    return found


def test_the_wheel_holds_the_library_and_asks_for_little(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (archive.read(name).decode() for name in names if name.endswith(".dist-info/METADATA"))
    packages = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert packages == {"latentcrf"}
    assert {f"latentcrf/{name}" for name in ("scheduler.py", "training/train.py", "utils/files.py")} <= set(names)
    required = re.findall(r"^Requires-Dist: ([\w-]+)(?!.*extra)", metadata, flags=re.MULTILINE)
    assert set(required) == {"torch", "diffusers", "transformers", "huggingface_hub", "safetensors", "numpy"}


def test_it_runs_where_only_its_requirements_are_installed(wheel: Path, tmp_path: Path) -> None:
    """An empty environment, into which the installed requirements of the wheel are linked: no download."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True)
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (archive.read(name).decode() for name in archive.namelist() if name.endswith("METADATA"))
    required = [
        line for line in re.findall(r"^Requires-Dist: (.*)$", metadata, flags=re.MULTILINE) if "extra" not in line
    ]
    for package in closure(required).values():
        for file in {Path(str(file)).parts[0] for file in package.files or []} - {"..", "__pycache__"}:
            source, target = Path(str(package.locate_file(file))), site / file
            if source.exists() and not target.exists():
                target.symlink_to(source)
    version = re.search(r"^Version: (.*)$", metadata, flags=re.MULTILINE)
    assert version
    for script in (EXAMPLE, AGAIN.replace("VERSION", version[1])):
        command = [str(python), "-I", "-W", "ignore", "-c", script]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
