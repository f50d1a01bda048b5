"""What the server does beside answering: it sweeps old files, and says whether all of it works."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

import gradio as gr
from fastapi import FastAPI
from fastapi.middleware import Middleware
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from app.page_cache import PageCache
from app.request_guard import RequestGuard
from app.social import PICTURE_ROUTE, SocialTags, send_picture
from app.visitor_files import sweep
from app.visitor_queue import VisitorQueue

SWEEP_SECONDS = 300
log = logging.getLogger(__name__)


class Upkeep:
    """The server's own tasks, each begun again after a failure.

    Args:
        page: whose queue `check` looks at.
        hosts: as of `RequestGuard`.

    Attributes:
        failures: of sweeps, since the server began.
        swept: when the last sweep went well, on the clock of `time.monotonic`; None: not yet.
    """

    def __init__(self, page: gr.Blocks, hosts: Collection[str] = ()) -> None:
        self.page = page
        self.hosts = hosts
        self.failures = 0
        self.swept: float | None = None

    async def sweep_on_schedule(self) -> None:
        """Sweep every `SWEEP_SECONDS`, for ever."""
        while True:
            try:
                await asyncio.to_thread(sweep, self.list_page_files())
                self.swept = time.monotonic()
            except Exception:
                self.failures += 1
                log.exception("old files could not be swept")
            await asyncio.sleep(SWEEP_SECONDS)

    def list_page_files(self) -> set[str]:
        """List the files that belong to the page itself, whatever their age."""
        return {str(file) for block in self.page.blocks.values() for file in getattr(block, "keep_in_cache", ())}

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Run the tasks as long as the server runs."""
        task = asyncio.create_task(self.sweep_on_schedule())
        try:
            yield
        finally:
            task.cancel()

    def check(self) -> dict[str, Any]:
        """Describe how the server is.

        Returns:
            ok; queue: "processing", "stopped" or "not started"; waiting and running events; failures of the queue's
            tasks and of sweeps; seconds since the last sweep, or None.
        """
        queue = self.page._queue
        assert isinstance(queue, VisitorQueue)
        is_processing = queue.is_processing and not queue.stopped
        state = "processing" if is_processing else "stopped" if queue.has_started else "not started"
        return {
            "ok": state != "stopped",
            "queue": state,
            "waiting": len(queue),
            "running": sum(job is not None for job in queue.active_jobs),
            "failures": {"queue": queue.failures, "sweep": self.failures},
            "seconds_since_sweep": None if self.swept is None else round(time.monotonic() - self.swept),
        }

    def answer(self) -> JSONResponse:
        """Answer `GET /health`: 200 where all is well, else 503."""
        state = self.check()
        return JSONResponse(state, status_code=200 if state["ok"] else 503)

    def list_app_arguments(self) -> dict[str, Any]:
        """List what `launch(app_kwargs=...)` needs: the tasks, what is around gradio's routes, and our own routes."""
        return {
            "lifespan": self.lifespan,
            "middleware": [Middleware(RequestGuard, hosts=self.hosts), Middleware(PageCache), Middleware(SocialTags)],
            "routes": [
                APIRoute("/health", self.answer, methods=["GET"]),
                APIRoute(PICTURE_ROUTE, send_picture, methods=["GET"]),
            ],
        }
