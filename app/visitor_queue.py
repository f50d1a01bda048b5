"""The page's queue: gradio's own, which no request can stop, and in which visitors take fair turns.

In gradio 6.31 a waiting event whose session has no message queue raises a KeyError in the one task that starts all
events, and that task ends for good: every visitor gets "Queue is stopped." until the server restarts. Two ways lead
there: `"session_hash": ""` in a request, and a session that is evicted because 2,000 newer ones came.
"""

import asyncio
import logging
import random
import statistics
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple

import gradio as gr
from gradio.queueing import Event, Queue
from gradio.server_messages import ProcessCompletedMessage
from gradio.utils import LRUCache

from app.callback_stream import is_wanted

MAX_SESSIONS = 2000  # whose messages are kept, as in gradio; those that wait for something are kept besides
MAX_WAITING = 100  # computations of all visitors
MAX_WAITING_OF_ADDRESS = 40  # a lecture hall has one address
DEVICE = "device"  # concurrency id of what computes
UNHEARD_SECONDS = 15.0  # that an event waits for its listener
KNOWN_SECONDS = 60.0  # after which an event waits for a session's next listener again
GUESSED_SECONDS = 20.0  # of a computation, until one was measured
MEASURED = 20  # runs of a function, of which the mean is taken
RESTART_SECONDS = 0.5
IDLE_SECONDS = 0.02  # from one look for an event to start to the next; gradio looks every millisecond
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
        super().__setitem__(key, HeardMessages() if isinstance(value, asyncio.Queue) else value)


class HeardMessages(asyncio.Queue[Any]):
    """A session's messages, which know whether somebody listens: the stream of a session asks every ten seconds.

    Attributes:
        listeners: how many wait for the next message now.
        last_heard: on the clock of `time.monotonic`, when one last did.
    """

    def __init__(self) -> None:
        super().__init__()
        self.listeners = 0
        self.last_heard = float("-inf")

    async def get(self) -> Any:
        """Get the next message."""
        self.listeners += 1
        try:
            return await super().get()
        finally:
            self.listeners -= 1
            self.last_heard = time.monotonic()

    @property
    def is_heard(self) -> bool:
        """Whether somebody listens, or did a second ago: a message is being sent then."""
        return self.listeners > 0 or time.monotonic() - self.last_heard < 1

    @property
    def is_known(self) -> bool:
        """Whether somebody listened a short while ago: who does so opens the next stream while the event begins."""
        return self.listeners > 0 or time.monotonic() - self.last_heard < KNOWN_SECONDS


class Place(NamedTuple):
    """A place in the queue.

    Attributes:
        before: computations before it, the running one too.
        seconds: until it begins, about.
    """

    before: int
    seconds: float

    def format(self) -> str:
        """Format it: "3 before you, about 40 s"."""
        if not self.before:
            return "next"
        wait = f"{self.seconds:.0f} s" if self.seconds < 100 else f"{self.seconds / 60:.0f} min"
        return f"{self.before} before you, about {wait}"


class VisitorQueue(Queue):
    """A queue that drops what nobody can receive, and goes on after a failure.

    A session has one computation that runs and one that waits; a later one of the same tab takes the waiting one's
    place. An address has `MAX_WAITING_OF_ADDRESS` that wait, all together `MAX_WAITING`. More is refused in words.

    Attributes:
        is_processing: whether events are being started.
        has_started: whether they ever were: gradio starts its queue at the first page load.
        failures: how often a task of the queue has failed since the server began.
    """

    is_processing = False
    failures = 0
    has_started = False
    _is_closed = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._begun: dict[str, float] = {}  # by the id of an event that runs, as of `time.monotonic`
        self._seconds: dict[int, deque[float]] = {}  # of the last runs, by the number of their function

    def list_busy_sessions(self) -> set[str]:
        """List the sessions whose events wait or run."""
        waiting = [event for each in self.event_queue_per_concurrency_id.values() for event in each.queue]
        return {event.session_hash for event in [*waiting, *self._list_running()]}

    def _list_running(self) -> list[Event]:
        return [event for job in self.active_jobs if job is not None for event in job]

    def _list_waiting(self) -> list[Event]:
        """List the computations that wait, in their order."""
        queue = self.event_queue_per_concurrency_id.get(DEVICE)
        return [] if queue is None else list(queue.queue)

    # ------------------------------------------------------------------------------------ taking in

    async def push(self, body: Any, request: Any, username: str | None) -> Any:
        """Take an event in, or refuse it. An empty session is none, as it is to the event itself."""
        body.session_hash = body.session_hash or None
        fn = self.blocks.fns.get(body.fn_index)
        if fn is None:
            return False, "This page has no such function.", "error"
        if fn.concurrency_id == DEVICE:
            waiting = self.find_waiting(body.session_hash)
            if waiting is not None and waiting.fn is fn and fn.api_visibility == "private":
                self.drop_waiting(body.session_hash)  # of a tab the later run counts
            refusal = self.find_refusal(body.session_hash, get_address(request))
            if refusal:
                return False, refusal, "queue_full"
        return await super().push(body, request, username)

    def find_refusal(self, session: str | None, address: str) -> str:
        """Find why a session may not wait for another computation now.

        Args:
            session: its hash; None: a request without one.
            address: of the visitor.

        Returns:
            A sentence; empty: it may.
        """
        waiting = self._list_waiting()
        estimate = self.locate(None).format()
        if session is not None and any(event.session_hash == session for event in waiting):
            return "You have a run that waits already: one run and one that waits are accepted. Cancel it, or wait."
        if sum(get_address(event.request) == address for event in waiting) >= MAX_WAITING_OF_ADDRESS:
            return (
                f"{MAX_WAITING_OF_ADDRESS} runs of your address wait already, which is the most that are accepted: "
                f"{estimate}. Please try again then."
            )
        if len(waiting) >= MAX_WAITING:
            return f"The queue is full: {estimate}. Please try again then."
        return ""

    def locate(self, event: Event | None) -> Place:
        """Find an event's place.

        Args:
            event: a computation that waits; None: one that would come now.

        Returns:
            The place; its seconds come from the mean time that each function took so far.
        """
        running = [other for other in self._list_running() if other.concurrency_id == DEVICE]
        now = time.monotonic()
        ends = [self._begun.get(other._id, now) + self._estimate_seconds(other) for other in running]
        seconds = sum(max(end - now, 1.0) for end in ends)
        before = 0
        for other in self._list_waiting():
            if other is event:
                break
            before += 1
            seconds += self._estimate_seconds(other)
        return Place(before + len(running), seconds)

    def _estimate_seconds(self, event: Event) -> float:
        measured = self._seconds.get(event.fn._id)
        return GUESSED_SECONDS if measured is None else statistics.fmean(measured)

    def find_waiting(self, session: str | None) -> Event | None:
        """Find the computation of a session that waits; None: none does."""
        return next((event for event in self._list_waiting() if event.session_hash == session), None)

    def is_running(self, session: str | None) -> bool:
        """Tell whether an event of a session runs."""
        return any(event.session_hash == session for event in self._list_running())

    def drop_waiting(self, session: str | None) -> None:
        """Drop the computation of a session that waits: its visitor has cancelled it."""
        event = self.find_waiting(session)
        if event is not None:
            output = {"data": [gr.skip()] * len(event.fn.outputs), "is_generating": False, "duration": 0}
            self.send_message(event, ProcessCompletedMessage(output=output, success=True))
            self._drop(event)

    def _drop(self, event: Event) -> None:
        event.alive = False
        self.event_queue_per_concurrency_id[event.concurrency_id].queue.remove(event)
        self.event_ids_to_events.pop(event._id, None)

    # ------------------------------------------------------------------------------------ starting

    def get_events(self) -> tuple[list[Event], bool, str] | None:
        """Choose the next event: the first whose session listens, or did lately. Those that nobody heard are dropped.

        Returns:
            It in a list, that it is no batch, and its concurrency id; None: none can start now.
        """
        names = list(self.event_queue_per_concurrency_id)
        random.shuffle(names)
        for name in names:
            waiting = self.event_queue_per_concurrency_id[name]
            self._drop_unheard(waiting.queue)
            if waiting.concurrency_limit is None or waiting.current_concurrency < waiting.concurrency_limit:
                event = next((event for event in waiting.queue if self._find_messages(event).is_known), None)
                if event is not None:
                    waiting.queue.remove(event)
                    return [event], False, name
        return None

    def _find_messages(self, event: Event) -> HeardMessages:
        """Find the messages of an event's session; where there are none, ones that nobody has heard."""
        messages = self.pending_messages_per_session.get(event.session_hash)
        return messages if isinstance(messages, HeardMessages) else HeardMessages()

    def _is_unheard(self, event: Event) -> bool:
        messages = self._find_messages(event)
        silent = time.monotonic() - max(messages.last_heard, event.enqueue_time)
        return not messages.is_heard and silent > UNHEARD_SECONDS

    def _drop_unheard(self, events: Iterable[Event]) -> None:
        for event in list(events):
            if self._is_unheard(event):
                log.info("a run that nobody waits for is dropped")
                self._drop(event)
                self.pending_event_ids_session.get(event.session_hash, set()).discard(event._id)

    async def process_events(self, events: list[Event], *arguments: Any) -> None:
        """Run an event; what computes for it stops once its visitor has gone or does not listen (`is_wanted`)."""
        (event,) = events
        is_wanted.set(lambda: event.alive and not self._is_unheard(event))
        began = self._begun[event._id] = time.monotonic()  # gradio's own times go with the machine's clock
        try:
            await super().process_events(events, *arguments)
            self._seconds.setdefault(event.fn._id, deque(maxlen=MEASURED)).append(time.monotonic() - began)
        finally:
            del self._begun[event._id]

    async def reset_iterators(self, event_id: str) -> None:
        """End an event. gradio does so when it is cancelled too, and waits here for its handler."""
        event = self.event_ids_to_events.get(event_id)
        if event is not None:
            event.alive = False
        await super().reset_iterators(event_id)

    def compute_analytics_summary(self, records: Any) -> dict[str, Any]:
        """Summarize nothing: gradio would tabulate its last 10,000 events after each, for a page that is not here."""
        return {}

    def send_message(self, event: Event, event_message: Any) -> None:
        """Send a message to an event's session. Without one nobody listens: the event is dropped."""
        if event.session_hash not in self.pending_messages_per_session:
            event.alive = False
            return
        super().send_message(event, event_message)

    # ------------------------------------------------------------------------------------ going on

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


def get_address(request: Any) -> str:
    """Get a visitor's address.

    Args:
        request: gradio's or FastAPI's; its client is the one that a trusted proxy names, where one is configured.
    """
    client = getattr(request, "client", None)
    return getattr(client, "host", None) or "unknown"


def get_queue(request: gr.Request) -> VisitorQueue | None:
    """Get the queue of the page that a request came to; None: it came to none, in a test.

    Args:
        request: of a handler.
    """
    app = getattr(getattr(request, "request", None), "app", None)
    queue = None if app is None else app.get_blocks()._queue
    return queue if isinstance(queue, VisitorQueue) else None


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
    queue.sleep_when_free = IDLE_SECONDS
    queue.pending_messages_per_session = SessionMessages(queue)
    page._queue = queue
    return page
