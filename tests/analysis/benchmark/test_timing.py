"""Timing: all in turn, and in CPU seconds where the machine is busy."""

import threading
import time

from analysis.benchmark.timing import time_interleaved


def test_timed_runs_are_interleaved() -> None:
    order: list[str] = []
    first, second, third = time_interleaved(order.append, "abc", rounds=3)
    assert order == ["a", "b", "c"] * 4
    assert first.shape == second.shape == third.shape == (3,)
    assert (first > 0).all()


def test_a_clock_of_this_threads_work_counts_no_waiting() -> None:
    def work(seconds: float) -> None:
        time.sleep(seconds)

    (waited,) = time_interleaved(work, [0.2], rounds=2, clock=time.thread_time)
    assert waited.max() < 0.1
    other = threading.Thread(target=sum, args=(range(3_000_000),))
    other.start()
    (beside,) = time_interleaved(work, [0.05], rounds=1, clock=time.thread_time)
    other.join()
    assert beside.max() < 0.04
