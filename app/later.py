"""Modules that take seconds to import, imported when they are first used: meanwhile the page answers."""

import importlib
import threading
from typing import Any

# One thread at a time: of a module that another thread is just importing, the lazy modules of diffusers and transformers
# see a half, and say that its names do not exist.
IMPORTING = threading.RLock()


class Later:
    """Stands for the module `name`, and imports it when one of its names is first asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        with IMPORTING:
            return getattr(importlib.import_module(self._name), name)
