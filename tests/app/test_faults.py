"""Faults around the page: each ends with a sentence, and the next run can be started."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from app import runs
from app.arguments import check_host
from app.components.model_menu import ModelMenu
from app.device import DeviceWorker, choose_gpu_seconds
from app.examples import find_comparison
from app.layout import build_app
from app.main import main
from app.models import PAPER
from app.runs import DISK_FULL, SORRY, Update, build_run_controls
from app.tabs import compare
from app.upkeep import Upkeep
from app.visitor_files import OWN, sweep
from app.visitor_queue import DEVICE, guard_queue
from tests.app.driving import CATALOG, EMOJI, run_tab
from tests.app.serving import ask, list_computing, list_values, open_stream

ROOT = Path(__file__).parents[2]
UNSHARE = shutil.which("unshare")
FONTS = [folder for folder in ("/usr/share/fonts", "/usr/local/share/fonts") if Path(folder).is_dir()]


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


def test_a_wrong_host_ends_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--host", "203.0.113.7"]) == 1
    assert capsys.readouterr().err.startswith("error: --host 203.0.113.7 is no address of this machine")


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


def wait_for_line(page: subprocess.Popen[str], words: str) -> None:
    """Wait until a page has written a line."""
    assert page.stdout is not None
    while words not in (line := page.stdout.readline()):
        assert line or page.poll() is None


@pytest.mark.slow
def test_the_page_stops_at_once_and_says_so() -> None:
    """^C ends it with a line and 130; SIGTERM, which a service manager sends, ends it within a second."""
    for number, status, words in ((signal.SIGINT, 130, "The page has stopped."), (signal.SIGTERM, -15, "")):
        page = start_page("--port", "7931")
        wait_for_line(page, "7931")
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


# --- the machine ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [-86_400, 86_400])
def test_a_jump_of_the_clock_changes_no_estimate_and_keeps_what_is_shown(
    jump: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Waits and the last sweep are on a clock that does not jump. Forward, files look old and are swept, once; the
    page then says so (tests/app/test_compare.py). Back, they are kept until the clock has caught up."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with gr.Blocks() as page:
        button = gr.Button()
        button.click(lambda: None, None, None, concurrency_id=DEVICE)
    guard_queue(page.queue())
    (fn,) = page.fns.values()
    queue, upkeep = page._queue, Upkeep(page)
    event: Any = SimpleNamespace(_id="a", fn=fn, concurrency_id=DEVICE, session_hash="s")
    queue.active_jobs = [[event]]
    queue._begun["a"] = time.monotonic()
    upkeep.swept = time.monotonic()
    path = tmp_path / f"{OWN}x" / "image.png"
    path.parent.mkdir()
    path.touch()
    before, now = queue.locate(None), time.time()
    monkeypatch.setattr(time, "time", lambda: now + jump)
    assert queue.locate(None).seconds == pytest.approx(before.seconds, abs=1)
    assert upkeep.check()["seconds_since_sweep"] == 0
    assert sweep() == (jump > 0) and path.exists() == (jump < 0)


def test_a_full_disk_ends_a_run_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The kernel refuses what is written to /dev/full as it does on a full disk."""
    stored = find_comparison(EMOJI, "red apple", PAPER)
    assert stored is not None
    for key in ("full", "latentcrf", "before", "after"):
        (tmp_path / f"red-apple-{stored.settings.seed}-{key}.png").symlink_to("/dev/full")
    monkeypatch.setattr(compare, "make_folder", lambda: tmp_path)
    worker = DeviceWorker()
    monkeypatch.setattr(worker, "stream", lambda *_, **__: (each for each in [stored]))  # drawing takes seconds
    values = [*stored.settings.as_dict().values(), False, False]
    last = list(run_tab(compare.run_comparison, worker, values, len(compare.View._fields)))[-1]
    assert "disk is full" in last[0] and last[1]["interactive"] and not last[2]["interactive"]
    assert last[3] == "restored" and "No space left on device" in caplog.text


def can_mount() -> bool:
    """Whether a process may have mounts of its own here."""
    command = [str(UNSHARE), "-m", "mount", "-t", "tmpfs", "none", "/mnt"]
    return UNSHARE is not None and not subprocess.run(command, capture_output=True).returncode


def run_compare(page: gr.Blocks, session: str) -> str:
    """Run a short comparison as a browser does; returns all that the page is sent."""
    number = list_computing(page)["tab compare"]
    short = {"prompt": "red apple", "steps": 4, "bypass_start": 2, "bypass_end": 3, "random_seed": False}
    body = {"data": list_values(page, number, **short), "fn_index": number, "session_hash": session}
    status, text, _ = ask(page, "/gradio_api/queue/join", body)
    assert status == 200, text
    stream = open_stream(page, f"/gradio_api/queue/data?session_hash={session}")
    lines = [json.loads(line[5:]) for line in stream.getresponse().read().decode().split("\n") if line.strip()]
    stream.close()
    return json.dumps(lines, ensure_ascii=False)


@pytest.mark.slow
@pytest.mark.skipif(not can_mount(), reason="needs the right to mount")
def test_the_page_works_with_read_only_assets_and_goes_on_after_a_full_disk(tmp_path: Path) -> None:
    """The checkout's files cannot be changed, the temporary folder is a disk of 3 MB. The page starts and draws; on
    the full disk a run ends with a sentence, and once there is room the next one works."""
    mounts = (
        f"mount --bind {ROOT} {ROOT} && mount -o remount,bind,ro {ROOT} && mount -t tmpfs -o size=3m none {tmp_path}"
    )
    environment = {"TMPDIR": str(tmp_path), "GRADIO_TEMP_DIR": str(tmp_path / "latentcrf-gradio-a")}
    server = subprocess.Popen(
        [str(UNSHARE), "-m", "sh", "-c", f"{mounts} && cd {ROOT} && exec {sys.executable} app.py --port 7932"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment,
    )  # fmt: skip
    try:
        wait_for_line(server, "7932")
        page = build_app(DeviceWorker())
        page.local_url = "http://127.0.0.1:7932/"
        filling = Path(f"/proc/{server.pid}/root{tmp_path}/filling")  # this process does not see the mount
        assert "“red apple”" in run_compare(page, "first")
        with pytest.raises(OSError), filling.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 512)
        assert DISK_FULL.split(",")[0].replace("'", "&#x27;") in run_compare(page, "full")
        filling.unlink()
        assert "“red apple”" in run_compare(page, "again")
    finally:
        server.send_signal(signal.SIGINT)
        _, errors = server.communicate(timeout=20)
    assert server.returncode == 130
    assert errors.count("Traceback") == errors.count("OSError: [Errno 28] No space left on device") > 0


@pytest.mark.slow
@pytest.mark.skipif(not can_mount(), reason="needs the right to mount")
def test_pictures_have_their_words_where_no_fonts_are_installed() -> None:
    """PIL brings its font; the page's texts and figures are drawn by the browser."""
    code = """if True:
        import numpy as np
        from PIL import Image
        from analysis.figures.grid import draw_captioned_sheet
        from analysis.idea import draw_idea
        from analysis.safety import draw_blocked

        white = Image.new("RGB", (128, 128), "white")
        sheet = draw_captioned_sheet(np.asarray(white)[None], ["red apple"])
        pictures = [(draw_blocked(128, 128) + 1).permute(1, 2, 0) * 127.5, sheet, draw_idea(white, white)]
        print(*(bool(np.asarray(picture).min() < 100) for picture in pictures))
    """
    mounts = " && ".join(f"mount -t tmpfs none {folder}" for folder in FONTS) or "true"
    environment = os.environ | dict.fromkeys(["HOME", "FONTCONFIG_PATH"], "/nowhere")
    done = subprocess.run(
        [str(UNSHARE), "-m", "sh", "-c", f'{mounts} && exec "$0" -c "$1"', sys.executable, code],
        cwd=ROOT, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert done.stdout.split() == ["True", "True", "True"], done.stderr
