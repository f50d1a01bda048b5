"""What the page's tabs share: the models, loaded once when first needed, and one generation at a time on the device."""

import hashlib
import logging
import os
import threading
from collections.abc import Callable, Generator, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from app.inverted import inverted
from app.later import IMPORTING, Later
from app.results import Comparison, Generated, Progress
from app.settings import Settings

if TYPE_CHECKING:
    from app import comparison
    from app.comparison import Models
else:
    comparison = Later("app.comparison")

log = logging.getLogger(__name__)
MODELS = Path(__file__).parent.parent / "assets" / "models"
PARTS = {
    "emoji-ldm": (
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer_config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ),
    "emoji-latentcrf": ("config.json", "diffusion_pytorch_model.safetensors"),
    "emoji-latentcrf-finisher": ("config.json", "diffusion_pytorch_model.safetensors"),
}

try:  # on a Hugging Face Space with ZeroGPU, what computes is lent a GPU for the time of the call
    from spaces import GPU as on_gpu
except ImportError:

    def on_gpu(function: Callable[..., Any] | None = None, **_: Any) -> Callable[..., Any]:
        """Stands in for `spaces.GPU` elsewhere and changes nothing, as `@on_gpu` and as `@on_gpu(duration=...)`."""
        return (lambda inner: inner) if function is None else function


class ModelsError(RuntimeError):
    """The models cannot be used; the message says which file is wrong and what to do."""


class Services:
    """The models of one folder and the device they run on.

    Args:
        models: the folder that holds `emoji-ldm`, `emoji-latentcrf` and `emoji-latentcrf-finisher`.
    """

    def __init__(self, models: str | Path = MODELS) -> None:
        self.folder = Path(models)
        self._device = threading.Lock()  # held while anything computes
        self._loading = threading.Lock()
        self._compare = on_gpu(duration=60)(self._compare_on_device)
        self._stream = on_gpu(duration=120)(self._stream_on_device)

    def check(self) -> None:
        """See that all files are there and whole, without loading them.

        Raises:
            ModelsError: one is missing or cut off.
        """
        for model, parts in PARTS.items():
            for part in parts:
                path = self.folder / model / part
                advice = f"Is {self.folder} the folder of the models, and was the project fetched completely?"
                if not path.is_file():
                    raise ModelsError(f"{path} is missing. {advice}")
                if path.suffix == ".safetensors":
                    try:
                        safe_open(path, framework="numpy")  # reads the header, which says how long the file must be
                    except (SafetensorError, OSError) as error:
                        raise ModelsError(f"{path} is damaged ({error}). {advice}") from None

    @property
    def loaded(self) -> bool:
        """Whether the models are there already."""
        return "_models" in self.__dict__

    @property
    def models(self) -> "Models":
        """The models on the best device there is.

        Raises:
            ModelsError: a file is missing or damaged.
        """
        with self._loading:
            return self._models

    @cached_property
    def _models(self) -> "Models":
        self.check()
        try:
            with IMPORTING:
                return self._load()
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            log.exception("loading failed")
            raise ModelsError(f"The models in {self.folder} do not load: {error}") from error

    def _load(self) -> "Models":
        # Imported here, in the thread that warms up: they take seconds, and the page need not wait for them.
        import torch
        from diffusers.utils import logging as diffusers_logging
        from transformers.utils import logging as transformers_logging

        from analysis.generate import load_pipeline
        from app.comparison import Models
        from latentcrf import LatentCRF
        from latentcrf.perceptual import load_features, load_lpips
        from latentcrf.precision import choose_precision, precision_name

        for library in (diffusers_logging, transformers_logging):
            library.set_verbosity_error()  # the text encoder is not the one that pipelines expect: known, and right
            library.disable_progress_bar()
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        pipeline = load_pipeline(self.folder / "emoji-ldm", device.type)
        crf, finisher = (
            LatentCRF.from_pretrained(self.folder / name, torch_dtype=torch.float32, use_safetensors=True)
            .to(device)
            .eval()
            for name in ("emoji-latentcrf", "emoji-latentcrf-finisher")
        )
        precision = choose_precision("auto", device)
        origin = {
            "ldm": f"emoji-ldm {fingerprint(self.folder / 'emoji-ldm')}",
            "crf": f"emoji-latentcrf {fingerprint(self.folder / 'emoji-latentcrf')}",
            "finisher": f"emoji-latentcrf-finisher {fingerprint(self.folder / 'emoji-latentcrf-finisher')}",
            "device": device.type,
            "precision": precision_name(precision),
            "torch": torch.__version__,
        }
        judges = load_lpips().to(device), load_features().to(device)
        return Models(pipeline, crf, finisher, *judges, precision, origin)

    def warm_up(self) -> None:
        """Load the models and run a short comparison: the first run of anything is slow, and would be measured.

        Problems are logged; visitors are told when they ask for images.
        """
        settings = Settings("warm up", steps=4, iterations=2, bypass_start=2, bypass_end=3)
        try:
            if os.environ.get("SPACES_ZERO_GPU"):  # the GPU is lent to a visitor's call only
                _ = self.models
                return
            for _ in self.compare(settings):
                pass
        except ModelsError as error:
            log.error("%s", error)

    def compare(
        self, settings: Settings, previews: bool = True
    ) -> Generator[Progress | Generated | Comparison, None, None]:
        """Both methods from the same noise: a `Progress` each step, a `Generated` each image, at last a `Comparison`.

        Closing the generator stops the work within one step.

        Raises:
            ModelsError: a file of the models is missing or damaged.
        """
        yield from self._compare(settings, previews)

    def _compare_on_device(
        self, settings: Settings, previews: bool
    ) -> Generator[Progress | Generated | Comparison, None, None]:
        def work(report: Callable[[Any], None]) -> None:
            comparison.compare(self.models, settings, previews, report)

        yield from inverted(work, holding=self._device)

    def stream(self, work: Callable[["Models", Callable[[Any], None]], None]) -> Generator[Any, None, None]:
        """Run `work(models, report)` alone on the device and yield what it reports.

        Closing the generator stops the work at its next report.

        Raises:
            ModelsError: a file of the models is missing or damaged.
            Exception: whatever `work` raises.
        """
        yield from self._stream(work)

    def _stream_on_device(self, work: Callable[["Models", Callable[[Any], None]], None]) -> Iterator[Any]:
        yield from inverted(lambda report: work(self.models, report), holding=self._device)


def fingerprint(folder: Path) -> str:
    """The first 12 hex digits of the SHA-256 over a model folder's weights, in the order of their paths."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
