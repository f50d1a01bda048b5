"""Write the stored values anew: all, or those of the cases that are named.

python -m tests.golden.write [CASE ...]
"""

import argparse
import sys

from tests.golden import cases


def main(arguments: list[str] | None = None) -> int:
    known = cases.simple_cases()
    parser = argparse.ArgumentParser(prog="python -m tests.golden.write", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(known)}, old-scheduler (default: all)")
    wanted = parser.parse_args(arguments).cases or [*known, "old-scheduler"]
    if unknown := set(wanted) - known.keys() - {"old-scheduler"}:
        parser.error(f"{min(unknown)} is no case; accepted are {', '.join(known)} and old-scheduler.")
    for name in wanted:
        with cases.exact():
            if name == "old-scheduler":
                scheduler = cases.our_scheduler(cases.tiny_pipeline().scheduler)
                scheduler.save_pretrained(cases.OLD_SCHEDULER)
                cases.save(name, cases.old_scheduler())
            else:
                cases.save(name, known[name]())
        print(f"written: {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
