"""Turn a function that reports through a callback into a generator that its caller can watch and stop."""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")
READER_TIMEOUT = 60.0  # seconds that a report waits for its reader before the reader counts as gone
WATCH_SECONDS = 0.2  # from one look at whether the result is still wanted to the next
# Tells whether anybody still waits for what the current context computes. `app.visitor_queue` sets it.
is_wanted: ContextVar[Callable[[], bool]] = ContextVar("is_wanted", default=lambda: True)


class Cancelled(Exception):
    """Nobody waits for the result: the visitor has cancelled the run, or has left."""


class ReaderGone(BaseException):
    """Raised inside the function when its reader has gone. Not an `Exception`: nothing on the way may swallow it."""


def stream_reports(work: Callable[[Callable[[T], None]], None], lock: AbstractContextManager[Any]) -> Iterator[T]:
    """Run `work(report)` in a thread of its own and yield what it reports.

    Reports are handed over one by one: `report` returns when the reader asks for the next. So reader and worker never
    compute at the same time, and a stopwatch that is paused around `report` measures the worker alone. Closing the
    generator ends the work at its next report. So does `is_wanted` of the caller's context, which is looked at while
    the work goes on: a handler that gradio has given up is not closed before it yields.

    Args:
        work: the function; what it passes to its argument is yielded.
        lock: held by the worker until it has ended.

    Yields:
        The reports, in order.

    Raises:
        Cancelled: the result is not wanted any more.
        Exception: whatever `work` raises.
    """
    wanted = is_wanted.get()
    outbox: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    requests = threading.Semaphore(0)
    closed = threading.Event()

    def report(item: T) -> None:
        outbox.put(("item", item))
        if not requests.acquire(timeout=READER_TIMEOUT) or closed.is_set():
            raise ReaderGone

    def run() -> None:
        try:
            with lock:
                if not closed.is_set():
                    work(report)
            outbox.put(("end", None))
        except BaseException as error:
            outbox.put(("error", error))

    threading.Thread(target=run, name="device", daemon=True).start()
    try:
        while True:
            try:
                kind, item = outbox.get(timeout=WATCH_SECONDS)
            except queue.Empty:
                kind, item = "nothing", None
            if not wanted():
                raise Cancelled
            if kind == "nothing":
                continue
            if kind == "end":
                return
            if kind == "error":
                raise item
            yield item
            requests.release()
    finally:
        closed.set()
        requests.release()
