"""Run the load test and print its table for docs/page.md: python -m tests.load --minutes 5."""

import argparse
import sys

from tests.load.run import run, run_repeatedly


def main() -> int:
    """Returns 0 where every goal is met, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.load", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="of load, after a warm-up (default 5)")
    parser.add_argument("--generations", type=int, default=0, help="measure the memory of so many comparisons instead")
    options = parser.parse_args()
    if options.generations:
        before, after = run_repeatedly(options.generations)
        change = f"{before:.0f} to {after:.0f} MB ({after / before - 1:+.1%})"
        print(f"memory over {options.generations} comparisons of two steps: {change}")
        return 0 if after <= 1.05 * before else 1
    table, missed, found, log = run(60 * options.minutes)
    print(table)
    print(*(f"missed: {row}" for row in missed), *found.problems[:10], sep="\n", file=sys.stderr)
    if missed:
        print(log[-4000:], file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
