"""Turn a function that reports through a callback into a generator that its caller can watch and stop."""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, TypeVar

T = TypeVar("T")
READER_TIMEOUT = 60.0  # seconds that a report waits for its reader before the reader counts as gone


class ReaderGone(BaseException):
    """Raised inside the function when its reader has gone. Not an `Exception`: nothing on the way may swallow it."""


def stream_reports(work: Callable[[Callable[[T], None]], None], lock: AbstractContextManager[Any]) -> Iterator[T]:
    """Run `work(report)` in a thread of its own and yield what it reports.

    Reports are handed over one by one: `report` returns when the reader asks for the next. So reader and worker never
    compute at the same time, and a stopwatch that is paused around `report` measures the worker alone. Closing the
    generator ends the work at its next report.

    Args:
        work: the function; what it passes to its argument is yielded.
        lock: held by the worker until it has ended.

    Yields:
        The reports, in order.

    Raises:
        Exception: whatever `work` raises.
    """
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
            kind, item = outbox.get()
            if kind == "end":
                return
            if kind == "error":
                raise item
            yield item
            requests.release()
    finally:
        closed.set()
        requests.release()
