"""Checks on requests before gradio sees them: sizes, addresses of foreign files, input that it would stumble over."""

import json
import logging
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterator
from typing import Any
from urllib.parse import parse_qs, unquote

from fastapi.responses import JSONResponse, Response
from gradio.route_utils import FnIndexInferError
from starlette.requests import ClientDisconnect

from app.checked_blocks import REFUSED, is_ours
from app.visitor_files import remove_upload_parts

MAX_JSON, MAX_UPLOAD = 64 * 1024, 21 * 1024**2  # bytes of a request: anything but an upload, and an upload
MAX_UPLOADS, UPLOAD_SECONDS = 60, 600  # of an address
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")  # names of this machine in a Host header
FOREIGN = re.compile(r"^\s*[a-z][a-z0-9+.-]*:", flags=re.IGNORECASE)  # "http:", "file:", "data:"
NAME = re.compile(r"^(?:[\w.-]{1,253}|\[[0-9a-f:.]{2,45}\])(?::\d{1,5})?$", flags=re.ASCII | re.IGNORECASE)  # and port
RANGE = re.compile(r"^\s*bytes\s*=\s*(\d+-\d*|-\d+)(\s*,\s*(\d+-\d*|-\d+))*\s*$", flags=re.IGNORECASE)
HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"same-origin",
    b"content-security-policy": (
        b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
        b"img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; "
        b"connect-src 'self' data: blob:; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; "
        b"form-action 'self'"
    ),
}
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
# What gradio and starlette raise for a request that they cannot read.
UNREADABLE = (KeyError, IndexError, ValueError, TypeError, AttributeError, AssertionError, FnIndexInferError)
log = logging.getLogger(__name__)


class RequestError(Exception):
    """A request is refused.

    Args:
        status: of HTTP, 400 to 499.
        sentence: what was wrong and what is accepted.
    """

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class UploadLimit:
    """Counts the uploads of each address, and how many are under way.

    Attributes:
        under_way: uploads that are being read.
    """

    def __init__(self) -> None:
        self.under_way = 0
        self._began: dict[str, deque[float]] = {}

    def begin(self, address: str) -> None:
        """Count an upload.

        Args:
            address: of the visitor.

        Raises:
            RequestError: there were `MAX_UPLOADS` of this address in the last `UPLOAD_SECONDS`.
        """
        now = time.monotonic()
        self._began = {key: times for key, times in self._began.items() if now - times[-1] < UPLOAD_SECONDS}
        times = self._began.setdefault(address, deque(maxlen=MAX_UPLOADS))
        if len(times) == MAX_UPLOADS and now - times[0] < UPLOAD_SECONDS:
            raise RequestError(429, f"Accepted are {MAX_UPLOADS} uploads in {UPLOAD_SECONDS // 60} minutes.")
        times.append(now)
        self.under_way += 1

    def end(self) -> None:
        """End an upload; where no other is under way, the parts of broken ones are deleted."""
        self.under_way -= 1
        if not self.under_way:
            remove_upload_parts()


class RequestGuard:
    """ASGI middleware around gradio's routes.

    Args:
        app: gradio's.
        hosts: names in the Host header that are answered; empty (default): all. A page that listens on this machine
            alone answers to its own names: else a foreign page whose name is led to 127.0.0.1 could read it.
    """

    def __init__(self, app: Any, hosts: Collection[str] = ()) -> None:
        self.app = app
        self.hosts = hosts
        self.uploads = UploadLimit()

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it with a sentence and one line in the log."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        is_begun = is_counted = False

        async def send_with_headers(message: dict[str, Any]) -> None:
            nonlocal is_begun
            if message["type"] == "http.response.start":
                is_begun = True
                if scope.get(REFUSED) and message["status"] == 500:  # gradio's status of any failure
                    message["status"] = 400
                present = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *((n, v) for n, v in HEADERS.items() if n not in present)]
            await send(message)

        try:
            check_host(scope, self.hosts)
            check_address(scope)
            if scope["method"] == "POST" and is_upload(scope):
                self.uploads.begin((scope.get("client") or ["unknown"])[0])
                is_counted = True
            limit = MAX_UPLOAD if is_upload(scope) else MAX_JSON
            limited = limit_body(scope, receive, limit)
            if scope["method"] == "POST" and not is_upload(scope):
                limited = replay(await read_checked_body(limited), receive)
            await self.app(scope, limited, send_with_headers)
        except ClientDisconnect:
            log.info("%s %s was broken off", scope["method"], scope["path"][:200])
        except RequestError as error:
            await refuse(scope, error.status, str(error), is_begun, send_with_headers)
        except UNREADABLE as error:
            if is_ours(error):
                raise  # the server logs its traceback and answers 500
            log.warning("%s %s: %r", scope["method"], scope["path"][:200], error)
            await refuse(scope, 400, "The server cannot read this request.", is_begun, send_with_headers)
        except RuntimeError as error:
            if not is_begun:
                raise
            log.warning("%s %s ended: %r", scope["method"], scope["path"][:200], error)  # of a session that has gone
            await send_with_headers({"type": "http.response.body", "body": b""})
        finally:
            if is_counted:
                self.uploads.end()


async def refuse(scope: dict[str, Any], status: int, sentence: str, is_begun: bool, send: Send) -> None:
    """Send a refusal, unless an answer has begun."""
    log.info("%s %s refused: %d %s", scope["method"], scope["path"][:200], status, sentence)
    if not is_begun:
        response: Response = JSONResponse({"detail": sentence}, status_code=status)
        await response(scope, _receive_nothing, send)  # type: ignore[arg-type]


async def _receive_nothing() -> dict[str, Any]:
    return {"type": "http.disconnect"}


def is_upload(scope: dict[str, Any]) -> bool:
    """Whether a request is an upload of files."""
    return bool(scope["path"].rstrip("/").endswith("/upload"))


def get_header(scope: dict[str, Any], name: bytes) -> str | None:
    """Get a header's value, or None."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name), None)


def check_host(scope: dict[str, Any], hosts: Collection[str]) -> None:
    """Check the names under which the page is asked for.

    Raises:
        RequestError: a proxy's is malformed, or the page's is not among `hosts`.
    """
    forwarded = get_header(scope, b"x-forwarded-host")
    if forwarded is not None and not all(NAME.match(each.strip()) for each in forwarded.split(",")):
        raise RequestError(400, "The X-Forwarded-Host header cannot be read; accepted is NAME or NAME:PORT.")
    name = re.sub(r":\d*$", "", get_header(scope, b"host") or "").lower()
    if hosts and name not in hosts:
        raise RequestError(403, f"This page is for this machine: open it as {sorted(hosts)[0]}, not {name[:40]!r}.")


def check_address(scope: dict[str, Any]) -> None:
    """Check a request's address and headers.

    Raises:
        RequestError: a file of another server, a page that does not exist, or a malformed Range header.
    """
    for part in re.split(r"/(?:file|proxy|reupload)[=/]", unquote(scope["path"]), maxsplit=1)[1:]:
        if FOREIGN.match(part) or part.startswith("//"):
            raise RequestError(403, "Only files of this server are served, by their path; no addresses.")
    path, query = scope["path"].rstrip("/"), parse_qs(scope["query_string"].decode("latin-1"))
    page = query.get("page", [""])[-1]
    if page and path in ("", "/config"):
        raise RequestError(404, f"There is no page {page[:40]!r}; there is one page, at /.")
    if "deep_link" in query or path.endswith("/deep_link"):  # would keep each visitor's state on the disk
        raise RequestError(404, "The page keeps no state for links; its own links hold the settings themselves.")
    value = get_header(scope, b"range")
    if value is not None and not RANGE.match(value):
        raise RequestError(416, f"The Range header {value[:40]!r} cannot be read; accepted is bytes=FIRST-LAST.")


def limit_body(scope: dict[str, Any], receive: Receive, limit: int) -> Receive:
    """Limit a request's body.

    Args:
        scope: of the request.
        receive: gives its parts.
        limit: bytes.

    Returns:
        A function in the place of `receive`.

    Raises:
        RequestError: more is announced; from the function: more comes.
    """
    sentence = f"The request is too large: accepted are {limit // 1024:,} kB."
    announced = get_header(scope, b"content-length") or "0"
    if not announced.isascii() or not announced.isdigit():
        raise RequestError(400, "The Content-Length header is no number.")
    if int(announced) > limit:
        raise RequestError(413, sentence)
    size = 0

    async def receive_limited() -> dict[str, Any]:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > limit:
            raise RequestError(413, sentence)
        return message

    return receive_limited


async def read_checked_body(receive: Receive) -> bytes:
    """Read a whole body; where it is JSON, check the files that it names.

    Args:
        receive: gives its parts.

    Returns:
        The body.

    Raises:
        RequestError: it is too large, or names a file of another server.
    """
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if message["type"] != "http.request" or not message.get("more_body"):
            break
    try:
        value = json.loads(body) if body else None
    except (ValueError, RecursionError):
        return body  # gradio's own check answers
    for path in list_paths(value):
        if FOREIGN.match(path) or path.startswith("//"):
            raise RequestError(403, "A file must be uploaded first and named by its path; no addresses.")
    return body


def list_paths(value: Any) -> Iterator[str]:
    """List the paths of file objects in a JSON value.

    Args:
        value: as `json.loads` gives it.

    Yields:
        Every string that is called "path".
    """
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            if isinstance(item.get("path"), str):
                yield item["path"]
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item


def replay(body: bytes, receive: Receive) -> Receive:
    """Make a `receive` that gives a body once more, then what else comes.

    Args:
        body: of the request.
        receive: of the request, whose body is read.
    """
    is_given = False

    async def receive_again() -> dict[str, Any]:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again
