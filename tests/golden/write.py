"""Write the stored values anew: all, or those of the cases that are named.

python -m tests.golden.write [CASE ...]
"""

import argparse
import sys

from tests.golden import cases


def main(arguments: list[str] | None = None) -> int:
    known = cases.all_cases()
    parser = argparse.ArgumentParser(prog="python -m tests.golden.write", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(known)} (default: all)")
    wanted = parser.parse_args(arguments).cases or list(known)
    if unknown := set(wanted) - known.keys():
        parser.error(f"{min(unknown)!r} is no case; accepted are {', '.join(known)}.")
    for name in wanted:
        with cases.exact():
            cases.save(name, known[name]())
        print(f"written: {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
