"""The page's server: a queue that no request can stop, limits on requests, tasks that go on after a failure."""

import asyncio
import gzip
import io
import json
import logging
import os
import re
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import gradio as gr
import gradio.utils
import pytest
from gradio.state_holder import SessionState
from gradio_client import Client
from PIL import Image

from app import request_guard, social, upkeep, visitor_queue
from app.arguments import prepare_environment
from app.checked_blocks import SORRY, UNREADABLE_VALUES
from app.device import DeviceWorker
from app.request_guard import (
    FOREIGN,
    LOOPBACK,
    MAX_JSON,
    MAX_UPLOADS,
    UPLOAD_SECONDS,
    RequestError,
    UploadLimit,
    list_paths,
)
from app.settings import NAMES
from app.tabs import frontier
from app.visitor_files import sweep
from app.visitor_queue import DEVICE, MAX_SESSIONS, MAX_WAITING_OF_ADDRESS, SessionMessages, VisitorQueue, guard_queue
from tests.app.serving import ask, leave, list_computing, list_values, open_stream, serve

EMPTY = ["", *([None] * (len(NAMES) - 1))]  # settings with an empty prompt


@pytest.fixture(scope="module")
def worker() -> DeviceWorker:
    return DeviceWorker()


@pytest.fixture(scope="module")
def page(worker: DeviceWorker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[gr.Blocks]:
    """The real page; nothing here makes it compute."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORWARDED_ALLOW_IPS", "")
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        with serve(worker) as page:
            yield page


def find_function(page: gr.Blocks) -> int:
    """The number of the API's `/compare`."""
    return next(number for number, fn in page.fns.items() if fn.api_name == "compare")


def draw_nothing(page: gr.Blocks) -> str:
    """Ask the API for an empty prompt; returns its error, which comes through the queue."""
    status, text, _ = ask(page, "/gradio_api/call/compare", {"data": EMPTY})
    assert status == 200, text
    return ask(page, f"/gradio_api/call/compare/{json.loads(text)['event_id']}")[1]


def check_queue(page: gr.Blocks) -> None:
    assert "it was left empty" in draw_nothing(page)
    status, text, _ = ask(page, "/health")
    assert status == 200 and json.loads(text)["queue"] == "processing"


# --- the queue --------------------------------------------------------------------------------------------------------


def test_requests_with_an_empty_session_do_not_stop_the_queue(page: gr.Blocks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six of them at once ended gradio's processing task for everybody."""
    monkeypatch.setattr(visitor_queue, "UNHEARD_SECONDS", 0.1)
    check_queue(page)
    body = {"data": EMPTY, "fn_index": find_function(page), "session_hash": ""}
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: ask(page, "/gradio_api/queue/join", body)[0], range(36)))
    assert set(answers) <= {200, 503}  # taken in, or the queue is full
    deadline = time.monotonic() + 10
    while json.loads(ask(page, "/health")[1])["waiting"] and time.monotonic() < deadline:
        time.sleep(0.05)
    monkeypatch.undo()  # on a busy machine this run's listener comes later
    check_queue(page)


def test_a_waiting_session_is_not_evicted_by_newer_ones(page: gr.Blocks) -> None:
    queue = guard_queue(page_of_its_own())._queue
    event = type("Event", (), {"session_hash": "waits"})()
    other = type("EventQueue", (), {"queue": [event]})()
    queue.event_queue_per_concurrency_id["device"] = other  # type: ignore[assignment]
    messages = queue.pending_messages_per_session
    assert isinstance(queue, VisitorQueue) and isinstance(messages, SessionMessages)
    messages["waits"] = 1
    for number in range(MAX_SESSIONS + 500):
        messages[f"s{number}"] = number
        queue.pending_event_ids_session[f"s{number}"] = {"never heard"}
    assert messages["waits"] == 1 and len(messages) == MAX_SESSIONS
    assert list(messages)[1] == "s501" and len(queue.pending_event_ids_session) <= MAX_SESSIONS
    messages["s2000"] = "again"
    assert len(messages) == MAX_SESSIONS


def page_of_its_own() -> gr.Blocks:
    with gr.Blocks() as app:
        gr.Markdown("nothing")
    return app.queue(max_size=3)


def test_an_event_that_nobody_can_receive_is_dropped() -> None:
    queue = guard_queue(page_of_its_own())._queue
    event = type("Event", (), {"session_hash": "gone", "alive": True, "_id": "1"})()
    queue.send_message(event, type("Message", (), {})())
    assert not event.alive


def test_a_session_that_listened_lately_is_not_waited_for() -> None:
    """Its next stream opens while its run begins; where none does, the run ends."""
    queue = guard_queue(page_of_its_own())._queue
    now, messages = time.monotonic(), queue.pending_messages_per_session
    assert isinstance(queue, VisitorQueue)
    new, known = (
        type("Event", (), {"session_hash": name, "_id": name, "enqueue_time": now})() for name in ("new", "known")
    )
    waiting = {"queue": [new, known], "concurrency_limit": 1, "current_concurrency": 0}
    queue.event_queue_per_concurrency_id["device"] = type("EventQueue", (), waiting)()  # type: ignore[assignment]
    messages["new"], messages["known"] = asyncio.Queue(), asyncio.Queue()
    messages["known"].last_heard = now - 30
    assert queue.get_events() == ([known], False, "device") and queue.get_events() is None
    assert not queue._is_unheard(known)
    known.enqueue_time = now - 20
    assert queue._is_unheard(known)


def test_a_failed_task_of_the_queue_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever fails in it: here the choice of the next event, twice."""
    monkeypatch.setattr("app.visitor_queue.RESTART_SECONDS", 0.01)
    queue = guard_queue(page_of_its_own())._queue
    assert isinstance(queue, VisitorQueue)
    calls = []

    def choose() -> None:
        calls.append(1)
        if len(calls) <= 2:
            raise KeyError("session")

    monkeypatch.setattr(queue, "get_events", choose)
    monkeypatch.setattr(VisitorQueue, "__len__", lambda self: 1)
    queue.active_jobs = [None]

    async def run() -> None:
        task = asyncio.create_task(queue.start_processing())
        for _ in range(500):
            await asyncio.sleep(0.01)
            if len(calls) > 2:
                break
        assert queue.is_processing and not queue.stopped and queue.failures == 2
        queue.close()
        await asyncio.wait_for(task, 2)

    asyncio.run(run())
    assert len(calls) > 2 and not queue.is_processing


def test_a_session_holds_no_description_of_the_page(page: gr.Blocks) -> None:
    """gradio keeps 0.5 MB for each session otherwise, and what its components show."""
    state = SessionState(page)
    shown = next(block for block in page.blocks.values() if isinstance(block, gr.HTML))
    state[shown._id] = shown
    state._update_value_in_config(shown._id, "x")
    assert list(state.components) == []
    assert state.blocks_config.blocks == page.blocks and len(page.get_config_file()["components"]) == len(page.blocks)


def test_health_tells_a_stopped_queue(page: gr.Blocks) -> None:
    app = page_of_its_own()
    guard_queue(app)
    state = upkeep.Upkeep(app)
    queue = app._queue
    assert isinstance(queue, VisitorQueue)
    assert state.check()["queue"] == "not started" and state.answer().status_code == 200
    queue.has_started = queue.is_processing = True
    assert state.check()["queue"] == "processing"
    queue.stopped = True
    assert state.check()["queue"] == "stopped" and state.answer().status_code == 503


# --- fair turns -------------------------------------------------------------------------------------------------------


def join(page: gr.Blocks, session: str, tab: str = "compare", **headers: str) -> tuple[int, str]:
    """Ask for a run of a tab; returns status and text."""
    number = list_computing(page)[f"tab {tab}"]
    body = {"data": list_values(page, number, prompt="apple"), "fn_index": number, "session_hash": session}
    return ask(page, "/gradio_api/queue/join", body, **headers)[:2]


def count_waiting(page: gr.Blocks) -> int:
    return int(json.loads(ask(page, "/health")[1])["waiting"])


def wait_for(holds: Callable[[], bool], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_session_has_one_run_and_one_that_waits(
    page: gr.Blocks, worker: DeviceWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another visitor's run has the device; the session leaves at the end, and all of its runs with it."""
    with worker._device:
        assert join(page, "greedy")[0] == 200
        stream = open_stream(page, "/gradio_api/queue/data?session_hash=greedy")
        wait_for(lambda: json.loads(ask(page, "/health")[1])["running"] == 1)
        assert join(page, "greedy")[0] == 200
        assert join(page, "greedy")[0] == 200 and count_waiting(page) == 1  # takes the other's place
        status, text = join(page, "greedy", "variance")
        assert status == 503 and "one run and one that waits are accepted" in text
        assert join(page, "other")[0] == 200
        leave(stream)
        wait_for(lambda: json.loads(ask(page, "/health")[1])["running"] == 0)
        assert count_waiting(page) == 1  # the other session's, which nobody listens to
        monkeypatch.setattr(visitor_queue, "UNHEARD_SECONDS", 0.1)
        wait_for(lambda: count_waiting(page) == 0)


def test_an_address_has_a_limit_and_runs_without_a_listener_are_dropped(
    page: gr.Blocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = MAX_WAITING_OF_ADDRESS
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: join(page, f"hall{number}"), range(most)))
    assert {status for status, _ in answers} == {200} and count_waiting(page) == most
    status, text = join(page, "late", X_Forwarded_For="8.8.8.8")  # no proxy is trusted
    assert status == 503 and "40 runs of your address wait" in text and "40 before you, about" in text
    monkeypatch.setattr(visitor_queue, "UNHEARD_SECONDS", 0.1)
    wait_for(lambda: count_waiting(page) == 0)
    check_queue(page)


def test_a_trusted_proxy_names_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    prepare_environment([])
    assert os.environ["FORWARDED_ALLOW_IPS"] == ""
    prepare_environment(["--trusted-proxy", "127.0.0.1"])
    with serve(DeviceWorker()) as page:
        for number in range(MAX_WAITING_OF_ADDRESS):
            join(page, f"hall{number}", X_Forwarded_For="9.9.9.9")
        assert join(page, "late", X_Forwarded_For="9.9.9.9")[0] == 503
        assert join(page, "elsewhere", X_Forwarded_For="8.8.8.8")[0] == 200


def test_a_full_queue_leaves_the_rest_of_the_page_alone(page: gr.Blocks) -> None:
    """Only what computes waits."""
    public = {fn.api_name for fn in page.fns.values() if fn.api_visibility == "public"}
    queued = [fn for fn in page.fns.values() if fn.fn is not None and fn.queue and fn.api_name not in public]
    assert queued and {fn.concurrency_id for fn in queued} == {DEVICE}


# --- the server's tasks -----------------------------------------------------------------------------------------------


def test_a_sweep_that_fails_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "SWEEP_SECONDS", 0.01)
    done = threading.Event()
    calls: list[int] = []

    def sweep(keep: set[str]) -> int:
        calls.append(1)
        if len(calls) == 1:
            raise IsADirectoryError("a folder that is called image.png")
        done.set()
        return 0

    monkeypatch.setattr(upkeep, "sweep", sweep)
    state = upkeep.Upkeep(guard_queue(page_of_its_own()))

    async def run() -> None:
        async with state.lifespan(None):  # type: ignore[arg-type]
            await asyncio.to_thread(done.wait, 5)
            await asyncio.sleep(0.05)

    asyncio.run(run())
    assert state.failures == 1 and state.check()["seconds_since_sweep"] is not None


# --- requests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:9/x.png", "HTTPS://example.com/x", "http%3A//127.0.0.1/x", "//e.com/x"]
)
def test_no_foreign_file_is_served(page: gr.Blocks, address: str) -> None:
    status, text, _ = ask(page, f"/gradio_api/file={address}")
    assert status == 403 and "Only files of this server" in text


@pytest.mark.parametrize("path", ["http://127.0.0.1:9/x.png", " https://example.com/x.png", "file:///etc/passwd"])
def test_no_foreign_file_is_taken_in(page: gr.Blocks, path: str) -> None:
    data = [{"a": [{"path": path, "meta": {"_type": "gradio.FileData"}}]}]
    status, text, _ = ask(page, "/gradio_api/queue/join", {"data": data, "fn_index": 0, "session_hash": "s"})
    assert status == 403 and "must be uploaded first" in text


def test_requests_have_a_largest_size(page: gr.Blocks) -> None:
    body = {"data": ["x" * MAX_JSON], "fn_index": find_function(page), "session_hash": "s"}
    for path in ("/gradio_api/queue/join", "/gradio_api/call/compare", "/login", "/nothing"):
        status, text, _ = ask(page, path, body)
        assert status == 413 and "accepted are 64 kB" in text, path
    check_queue(page)


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/?page=x", {}, 404),
        ("/config?page=x", {}, 404),
        ("/?deep_link=x", {}, 404),
        ("/gradio_api/deep_link?session_hash=s", {}, 404),
        ("/", {"Range": "bytes=1-2-3"}, 416),
        ("/", {"Range": "bytes=0-10"}, 200),
        ("/gradio_api/queue/data", {}, 422),
        ("/gradio_api/queue/data?session_hash=unknown", {}, 200),
        ("/nothing", {}, 404),
    ],
)
def test_unknown_input_gets_an_answer_and_no_traceback(
    page: gr.Blocks, capfd: pytest.CaptureFixture[str], path: str, headers: dict[str, str], status: int
) -> None:
    assert ask(page, path, **headers)[0] == status
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("path", ["/", "/config"])
def test_the_page_is_rendered_once_for_each_address(
    page: gr.Blocks, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered = []

    def count_copies(value: Any) -> Any:
        rendered.append(value)
        return safe_deepcopy(value)

    safe_deepcopy = gradio.utils.safe_deepcopy
    monkeypatch.setattr(gradio.utils, "safe_deepcopy", count_copies)
    plain = ask(page, path, Host="one.example:1")[1]
    count = len(rendered)
    assert count and "http://one.example:1" in plain
    request = urllib.request.Request(page.local_url.rstrip("/") + f"{path}?prompt=red+apple&tab=variance")
    request.add_header("Host", "one.example:1")
    request.add_header("Accept-Encoding", "gzip, br")
    with urllib.request.urlopen(request, timeout=20) as answer:
        compressed = answer.read()
    assert gzip.decompress(compressed).decode() == plain and len(compressed) < len(plain) / 4
    assert answer.headers["Vary"] == "Accept-Encoding" and "object-src" in answer.headers["Content-Security-Policy"]
    assert len(rendered) == count
    assert "http://one.example:1" not in ask(page, path, Host="two.example")[1]
    assert len(rendered) > count


def test_a_request_that_names_no_function_is_refused(page: gr.Blocks, capfd: pytest.CaptureFixture[str]) -> None:
    status, text, _ = ask(page, "/gradio_api/run/predict", {"data": [None], "fn_index": None, "session_hash": "a"})
    assert status == 400 and "cannot read this request" in text
    status, text, _ = ask(page, "/gradio_api/call/v2/compare", {"unknown": 1})
    assert status == 400 and "cannot read this request" in text
    assert "Traceback" not in capfd.readouterr().err


def find_input(page: gr.Blocks, handler: str) -> int:
    """The number of the first function whose handler has a name."""
    return next(number for number, fn in page.fns.items() if fn.name == handler)


@pytest.mark.parametrize(
    ("handler", "values", "more", "sentence"),
    [
        ("draw", [["KID to real images"], False, False], {}, UNREADABLE_VALUES),
        ("draw", ["beauty", False, False], {}, UNREADABLE_VALUES),
        ("draw", [], {}, UNREADABLE_VALUES),
        ("restore", [None, None], {"event_data": None}, UNREADABLE_VALUES),
        ("restore", [None, None], {"event_data": {"index": 7, "value": 1}}, "This image is no longer here"),
        ("select_pair", [None], {"event_data": {"index": [1], "value": 1}}, "This image is no longer here"),
    ],
)
def test_wrong_values_get_400_and_one_line(
    page: gr.Blocks, caplog: pytest.LogCaptureFixture, handler: str, values: list[Any], more: dict[str, Any],
    sentence: str,
) -> None:  # fmt: skip
    body = {"data": values, "fn_index": find_input(page, handler), "session_hash": "wrong", **more}
    status, text, _ = ask(page, "/gradio_api/run/predict", body)
    assert status == 400 and json.loads(text)["error"].startswith(sentence)
    (record,) = (each for each in caplog.records if each.levelno >= logging.WARNING)
    assert "\n" not in record.getMessage() and not record.exc_info


def test_a_fault_of_ours_is_logged_with_its_traceback(
    page: gr.Blocks, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one of the kind that gradio raises for a request that it cannot read."""
    monkeypatch.setattr(frontier, "read_shipped", lambda: {}["shipped"])
    body = {"data": [next(iter(frontier.METRICS)), False, False], "fn_index": find_input(page, "draw")}
    status, text, _ = ask(page, "/gradio_api/run/predict", body)
    assert status == 500 and json.loads(text)["error"] == SORRY
    (record,) = (each for each in caplog.records if each.exc_info)
    assert record.exc_info and isinstance(record.exc_info[1], KeyError)
    _, text, _ = ask(page, "/gradio_api/call/frontier", {"data": [None, None]})
    answer = ask(page, f"/gradio_api/call/frontier/{json.loads(text)['event_id']}")[1]
    assert SORRY in answer and "shipped" not in answer and "frontier failed" in caplog.text
    monkeypatch.setattr(VisitorQueue, "__len__", lambda self: {}["length"])
    status, text, _ = ask(page, "/health")
    assert status == 500 and "length" not in text


def test_an_upload_without_a_file_name_is_refused(page: gr.Blocks, capfd: pytest.CaptureFixture[str]) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="files"\r\n\r\nabc\r\n--b--\r\n'
    status, text, _ = ask(page, "/gradio_api/upload", body, Content_Type="multipart/form-data; boundary=b")
    assert 400 <= status < 500, text
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("name", ["a:b", "a b", "x" * 300, "a/b"])
def test_a_malformed_name_of_a_proxy_is_refused(page: gr.Blocks, name: str) -> None:
    status, text, _ = ask(page, "/", X_Forwarded_Host=name)
    assert status == 400 and "X-Forwarded-Host" in text


def test_answers_carry_headers_that_keep_foreign_content_out(page: gr.Blocks) -> None:
    for path in ("/", "/gradio_api/file=http://e.com/x", "/config"):
        headers = {name.lower(): value for name, value in ask(page, path)[2].items()}
        assert (
            headers["x-content-type-options"] == "nosniff" and "object-src 'none'" in headers["content-security-policy"]
        )


def read_tags(page: str) -> list[tuple[str, str]]:
    """Names and contents of a page's tags for other sites, in order."""
    return re.findall(r'<meta\s+(?:property|name)="((?:og|twitter):[^"]+)"\s+content="([^"]*)"', page)


@pytest.mark.parametrize(("headers", "root"), [({}, None), ({"X_Forwarded_Host": "crf.org"}, "http://crf.org")])
def test_other_sites_see_the_pages_own_title_and_picture(
    page: gr.Blocks, headers: dict[str, str], root: str | None
) -> None:
    root = root or page.local_url.rstrip("/")
    status, text, answered = ask(page, "/?prompt=x", **headers)
    tags = read_tags(text)
    assert status == 200 and len(dict(tags)) == len(tags) == 9  # gradio's are gone
    own = dict(tags)
    assert own["og:title"] == "LatentCRF" and own["og:url"] == f"{root}/" and "CRF" in own["og:description"]
    assert own["og:image"] == f"{root}/social.png"
    assert text.index("og:title") < text.index("<style") and text.rstrip().endswith("</html>")
    assert int(answered["content-length"]) == len(text.encode())


def test_the_picture_for_other_sites_is_served(page: gr.Blocks) -> None:
    with urllib.request.urlopen(f"{page.local_url}social.png", timeout=20) as answer:
        content = answer.read()
    assert answer.headers["content-type"] == "image/png" and len(content) < 150_000
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == social.PICTURE_SIZE


def test_paths_are_found_however_deep() -> None:
    value: Any = {"path": "inside"}
    for _ in range(5000):
        value = [value, {"path": 3}]
    assert list(list_paths(value)) == ["inside"]
    assert not FOREIGN.match("/tmp/a:b.png") and FOREIGN.match("data:image/png;base64,") and not FOREIGN.match("a/b")


def test_a_page_of_this_machine_answers_to_its_own_names_alone() -> None:
    """A foreign page whose name is led to 127.0.0.1 does not read it (DNS rebinding)."""
    with serve(DeviceWorker(), hosts=LOOPBACK) as page:
        port = page.local_url.rstrip("/").rpartition(":")[2]
        for name in ("127.0.0.1", f"localhost:{port}", "[::1]:80", "LOCALHOST"):
            assert ask(page, "/health", Host=name)[0] == 200, name
        for name in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", ""):
            status, text, _ = ask(page, "/health", Host=name)
            assert status == 403 and "This page is for this machine" in text, name


def upload(page: gr.Blocks, name: str, content: bytes) -> tuple[int, str]:
    head = f'--b\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + b"\r\n--b--\r\n"
    return ask(page, "/gradio_api/upload", body, Content_Type="multipart/form-data; boundary=b")[:2]


@pytest.mark.parametrize("name", ["page.html", "drawing.svg", "code.js", "none"])
def test_an_upload_is_never_shown_as_a_page_of_ours(page: gr.Blocks, name: str) -> None:
    status, text = upload(page, name, b"<script>alert(1)</script>")
    assert status == 200
    status, _, headers = ask(page, f"/gradio_api/file={json.loads(text)[0]}")
    shown = {key.lower(): value for key, value in headers.items()}
    assert status == 403 or shown["content-disposition"].startswith("attachment")


def test_a_broken_upload_leaves_no_part(page: gr.Blocks) -> None:
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    connection = HTTPConnection(page.local_url.split("/")[2], timeout=10)
    connection.putrequest("POST", "/gradio_api/upload")
    connection.putheader("Content-Type", "multipart/form-data; boundary=b")
    connection.putheader("Content-Length", "1000000")
    connection.endheaders()
    connection.send(b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n' + b"x" * 200_000)
    wait_for(lambda: any(folder.glob("tmp*")))
    leave(connection)
    wait_for(lambda: not any(folder.glob("tmp*")))


def test_uploads_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    uploads, now = UploadLimit(), [0.0]
    monkeypatch.setattr(request_guard.time, "monotonic", lambda: now[0])
    for _ in range(MAX_UPLOADS):
        uploads.begin("a")
    uploads.begin("b")
    with pytest.raises(RequestError, match="60 uploads in 10 minutes"):
        uploads.begin("a")
    now[0] = UPLOAD_SECONDS + 1
    uploads.begin("a")


def test_the_oldest_files_leave_where_there_are_too_many(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / "latentcrf-page-somebody"
    folder.mkdir()
    now = time.time()
    for age in range(4):
        path = folder / f"{age}.png"
        path.write_bytes(bytes(100))
        os.utime(path, (now - age, now - age))
    assert sweep(max_bytes=250) == 2
    assert {path.name for path in folder.iterdir()} == {"0.png", "1.png"}


class SubPathProxy(BaseHTTPRequestHandler):
    """A reverse proxy that serves the page at `target` under /latentcrf, and nothing else."""

    target = ""

    def forward(self) -> None:
        if not self.path.startswith("/latentcrf/"):
            self.send_error(404)
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or None
        request = urllib.request.Request(self.target + self.path.removeprefix("/latentcrf"), body)
        if self.headers.get("Content-Type"):
            request.add_header("Content-Type", self.headers["Content-Type"])
        with urllib.request.urlopen(request, timeout=20) as answer:
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.headers["Content-Type"])
            self.end_headers()
            while line := answer.readline():
                self.wfile.write(line)

    do_GET = do_POST = forward

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def test_the_page_works_under_a_sub_path() -> None:
    """`--root-path`, behind a proxy that takes the path off."""
    with serve(DeviceWorker(), root_path="/latentcrf") as page:
        handler = type("Handler", (SubPathProxy,), {"target": page.local_url.rstrip("/")})
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as proxy:
            threading.Thread(target=proxy.serve_forever, daemon=True).start()
            url = f"http://127.0.0.1:{proxy.server_port}/latentcrf/"
            try:
                with urllib.request.urlopen(url, timeout=20) as answer:
                    tags = dict(read_tags(answer.read().decode()))
                assert tags["og:title"] == "LatentCRF" and tags["og:image"].endswith("/latentcrf/social.png")
                config = json.loads(urllib.request.urlopen(f"{url}config", timeout=20).read())
                assert config["root"].endswith("/latentcrf")
                assert Client(url, verbose=False).predict(api_name="/frontier")["rows"]
            finally:
                proxy.shutdown()
