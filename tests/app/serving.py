"""The real page on a free port, asked over HTTP as a browser or a program asks it."""

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import gradio as gr

from app.device import DeviceWorker
from app.layout import build_app, list_launch_arguments
from app.runs import RunCounter
from app.visitor_queue import DEVICE


@contextmanager
def serve(worker: DeviceWorker, hosts: Collection[str] = (), root_path: str | None = None) -> Iterator[gr.Blocks]:
    """Serve the page.

    Args:
        worker: what computes.
        hosts: as of `RequestGuard`.
        root_path: as of the command line.

    Yields:
        The page.
    """
    page = build_app(worker)
    page.launch(
        server_port=None, root_path=root_path, prevent_thread_lock=True, quiet=True,
        **list_launch_arguments(page, hosts),
    )  # fmt: skip
    try:
        yield page
    finally:
        page.close(verbose=False)


def ask(
    page: gr.Blocks, path: str, body: bytes | dict[str, Any] | None = None, timeout: float = 20, **headers: str
) -> tuple[int, str, dict[str, str]]:
    """Send a request.

    Returns:
        Status, text and headers of the answer.
    """
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    request = urllib.request.Request(page.local_url.rstrip("/") + path, data)
    if isinstance(body, dict):
        request.add_header("Content-Type", "application/json")
    for name, value in headers.items():
        request.add_header(name.replace("_", "-"), value)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, answer.read().decode(errors="replace"), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace"), dict(error.headers)


def list_computing(page: gr.Blocks) -> dict[str, int]:
    """List what waits for the device: numbers of functions, by the tab's name or the endpoint's.

    A tab's run is "tab NAME", what else computes in a tab "NAME slider".
    """
    found = {}
    for number, fn in page.fns.items():
        if fn.concurrency_id == DEVICE:
            names = [str(getattr(block, "elem_id", None) or "") for block in fn.inputs]
            tab = (
                "compare" if "prompt" in names else next((name.partition("-")[0] for name in names if "-" in name), "")
            )
            is_run = any(isinstance(getattr(block, "value", None), RunCounter) for block in fn.inputs)
            kind = f"tab {tab}" if is_run else f"{tab} slider"
            found[str(fn.api_name) if fn.api_visibility == "public" else kind] = number
    return found


def list_values(page: gr.Blocks, number: int, **changes: Any) -> list[Any]:
    """List a tab's inputs as the browser sends them: run 1, and what the fields hold at first.

    Args:
        page: the page.
        number: of the function.
        changes: values by a field's id, with "_" for "-".
    """
    values = []
    for index, block in enumerate(page.fns[number].inputs):
        name = str(getattr(block, "elem_id", None) or "").replace("-", "_")
        value = None if block.stateful else getattr(block, "value", None)
        values.append(1 if index == 0 else changes.get(name, value))
    return values


def open_stream(page: gr.Blocks, path: str) -> HTTPConnection:
    """Open a stream of messages and leave it open; closing the connection is leaving."""
    connection = HTTPConnection(urlsplit(page.local_url).netloc, timeout=60)
    connection.request("GET", path)
    return connection


def leave(connection: HTTPConnection) -> None:
    """Leave without a word, as a closed browser does."""
    if connection.sock is not None:
        connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
