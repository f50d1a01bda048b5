"""Faults around the page: each ends with a sentence, and the next run can be started."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from app import runs
from app.arguments import check_host
from app.components.model_menu import ModelMenu
from app.device import DeviceWorker, choose_gpu_seconds
from app.runs import DISK_FULL, SORRY, Update, build_run_controls
from tests.app.driving import CATALOG, run_tab

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("number", "words"), [(errno.ENOSPC, DISK_FULL), (errno.EROFS, DISK_FULL), (errno.EIO, SORRY)])
def test_a_full_disk_is_a_sentence(number: int, words: str) -> None:
    def handler(run: Any) -> Iterator[Update]:
        yield Update("drawing")
        raise OSError(number, os.strerror(number))

    last = list(run_tab(handler, DeviceWorker(), [], 1))[-1]
    assert words.split(",")[0].replace("'", "&#x27;") in last[0] and last[1]["interactive"]
    assert not last[2]["interactive"] and last[3] == "restored"


def test_what_fails_outside_of_the_handler_enables_the_button() -> None:
    """gradio writes a result's images to its own folder; on a full disk that fails after our handler."""
    with gr.Blocks() as app:
        controls = build_run_controls("x", "Draw", "Ready.")
        controls.status.render()
        controls.connect(DeviceWorker(), ModelMenu(CATALOG).dropdown, lambda run: iter(()), [], [gr.HTML()])
    (failure,) = [fn for fn in app.fns.values() if fn.trigger_only_on_failure]
    computing = next(fn for fn in app.fns.values() if fn.concurrency_id == "device")
    assert failure.trigger_after == computing._id and failure.outputs == controls.outputs and not failure.queue
    status, start, cancel = runs.show_failure()
    assert SORRY in status and start["interactive"] and not cancel["interactive"]


@pytest.mark.parametrize("host", ["nowhere.invalid", "203.0.113.7", "x" * 300])
def test_a_wrong_host_is_named(host: str) -> None:
    with pytest.raises(OSError, match=r"--host .* is no address of this machine"):
        check_host(host)
    for right in (None, "127.0.0.1", "0.0.0.0", "localhost"):
        check_host(right)


def start_page(*words: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "app.py", *words],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["GRADIO_SERVER_PORT", "GRADIO_NUM_PORTS"])
@pytest.mark.parametrize("value", ["abc", "0", "99999", ""])
def test_a_wrong_port_in_the_environment_is_named(name: str, value: str) -> None:
    page = start_page(**{name: value})
    assert page.communicate(timeout=30)[1].strip() == f"error: {name}={value} is out of range: 1 to 65535."
    assert page.returncode == 1


@pytest.mark.slow
def test_the_page_stops_at_once_and_says_so() -> None:
    """^C ends it with a line and 130; SIGTERM, which a service manager sends, ends it within a second."""
    for number, status, words in ((signal.SIGINT, 130, "The page has stopped."), (signal.SIGTERM, -15, "")):
        page = start_page("--port", "7931")
        assert page.stdout is not None
        while "7931" not in (line := page.stdout.readline()):
            assert line or page.poll() is None
        began = time.monotonic()
        page.send_signal(number)
        _, errors = page.communicate(timeout=20)
        assert page.returncode == status and "Traceback" not in errors and words in errors
        assert time.monotonic() - began < (5 if number == signal.SIGINT else 1)
    early = start_page()
    time.sleep(0.5)  # while libraries are imported
    early.send_signal(signal.SIGINT)
    _, errors = early.communicate(timeout=20)
    assert early.returncode in (130, -2) and (early.returncode == -2 or "Traceback" not in errors)


@pytest.mark.slow
def test_every_run_works_on_a_zero_gpu() -> None:
    """Under the real wrappers of `spaces`: arguments and results are pickled, the models are there at the fork."""
    pytest.importorskip("spaces")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.app.zero_gpu"],
        cwd=ROOT, capture_output=True, text=True, timeout=240, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    assert answer["found"] == {
        "compare": "Comparison", "run_variance": "DataFrame", "run_convergence": "Convergence",
        "run_diversity": "MethodImages", "run_walkthrough": "Walkthrough",
    }  # fmt: skip
    assert answer["refused"] and len(answer["seconds"]) == 6 and max(answer["seconds"][:5]) < 30


def test_a_gpu_is_asked_for_as_long_as_the_work_needs() -> None:
    own = CATALOG.default.defaults  # 50 and 34 denoiser calls
    assert choose_gpu_seconds("compare", own, True) == 23
    assert choose_gpu_seconds("compare", replace(own, steps=2, bypass_start=1, bypass_end=2), True) == 10
    assert choose_gpu_seconds("run_walkthrough", own) == 23
    assert choose_gpu_seconds("run_convergence", own, [0, 1, 2, 3], model="emoji") == 60
    assert choose_gpu_seconds("run_diversity", "x", [0] * 64, ["full run"] * 6, own) == 120
    assert choose_gpu_seconds("run_variance", ["x"] * 4, [0] * 4, own, 4) == 60
    assert choose_gpu_seconds("unknown") == 120
