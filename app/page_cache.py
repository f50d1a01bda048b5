"""The page's HTML and configuration, kept as bytes: gradio copies and renders 0.6 MB anew for each visitor."""

import asyncio
import gzip
from typing import Any, NamedTuple

from gradio.utils import LRUCache
from starlette.responses import Response

from app.request_guard import Receive, Send, get_header

PATHS = ("/", "/config")
MAX_KEPT = 16  # answers: each address under which the page is asked for has its own
# From these headers and the address gradio writes the addresses of its files.
HEADERS = (b"host", b"x-forwarded-host", b"x-forwarded-proto", b"x-gradio-server")


class Answer(NamedTuple):
    """An answer of gradio.

    Attributes:
        status: of HTTP.
        media_type: of the body.
        body: as it is.
        compressed: the body, compressed with gzip.
    """

    status: int
    media_type: str
    body: bytes
    compressed: bytes

    def to_response(self, accepted: str) -> Response:
        """Build a response.

        Args:
            accepted: the request's header `Accept-Encoding`.
        """
        headers = {"vary": "Accept-Encoding", "cache-control": "private, no-cache"}  # addresses follow the headers
        if "gzip" not in accepted:
            return Response(self.body, self.status, headers, self.media_type)
        return Response(self.compressed, self.status, {**headers, "content-encoding": "gzip"}, self.media_type)


class PageCache:
    """ASGI middleware around gradio's routes: gradio renders the page once for all visitors of an address.

    The page has no accounts, and its server does not read the query: the browser sends it with its first event.

    Args:
        app: gradio's.
    """

    def __init__(self, app: Any) -> None:
        self.app = app
        self._answers: LRUCache[Any, Answer] = LRUCache(MAX_KEPT)
        self._rendering = asyncio.Lock()

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer from what is kept, or let gradio answer."""
        if scope["type"] != "http" or scope["method"] != "GET" or scope["path"] not in PATHS:
            await self.app(scope, receive, send)
            return
        headers = [get_header(scope, name) for name in HEADERS]
        key = (scope["scheme"], scope.get("root_path"), scope["path"], *headers)
        answer = self._answers.get(key)
        if answer is None:
            async with self._rendering:  # visitors who come at once wait for one answer
                answer = self._answers.get(key) or await self._render(scope, receive)
        if answer.status == 200:
            self._answers[key] = answer
        response = answer.to_response(get_header(scope, b"accept-encoding") or "")
        await response(scope, receive, send)  # type: ignore[arg-type]

    async def _render(self, scope: dict[str, Any], receive: Receive) -> Answer:
        messages: list[dict[str, Any]] = []

        async def collect(message: dict[str, Any]) -> None:
            messages.append(message)

        await self.app({**scope, "query_string": b""}, receive, collect)
        start, body = messages[0], b"".join(message.get("body", b"") for message in messages)
        media_type = dict(start["headers"])[b"content-type"].decode("latin-1")
        compressed = await asyncio.to_thread(gzip.compress, body, 6)
        return Answer(start["status"], media_type, body, compressed)
