"""The one worker that computes: it loads a model set once, runs one thing at a time and streams what that reports."""

import logging
import os
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from app.callback_stream import stream_reports
from app.models import EMOJI, ModelsError, ModelSet

if TYPE_CHECKING:
    from app.loaded_models import LoadedModels

log = logging.getLogger(__name__)

try:  # on a Hugging Face Space with ZeroGPU, what computes is lent a GPU for the time of the call
    from spaces import GPU as on_gpu
except ImportError:

    def on_gpu(function: Callable[..., Any] | None = None, **_: Any) -> Callable[..., Any]:
        """Stand in for `spaces.GPU` elsewhere: change nothing, as `@on_gpu` and as `@on_gpu(duration=...)`."""
        return (lambda inner: inner) if function is None else function


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


def choose_gpu_seconds(name: str, *_: Any) -> int:
    """Choose for how long a ZeroGPU is asked for.

    Args:
        name: of the function in `app.work`.

    Returns:
        Seconds.
    """
    return 60 if name == "compare" else 120


class DeviceWorker:
    """The models of one set and the device they run on. Functions of `app.work` are called by their names.

    Args:
        model_set: loaded when first needed.
    """

    def __init__(self, model_set: ModelSet = EMOJI) -> None:
        self.model_set = model_set
        self._device = threading.Lock()  # held while anything computes
        self._loading = threading.Lock()
        self._stream = on_gpu(duration=choose_gpu_seconds)(self._stream_on_device)

    @property
    def is_loaded(self) -> bool:
        """Whether the models are in memory."""
        return "_models" in self.__dict__

    @property
    def models(self) -> "LoadedModels":
        """The models, loaded on first use.

        Raises:
            ModelsError: a file is missing or damaged.
        """
        with self._loading:
            return self._models

    @cached_property
    def _models(self) -> "LoadedModels":
        self.model_set.check()
        try:
            return import_work().load_models(self.model_set)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            log.exception("loading failed")
            raise ModelsError(f"The models in {self.model_set.folder} do not load: {error}") from error

    def warm_up(self) -> None:
        """Load the models and run a short comparison: the first run of anything is slow, and would be measured.

        Problems are logged; visitors see them when they ask for images.
        """
        settings = replace(self.model_set.defaults, steps=4, iterations=2, bypass_start=2, bypass_end=3)
        try:
            if os.environ.get("SPACES_ZERO_GPU"):  # the GPU is lent to a visitor's call only
                _ = self.models
                return
            for _ in self.stream("compare", settings, True):
                pass
        except ModelsError as error:
            log.error("%s", error)

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

    def stream(self, name: str, *arguments: Any) -> Generator[Any, None, None]:
        """Run a function of `app.work` alone on the device.

        Closing the generator stops it at its next report.

        Args:
            name: of the function; it is called with the models, then `arguments`, then the callback `report`.
            arguments: of the function.

        Yields:
            What it reports.

        Raises:
            ModelsError: a file of the models is missing or damaged.
            Exception: whatever it raises.
        """
        yield from self._stream(name, *arguments)

    def _stream_on_device(self, name: str, *arguments: Any) -> Iterator[Any]:
        def work(report: Callable[[Any], None]) -> None:
            getattr(import_work(), name)(self.models, *arguments, report)

        yield from stream_reports(work, lock=self._device)
