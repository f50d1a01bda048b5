"""What other sites show of a link to this page: a title, a sentence and a picture, by the Open Graph protocol.

gradio's own page names its own title and picture first, and what reads such a page takes the first of a name.
"""

import re
from collections.abc import Awaitable, Callable
from html import escape
from pathlib import Path
from typing import Any

from fastapi.responses import FileResponse
from gradio.route_utils import get_root_url
from starlette.requests import Request

TITLE = "LatentCRF"
DESCRIPTION = "Fewer denoiser calls, nearly the same picture: a small CRF does part of a latent diffusion model's work."
PICTURE = Path(__file__).parents[1] / "assets" / "social.png"  # python -m analysis.idea --social
PICTURE_ROUTE, PICTURE_SIZE = "/social.png", (1200, 630)
PICTURE_TEXT = "A full run of 50 denoiser calls, and LatentCRF's of 34 and one CRF, which draw nearly the same apple"
TAG = re.compile(r"<meta\s+(?:property|name)=\"(?:og|twitter):[^>]*>")
Message = dict[str, Any]


def write_tags(root: str) -> str:
    """Write the tags of the page.

    Args:
        root: the page's own address, without a slash at its end.

    Returns:
        HTML.
    """
    width, height = PICTURE_SIZE
    values = {
        "og:title": TITLE, "og:type": "website", "og:url": f"{root}/", "og:description": DESCRIPTION,
        "og:image": root + PICTURE_ROUTE, "og:image:width": width, "og:image:height": height,
        "og:image:alt": PICTURE_TEXT,
    }  # fmt: skip
    tags = [f'<meta property="{name}" content="{escape(str(value))}" />' for name, value in values.items()]
    return "\n".join([*tags, '<meta name="twitter:card" content="summary_large_image" />'])


def replace_tags(page: str, root: str) -> str:
    """Replace gradio's tags by the page's own.

    Args:
        page: HTML.
        root: as of `write_tags`.

    Returns:
        HTML.
    """
    own = iter([write_tags(root)])
    return TAG.sub(lambda _: next(own, ""), page)


def send_picture() -> FileResponse:
    """Answer `GET` of the picture."""
    return FileResponse(PICTURE, media_type="image/png", headers={"cache-control": "public, max-age=86400"})


class SocialTags:
    """ASGI middleware that replaces the tags in the page itself.

    Args:
        app: gradio's.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        """Answer a request."""
        if scope["type"] != "http" or scope["method"] != "GET" or scope["path"].strip("/"):
            await self.app(scope, receive, send)
            return
        start: Message = {}
        body = bytearray()

        async def send_replaced(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
                return
            body.extend(message.get("body", b""))
            if message.get("more_body"):
                return
            headers = dict(start["headers"])
            content = bytes(body)
            if headers.get(b"content-type", b"").startswith(b"text/html"):
                app = scope["app"]
                root_path = app.root_path or scope.get("root_path") or app.get_blocks().custom_mount_path
                content = replace_tags(content.decode(), get_root_url(Request(scope), "/", root_path)).encode()
                headers[b"content-length"] = str(len(content)).encode()
            await send({**start, "headers": list(headers.items())})
            await send({"type": "http.response.body", "body": content})

        await self.app(scope, receive, send_replaced)
