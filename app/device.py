"""The one worker that computes: it loads each model once, runs one thing at a time and streams what that reports."""

import gc
import logging
import os
import threading
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from app.callback_stream import Cancelled, is_wanted, stream_reports
from app.models import Catalog, read_catalog
from app.models_file import ModelsError
from app.settings import Settings, SettingsError

if TYPE_CHECKING:
    from app.loaded_models import LoadedModels

log = logging.getLogger(__name__)

try:  # on a Hugging Face Space with ZeroGPU, what computes is lent a GPU for the time of the call
    from spaces import GPU as on_gpu
except ImportError:

    def on_gpu(function: Callable[..., Any] | None = None, **_: Any) -> Callable[..., Any]:
        """Stand in for `spaces.GPU` elsewhere: change nothing, as `@on_gpu` and as `@on_gpu(duration=...)`."""
        return (lambda inner: inner) if function is None else function


def is_on_zero_gpu() -> bool:
    """Tell whether a GPU is lent to each run alone: then what computes runs in a fork of this process."""
    return bool(os.environ.get("SPACES_ZERO_GPU"))


def import_work() -> Any:
    """Import `app.work`, and with it torch, diffusers and the analyses. The first call takes seconds.

    This is the only place that does, and no module of these libraries is imported before: so Python makes each other
    thread wait here until all of them are whole. (The lazy modules of diffusers and transformers show a half-imported
    module to a thread that comes in by another way.)

    Returns:
        The module.
    """
    from app import work

    return work


GPU_START, GPU_CALL, GPU_LONGEST = 10, 0.15, 120  # seconds: of a process, of a denoiser call of a large model, at most


def choose_gpu_seconds(name: str, *arguments: Any, **_: Any) -> int:
    """Choose for how long a ZeroGPU is asked for, from the denoiser calls of the work: a visitor has few minutes a day.

    Args:
        name: of the function in `app.work`.
        arguments: of the function.

    Returns:
        Seconds.
    """
    settings = next((each for each in arguments if isinstance(each, Settings)), None)
    if settings is None:
        return GPU_LONGEST
    images = settings.images if name == "compare" else 1  # pairs of images, or one a seed and method
    if name == "run_variance":
        images = len(arguments[0])
    elif name == "run_convergence":
        images = len(arguments[1])
    elif name == "run_diversity":
        images = len(arguments[1]) * len(arguments[2])
    calls = images * sum(settings.denoiser_calls.values())
    return min(GPU_LONGEST, GPU_START + round(GPU_CALL * calls))


MOST_CALLS, MOST_CALLS_PUBLIC = 6000, 1500  # denoiser calls of a request: on one's own page, and for strangers
OUT_OF_MEMORY = (
    "The GPU's memory ran out, and what filled it has been freed. {advice} Fewer seeds or a smaller model need less."
)


class DeviceMemoryError(ModelsError):
    """The device's memory ran out; the message says what to do."""


class DeviceWorker:
    """The models of a page and the device they run on. Functions of `app.work` are called by their names.

    Args:
        catalog: the models that the page offers, each loaded when first needed; None: those of app/models.json.
        most_calls: denoiser calls that one request may ask for, each image's counted; default `MOST_CALLS`.
        compiles: whether the models' U-Nets are compiled, default False.

    Raises:
        ModelsError: as of `app.loaded_models.check_compile`.
    """

    def __init__(self, catalog: Catalog | None = None, most_calls: int = MOST_CALLS, compiles: bool = False) -> None:
        self.most_calls = most_calls
        self.catalog = read_catalog() if catalog is None else catalog
        self.compiles = compiles
        if compiles:
            self.call("check_compile")
        self._loaded: dict[str, LoadedModels] = {}
        self._device = threading.Lock()  # held while anything computes
        self._loading = threading.Lock()
        self._stream = on_gpu(duration=choose_gpu_seconds)(self._stream_on_device)

    def check_work(self, calls: int) -> None:
        """Check the size of a request.

        Args:
            calls: denoiser calls, each image's counted.

        Raises:
            SettingsError: they are more than `most_calls`.
        """
        if calls > self.most_calls:
            raise SettingsError(
                f"This takes {calls:,} denoiser calls; this page accepts {self.most_calls:,} at a time. Ask for fewer "
                "runs, seeds, methods or steps."
            )

    def is_loaded(self, model: str | None = None) -> bool:
        """Tell whether a model is in memory.

        Args:
            model: its name; None (default): the first.
        """
        return (model or self.catalog.default.name) in self._loaded

    def load(self, model: str | None = None) -> "LoadedModels":
        """Load a model, unless it is in memory.

        Args:
            model: its name; None (default): the first.

        Returns:
            It.

        Raises:
            SettingsError: the page does not offer it.
            ModelsError: a file is missing or damaged.
        """
        model_set = self.catalog.get(model)
        if model_set.name in self._loaded:  # without the lock, which a ZeroGPU's process may have inherited locked
            return self._loaded[model_set.name]
        with self._loading:
            if model_set.name not in self._loaded:
                model_set.check()
                try:
                    self._loaded[model_set.name] = import_work().load_models(model_set, self.compiles)
                except (OSError, ValueError, KeyError, RuntimeError) as error:
                    log.exception("loading failed")
                    raise ModelsError(f"The model {model_set.model} does not load: {error}") from error
            return self._loaded[model_set.name]

    def warm_up(self) -> None:
        """Load the first model and run a short comparison: the first run of anything is slow, and would be measured.

        Problems are logged; visitors see them when they ask for images.
        """
        settings = replace(self.catalog.default.defaults, steps=4, iterations=2, bypass_start=2, bypass_end=3)
        try:
            if is_on_zero_gpu():  # the GPU is lent to a visitor's call only
                for name in self.catalog.models:
                    import_work().use_device(self.load(name), [])
                return
            for _ in self.stream("compare", settings, True, None):
                pass
            for damage in self.call("find_damaged_results"):
                log.error("%s", damage)
        except (ModelsError, OSError) as error:
            log.error("%s", error)
        finally:
            # else each full collection looks at 650,000 objects that stay, and holds up all visitors for 1 to 2 s
            gc.collect()
            gc.freeze()

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function of `app.work` that needs neither models nor device, in the calling thread.

        Args:
            name: of the function.
            arguments: of the function.

        Returns:
            What it returns.

        Raises:
            Exception: whatever it raises.
        """
        return getattr(import_work(), name)(*arguments)

    def stream(self, name: str, *arguments: Any, model: str | None = None) -> Generator[Any, None, None]:
        """Run a function of `app.work` alone on the device.

        Closing the generator stops it at its next report.

        Args:
            name: of the function; it is called with the models, then `arguments`, then the callback `report`.
            arguments: of the function.
            model: name of the models; None (default): the first.

        Yields:
            What it reports.

        Raises:
            SettingsError: the page does not offer the model.
            ModelsError: a file of the models is missing or damaged, or the device's memory ran out.
            Cancelled: nobody waits for the result any more.
            Exception: whatever it raises.
        """
        wanted = is_wanted.get()
        with closing(self._stream(name, *arguments, model=model)) as reports:
            for report in reports:
                if not wanted():  # a ZeroGPU's process has a copy of the context, which does not learn it
                    raise Cancelled
                yield report

    def _stream_on_device(self, name: str, *arguments: Any, model: str | None = None) -> Generator[Any, None, None]:
        def work(report: Callable[[Any], None]) -> None:
            tasks, models = import_work(), self.load(model)
            try:
                tasks.use_device(models, [each for each in self._loaded.values() if each is not models])
                getattr(tasks, name)(models, *arguments, report)
                return
            except (tasks.OutOfMemoryError, MemoryError) as error:
                log.error("%s: %s", models.model_set.name, error)
            # outside of the handler: the error's traceback holds what filled the memory
            was_offloaded = models.is_offloaded
            tasks.save_memory(models)
            advice = (
                "Please try again: from now on the model's networks come to the GPU one at a time."
                if models.is_offloaded and not was_offloaded
                else "Please ask for less at a time."
            )
            raise DeviceMemoryError(OUT_OF_MEMORY.format(advice=advice))

        yield from stream_reports(work, lock=self._device)
