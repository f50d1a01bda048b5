"""Run the fast tests as on other processors: without AVX2, with AVX2 but no AVX-512, with one thread and with two.

    python -m tests.processors
    python -m tests.processors --environment avx2-2 tests/test_measures.py -k lpips

PyTorch and oneDNN use the instructions that the environment allows them. No environment has native bfloat16. Prints the
environment, the time and the result of each; the exit status is 1 where the tests of one fail.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
INSTRUCTIONS = {
    "default": {"ATEN_CPU_CAPABILITY": "default"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
}
PASSIVE = {"OMP_WAIT_POLICY": "passive"}  # threads that wait in a loop take a busy processor from those that work
ENVIRONMENTS = {
    f"{name}-{threads}": variables | {"OMP_NUM_THREADS": str(threads)}
    for name, variables in INSTRUCTIONS.items()
    for threads in (1, 2)
}


def run_tests(name: str, arguments: list[str]) -> tuple[bool, str]:
    """Run pytest in one of `ENVIRONMENTS`.

    Args:
        name: Name of the environment.
        arguments: Arguments of pytest; none runs the fast tests.

    Returns:
        Whether all tests passed, and a line that says so with environment and time.
    """
    variables = ENVIRONMENTS[name]
    described = f"{name} ({' '.join(f'{key}={value}' for key, value in variables.items())})"
    print(f"=== {described}", flush=True)
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *arguments], cwd=ROOT, env=PASSIVE | os.environ | variables
    )
    result = "passed" if done.returncode == 0 else f"failed, pytest's exit status is {done.returncode}"
    return done.returncode == 0, f"{described}: {time.monotonic() - begin:.0f} s, {result}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.processors", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False, epilog="All other arguments are passed to pytest.",
    )  # fmt: skip
    parser.add_argument(
        "--environment",
        action="append",
        choices=list(ENVIRONMENTS),
        help="instructions and number of threads; repeat it for several (default: all)",
    )
    options, others = parser.parse_known_args(arguments)
    found = [run_tests(name, others) for name in options.environment or ENVIRONMENTS]
    print("\n".join(line for _, line in found))
    return 0 if all(passed for passed, _ in found) else 1


if __name__ == "__main__":
    sys.exit(main())
