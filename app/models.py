"""The base models that the page can show: one entry each, with everything that the page assumes about it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from app.settings import Settings

SHIPPED = Path(__file__).parents[1] / "assets" / "models"
PIPELINE_FILES = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/model.safetensors",
    "tokenizer/tokenizer_config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
)
CRF_FILES = ("config.json", "diffusion_pytorch_model.safetensors")


class ModelsError(RuntimeError):
    """The models cannot be used; the message says which file is wrong and what to do."""


@dataclass(frozen=True)
class ModelSet:
    """A base model with its CRFs.

    Attributes:
        name: of the set, "emoji".
        folder: holds the three model folders.
        pipeline: folder name of the StableDiffusionPipeline.
        crf: folder name of the bypass CRF.
        finisher: folder name of the finisher's CRF.
        defaults: settings of form, API and analysis tabs.
        few_steps: denoiser calls of the mode "Few steps + CRF".
        few_steps_cutoff: that mode's guidance cut-off.
        prompts: examples on the compare tab.
        variance_prompts: prompts of the variance tab's runs.
        sampler: the pipeline's own scheduler, in words.
        prompt_limit: how much of a prompt the text encoder reads, in words.
        image_size: side of an image, in pixels.
        latent_shape: channels, height and width of the latents.
    """

    name: str
    folder: Path
    pipeline: str
    crf: str
    finisher: str
    defaults: Settings
    few_steps: int
    few_steps_cutoff: float
    prompts: tuple[str, ...]
    variance_prompts: tuple[str, ...]
    sampler: str
    prompt_limit: str
    image_size: int
    latent_shape: tuple[int, int, int]

    def list_files(self) -> Iterator[Path]:
        """List the files that loading needs.

        Yields:
            Their paths.
        """
        for model, files in ((self.pipeline, PIPELINE_FILES), (self.crf, CRF_FILES), (self.finisher, CRF_FILES)):
            yield from (self.folder / model / file for file in files)

    def check(self) -> None:
        """Check that all files are there and whole, without loading them.

        Raises:
            ModelsError: one is missing or cut off.
        """
        advice = f"Is {self.folder} the folder of the models, and was the project fetched completely?"
        for path in self.list_files():
            if not path.is_file():
                raise ModelsError(f"{path} is missing. {advice}")
            if path.suffix == ".safetensors":
                try:
                    safe_open(path, framework="numpy")  # reads the header, which says how long the file must be
                except (SafetensorError, OSError) as error:
                    raise ModelsError(f"{path} is damaged ({error}). {advice}") from None


EMOJI = ModelSet(
    name="emoji",
    folder=SHIPPED,
    pipeline="emoji-ldm",
    crf="emoji-latentcrf",
    finisher="emoji-latentcrf-finisher",
    defaults=Settings(
        prompt="red apple",
        seed=0,
        steps=50,
        guidance=3.0,
        iterations=5,
        bypass_start=33,
        bypass_end=49,
        finisher=True,
        few_steps=0,
        guidance_cutoff=0.0,
    ),
    # the benchmark's "UniPC-12 cut-off 1/3 + finisher"
    few_steps=12,
    few_steps_cutoff=0.33,
    prompts=("red apple", "blue heart", "dog face", "pizza", "rocket", "smiling face with sunglasses", "sunflower"),
    variance_prompts=(
        "red apple", "pizza", "grinning face", "dog face", "red heart", "blue heart", "rocket", "house",
    ),
    sampler="DDIM",
    prompt_limit="about a dozen words",
    image_size=128,
    latent_shape=(4, 16, 16),
)  # fmt: skip
