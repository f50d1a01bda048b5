"""Timing: all in turn."""

from analysis.benchmark.timing import time_interleaved


def test_timed_runs_are_interleaved() -> None:
    order: list[str] = []
    first, second, third = time_interleaved(order.append, "abc", rounds=3)
    assert order == ["a", "b", "c"] * 4
    assert first.shape == second.shape == third.shape == (3,)
    assert (first > 0).all()
