"""The API on the real page, and what a client that leaves it or a tab frees."""

import base64
import io
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
import pytest
from gradio_client import Client
from PIL import Image

from app.device import DeviceWorker
from app.settings import DECLARATIONS, NAMES
from tests.app.serving import ask, leave, list_computing, list_values, open_stream, serve

ROOT = Path(__file__).parents[2]
LONG: dict[str, Any] = {"steps": 200, "bypass_start": 150, "bypass_end": 199}
# each endpoint's longest work, and each tab's, which begins with the run's number
ENDPOINTS: dict[str, dict[str, Any]] = {
    "compare": {"prompt": "red apple", **LONG},
    "compare_seeds": {"prompt": "red apple", "seeds": 8, **LONG},
    "variance": {"runs": 64},
    "convergence": {"seeds": 6, **LONG},
    "diversity": {"seeds": 16},
}
TABS: dict[str, dict[str, Any]] = {
    "tab compare": {"prompt": "red apple", **LONG},
    "tab variance": {"variance_runs": 64},
    "tab convergence": {"convergence_seeds": 6, **{f"convergence_{name}": value for name, value in LONG.items()}},
    "tab diversity": {"diversity_seeds": 16},
    "tab method": {},
}


@pytest.fixture(scope="module")
def worker() -> DeviceWorker:
    return DeviceWorker()


@pytest.fixture(scope="module")
def page(worker: DeviceWorker) -> Iterator[gr.Blocks]:
    with serve(worker) as page:
        yield page


@pytest.fixture(scope="module")
def warm(worker: DeviceWorker) -> DeviceWorker:
    worker.warm_up()
    return worker


def wait_for(holds: Callable[[], bool], seconds: float) -> float:
    """Seconds until something holds."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds
        time.sleep(0.02)
    return time.monotonic() - began


def check_freed(worker: DeviceWorker, stop: Callable[[], Any], capfd: pytest.CaptureFixture[str]) -> None:
    """The device computes; after `stop` it is free within two seconds (a denoiser call of these takes less).

    A visitor who leaves is no fault: nothing is logged with a traceback.
    """
    wait_for(worker._device.locked, 30)
    time.sleep(0.6)
    assert worker._device.locked()
    stop()
    print(f"free after {wait_for(lambda: not worker._device.locked(), 2.5):.2f} s")
    time.sleep(0.3)  # the queue notices it after the device
    assert "Traceback" not in capfd.readouterr().err


# ---------------------------------------------------------------------------------------- leaving


@pytest.mark.slow
@pytest.mark.parametrize("name", ENDPOINTS)
def test_a_program_that_leaves_an_endpoint_frees_the_device(
    page: gr.Blocks, warm: DeviceWorker, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    status, text, _ = ask(page, f"/gradio_api/call/v2/{name}", ENDPOINTS[name])
    assert status == 200, text
    stream = open_stream(page, f"/gradio_api/call/{name}/{json.loads(text)['event_id']}")
    check_freed(warm, lambda: leave(stream), capfd)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENDPOINTS)
def test_a_cancelled_job_frees_the_device(
    page: gr.Blocks, warm: DeviceWorker, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    job = Client(page.local_url, verbose=False).submit(**ENDPOINTS[name], api_name=f"/{name}")
    check_freed(warm, job.cancel, capfd)


@pytest.mark.slow
@pytest.mark.parametrize("name", TABS)
def test_a_visitor_who_leaves_a_tab_frees_the_device(
    page: gr.Blocks, warm: DeviceWorker, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    number = list_computing(page)[name]
    session = f"leaves {name}".replace(" ", "-")
    body = {"data": list_values(page, number, **TABS[name]), "fn_index": number, "session_hash": session}
    status, text, _ = ask(page, "/gradio_api/queue/join", body)
    assert status == 200, text
    stream = open_stream(page, f"/gradio_api/queue/data?session_hash={session}")
    check_freed(warm, lambda: leave(stream), capfd)


@pytest.mark.slow
def test_a_client_that_reads_slowly_holds_nobody_up(page: gr.Blocks, warm: DeviceWorker) -> None:
    """Its run ends without it, the next visitor's follows, and what it was sent waits for it."""
    number = list_computing(page)["tab compare"]
    short = {"prompt": "red apple", "steps": 16, "bypass_start": 8, "bypass_end": 15, "previews": True}

    def begin(session: str) -> HTTPConnection:
        body = {"data": list_values(page, number, **short), "fn_index": number, "session_hash": session}
        assert ask(page, "/gradio_api/queue/join", body)[0] == 200
        stream = HTTPConnection(urlsplit(page.local_url).netloc, timeout=60)
        stream.sock = socket.socket()
        stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)  # what is not read stays with the server
        stream.sock.connect((stream.host, stream.port))
        stream.request("GET", f"/gradio_api/queue/data?session_hash={session}")
        return stream

    slow = begin("reads-slowly")
    wait_for(warm._device.locked, 30)
    assert b'"success":true' in begin("reads-at-once").getresponse().read()
    answer = slow.getresponse()
    text = b""
    while part := answer.read1(1000):
        text += part
        time.sleep(0.001)
    assert text.count(b"process_completed") == 1 and b'"success":true' in text


def test_each_computing_function_is_tested_here(page: gr.Blocks) -> None:
    """But the method tab's sliders, which run the CRF alone, for less than a second."""
    assert set(list_computing(page)) - {"method slider"} == {*ENDPOINTS, *TABS}


# ------------------------------------------------------------------------------------ what is offered


def test_each_parameter_is_described(page: gr.Blocks) -> None:
    """In `view_api` and in openapi.json: what it is, its range and its default."""
    client = Client(page.local_url, verbose=False)
    offered = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    paths = json.loads(ask(page, "/gradio_api/openapi.json")[1])["paths"]
    assert set(offered) == {f"/{name}" for name in (*ENDPOINTS, "frontier")}
    for name, endpoint in offered.items():
        body = paths[f"/gradio_api/call/v2{name}"]["post"]["requestBody"]["content"]["application/json"]
        assert endpoint["parameters"]
        for parameter in endpoint["parameters"]:
            key = parameter["parameter_name"]
            text = parameter["python_type"]["description"]
            assert text == body["schema"]["properties"][key]["description"] and len(text) > 8, key
            assert key == "prompt" or "; default: " in text, key
            assert parameter["parameter_has_default"] or (key == "prompt" and name.startswith("/compare"))
    compare = paths["/gradio_api/call/v2/compare"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert list(compare["properties"]) == [name for name in NAMES if name != "images"]
    for name, property in compare["properties"].items():
        assert DECLARATIONS[name].info in property["description"]
    steps = compare["properties"]["steps"]
    assert (steps["minimum"], steps["maximum"], steps["default"]) == (2, 200, 50)


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("compare", {"prompt": "x", "steps": 1000}, "Steps must be a whole number from 2 to 200"),
        ("compare_seeds", {"prompt": "x", "seeds": 17}, "Seeds must be a whole number from 1 to 16"),
        ("compare_seeds", {"prompt": "x", "seeds": 2, "seed": 2**32 - 1}, "Seed must be"),
        ("compare_seeds", {"prompt": "x", "seeds": 16, **LONG, "steps": 200}, "this page accepts 4,000"),
        ("variance", {"runs": 65}, "Runs must be a whole number from 2 to 64"),
        ("variance", {"prompts": "\n"}, "Prompt must be text"),
        ("variance", {"runs": 64}, "This takes 5,376 denoiser calls; this page accepts 4,000"),
        ("variance", {"threshold": 0}, "Threshold must be"),
        ("convergence", {"seeds": 7}, "Seeds must be a whole number from 1 to 6"),
        ("diversity", {"seeds": 3}, "Seeds must be a whole number from 4 to 16"),
        ("diversity", {"methods": ["full"]}, "Methods must be among"),
        ("diversity", {"methods": "full"}, "Methods must be a list"),
        ("frontier", {"quality": "beauty"}, "Quality must be one of"),
        ("frontier", {"all_methods": "maybe"}, "All methods must be on or off"),
    ],
)
def test_wrong_values_are_refused_with_a_sentence(
    page: gr.Blocks, worker: DeviceWorker, monkeypatch: pytest.MonkeyPatch, name: str, values: Any, words: str
) -> None:
    monkeypatch.setattr(worker, "most_calls", 4000)
    status, text, _ = ask(page, f"/gradio_api/call/v2/{name}", values)
    assert status == 200, text
    answer = ask(page, f"/gradio_api/call/{name}/{json.loads(text)['event_id']}")[1]
    assert "event: error" in answer and words in answer and "Traceback" not in answer


# ------------------------------------------------------------------------------------------- answers


@pytest.mark.slow
def test_the_analyses_answer(page: gr.Blocks, warm: DeviceWorker) -> None:
    client = Client(page.local_url, verbose=False)
    found = client.predict("🍎", runs=2, api_name="/variance")
    assert found["notes"] == ["🍎 is read as “red apple”."]
    assert {row["method"] for row in found["rows"]} == {"full run", "LatentCRF"} and len(found["runs"]) == 2
    found = client.predict("no dog", seeds=1, steps=6, bypass_start=4, bypass_end=5, api_name="/convergence")
    assert "does not understand" in found["notes"][0]
    assert found["rows"] and found["settings"]["steps"] == 6
    found = client.predict("two dogs", seeds=4, methods=[], api_name="/diversity")
    assert "does not count" in " ".join(found["notes"])
    (images,) = found["images"].values()
    assert [Image.open(io.BytesIO(base64.b64decode(image))).size for image in images] == [(128, 128)] * 4
    assert client.predict(api_name="/frontier")["rows"]
    found = client.predict("red apple", steps=4, bypass_start=2, bypass_end=3, seeds=2, api_name="/compare_seeds")
    assert [run["settings"]["seed"] for run in found["runs"]] == [0, 1]


@pytest.mark.slow
def test_the_documented_client_works(page: gr.Blocks, warm: DeviceWorker, tmp_path: Path, monkeypatch: Any) -> None:
    (code,) = (block for block in re.findall(r"```py\n(.*?)```", (ROOT / "docs/api.md").read_text(), re.DOTALL)
               if "gradio_client" in block)  # fmt: skip
    monkeypatch.chdir(tmp_path)
    exec(code.replace("http://127.0.0.1:7860", page.local_url), {})
    assert Image.open(tmp_path / "latentcrf.png").size == (128, 128)
