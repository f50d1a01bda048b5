"""Types for `argparse` options: numbers within a range. The error names the option, the value and the range."""

import argparse
from collections.abc import Callable


def int_between(low: int, high: int) -> Callable[[str], int]:
    """Return the `type` of an option whose value is an integer from `low` to `high`.

    Args:
        low: the smallest value accepted.
        high: the largest value accepted.

    Returns:
        A function from the option's text to its value. It raises `argparse.ArgumentTypeError` for any other text.
    """

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is out of range: {low} to {high}.")
        return value

    return parse


def float_between(low: float, high: float, *, above: bool = False) -> Callable[[str], float]:
    """Return the `type` of an option whose value is a number from `low` to `high`.

    Args:
        low: the smallest value accepted.
        high: the largest value accepted; `math.inf`: no limit.
        above: whether the value must be larger than `low`; default False.

    Returns:
        A function from the option's text to its value. It raises `argparse.ArgumentTypeError` for any other text.
    """
    accepted = f"above {low:g}, at most {high:g}" if above else f"{low:g} to {high:g}"

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not (low < value if above else low <= value) or value > high:
            raise argparse.ArgumentTypeError(f"{text} is out of range: {accepted}.")
        return value

    return parse
