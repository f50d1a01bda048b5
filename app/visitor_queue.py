"""The page's queue: gradio's own, which no request can stop.

In gradio 6.31 a waiting event whose session has no message queue raises a KeyError in the one task that starts all
events, and that task ends for good: every visitor gets "Queue is stopped." until the server restarts. Two ways lead
there: `"session_hash": ""` in a request, and a session that is evicted because 2,000 newer ones came.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import gradio as gr
from gradio.queueing import Event, Queue
from gradio.utils import LRUCache

MAX_SESSIONS = 2000  # whose messages are kept, as in gradio; those that wait for something are kept besides
RESTART_SECONDS = 0.5
log = logging.getLogger(__name__)


class SessionMessages(LRUCache[str, Any]):
    """Messages by session. The oldest session leaves for a new one, but none whose event waits or runs.

    Args:
        queue: knows who waits.
    """

    def __init__(self, queue: "VisitorQueue") -> None:
        super().__init__(MAX_SESSIONS)
        self.queue = queue

    def __setitem__(self, key: str, value: Any) -> None:
        if key not in self and len(self) >= MAX_SESSIONS:
            busy = self.queue.list_busy_sessions()
            for session in [session for session in self if session not in busy][: len(self) - MAX_SESSIONS + 1]:
                del self[session]
                self.queue.pending_event_ids_session.pop(session, None)  # of one that never listened
            self.max_size = len(self) + 1  # the parent evicts none
        super().__setitem__(key, value)


class VisitorQueue(Queue):
    """A queue that drops what nobody can receive, and goes on after a failure.

    Attributes:
        is_processing: whether events are being started.
        has_started: whether they ever were: gradio starts its queue at the first page load.
        failures: how often a task of the queue has failed since the server began.
    """

    is_processing = False
    failures = 0
    has_started = False
    _is_closed = False

    def list_busy_sessions(self) -> set[str]:
        """List the sessions whose events wait or run."""
        waiting = [event for each in self.event_queue_per_concurrency_id.values() for event in each.queue]
        running = [event for job in self.active_jobs if job is not None for event in job]
        return {event.session_hash for event in waiting + running}

    async def push(self, body: Any, request: Any, username: str | None) -> Any:
        """Take an event in. An empty session is none, as it is to the event itself."""
        body.session_hash = body.session_hash or None
        return await super().push(body, request, username)

    def send_message(self, event: Event, event_message: Any) -> None:
        """Send a message to an event's session. Without one nobody listens: the event is dropped."""
        if event.session_hash not in self.pending_messages_per_session:
            event.alive = False
            return
        super().send_message(event, event_message)

    async def start_processing(self) -> None:
        """Start events until the queue is closed."""
        self.is_processing = self.has_started = True
        try:
            await self._supervise(super().start_processing)
        finally:
            self.is_processing = False

    async def start_progress_updates(self) -> None:
        """Send progress until the queue is closed."""
        await self._supervise(super().start_progress_updates)

    async def _supervise(self, task: Callable[[], Awaitable[None]]) -> None:
        while not self._is_closed:
            try:
                await task()
            except Exception:
                self.failures += 1
                log.exception("a task of the queue failed and is started again")
            if not self._is_closed:
                self.stopped = False
                await asyncio.sleep(RESTART_SECONDS)

    def close(self) -> None:
        """Stop for good, with the server."""
        self._is_closed = True
        super().close()


def guard_queue(page: gr.Blocks) -> gr.Blocks:
    """Put a `VisitorQueue` in the place of a page's queue.

    Args:
        page: after its `queue()`.

    Returns:
        The page.
    """
    old = page._queue
    queue = VisitorQueue(
        live_updates=old.live_updates,
        concurrency_count=old.max_thread_count,
        update_intervals=old.update_intervals,
        max_size=old.max_size,
        blocks=page,
        default_concurrency_limit=old.default_concurrency_limit,
    )
    queue.pending_messages_per_session = SessionMessages(queue)
    page._queue = queue
    return page
