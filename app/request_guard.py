"""Checks on requests before gradio sees them: sizes, addresses of foreign files, input that it would stumble over."""

import json
import logging
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, unquote

from fastapi.responses import JSONResponse, Response

MAX_JSON, MAX_UPLOAD = 64 * 1024, 21 * 1024**2  # bytes of a request: anything but an upload, and an upload
FOREIGN = re.compile(r"^\s*[a-z][a-z0-9+.-]*:", flags=re.IGNORECASE)  # "http:", "file:", "data:"
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


class RequestGuard:
    """ASGI middleware around gradio's routes.

    Args:
        app: gradio's.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it with a sentence and one line in the log."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        is_begun = False

        async def send_with_headers(message: dict[str, Any]) -> None:
            nonlocal is_begun
            if message["type"] == "http.response.start":
                is_begun = True
                present = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *((n, v) for n, v in HEADERS.items() if n not in present)]
            await send(message)

        try:
            check_address(scope)
            limit = MAX_UPLOAD if is_upload(scope) else MAX_JSON
            limited = limit_body(scope, receive, limit)
            if scope["method"] == "POST" and not is_upload(scope):
                limited = replay(await read_checked_body(limited), receive)
            await self.app(scope, limited, send_with_headers)
        except RequestError as error:
            await refuse(scope, error.status, str(error), is_begun, send_with_headers)
        except (KeyError, IndexError, ValueError, TypeError, AttributeError, AssertionError) as error:
            log.warning("%s %s: %r", scope["method"], scope["path"][:200], error)
            await refuse(scope, 400, "The server cannot read this request.", is_begun, send_with_headers)
        except RuntimeError as error:
            if not is_begun:
                raise
            log.warning("%s %s ended: %r", scope["method"], scope["path"][:200], error)  # of a session that has gone
            await send_with_headers({"type": "http.response.body", "body": b""})


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


def check_address(scope: dict[str, Any]) -> None:
    """Check a request's address and headers.

    Raises:
        RequestError: a file of another server, a page that does not exist, or a malformed Range header.
    """
    for part in re.split(r"/(?:file|proxy|reupload)[=/]", unquote(scope["path"]), maxsplit=1)[1:]:
        if FOREIGN.match(part) or part.startswith("//"):
            raise RequestError(403, "Only files of this server are served, by their path; no addresses.")
    page = parse_qs(scope["query_string"].decode("latin-1")).get("page", [""])[-1]
    if page and scope["path"].rstrip("/") in ("", "/config"):
        raise RequestError(404, f"There is no page {page[:40]!r}; there is one page, at /.")
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
