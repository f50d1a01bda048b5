"""Hostile values to every function of the page, also the private ones: sentences and 4xx alone, and the queue goes on.

python -m tests.app.test_fuzz --cases 5000
"""

import argparse
import contextlib
import json
import logging
import random
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import gradio as gr
import pytest

from app import visitor_queue
from app.device import DeviceWorker
from tests.app.serving import ask, leave, open_stream, serve

SEED = 30
LISTENING, LISTEN_SECONDS = 0.1, 0.3  # share of the taken runs whose session is listened to, and for how long
TEXTS = (
    "", " ", "\0", "\ud800", "red apple", "<script>alert(1)</script>", "../../etc/passwd", "/etc/passwd", "http://e.com/",
    "x" * 5000, "{}", "null", "NaN", "1e999", "-1", "True", "__proto__", "compare", "emoji", "%s%n", "🍎", "\u200b",
)  # fmt: skip
NUMBERS = (0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**300, 0.5, 1e308, float("nan"), float("inf"), -0.0)


def draw_value(chance: random.Random, depth: int = 0) -> Any:
    """Draw a hostile JSON value."""
    kind = chance.randrange(9 if depth < 3 else 5)
    if kind == 0:
        return chance.choice(TEXTS)
    if kind == 1:
        return chance.choice(NUMBERS)
    if kind == 2:
        return chance.choice((None, True, False))
    if kind == 3:
        return chance.randrange(-10, 300)
    if kind == 4:
        return "".join(chr(chance.choice((chance.randrange(32, 127), chance.randrange(0x3000)))) for _ in range(9))
    if kind == 5:
        return [draw_value(chance, depth + 1) for _ in range(chance.randrange(4))]
    if kind == 6:
        return {"path": chance.choice(TEXTS), "meta": {"_type": "gradio.FileData"}}
    if kind == 7:
        return {"__type__": "update", chance.choice(("value", "visible", "choices")): draw_value(chance, depth + 1)}
    return {chance.choice(TEXTS): draw_value(chance, depth + 1) for _ in range(chance.randrange(3))}


def draw_request(page: gr.Blocks, chance: random.Random) -> tuple[str, dict[str, Any] | bytes | None]:
    """Draw a request to one of the page's functions or one of gradio's routes: its path and body."""
    number = chance.choice(list(page.fns))
    fn = page.fns[number]
    values = [getattr(block, "value", None) for block in fn.inputs]
    values = [None if block.stateful else value for block, value in zip(fn.inputs, values, strict=True)]
    for index in range(len(values)):
        if chance.random() < 0.4:
            values[index] = draw_value(chance)
    if chance.random() < 0.1:
        values = values[: chance.randrange(len(values) + 1)] + [draw_value(chance)] * chance.randrange(3)
    body = {"data": values, "fn_index": number, "session_hash": f"fuzz{chance.randrange(20)}", "event_id": "fuzz"}
    if chance.random() < 0.3:
        body |= {"event_data": draw_value(chance), "trigger_id": chance.choice((None, -1, number, *page.blocks))}
    if chance.random() < 0.1:
        body[chance.choice(list(body))] = draw_value(chance)
    names = (
        "queue/join",
        "run/predict",
        "cancel",
        "reset",
        "component_server",
        f"call/{fn.api_name}",
        "call/v2/compare",
    )
    route = chance.choices(names, (6, 8, 1, 1, 1, 2, 1))[0]
    if chance.random() < 0.06:
        return f"/gradio_api/{chance.choice(('file=', 'queue/data?session_hash=', 'call/compare/'))}nothing", None
    try:
        json.dumps(body).encode()
    except (UnicodeEncodeError, ValueError):
        return f"/gradio_api/{route}", b"\xff"
    return f"/gradio_api/{route}", body


class Faults(logging.Handler):
    """Gathers what is logged with a traceback: a fault of ours, or of gradio's."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.found.append(self.format(record))


def fuzz(page: gr.Blocks, worker: DeviceWorker, cases: int, seed: int = SEED) -> dict[int, int]:
    """Send hostile requests; the device is held, so that nothing of them computes.

    Returns:
        How often each status came.
    """
    faults = Faults()
    logging.getLogger().addHandler(faults)
    try:
        return send(page, faults, cases, seed)
    finally:
        logging.getLogger().removeHandler(faults)


def send(page: gr.Blocks, faults: Faults, cases: int, seed: int) -> dict[int, int]:
    """Send the requests of `fuzz`; each answer is a result, a sentence, or a full queue, and no fault is logged."""
    chance, statuses = random.Random(seed), dict[int, int]()
    for case in range(cases):
        path, body = draw_request(page, chance)
        try:
            status, text, _ = ask(page, path, body, timeout=60)
        except TimeoutError:
            raise AssertionError(f"case {case} of seed {seed}: {path} {str(body)[:600]}: no answer") from None
        statuses[status] = statuses.get(status, 0) + 1
        where = f"case {case} of seed {seed}: {path} {str(body)[:600]}: {status} {text[:600]}"
        assert status < 500 or status == 503, where
        assert "Traceback" not in text and 'File "/' not in text, where
        if status == 200 and "/queue/join" in path and chance.random() < LISTENING:
            listen(page, str(body["session_hash"]))
        assert not faults.found, where + "".join(faults.found)
        if case % 100 == 99:
            check_alive(page)
    return statuses


def listen(page: gr.Blocks, session: str) -> None:
    """Listen to a session as its page does, so that what it asked for begins, and leave."""
    stream = open_stream(page, f"/gradio_api/queue/data?session_hash={quote(session)}")
    stream.sock.settimeout(LISTEN_SECONDS)
    with contextlib.suppress(TimeoutError, ConnectionError):
        answer = stream.getresponse()
        while line := answer.readline():
            assert b"Traceback" not in line, line
            if b"close_stream" in line:
                break
    leave(stream)


def check_alive(page: gr.Blocks) -> None:
    """The queue works: a run is taken in, and its refusal comes through."""
    state = json.loads(ask(page, "/health")[1])
    assert state["queue"] == "processing" and state["failures"] == {"queue": 0, "sweep": 0}, state
    status, text, _ = ask(page, "/gradio_api/call/frontier", {"data": ["beauty", False]})
    assert status == 200, text
    stream = open_stream(page, f"/gradio_api/call/frontier/{json.loads(text)['event_id']}")
    assert b"Quality must be one of" in stream.getresponse().read()
    leave(stream)


def serve_held(worker: DeviceWorker) -> Iterator[gr.Blocks]:
    """Serve the page whose device is held."""
    worker.call("count_diversity_calls", [], 1, worker.catalog.default.defaults)  # imports the libraries
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("analysis.export.draw_png", lambda figure, name: None)  # Chrome may take a minute
        with serve(worker) as page, worker._device:
            ask(page, "/")
            yield page


@pytest.mark.slow
def test_hostile_values(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visitor_queue, "UNHEARD_SECONDS", 0.5)
    worker = DeviceWorker()
    for page in serve_held(worker):
        statuses = fuzz(page, worker, 500)
    print(statuses)
    assert statuses[200] > 100


def main() -> None:
    """Send many cases."""
    parser = argparse.ArgumentParser(prog="python -m tests.app.test_fuzz")
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args()
    visitor_queue.UNHEARD_SECONDS = 0.5
    worker = DeviceWorker()
    for page in serve_held(worker):
        print(fuzz(page, worker, options.cases, options.seed))


if __name__ == "__main__":
    main()
