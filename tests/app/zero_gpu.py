"""Runs of the page under the wrappers of the `spaces` package, its scheduler stubbed; prints what came back.

A process of its own: the wrappers fork, and pickle what goes to the device and what comes back.
"""

import json
import os
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import spaces  # before gradio
from spaces.config import Config

Config.zero_gpu = True  # only now: importing with it would reach for a GPU

from spaces.zero import client, wrappers  # noqa: E402

asked: list[float] = []


def schedule(task_id: int, request: Any, duration: Any, gpu_size: Any) -> Any:
    asked.append(duration.total_seconds())
    return SimpleNamespace(allowToken="token", nvidiaIndex=0, nvidiaUUID="uuid", idle=True)


def do_nothing(*_: Any, **__: Any) -> None:
    return None


for name, stub in (
    ("schedule", schedule), ("allow", do_nothing), ("release", do_nothing),
    ("get_duration_seconds", lambda duration, size: 600), ("duration_warning", do_nothing),
):  # fmt: skip
    setattr(client, name, stub)
wrappers.torch = SimpleNamespace(
    unpatch=do_nothing, init=do_nothing, size=lambda: 0, move=do_nothing, enter_mode=do_nothing
)
wrappers.patch_gradio_queue = do_nothing
os.environ["SPACES_ZERO_GPU"] = "true"

from app.device import DeviceWorker, on_gpu  # noqa: E402
from app.settings import Settings  # noqa: E402


def main() -> None:
    """Run each function of `app.work` that uses the device, in small."""
    assert on_gpu is spaces.GPU
    worker = DeviceWorker()
    worker.warm_up()
    own: Settings = worker.catalog.default.defaults
    small = replace(own, steps=10, bypass_start=3, bypass_end=8, iterations=2)
    found = {}
    for work, arguments in (
        ("compare", (small, True, None)),
        ("run_variance", (["red apple"], [0], small, 1)),
        ("run_convergence", (small, [0])),
        ("run_diversity", ("red apple", [0, 1], ["full run", "LatentCRF"], small)),
        ("run_walkthrough", (small,)),
    ):
        *_, last = worker.stream(work, *arguments)
        found[work] = type(last).__name__
    refused = ""
    try:
        list(worker.stream("run_convergence", None, [0]))
    except Exception as error:  # of the wrappers
        refused = type(error).__name__
    print(json.dumps({"found": found, "seconds": asked, "refused": refused, "pid": os.getpid()}))


if __name__ == "__main__":
    sys.exit(main())
