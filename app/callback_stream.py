"""Turn a function that reports through a callback into a generator that its caller can watch and stop."""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, TypeVar

T = TypeVar("T")
PATIENCE = 60.0  # seconds that a report waits for its reader before the reader counts as gone


class Stopped(BaseException):
    """Raised inside the function where its reader has gone. Not an `Exception`: nobody on the way may swallow it."""


def stream_reports(work: Callable[[Callable[[T], None]], None], holding: AbstractContextManager[Any]) -> Iterator[T]:
    """Run `work(report)` in a thread of its own and yield what it reports.

    Reports are handed over one by one: `report` returns when the reader asks for the next, so that reader and worker
    never compute at the same time, and a stopwatch that is stopped around `report` measures the worker alone. Closing
    the generator ends the work at its next report. `holding` (a lock) is held by the worker until it has really ended.

    Raises:
        Exception: whatever `work` raises.
    """
    outbox: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    wanted = threading.Semaphore(0)
    closed = threading.Event()

    def report(item: T) -> None:
        outbox.put(("item", item))
        if not wanted.acquire(timeout=PATIENCE) or closed.is_set():
            raise Stopped

    def run() -> None:
        try:
            with holding:
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
            wanted.release()
    finally:
        closed.set()
        wanted.release()
