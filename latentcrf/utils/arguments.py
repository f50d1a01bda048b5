"""What all command lines share: types of options, and the end of a command that was stopped.

An option's error names the option, the value and what is accepted.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

INTERRUPTED = 130  # exit status of a command that ^C ended


def run_command(main: Callable[[], int | None]) -> NoReturn:
    """Run a command and end the process with its exit status; ^C ends it with a line instead of a traceback.

    Args:
        main: of a module.
    """
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\nStopped. Files that were written are whole.", file=sys.stderr)
        sys.exit(INTERRUPTED)


def output_folder(text: str) -> Path:
    """Check a folder for results: the `type` of `--out`.

    Args:
        text: the option's.

    Returns:
        The folder; it need not exist.

    Raises:
        argparse.ArgumentTypeError: it is a file, lies in one, or cannot be written to.
    """
    path = Path(text)
    nearest = next(each for each in (path, *path.absolute().parents) if each.exists())
    if not nearest.is_dir():
        raise argparse.ArgumentTypeError(f"{nearest} is a file; a folder is accepted.")
    if not os.access(nearest, os.W_OK):
        raise argparse.ArgumentTypeError(f"{nearest} cannot be written to.")
    return path


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
